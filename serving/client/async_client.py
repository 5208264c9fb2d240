"""`Client` for asyncio."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Collection, Mapping
from contextlib import aclosing
from types import TracebackType

from numpy.typing import ArrayLike

from heatserve.export.tiers import Mode, TierModel
from heatserve.serving.client.access import Tls, Token, access_to, check_type
from heatserve.serving.client.answers import ModelSpec, Prediction, asked_outputs
from heatserve.serving.client.connection import AsyncConnection
from heatserve.serving.client.described import DESCRIBED_TIMES, Described, KnownVersions, not_described, not_offered
from heatserve.serving.client.messages import InferResult
from heatserve.serving.client.tier_answers import TierAnswer, TighteningBounds
from heatserve.serving.client.tier_questions import TierQuestion, TierSpec, read_mode
from heatserve.serving.errors import UnknownModelError


class AsyncClient:
    """`Client` for asyncio: one connection serves any number of tasks of one event loop."""

    def __init__(
        self,
        url: str,
        *,
        model: str,
        timeout: float = 60.0,
        retries: int = 3,
        tls: Tls | None = None,
        headers: Mapping[str, str] | None = None,
        token: Token | None = None,
    ) -> None:
        """See `Client`."""
        self._connection = AsyncConnection(
            access_to(url, tls=tls, headers=headers, token=token), timeout=timeout, retries=retries
        )
        check_type("model", model, str, "the name of a model")
        self._model = model
        self._timeout = timeout
        self._known = KnownVersions()

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

    @property
    def version(self) -> str | None:
        """The version of the model that answered last, as the server numbers it; None: none has, for a minute."""
        newest = self._known.newest
        return newest.version if newest else None

    async def promise(self) -> str | None:
        """See `Client.promise`."""
        return (await self.spec()).promise

    async def predict(
        self, images: ArrayLike, *, outputs: Collection[str] | None = None, request_id: str | None = None
    ) -> list[Prediction]:
        """See `Client.predict`."""
        names, described, found = asked_outputs(outputs), await self._described(), list[Prediction]()
        for batch in described.requests(images):
            answer = await self._connection.answer(self._model, batch, names, request_id=request_id)
            found += (await self._described_as(answer)).predictions(answer, names, images=len(batch))
        return found

    async def tier(self, kind: TierModel) -> TierSpec:
        """See `Client.tier`."""
        return await self._tier(await self._described(), kind)

    async def confirm(
        self,
        images: ArrayLike,
        *,
        radius: float,
        alpha: float | None = None,
        n: int | None = None,
        deadline: float | None = None,
        request_id: str | None = None,
    ) -> list[TierAnswer]:
        """See `Client.confirm`."""
        asked = TierQuestion(TierModel.CONFIRM, radius=radius, alpha=alpha, n=n, deadline=deadline)
        return await self._ask(images, asked, request_id)

    async def cascade(
        self,
        images: ArrayLike,
        *,
        radius: float,
        mode: Mode | str = Mode.CLAIMED,
        alpha: float | None = None,
        n: int | None = None,
        deadline: float | None = None,
        request_id: str | None = None,
    ) -> list[TierAnswer]:
        """See `Client.cascade`."""
        asked = TierQuestion(
            TierModel.CASCADE, radius=radius, mode=read_mode(mode), alpha=alpha, n=n, deadline=deadline
        )
        return await self._ask(images, asked, request_id)

    async def certify_fixed(
        self,
        images: ArrayLike,
        *,
        alpha: float | None = None,
        n0: int | None = None,
        n: int | None = None,
        top_k: int | None = None,
        deadline: float | None = None,
        request_id: str | None = None,
    ) -> list[TierAnswer]:
        """See `Client.certify_fixed`."""
        asked = TierQuestion(TierModel.CERTIFY, alpha=alpha, n0=n0, n=n, top_k=top_k, deadline=deadline)
        return await self._ask(images, asked, request_id)

    async def certify(
        self,
        image: ArrayLike,
        *,
        alpha: float | None = None,
        n0: int | None = None,
        n: int | None = None,
        top_k: int | None = None,
        deadline: float | None = None,
        request_id: str | None = None,
    ) -> AsyncGenerator[TierAnswer, None]:
        """See `Client.certify`. Where a loop is left early, `contextlib.aclosing` gives the request up at once."""
        asked = TierQuestion(TierModel.CERTIFY_STREAM, alpha=alpha, n0=n0, n=n, top_k=top_k, deadline=deadline)
        described, tier, bounds = await self._described(), await self.tier(asked.kind), TighteningBounds()
        parameters, pixels = (
            asked.parameters(tier, timeout=self._timeout),
            described.one(image, over_http=self._connection.is_http),
        )
        async with aclosing(self._connection.stream(tier, pixels, parameters, request_id=request_id)) as stream:
            async for answer in stream:
                described = await self._described_as(answer)
                found = bounds.checked(
                    *described.read(answer, asked, await self._tier(described, asked.kind), images=1)
                )
                if not bounds.has_ended:
                    yield found
        yield bounds.last()

    async def _described(self) -> Described:
        return self._known.newest or self._known.add(await self._connection.describe(self._model))

    async def _described_as(self, answer: InferResult) -> Described:
        """What is known of the version that answered, or else what the server says of it now."""
        for _ in range(DESCRIBED_TIMES):
            if known := self._known.of(answer):
                return known
            described = self._known.add(await self._connection.describe(self._model))
            if described.version in ("", answer.model_version):
                return described
        raise not_described(answer)

    async def _tier(self, described: Described, kind: TierModel) -> TierSpec:
        if kind not in described.tiers:
            try:
                described.tiers[kind] = await self._connection.tier(kind.beside(self._model), kind)
            except UnknownModelError:
                offered = [other for other in TierModel if other is not kind and await self._offers(other)]
                raise not_offered(self._model, described.spec, kind, offered) from None
        return described.tiers[kind]

    async def _offers(self, kind: TierModel) -> bool:
        try:
            await self._connection.tier(kind.beside(self._model), kind)
        except UnknownModelError:
            return False
        return True

    async def _ask(self, images: ArrayLike, asked: TierQuestion, request_id: str | None) -> list[TierAnswer]:
        described, tier, found = await self._described(), await self.tier(asked.kind), list[TierAnswer]()
        parameters = asked.parameters(tier, timeout=self._timeout)
        for batch in described.requests(images):
            answer = await self._connection.ask(tier, batch, parameters, request_id=request_id)
            described = await self._described_as(answer)
            found += described.read(answer, asked, await self._tier(described, asked.kind), images=len(batch))
        return found
