"""What the page's questions are answered, by the server and by searches on its files."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from heatserve.certification.outcome import Outcome
from heatserve.export.tiers import TierModel, TierReason
from heatserve.playground import attacks, pictures, wire
from heatserve.playground.attacks import Attacked, Attacks
from heatserve.playground.refusals import Refused
from heatserve.playground.server import Offered, WatchedServer
from heatserve.playground.verdicts import Held, Spoofed
from heatserve.playground.working import Emit, OneAtATime
from heatserve.serving.client.answers import Prediction
from heatserve.serving.client.tier_questions import TierSpec
from heatserve.serving.errors import UnavailableError

if TYPE_CHECKING:
    from heatserve.certification.confirming import Confirmation

MOST_SIGMA = 1.0
MOST_DISTANCE = 4.0
"""L2, of changes, attacks and radii that the page asks for: as far as the paper's attacks go."""
NOISY_COPIES = 24
CONFIRM_VOTES = 10_000
"""At most, for one radius: large ones, which spoofed certificates have, take more than a server's usual 1,000."""


VOTE_SECONDS, LIVE_SECONDS = 30.0, 60.0
"""After which an answer of votes is undecided, and a stream of bounds ends."""
_SHOWN_VALUES = 20_000
"""Numbers of an image that go with each step of an attack; larger images go with some of the steps."""
_PACE_SECONDS = 0.008
"""Between two steps of an attack, so that it can be watched."""

_REPLACED = "The server serves another version of this model now, which this page asks from now on: ask again."

T = TypeVar("T")

Record = dict[str, Any]


