"""The clients of a served model: images in, classes and certificates out; over gRPC or HTTP, blocking or asyncio.

Example:
    with Client("grpc://127.0.0.1:8001", model="digits") as client:
        for prediction in client.predict(images):  # float32 [N, C, H, W] in [0,1]
            print(prediction.label, prediction.certified_radius)
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from types import TracebackType

from numpy.typing import ArrayLike

from heatserve.serving.batching import PICTURES_BYTES
from heatserve.serving.client.answers import ModelSpec, Prediction, read_predictions
from heatserve.serving.client.connection import AsyncConnection, Connection
from heatserve.serving.client.image_batch import as_batch
from heatserve.serving.pixels import Pixels


@dataclass(frozen=True)
class _Described:
    """What a client asks about its model once."""

    spec: ModelSpec
    class_names: dict[int, str]

    def requests(self, images: ArrayLike) -> Iterator[Pixels]:
        """The images as batches that the model takes, all but the last of them its largest.

        Raises:
            ServingError: the images are not what the model takes; before the first batch.
        """
        batch = as_batch(images, self.spec.input_shape, self.spec.input_type)
        count = self.spec.max_batch_size
        if -1 in self.spec.input_shape:
            count = max(1, min(count, PICTURES_BYTES // max(1, batch[:1].nbytes)))
        for start in range(0, len(batch), count):
            yield batch[start : start + count]


class Client:
    """A blocking connection to one model of a server. For one thread: give each thread its own."""

    def __init__(self, url: str, *, model: str, timeout: float = 60.0) -> None:
        """Describe the connection; it is made by the first call.

        Args:
            url: `grpc://host:port`, `http://host:port`, or `host:port` for gRPC.
            model: the model's name on the server.
            timeout: seconds that one request may take.

        Raises:
            ServingError: a malformed URL, or tritonclient is not installed.
        """
        self._connection = Connection(url, timeout=timeout)
        self._model = model
        self._known: _Described | None = None

    def __enter__(self) -> Client:
        """Nothing to do: see `close`."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close the connection."""
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def spec(self) -> ModelSpec:
        """What the server tells about the model, asked once.

        Raises:
            ServingError: no server, no such model, or not a certified model.
        """
        return self._described().spec

    def promise(self) -> str | None:
        """What the model's card promises about certified radii, as a sentence; None: the server does not say.

        Raises:
            ServingError: see `spec`.
        """
        return self.spec().promise

    def predict(self, images: ArrayLike) -> list[Prediction]:
        """One prediction per image, in order; batches above the model's largest go as several requests.

        Args:
            images: float32 [N, C, H, W] or one [C, H, W] in [0,1]; or uint8 [N, H, W, C] or one [H, W, C], which are
                all that a model takes whose input is UINT8.

        Raises:
            OverloadedError: the server has more requests than it can answer; ask again later.
            ServingError: the images are not what the model takes, the server's own message, or its answer is not that
                of a certified model.
        """
        described, found = self._described(), list[Prediction]()
        for batch in described.requests(images):
            outputs = self._connection.infer(self._model, batch, classes=described.spec.classes)
            found += read_predictions(outputs, described.class_names)
        return found

    def _described(self) -> _Described:
        if self._known is None:
            spec = self._connection.spec(self._model)
            self._known = _Described(spec, self._connection.class_names(self._model, spec))
        return self._known


class AsyncClient:
    """`Client` for asyncio: one connection serves any number of tasks of one event loop."""

    def __init__(self, url: str, *, model: str, timeout: float = 60.0) -> None:
        """See `Client`; to be called inside a running event loop."""
        self._connection = AsyncConnection(url, timeout=timeout)
        self._model = model
        self._known: _Described | None = None

    async def __aenter__(self) -> AsyncClient:
        """Nothing to do: see `close`."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close the connection."""
        await self.close()

    async def close(self) -> None:
        """Close the connection."""
        await self._connection.close()

    async def spec(self) -> ModelSpec:
        """See `Client.spec`."""
        return (await self._described()).spec

    async def promise(self) -> str | None:
        """See `Client.promise`."""
        return (await self.spec()).promise

    async def predict(self, images: ArrayLike) -> list[Prediction]:
        """See `Client.predict`."""
        described, found = await self._described(), list[Prediction]()
        for batch in described.requests(images):
            outputs = await self._connection.infer(self._model, batch, classes=described.spec.classes)
            found += read_predictions(outputs, described.class_names)
        return found

    async def _described(self) -> _Described:
        if self._known is None:
            spec = await self._connection.spec(self._model)
            self._known = _Described(spec, await self._connection.class_names(self._model, spec))
        return self._known
