"""One request and its answer, over gRPC or HTTP, blocking or asyncio: typed, and with errors that say what to do."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator, Sequence
from typing import Any

from numpy.typing import NDArray

from heatserve.export.contract import OUTPUT_NAMES
from heatserve.export.tiers import TierModel, tier_tensors
from heatserve.serving.client.answers import (
    ModelSpec,
    black_image,
    read_class_names,
    read_outputs,
    read_spec,
)
from heatserve.serving.client.failures import explained
from heatserve.serving.client.streams import StreamRequest, stream, stream_asyncio
from heatserve.serving.client.tier_questions import TierSpec, read_tier_spec
from heatserve.serving.client.transport import InferResult, RequestParameters, transport_to
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

    @property
    def is_http(self) -> bool:
        """Whether it speaks HTTP, and not gRPC."""
        return self._transport.scheme == "http"

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

    def tier(self, name: str, kind: TierModel) -> TierSpec:
        """What the server tells about the tier of that name.

        Raises:
            UnknownModelError: the server does not offer it.
            ServingError: no server, or not such a tier.
        """
        with explained(self._transport.url):
            config = self._triton.get_model_config(name, **self._transport.config_options)
        return read_tier_spec(config, kind)

    def ask(self, tier: TierSpec, images: Pixels, parameters: RequestParameters) -> InferResult:
        """The answer of a tier to one batch.

        Raises:
            ServingError: the server's message.
        """
        names = [tensor.name for tensor in tier_tensors(tier.kind)]
        return self._infer(tier.name, images, names, parameters=parameters)

    def stream(
        self, tier: TierSpec, image: Pixels, parameters: RequestParameters
    ) -> Generator[InferResult, None, None]:
        """The answers of a tier to one image, as they come; closing the generator gives the request up.

        Raises:
            ServingError: the server's message, or what it sends is no answer.
        """
        return stream(self._transport, StreamRequest(tier.name, image, parameters))

    def _infer(
        self,
        model: str,
        images: Pixels,
        names: Sequence[str],
        *,
        class_count: int = 0,
        parameters: RequestParameters | None = None,
    ) -> InferResult:
        inputs, outputs = self._transport.inputs(images), self._transport.outputs(names, class_count=class_count)
        options = {**self._transport.infer_options, "parameters": parameters}
        with explained(self._transport.url):
            return self._triton.infer(model, inputs, outputs=outputs, **options)


class AsyncConnection:
    """`Connection` for asyncio: one serves any number of tasks of one event loop."""

    def __init__(self, url: str, *, timeout: float) -> None:
        """See `Connection`; to be called inside a running event loop."""
        self._transport = transport_to(url, timeout=timeout)
        self._triton = self._transport.open_asyncio()

    @property
    def is_http(self) -> bool:
        """See `Connection.is_http`."""
        return self._transport.scheme == "http"

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

    async def tier(self, name: str, kind: TierModel) -> TierSpec:
        """See `Connection.tier`."""
        with explained(self._transport.url):
            config = await self._triton.get_model_config(name, **self._transport.config_options)
        return read_tier_spec(config, kind)

    async def ask(self, tier: TierSpec, images: Pixels, parameters: RequestParameters) -> InferResult:
        """See `Connection.ask`."""
        names = [tensor.name for tensor in tier_tensors(tier.kind)]
        return await self._infer(tier.name, images, names, parameters=parameters)

    def stream(self, tier: TierSpec, image: Pixels, parameters: RequestParameters) -> AsyncGenerator[InferResult, None]:
        """See `Connection.stream`."""
        return stream_asyncio(self._transport, StreamRequest(tier.name, image, parameters))

    async def _infer(
        self,
        model: str,
        images: Pixels,
        names: Sequence[str],
        *,
        class_count: int = 0,
        parameters: RequestParameters | None = None,
    ) -> InferResult:
        inputs, outputs = self._transport.inputs(images), self._transport.outputs(names, class_count=class_count)
        options = {**self._transport.infer_options, "parameters": parameters}
        with explained(self._transport.url):
            return await self._triton.infer(model, inputs, outputs=outputs, **options)