class Answers:
    """Answers to questions about one image: one record, or a stream of named ones."""

    def __init__(self, server: WatchedServer, *, repository: Path) -> None:
        """See `playground_app`."""
        self.server = server
        self.repository = repository
        self.attacks = Attacks(repository)
        self.search = OneAtATime()
        self._votes = asyncio.Lock()
        self._asked_for = set[asyncio.Task[Any]]()

    async def predict(self, question: wire.Question) -> Record:
        """One pass."""
        model = self.server.model(question.model)
        return await self._predicted(model, question.image(model.spec))

    async def noise(self, question: wire.Question) -> Record:
        """One pass for some noisy copies of an image."""
        model = self.server.model(question.model)
        image, sigma = question.image(model.spec), question.number("sigma", least=0, most=MOST_SIGMA)
        seed = int(question.number("seed", least=0, most=2**31))
        copies = pictures.noisy(image, sigma, draws=NOISY_COPIES, seed=seed)
        copies = np.stack([wire.seen(copy, model.spec) for copy in copies])
        answers, seconds = await self._asked(model, copies)
        return {
            "image": wire.image_record(copies[0]),
            "distance": pictures.distance(image, copies[0]),
            "answer": wire.prediction_record(answers[0], model.spec, seconds),
            "copies": [{"label": one.label, "radius": one.certified_radius} for one in answers],
        }

    async def change(self, question: wire.Question) -> AsyncGenerator[tuple[str, Record], None]:
        """What a change of one L2 norm looks like: a random one, and the worst that a short search finds."""
        model = self.server.model(question.model)
        image, radius = question.image(model.spec), question.number("radius", least=0, most=MOST_DISTANCE)
        label = int(question.number("label", least=0, most=model.spec.classes - 1))
        yield "random", await self._changed(model, image, pictures.random_change(image, radius, model.spec))
        if attacks.attack_missing(self.repository, model) is not None or radius == 0:
            return
        attacked = await self._opened(model, image, await self._predicted(model, image))
        worst: attacks.Step | None = None

        def work(emit: Emit) -> None:
            for step in attacks.descend(attacked.network, image, label, epsilon=radius):
                emit({"step": step})

        async with aclosing(self.search.run(work)) as steps:
            async for step in steps:
                worst = _worse(worst, step["step"])
        assert worst is not None, "a search has steps"
        found = pictures.at_distance(image, worst.image - image, radius, model.spec)
        yield "worst", await self._changed(model, image, found)

    async def _changed(self, model: Offered, image: wire.Image, other: wire.Image) -> Record:
        return {
            "image": wire.image_record(other),
            "distance": pictures.distance(image, other),
            "answer": await self._predicted(model, other),
        }

    async def confirm(self, question: wire.Question) -> Record:
        """Whether the class is proven within a radius."""
        model = self.server.model(question.model)
        radius = question.number("radius", least=0, most=MOST_DISTANCE)
        return await self._confirmed(model, question.image(model.spec), radius)

    async def certify(self, question: wire.Question) -> AsyncGenerator[tuple[str, Record], None]:
        """Bounds that tighten, as the server finds them."""
        model = self.server.model(question.model)
        tier, image = model.tier(TierModel.CERTIFY_STREAM), question.image(model.spec)
        n = int(question.number("n", least=1, most=tier.limits.most_n))
        deadline, begun = _deadline(tier, most=LIVE_SECONDS), time.perf_counter()
        yield "begin", {"votes": tier.limits.n0 + n, "promise": tier.promise or wire.UNSTATED}
        async with aclosing(model.client.certify(wire.sent(image[None], model.spec), n=n, deadline=deadline)) as bounds:
            async for bound in bounds:
                await self._check(model)
                record = wire.tier_record(bound, tier.promise, time.perf_counter() - begun, radius=None)
                model.proofs.add(image, record)
                yield "bound", record

    async def attack(self, question: wire.Question) -> AsyncGenerator[tuple[str, Record], None]:
        """An attack on the class of one pass: what is proven, its steps, and what the server says of its end."""
        model = self.server.model(question.model)
        image = question.image(model.spec)
        epsilon = question.number("epsilon", least=1e-3, most=MOST_DISTANCE)
        before = await self._predicted(model, image)
        network = (await self._opened(model, image, before)).network
        await self._smoothed(model, image)
        proof = model.proofs.best(image)
        yield "begin", {"answer": before, "proof": proof}
        best: attacks.Step | None = None

        def work(emit: Emit) -> None:
            for step in attacks.descend(network, image, before["label"], epsilon=epsilon):
                emit({"step": step})
                time.sleep(_PACE_SECONDS)

        async with aclosing(self.search.run(work)) as steps:
            async for found in steps:
                step: attacks.Step = found["step"]
                best = _worse(best, step)
                yield "step", _step(step, pictures.distance(image, step.image), model)
        assert best is not None, "an attack has steps"
        yield "end", await self._attacked(model, image, best.image, before, proof)

    async def _attacked(
        self, model: Offered, image: wire.Image, found: wire.Image, before: Record, proof: Record | None
    ) -> Record:
        after = await self._predicted(model, found)
        smoothed_after = await self._smoothed(model, found)
        held = Held(
            kind=before["kind"],
            distance=pictures.distance(image, found),
            certified_radius=before["certified_radius"],
            proven_radius=_proven(before, proof),
            is_of_another=proof is not None and proof["label"] != before["label"],
            is_held=after["label"] == before["label"],
            is_smoothed_held=smoothed_after["label"] == before["label"]
            if smoothed_after and smoothed_after["outcome"] == "yes"
            else None,
        )
        return {
            "image": wire.image_record(found),
            "distance": held.distance,
            "proven_radius": held.proven_radius,
            "is_of_another": held.is_of_another,
            "is_inside": held.is_inside,
            "is_held": held.is_held,
            "answer": after,
            "smoothed": smoothed_after,
            "sentence": held.sentence,
        }

    async def spoof(self, question: wire.Question) -> AsyncGenerator[tuple[str, Record], None]:
        """A search for a picture whose served radius is wrong, and what confirm says of what it found."""
        model = self.server.model(question.model)
        if sentence := attacks.spoof_missing(self.repository, model):
            raise Refused(422, sentence)
        image = question.image(model.spec)
        epsilon = question.number("epsilon", least=1e-3, most=MOST_DISTANCE)
        attacked = await self._opened(model, image, await self._predicted(model, image))
        victim = attacked.victim
        assert victim is not None, "a statistical certificate has a base network"
        found: Record | None = None
        for reach in (epsilon / 2, epsilon, epsilon):  # each ascent begins with noise of its own

            def work(emit: Emit, reach: float = reach) -> None:
                emit({"found": attacks.spoofed(victim, image, epsilon=reach, emit=emit)})

            async with aclosing(self.search.run(work)) as steps:
                async for step in steps:
                    if "found" not in step:
                        yield "step", step
                    else:
                        found = await self._judged(model, attacked, image, step["found"])
            if found and found["is_spoofed"]:
                break
        assert found is not None, "a search has an end"
        yield "end", found

    async def _opened(self, model: Offered, image: wire.Image, served: Record) -> Attacked:
        """The files of a model, which answer an image as the server did."""
        attacked = await asyncio.to_thread(self.attacks.opened, model, image)
        await asyncio.to_thread(attacked.check, image, served)
        return attacked

    async def _judged(self, model: Offered, attacked: Attacked, image: wire.Image, other: wire.Image) -> Record:
        """What one pass, confirm and, where that leaves it open, further votes say of what a search found."""
        answer = await self._predicted(model, other)
        served = answer["certified_radius"]
        confirmed = await self._confirmed(model, other, served) if served > 0 else None
        distance = pictures.distance(image, other)
        verdict = Spoofed(
            served=served,
            distance=distance,
            outcome=Outcome(confirmed["outcome"]) if confirmed else None,
            reason=TierReason(confirmed["reason"]) if confirmed else None,
        )
        if verdict.is_open:
            await asyncio.to_thread(attacked.check, other, answer)
            truth = await self._truth(attacked, other, answer["label"], served)
            verdict = replace(verdict, truth=truth.reason, votes=truth.votes)
        return {
            "image": wire.image_record(other),
            "distance": distance,
            "answer": answer,
            "confirmed": confirmed,
            "smoothed": await self._smoothed(model, other) if confirmed else None,
            "is_spoofed": verdict.is_spoofed,
            "sentence": verdict.sentence,
        }

    async def _truth(self, attacked: Attacked, image: wire.Image, label: int, radius: float) -> Confirmation:
        victim = attacked.victim
        assert victim is not None, "what is spoofed has a base network"

        def work(emit: Emit) -> None:
            emit({"judged": attacks.judged(victim, image, label=label, radius=radius, emit=emit)})

        async with aclosing(self.search.run(work)) as events:
            judged = [event["judged"] async for event in events if event]
        return cast("Confirmation", judged[0])

    async def _predicted(self, model: Offered, image: wire.Image) -> Record:
        answers, seconds = await self._asked(model, image[None])
        return wire.prediction_record(answers[0], model.spec, seconds)

    async def _asked(self, model: Offered, images: NDArray[np.float32]) -> tuple[list[Prediction], float]:
        begun = time.perf_counter()
        answers = await self._reached(model, model.client.predict(wire.sent(images, model.spec)))
        return answers, time.perf_counter() - begun

    async def _confirmed(self, model: Offered, image: wire.Image, radius: float) -> Record:
        tier, begun = model.tier(TierModel.CONFIRM), time.perf_counter()
        n = min(CONFIRM_VOTES, tier.limits.most_n)
        pixels = wire.sent(image[None], model.spec)
        answers = await self._voted(
            model, lambda: model.client.confirm(pixels, radius=radius, n=n, deadline=_deadline(tier))
        )
        return wire.tier_record(answers[0], tier.promise, time.perf_counter() - begun, radius=radius)

    async def _smoothed(self, model: Offered, image: wire.Image) -> Record | None:
        """Class and radius that votes prove, where the server offers it."""
        tier = model.tiers.get(TierModel.CERTIFY)
        if tier is None:
            return None
        begun = time.perf_counter()
        pixels = wire.sent(image[None], model.spec)
        answers = await self._voted(model, lambda: model.client.certify_fixed(pixels, deadline=_deadline(tier)))
        record = wire.tier_record(answers[0], tier.promise, time.perf_counter() - begun, radius=None)
        model.proofs.add(image, record)
        return record

    async def _voted(self, model: Offered, ask: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """An answer of votes. One is asked for at a time: of those whose readers leave, only one can hold up others."""
        await self._votes.acquire()

        async def answer() -> T:
            try:
                return await ask()
            finally:
                self._votes.release()

        return await self._reached(model, answer())

    async def _reached(self, model: Offered, answer: Coroutine[Any, Any, T]) -> T:
        """An answer of the version that is known. It is never cancelled: Triton may abort where it is answering."""

        async def checked() -> T:
            found = await answer
            await self._check(model)
            return found

        asked = asyncio.create_task(checked())
        self._asked_for.add(asked)
        asked.add_done_callback(self._ended)
        try:
            return await asyncio.shield(asked)
        except UnavailableError:
            await self.server.lost()
            raise

    def _ended(self, asked: asyncio.Task[Any]) -> None:
        self._asked_for.discard(asked)
        if not asked.cancelled():
            asked.exception()  # where its reader has left, nobody else looks at it

    async def _check(self, model: Offered) -> None:
        """Refuse what another version has answered: it is promised something else."""
        if not await model.has_answered():
            await self.server.look(replaced=model)
            raise Refused(409, _REPLACED)


def _proven(before: Record, proof: Record | None) -> float:
    """What is proven of the class of one pass: by itself, or by votes."""
    if before["kind"] == "deterministic":
        return float(before["certified_radius"])
    return float(proof["proven_radius"]) if proof and proof["label"] == before["label"] else 0.0


def _deadline(tier: TierSpec, *, most: float = VOTE_SECONDS) -> float:
    """Seconds on the server, as many as the operator allows: a busy machine is late with its votes."""
    return min(tier.limits.most_deadline_ms / 1000, most)


def _worse(best: attacks.Step | None, step: attacks.Step) -> attacks.Step:
    """The step of an attack that comes nearer to another class."""
    return step if best is None or step.margin < best.margin else best


def _step(step: attacks.Step, distance: float, model: Offered) -> Record:
    is_shown = step.number % math.ceil(step.image.size / _SHOWN_VALUES) == 0
    return {
        "number": step.number,
        "of": step.of,
        "label": step.label,
        "class_name": model.class_names[step.label],
        "margin": step.margin,
        "distance": distance,
        "image": wire.image_record(step.image) if is_shown else None,
    }
