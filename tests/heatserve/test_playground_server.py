"""What the playground asks a server, made up here: an answer is of the version that is known, or refused."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from starlette.requests import Request

from heatserve.certification.outcome import Outcome
from heatserve.export.tiers import Tier, TierLimits, TierModel, TierReason
from heatserve.playground import wire
from heatserve.playground.app import Playground
from heatserve.playground.attacks import Attacked
from heatserve.playground.refusals import Refused
from heatserve.playground.server import WatchedServer
from heatserve.serving.client.answers import ModelSpec, Prediction
from heatserve.serving.client.described import Described
from heatserve.serving.client.tier_answers import TierAnswer
from heatserve.serving.client.tier_questions import TierSpec
from heatserve.serving.errors import UnknownModelError

IMAGE = np.full((1, 8, 8), 0.5, np.float32)
YES = TierAnswer(0, "zero", Outcome.YES, 0.1, 100, 1e-6, Tier.CONFIRM, TierReason.PROVEN, "grid")


@dataclass
class Served:
    """A server of one model with the tier confirm, which takes its time for votes."""

    version: str = "1"
    promise: str = "That of version 1."
    tier_promise: str = "That of votes."
    votes: list[asyncio.Future[None]] = field(default_factory=list)
    """What was asked of the tier; each is answered once it is done."""

    def spec_now(self) -> ModelSpec:
        return ModelSpec((1, 8, 8), "FP32", 10, 64, self.promise)

    def tier_now(self) -> TierSpec:
        return TierSpec("m_confirm", TierModel.CONFIRM, 1, self.tier_promise, TierLimits())


class Asks:
    """As `AsyncConnection`, as far as it is asked here."""

    def __init__(self, served: Served) -> None:
        self.served = served

    async def describe(self, _: str) -> Described:
        return Described(self.served.spec_now(), {}, self.served.version)

    async def spec(self, _: str, version: str) -> ModelSpec:
        if version != self.served.version:
            raise UnknownModelError("it is not served")
        return self.served.spec_now()

    async def tier(self, _: str, kind: TierModel) -> TierSpec:
        if kind is not TierModel.CONFIRM:
            raise UnknownModelError("it is not offered")
        return self.served.tier_now()

    async def close(self) -> None: ...


class Calls:
    """As `AsyncClient`: what it says of the model is of the version that answered last."""

    def __init__(self, served: Served) -> None:
        self.served, self.answered = served, replace(served)

    @property
    def version(self) -> str:
        return self.answered.version

    async def spec(self) -> ModelSpec:
        return self.answered.spec_now()

    async def tier(self, _: TierModel) -> TierSpec:
        return self.answered.tier_now()

    async def predict(self, images: np.ndarray[Any, Any]) -> list[Prediction]:
        self.answered = replace(self.served)
        one = Prediction(
            0, "zero", 1.0, np.eye(10, dtype=np.float32)[0], np.arange(5), 0.1, 0.2, 0.3, cast("Any", REASON)
        )
        return [one] * len(images)

    async def confirm(self, _: object, **__: object) -> list[TierAnswer]:
        asked = asyncio.get_running_loop().create_future()
        self.served.votes.append(asked)
        await asked
        self.answered = replace(self.served)
        return [YES]

    async def close(self) -> None: ...


@dataclass(frozen=True)
class _Reason:
    name: str = "CLAIMED"
    explanation: str = "a radius is claimed"


REASON = _Reason()


async def looked(served: Served) -> Playground:
    server = WatchedServer(
        "grpc://x:1", ["m"], client=lambda _: cast("Any", Calls(served)), connection=lambda: cast("Any", Asks(served))
    )
    await server.look()
    return Playground(server, repository=Path("nowhere"), root=None)


def question(**values: object) -> bytes:
    return json.dumps({"model": "m", "image": wire.image_record(IMAGE), "radius": 0.1, **values}).encode()


@pytest.mark.parametrize("changed", ["version", "promise", "tier_promise"])
def test_a_model_that_became_another_one_is_found_by_the_next_look(changed: str) -> None:
    async def go() -> None:
        served = Served()
        server = (await looked(served)).server
        known = server.models["m"]
        await server.look()
        assert server.models["m"] is known
        assert server.state.life == 1
        setattr(served, changed, "2")
        await server.look()
        assert server.state.life == 2
        found = server.models["m"]
        told = {"version": found.version, "promise": found.spec.promise}
        told["tier_promise"] = found.tiers[TierModel.CONFIRM].promise
        assert told[changed] == "2"

    asyncio.run(go())


@pytest.mark.parametrize("changed", ["version", "promise", "tier_promise"])
def test_an_answer_of_another_version_is_refused_and_the_next_one_has_its_own_promise(changed: str) -> None:
    async def go() -> None:
        served = Served()
        playground = await looked(served)
        answers = playground.answers
        assert (await answers.predict(wire.Question(question())))["promise"] == "That of version 1."
        setattr(served, changed, "2")
        with pytest.raises(Refused, match="another version of this model") as refused:
            await answers.predict(wire.Question(question()))
        assert refused.value.status == 409
        assert playground.server.state.life == 2
        assert (await answers.predict(wire.Question(question())))["promise"] == served.promise

    asyncio.run(go())


def request(body: bytes, left: asyncio.Event) -> Request:
    """Of a reader who leaves."""
    parts = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> dict[str, Any]:
        if not parts:
            await left.wait()
            return {"type": "http.disconnect"}
        return parts.pop()

    return Request({"type": "http", "method": "POST", "headers": []}, receive)


def route(playground: Playground, path: str) -> Callable[[Request], Coroutine[Any, Any, Any]]:
    (found,) = (one.endpoint for one in playground.routes() if one.path == path)
    return cast("Callable[[Request], Coroutine[Any, Any, Any]]", found)


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


def test_votes_whose_readers_left_are_not_asked_for_and_hold_up_nobody() -> None:
    async def go() -> None:
        served, left, stays = Served(), asyncio.Event(), asyncio.Event()
        confirm = route(await looked(served), "/api/confirm")
        leaving = [asyncio.create_task(confirm(request(question(), left))) for _ in range(16)]
        await settle()
        assert len(served.votes) == 1  # one at a time
        left.set()
        found = await asyncio.gather(*leaving, return_exceptions=True)
        assert [one.status for one in found if isinstance(one, Refused)] == [499] * 16
        assert not served.votes[0].cancelled()  # Triton is not told: it may abort
        last = asyncio.create_task(confirm(request(question(), stays)))
        await settle()
        served.votes[0].set_result(None)
        await settle()
        assert len(served.votes) == 2
        served.votes[1].set_result(None)
        assert b'"outcome": "yes"' in (await last).body.replace(b'":"', b'": "')

    asyncio.run(go())


def test_files_that_answer_otherwise_than_the_server_are_not_attacked() -> None:
    outputs = {"probabilities": np.eye(10)[:1], "certified_radius": np.array([0.2]), "nominal_radius": np.array([0.3])}
    attacked = Attacked(cast("Any", None), None, lambda _: outputs)
    served = {"probabilities": np.eye(10)[0].tolist(), "certified_radius": 0.2, "nominal_radius": 0.3}
    attacked.check(IMAGE, served)
    for other in (
        {"probabilities": np.eye(10)[1].tolist()},
        {"certified_radius": 0.25},
        {"nominal_radius": float("nan")},
    ):
        with pytest.raises(Refused, match="answer otherwise than the server"):
            attacked.check(IMAGE, {**served, **other})
