"""One request and its answer, over gRPC or HTTP, blocking or asyncio: typed, and with errors that say what to do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from numpy.typing import NDArray

from heatserve.export.contract import OUTPUT_NAMES
from heatserve.serving.client.answers import (
    ModelSpec,
    black_image,
    read_class_names,
    read_outputs,
    read_spec,
)
from heatserve.serving.client.failures import explained
from heatserve.serving.client.transport import InferResult, transport_to
from heatserve.serving.pixels import Pixels


class Connection:
    """A blocking connection to a server; it sends what it is given, unchecked. For one thread."""

    def __init__(self, url: str, *, timeout: float) -> None:
        """Describe the connection; the first request makes it.

        Args:
            url: `grpc://host:port`, `http://host:port`, or `host:port` for gRPC.
            timeout: seconds that one request may take.

        Raises:
            ServingError: a malformed URL, or tritonclient is not installed.
        """
        self._transport = transport_to(url, timeout=timeout)
        self._triton = self._transport.open_blocking()

    def close(self) -> None:
        """Close the connection."""
        self._triton.close()

    def spec(self, model: str) -> ModelSpec:
        """What the server tells about a model.

        Raises:
            ServingError: no server, no such model, or not a certified model.
        """
        with explained(self._transport.url):
            config = self._triton.get_model_config(model, **self._transport.config_options)
        return read_spec(config)

    def class_names(self, model: str, spec: ModelSpec) -> dict[int, str]:
        """Class names by label, for which Triton ranks all classes of a black image.

        Raises:
            ServingError: the server's message, or its answer is not such a ranking.
        """
        images = black_image(spec)
        return read_class_names(self._infer(model, images, ["probabilities"], class_count=spec.classes))

    def infer(self, model: str, images: Pixels, *, classes: int) -> dict[str, NDArray[Any]]:
        """All outputs of a batch FP32 [N, C, H, W] or UINT8 [N, H, W, C] of K classes, as `read_outputs` gives them.

        Raises:
            ServingError: the server's message, or its answer is not that of a certified model.
        """
        return read_outputs(self._infer(model, images, OUTPUT_NAMES), images=len(images), classes=classes)

    def _infer(self, model: str, images: Pixels, names: Sequence[str], *, class_count: int = 0) -> InferResult:
        inputs, outputs = self._transport.inputs(images), self._transport.outputs(names, class_count=class_count)
        with explained(self._transport.url):
            return self._triton.infer(model, inputs, outputs=outputs, **self._transport.infer_options)


class AsyncConnection:
    """`Connection` for asyncio: one serves any number of tasks of one event loop."""

    def __init__(self, url: str, *, timeout: float) -> None:
        """See `Connection`; to be called inside a running event loop."""
        self._transport = transport_to(url, timeout=timeout)
        self._triton = self._transport.open_asyncio()

    async def close(self) -> None:
        """Close the connection."""
        await self._triton.close()

    async def spec(self, model: str) -> ModelSpec:
        """See `Connection.spec`."""
        with explained(self._transport.url):
            config = await self._triton.get_model_config(model, **self._transport.config_options)
        return read_spec(config)

    async def class_names(self, model: str, spec: ModelSpec) -> dict[int, str]:
        """See `Connection.class_names`."""
        images = black_image(spec)
        return read_class_names(await self._infer(model, images, ["probabilities"], class_count=spec.classes))

    async def infer(self, model: str, images: Pixels, *, classes: int) -> dict[str, NDArray[Any]]:
        """See `Connection.infer`."""
        return read_outputs(await self._infer(model, images, OUTPUT_NAMES), images=len(images), classes=classes)

    async def _infer(self, model: str, images: Pixels, names: Sequence[str], *, class_count: int = 0) -> InferResult:
        inputs, outputs = self._transport.inputs(images), self._transport.outputs(names, class_count=class_count)
        with explained(self._transport.url):
            return await self._triton.infer(model, inputs, outputs=outputs, **self._transport.infer_options)
