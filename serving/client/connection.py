"""One request and its answer, over gRPC or HTTP, blocking or asyncio: typed, and with errors that say what to do."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Iterator, Sequence
from contextlib import aclosing, closing, contextmanager, suppress
from typing import Any, TypeVar

from numpy.typing import NDArray

from heatserve.export.contract import OUTPUT_NAMES
from heatserve.export.tiers import TierModel, tier_tensors
from heatserve.serving.client.access import Access, access_to
from heatserve.serving.client.answers import ModelSpec, black_image, read_outputs, read_spec
from heatserve.serving.client.bounded import Patience, check_patience
from heatserve.serving.client.described import DESCRIBED_TIMES, Described, not_described
from heatserve.serving.client.failures import explained
from heatserve.serving.client.messages import InferRequest, InferResult, RequestParameters
from heatserve.serving.client.probing import other_protocol
from heatserve.serving.client.tier_questions import TierSpec, read_tier_spec
from heatserve.serving.client.transport import open_async_transport, open_transport
from heatserve.serving.errors import ServingError, UnavailableError, UnknownModelError
from heatserve.serving.pixels import Pixels

T = TypeVar("T")

_LONGEST_ID = 128


class Connection:
    """A blocking connection to a server, for any number of threads; it sends what it is given, unchecked.

    A process that is forked gets connections of its own.
    """

    def __init__(self, access: Access | str, *, timeout: float, retries: int = 0) -> None:
        """Describe the connection; the first request makes it.

        Args:
            access: to the server, or its URL.
            timeout: seconds that one request may take, with all of its attempts.
            retries: attempts after the first, where that found no server.

        Raises:
            ServingError: a malformed URL, a package is not installed, a certificate cannot be read, or a timeout or
                retries that no request can have.
        """
        check_patience(timeout, retries)
        self._access = access_to(access) if isinstance(access, str) else access
        self._transport = open_transport(self._access)
        self._timeout = timeout
        self._retries = retries

    @property
    def is_http(self) -> bool:
        """Whether it speaks HTTP, and not gRPC."""
        return self._access.address.is_http

    def close(self) -> None:
        """Close the connection."""
        self._transport.close()

    def spec(self, model: str, version: str = "") -> ModelSpec:
        """What the server tells about a model, or about one of its versions.

        Raises:
            ServingError: no server, no such model or version, or not a certified model.
        """
        return read_spec(self._asked(lambda seconds: self._transport.config(model, version, seconds=seconds)))

    def describe(self, model: str) -> Described:
        """What a client knows of a model. For the names of its classes, Triton ranks all of them for a black image.

        Raises:
            ServingError: as `spec`, the server's answer is not such a ranking, or each time of another version than
                what it tells about the model, as of servers of several versions behind one address.
        """
        for _ in range(DESCRIBED_TIMES):
            spec = self.spec(model)
            ranking = self._infer(_ranking(model, spec))
            with suppress(UnknownModelError):  # the version that answered is not served any more, or not there
                if spec == self.spec(model, ranking.model_version):
                    return Described.of(spec, ranking)
        raise not_described(ranking)

    def answer(
        self, model: str, images: Pixels, outputs: Sequence[str], *, request_id: str | None = None
    ) -> InferResult:
        """The answer of a model to one batch; see `infer`.

        Raises:
            ServingError: the server's message.
        """
        return self._infer(InferRequest(model, images, outputs, request_id=_id_of(request_id)))

    def infer(
        self,
        model: str,
        images: Pixels,
        *,
        classes: int,
        outputs: Sequence[str] = OUTPUT_NAMES,
        request_id: str | None = None,
    ) -> dict[str, NDArray[Any]]:
        """Outputs of a batch FP32 [N, C, H, W] or UINT8 [N, H, W, C] of K classes, as `read_outputs` gives them.

        Args:
            model: its name.
            images: the batch.
            classes: K.
            outputs: the names of those that are asked for.
            request_id: None makes one.

        Raises:
            ServingError: the server's message, or its answer is not that of a certified model.
        """
        answer = self.answer(model, images, outputs, request_id=request_id)
        return read_outputs(answer, images=len(images), classes=classes, names=outputs)

    def tier(self, name: str, kind: TierModel) -> TierSpec:
        """What the server tells about the tier of that name.

        Raises:
            UnknownModelError: the server does not offer it.
            ServingError: no server, or not such a tier.
        """
        return read_tier_spec(self._asked(lambda seconds: self._transport.config(name, seconds=seconds)), kind)

    def ask(
        self, tier: TierSpec, images: Pixels, parameters: RequestParameters, *, request_id: str | None = None
    ) -> InferResult:
        """The answer of a tier to one batch.

        Raises:
            ServingError: the server's message.
        """
        return self._infer(_question(tier, images, parameters, request_id))

    def stream(
        self, tier: TierSpec, image: Pixels, parameters: RequestParameters, *, request_id: str | None = None
    ) -> Generator[InferResult, None, None]:
        """The answers of a tier to one image, as they come; closing the generator gives the request up.

        It is not asked again where it is lost: a caller may have acted on what came.

        Raises:
            ServingError: the server's message, or what it sends is no answer.
        """
        request = InferRequest(tier.name, image, parameters=parameters, request_id=_id_of(request_id))
        with (
            _noted(request.request_id),
            explained(self._access.address),
            closing(self._transport.stream(request, seconds=self._timeout)) as answers,
        ):
            for answer in answers:
                yield _checked(answer, request)

    def _infer(self, request: InferRequest) -> InferResult:
        with _noted(request.request_id):
            return _checked(self._asked(lambda seconds: self._transport.infer(request, seconds=seconds)), request)

    def _asked(self, ask: Callable[[float], T]) -> T:
        patience = Patience(self._timeout, self._retries)
        while True:
            try:
                with explained(self._access.address):
                    return ask(patience.left)
            except UnavailableError as error:
                seconds = patience.pause()
                if seconds is None:
                    raise self._explained_further(error, patience.left) from None
                time.sleep(seconds)

    def _explained_further(self, error: UnavailableError, seconds: float) -> ServingError:
        if error.is_said:
            return error
        return other_protocol(self._access.address, seconds=seconds) or error


class AsyncConnection:
    """`Connection` for asyncio: one serves any number of tasks of one event loop."""

    def __init__(self, access: Access | str, *, timeout: float, retries: int = 0) -> None:
        """See `Connection`."""
        check_patience(timeout, retries)
        self._access = access_to(access) if isinstance(access, str) else access
        self._transport = open_async_transport(self._access)
        self._timeout = timeout
        self._retries = retries
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def is_http(self) -> bool:
        """See `Connection.is_http`."""
        return self._access.address.is_http

    async def close(self) -> None:
        """Close the connection."""
        await self._transport.close()
        self._loop = None

    async def spec(self, model: str, version: str = "") -> ModelSpec:
        """See `Connection.spec`."""
        return read_spec(await self._asked(lambda seconds: self._transport.config(model, version, seconds=seconds)))

    async def describe(self, model: str) -> Described:
        """See `Connection.describe`."""
        for _ in range(DESCRIBED_TIMES):
            spec = await self.spec(model)
            ranking = await self._infer(_ranking(model, spec))
            with suppress(UnknownModelError):
                if spec == await self.spec(model, ranking.model_version):
                    return Described.of(spec, ranking)
        raise not_described(ranking)

    async def answer(
        self, model: str, images: Pixels, outputs: Sequence[str], *, request_id: str | None = None
    ) -> InferResult:
        """See `Connection.answer`."""
        return await self._infer(InferRequest(model, images, outputs, request_id=_id_of(request_id)))

    async def tier(self, name: str, kind: TierModel) -> TierSpec:
        """See `Connection.tier`."""
        return read_tier_spec(await self._asked(lambda seconds: self._transport.config(name, seconds=seconds)), kind)

    async def ask(
        self, tier: TierSpec, images: Pixels, parameters: RequestParameters, *, request_id: str | None = None
    ) -> InferResult:
        """See `Connection.ask`."""
        return await self._infer(_question(tier, images, parameters, request_id))

    async def stream(
        self, tier: TierSpec, image: Pixels, parameters: RequestParameters, *, request_id: str | None = None
    ) -> AsyncGenerator[InferResult, None]:
        """See `Connection.stream`."""
        self._check_loop()
        request = InferRequest(tier.name, image, parameters=parameters, request_id=_id_of(request_id))
        with _noted(request.request_id), explained(self._access.address):
            async with aclosing(self._transport.stream(request, seconds=self._timeout)) as answers:
                async for answer in answers:
                    yield _checked(answer, request)

    async def _infer(self, request: InferRequest) -> InferResult:
        with _noted(request.request_id):
            found = await self._asked(lambda seconds: self._transport.infer(request, seconds=seconds))
            return _checked(found, request)

    async def _asked(self, ask: Callable[[float], Awaitable[T]]) -> T:
        self._check_loop()
        patience = Patience(self._timeout, self._retries)
        while True:
            try:
                with explained(self._access.address):
                    return await ask(patience.left)
            except UnavailableError as error:
                seconds = patience.pause()
                if seconds is None:
                    raise await self._explained_further(error, patience.left) from None
                await asyncio.sleep(seconds)

    async def _explained_further(self, error: UnavailableError, seconds: float) -> ServingError:
        if error.is_said:
            return error
        return await asyncio.to_thread(other_protocol, self._access.address, seconds=seconds) or error

    def _check_loop(self) -> None:
        loop = asyncio.get_running_loop()
        if self._loop not in (None, loop):
            raise ServingError(
                "expected the event loop in which this client was first used, found another; make a client in each"
            )
        self._loop = loop


def _id_of(given: str | None) -> str:
    """The id of a request: what the caller gives it, or a new one.

    Raises:
        ServingError: a log or a header could not hold it.
    """
    if given is None:
        return uuid.uuid4().hex
    if not isinstance(given, str) or not 0 < len(given) <= _LONGEST_ID or not given.isprintable():
        raise ServingError(
            f"request_id: expected printable text of at most {_LONGEST_ID} characters, got {given!r:.80}"
        )
    return given


def _ranking(model: str, spec: ModelSpec) -> InferRequest:
    return InferRequest(model, black_image(spec), ["probabilities"], class_count=spec.classes, request_id=_id_of(None))


def _question(tier: TierSpec, images: Pixels, parameters: RequestParameters, request_id: str | None) -> InferRequest:
    names = [tensor.name for tensor in tier_tensors(tier.kind)]
    return InferRequest(tier.name, images, names, parameters, request_id=_id_of(request_id))


@contextmanager
def _noted(request_id: str) -> Iterator[None]:
    """Note on an error which request it is about."""
    try:
        yield
    except ServingError as error:
        error.request_id = request_id
        raise


def _checked(answer: InferResult, request: InferRequest) -> InferResult:
    """The answer to a request, and to no other one.

    Raises:
        ServingError: it says that it is that of another request.
    """
    if answer.request_id not in ("", request.request_id):
        raise ServingError(
            f"id: expected {request.request_id} from the server, as in the request, found {answer.request_id!r:.80}; "
            "the answer is that of another request"
        )
    return answer
