"""The client of a served model: images in, classes and certificates out; over gRPC or HTTP, blocking or asyncio.

Example:
    with Client("grpc://127.0.0.1:8001", model="digits") as client:
        for prediction in client.predict(images):  # float32 [N, C, H, W] in [0,1]
            print(prediction.label, prediction.certified_radius)
"""

from __future__ import annotations

from collections.abc import Generator
from types import TracebackType
from typing import Any, TypeVar

from numpy.typing import ArrayLike

from heatserve.serving.client.images import as_batch
from heatserve.serving.client.wire import Call, ModelSpec, Prediction, class_names, model_spec, predictions, wire

T = TypeVar("T")
Conversation = Generator[Call, Any, T]
"""What is said to the server, apart from how: yields calls, is sent their answers, returns the outcome."""


class _Session:
    """The conversations that the blocking and the asyncio client have in common."""

    def __init__(self, url: str, *, model: str, timeout: float = 60.0, asynchronous: bool) -> None:
        self._wire = wire(url, timeout=timeout, asynchronous=asynchronous)
        self._client = self._wire.client()
        self._name = model
        self._spec: ModelSpec | None = None
        self._class_names: dict[int, str] = {}

    def _describe(self) -> Conversation[ModelSpec]:
        if self._spec is None:
            spec = model_spec((yield self._wire.describe(self._name)))
            self._class_names = class_names((yield self._wire.rank_classes(self._name, spec)))
            self._spec = spec
        return self._spec

    def _predict(self, images: ArrayLike) -> Conversation[list[Prediction]]:
        spec = yield from self._describe()
        batch = as_batch(images, spec.input_shape, spec.input_type)
        found: list[Prediction] = []
        for start in range(0, len(batch), spec.max_batch_size):
            answer = yield self._wire.infer(self._name, batch[start : start + spec.max_batch_size])
            found.extend(predictions(answer, self._class_names))
        return found


class Client(_Session):
    """A blocking connection to one model of a server. For one thread: give each thread its own."""

    def __init__(self, url: str, *, model: str, timeout: float = 60.0) -> None:
        """Describe the connection; it is made by the first call.

        Args:
            url: `grpc://host:port`, `http://host:port`, or `host:port` for gRPC.
            model: the model's name on the server.
            timeout: seconds that one request may take.
        """
        super().__init__(url, model=model, timeout=timeout, asynchronous=False)

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
        self._client.close()

    def spec(self) -> ModelSpec:
        """What the server tells about the model, asked once.

        Raises:
            ServingError: no server, no such model, or not a certified model.
        """
        return self._hold(self._describe())

    def predict(self, images: ArrayLike) -> list[Prediction]:
        """One prediction per image, in order; batches above the model's largest go as several requests.

        Args:
            images: float32 [N, C, H, W] or one [C, H, W] in [0,1]; or uint8 [N, H, W, C] or one [H, W, C], which are
                all that a model takes whose input is UINT8.

        Raises:
            ServingError: the images are not what the model takes, or the server's own message.
        """
        return self._hold(self._predict(images))

    def _hold(self, conversation: Conversation[T]) -> T:
        answer = None
        while True:
            try:
                call = conversation.send(answer)
            except StopIteration as end:
                outcome: T = end.value
                return outcome
            with self._wire.explained():
                answer = getattr(self._client, call.method)(**call.arguments)


class AsyncClient(_Session):
    """`Client` for asyncio: one connection serves any number of tasks of one event loop."""

    def __init__(self, url: str, *, model: str, timeout: float = 60.0) -> None:
        """See `Client`; to be called inside a running event loop."""
        super().__init__(url, model=model, timeout=timeout, asynchronous=True)

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
        await self._client.close()

    async def spec(self) -> ModelSpec:
        """See `Client.spec`."""
        return await self._hold(self._describe())

    async def predict(self, images: ArrayLike) -> list[Prediction]:
        """See `Client.predict`."""
        return await self._hold(self._predict(images))

    async def _hold(self, conversation: Conversation[T]) -> T:
        answer = None
        while True:
            try:
                call = conversation.send(answer)
            except StopIteration as end:
                outcome: T = end.value
                return outcome
            with self._wire.explained():
                answer = await getattr(self._client, call.method)(**call.arguments)
