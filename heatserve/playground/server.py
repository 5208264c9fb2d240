"""The running server that the page is about: the models that it offers, and whether it answers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from heatserve.export.tiers import TierModel
from heatserve.playground.proofs import Proofs
from heatserve.playground.refusals import Refused
from heatserve.serving.client.answers import ModelSpec
from heatserve.serving.client.async_client import AsyncClient
from heatserve.serving.client.connection import AsyncConnection
from heatserve.serving.client.tier_questions import TierSpec
from heatserve.serving.errors import ServingError, TooLateError, UnavailableError, UnknownModelError

LOOK_SECONDS = 2.0
"""Between two looks whether the server is there."""
ASKED_TIERS = (TierModel.CONFIRM, TierModel.CERTIFY, TierModel.CERTIFY_STREAM)


@dataclass(frozen=True)
class Offered:
    """A model that the server offers, and what it tells about it: of one version, which other answers are not of."""

    name: str
    version: str
    """As the server numbers it; empty where it does not say."""
    spec: ModelSpec
    class_names: tuple[str, ...]
    tiers: Mapping[TierModel, TierSpec]
    client: AsyncClient
    proofs: Proofs = field(default_factory=Proofs)

    def tier(self, kind: TierModel) -> TierSpec:
        """What the server tells about a tier.

        Raises:
            Refused: it does not offer it.
        """
        if kind not in self.tiers:
            raise Refused(422, f"The server does not offer the tier {kind.value} of this model.")
        return self.tiers[kind]

    async def has_answered(self) -> bool:
        """Whether what the client was answered last is of this version, so that it is promised what is told here."""
        if (await self.client.spec(), self.client.version) != (self.spec, self.version):
            return False
        return all([await self.client.tier(kind) == tier for kind, tier in self.tiers.items()])

    async def is_served(self, asks: AsyncConnection) -> bool:
        """Whether the server still tells what is told here."""
        try:
            tiers = {kind: await asks.tier(tier.name, kind) for kind, tier in self.tiers.items()}
            return (await asks.spec(self.name, self.version), tiers) == (self.spec, self.tiers)
        except UnknownModelError:
            return False


@dataclass(frozen=True)
class ServerState:
    """Whether the server answers."""

    is_there: bool
    says: str
    life: int
    """Grows each time that the server is found again, or with other models: what was known of them is asked anew."""

    @property
    def record(self) -> dict[str, Any]:
        """For the page."""
        return {"is_there": self.is_there, "says": self.says, "life": self.life}


class WatchedServer:
    """A server whose models are asked for once it is there, and again when it comes back."""

    def __init__(
        self,
        url: str,
        names: Sequence[str],
        *,
        client: Callable[[str], AsyncClient],
        connection: Callable[[], AsyncConnection],
    ) -> None:
        """Describe it; `look` asks it for the first time.

        Args:
            url: where it answers.
            names: of the models that it may offer: a server does not say which ones it does.
            client: makes a client of the model of that name.
            connection: makes a connection for short questions.
        """
        self.url = url
        self.models = dict[str, Offered]()
        self.state = ServerState(False, f"The server at {url} was not asked yet.", 0)
        self._names = tuple(names)
        self._client = client
        self._connection = connection
        self._asks: AsyncConnection | None = None
        self._left = list[AsyncClient]()  # with questions that a lost server may still answer
        self.is_ending = False
        self._changed = asyncio.Event()
        self._looking = asyncio.Lock()

    def model(self, name: str) -> Offered:
        """The model of that name.

        Raises:
            Refused: the server does not answer now, or does not offer it.
        """
        if not self.state.is_there:
            raise Refused(503, self.state.says)
        if name not in self.models:
            raise Refused(404, "model: expected one of those that the server offers.")
        return self.models[name]

    async def watch(self) -> None:
        """Look again and again; never returns."""
        while True:
            await self.look()
            await asyncio.sleep(LOOK_SECONDS)

    async def look(self, *, replaced: Offered | None = None) -> None:
        """Ask whether the server is there, and for its models where they are not known, or not those that are known.

        Args:
            replaced: a model of which another version has answered.
        """
        async with self._looking:
            try:
                if self._asks is None:
                    self._asks = self._connection()
                known = list(self.models.values())
                is_known = known and not any(model is replaced for model in known)
                if not (is_known and all([await model.is_served(self._asks) for model in known])):
                    await self._find(self._asks)
            except (UnavailableError, TooLateError):
                await self._lose(
                    f"The server at {self.url} does not answer. Start it with `heatserve serve`, or wait while it "
                    "starts again."
                )
            except ServingError as error:
                await self._lose(f"What answers at {self.url} is not a server of certified models: {error}")

    async def lost(self) -> None:
        """Look at once, since a request found nobody."""
        await self.look()

    async def next_state(self, known: ServerState, *, seconds: float) -> ServerState:
        """The state once it is another one than is known, or after so many seconds, or at the end."""
        if self.state == known and not self.is_ending:
            with suppress(TimeoutError, asyncio.TimeoutError):
                await asyncio.wait_for(self._changed.wait(), seconds)
        return self.state

    def end(self) -> None:
        """Have those who wait for another state leave."""
        self.is_ending = True
        self._changed.set()

    async def close(self) -> None:
        """Close all connections."""
        await self._leave()
        await self._close_left()

    async def _leave(self) -> None:
        """Ask for nothing new: a server that stops still answers what it was asked, until it is lost another time."""
        await self._forget_models()
        if self._asks is not None:
            await self._asks.close()
            self._asks = None

    async def _forget_models(self) -> None:
        if self.models:
            await self._close_left()
            self._left = [model.client for model in self.models.values()]
            self.models = {}

    async def _close_left(self) -> None:
        for client in self._left:
            await client.close()
        self._left = []

    async def _find(self, asks: AsyncConnection) -> None:
        found = {}
        for name in self._names:
            with suppress(UnknownModelError):
                found[name] = await self._offered(asks, name)
        if not found:
            await self._lose(
                f"The server at {self.url} answers, but offers none of the models that the playground knows of: "
                f"{', '.join(self._names) or 'none'}. Start the playground with --model NAME."
            )
            return
        await self._forget_models()
        self.models = found
        self._tell(ServerState(True, f"The server at {self.url} answers.", self.state.life + 1))

    async def _offered(self, asks: AsyncConnection, name: str) -> Offered:
        described = await asks.describe(name)
        spec, names = described.spec, described.class_names
        tiers = {}
        for kind in ASKED_TIERS:
            with suppress(UnknownModelError):
                tiers[kind] = await asks.tier(kind.beside(name), kind)
        labels = tuple(names.get(label, f"class {label}") for label in range(spec.classes))
        return Offered(name, described.version, spec, labels, tiers, self._client(name))

    async def _lose(self, says: str) -> None:
        await self._leave()
        self._tell(ServerState(False, says, self.state.life))

    def _tell(self, state: ServerState) -> None:
        if state == self.state:
            return
        self.state = state
        self._changed.set()
        self._changed = asyncio.Event()
