"""The ASGI application of the playground: its routes, and what they ask the server."""

from __future__ import annotations

import asyncio
import json
import sys
import time
import traceback
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from heatserve.certification.errors import HeatserveError
from heatserve.export.tiers import TierModel
from heatserve.playground import attacks, pictures, wire
from heatserve.playground.attacks import Attacks
from heatserve.playground.examples import Examples
from heatserve.playground.guards import PICTURE, Application, Guarded
from heatserve.playground.page import static_files
from heatserve.playground.refusals import Refused, said_of, status_of
from heatserve.playground.server import Offered, WatchedServer
from heatserve.playground.verdicts import Held, spoof_sentence
from heatserve.playground.working import Emit, OneAtATime
from heatserve.serving.client.answers import Prediction
from heatserve.serving.client.tier_answers import TierAnswer
from heatserve.serving.errors import UnavailableError
from heatserve.training.data.errors import DataError

MOST_SIGMA = 1.0
MOST_DISTANCE = 4.0
"""L2, of changes, attacks and radii that the page asks for: as far as the paper's attacks go."""
NOISY_COPIES = 24
CONFIRM_VOTES = 10_000
"""At most, for one radius: large ones, which spoofed certificates have, take more than a server's usual 1,000."""

_QUIET_SECONDS = 15.0
"""After which a stream says that it is still there."""
_PACE_SECONDS = 0.008
"""Between two steps of an attack, so that it can be watched."""

Record = dict[str, Any]


class Playground:
    """The routes."""

    def __init__(self, server: WatchedServer, *, repository: Path, root: Path | None) -> None:
        """See `playground_app`."""
        self.server = server
        self.repository = repository
        self.examples = Examples(root)
        self.attacks = Attacks(repository)
        self.files = static_files()
        self.search = OneAtATime()
        self._decoding = asyncio.Semaphore(1)  # a picture may take half a gigabyte
        self._life = 0

    def routes(self) -> list[Route]:
        """All of them."""
        asked = {
            "predict": self.predict,
            "noise": self.noise,
            "change": self.change,
            "confirm": self.confirm,
        }
        watched = {"certify": self.certify, "attack": self.attack, "spoof": self.spoof}
        return [
            Route("/", self.page),
            Route("/static/{name}", self.page),
            Route("/api/models", self.models),
            Route("/api/examples", self.shown_examples),
            Route("/api/server", self.watched),
            Route("/api/picture", self.picture, methods=["POST"]),
            *(Route(f"/api/{name}", _answering(answer), methods=["POST"]) for name, answer in asked.items()),
            *(Route(f"/api/{name}", self._streaming(stream), methods=["POST"]) for name, stream in watched.items()),
        ]

    async def page(self, request: Request) -> Response:
        """A file of the page."""
        name = request.path_params.get("name", "index.html")
        if name not in self.files:
            raise Refused(404, "There is no such page.")
        content, kind = self.files[name]
        return Response(content, media_type=kind)

    async def models(self, _: Request) -> Response:
        """The models that the server offers, and what can be done with each here."""
        if self.server.state.life != self._life:
            self._life = self.server.state.life
            self.attacks.forget()
        models = [self._described(model) for model in self.server.models.values()]
        return JSONResponse({"server": self.server.state.record, "models": models})

    def _described(self, model: Offered) -> Record:
        spec = model.spec
        return {
            "name": model.name,
            "kind": spec.certificate_kind,
            "shape": list(spec.input_shape),
            "class_names": list(model.class_names),
            "promise": spec.promise or wire.UNSTATED,
            "tiers": {
                kind.value: {"promise": tier.promise or wire.UNSTATED, "alpha": tier.limits.alpha,
                             "n0": tier.limits.n0, "n": tier.limits.n, "most_n": tier.limits.most_n}
                for kind, tier in model.tiers.items()
            },
            "missing": {
                "examples": self.examples.missing(spec.input_shape),
                "attack": attacks.attack_missing(self.repository, model),
                "spoof": attacks.spoof_missing(self.repository, model),
            },
        }  # fmt: skip

    async def watched(self, _: Request) -> Response:
        """Whether the server answers: an event now, and one whenever that changes."""

        async def states() -> AsyncGenerator[bytes, None]:
            known = self.server.state
            yield event("server", known.record)
            while not self.server.is_ending:
                state = await self.server.next_state(known, seconds=_QUIET_SECONDS)
                yield b": still here\n\n" if state == known else event("server", state.record)
                known = state

        return _events(states())

    async def shown_examples(self, request: Request) -> Response:
        """Test images for a model."""
        model = self.server.model(request.query_params.get("model", ""))
        try:
            found = await asyncio.to_thread(self.examples.of, model.spec.input_shape)
        except DataError as error:
            sys.stderr.write(f"playground: {error}\n")
            raise Refused(422, "The examples cannot be read; the terminal of the playground says why.") from None
        return JSONResponse(
            [{"class_name": example.class_name, "image": wire.image_record(example.image)} for example in found]
        )

    async def picture(self, request: Request) -> Response:
        """A file or a drawing, as a model takes it."""
        if request.headers.get("content-type", "").encode("latin-1") != PICTURE:
            raise Refused(415, "Content-Type: expected application/octet-stream.")
        model, content = self.server.model(request.query_params.get("model", "")), await request.body()
        read = pictures.drawn if request.query_params.get("drawn") else pictures.fitted
        async with self._decoding:
            image = await asyncio.to_thread(read, content, model.spec)
        return JSONResponse({"image": wire.image_record(image)})

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

    async def change(self, question: wire.Question) -> Record:
        """What a change of one L2 norm looks like: a random one, and the worst that a short search finds."""
        model = self.server.model(question.model)
        image, radius = question.image(model.spec), question.number("radius", least=0, most=MOST_DISTANCE)
        label = int(question.number("label", least=0, most=model.spec.classes - 1))
        changed = {"random": wire.seen(pictures.random_change(image, radius), model.spec)}
        missing = attacks.attack_missing(self.repository, model)
        if missing is None and radius > 0:
            changed["worst"] = await asyncio.to_thread(self._worst, model, image, label, radius)
        answers, seconds = await self._asked(model, np.stack(list(changed.values())))
        found: Record = {
            name: {
                "image": wire.image_record(other),
                "distance": pictures.distance(image, other),
                "answer": wire.prediction_record(answer, model.spec, seconds),
            }
            for (name, other), answer in zip(changed.items(), answers, strict=True)
        }
        return {**found, "missing": missing}

    def _worst(self, model: Offered, image: wire.Image, label: int, radius: float) -> wire.Image:
        network = self.attacks.opened(model, image).network
        worst = attacks.worst_of(network, image, label, epsilon=radius)
        return pictures.at_distance(image, worst - image, radius)

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
        deadline, begun = tier.limits.most_deadline_ms / 1000, time.perf_counter()
        yield "begin", {"votes": tier.limits.n0 + n, "promise": tier.promise or wire.UNSTATED}
        async with aclosing(model.client.certify(wire.sent(image[None], model.spec), n=n, deadline=deadline)) as bounds:
            async for bound in bounds:
                seconds = time.perf_counter() - begun
                yield "bound", wire.tier_record(bound, tier.promise, seconds, radius=None)

    async def attack(self, question: wire.Question) -> AsyncGenerator[tuple[str, Record], None]:
        """An attack on the class of one pass: what is proven, its steps, and what the server says of its end."""
        model = self.server.model(question.model)
        image = question.image(model.spec)
        epsilon = question.number("epsilon", least=1e-3, most=MOST_DISTANCE)
        network = (await asyncio.to_thread(self.attacks.opened, model, image)).network
        before = await self._predicted(model, image)
        smoothed = await self._smoothed(model, image)
        yield "begin", {"answer": before, "smoothed": smoothed}
        best: attacks.Step | None = None

        def work(emit: Emit) -> None:
            for step in attacks.descend(network, image, before["label"], epsilon=epsilon):
                emit({"step": step})
                time.sleep(_PACE_SECONDS)

        async with aclosing(self.search.run(work)) as steps:
            async for found in steps:
                step: attacks.Step = found["step"]
                best = step if best is None or step.margin < best.margin else best
                yield "step", _step(step, pictures.distance(image, step.image), model)
        assert best is not None, "an attack has steps"
        yield "end", await self._attacked(model, image, best.image, before, smoothed)

    async def _attacked(
        self, model: Offered, image: wire.Image, found: wire.Image, before: Record, smoothed: Record | None
    ) -> Record:
        after = await self._predicted(model, found)
        smoothed_after = await self._smoothed(model, found)
        is_deterministic = before["kind"] == "deterministic"
        proves = smoothed is not None and smoothed["label"] == before["label"]
        held = Held(
            kind=before["kind"],
            distance=pictures.distance(image, found),
            certified_radius=before["certified_radius"],
            proven_radius=before["certified_radius"]
            if is_deterministic
            else (smoothed or {}).get("proven_radius", 0) * proves,
            is_held=after["label"] == before["label"],
            is_smoothed_held=smoothed_after["label"] == before["label"]
            if smoothed_after and smoothed_after["outcome"] == "yes"
            else None,
        )
        return {
            "image": wire.image_record(found),
            "distance": held.distance,
            "proven_radius": held.proven_radius,
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
        victim = (await asyncio.to_thread(self.attacks.opened, model, image)).victim
        assert victim is not None, "a statistical certificate has a base network"
        found: Record | None = None
        for reach in (epsilon / 2, epsilon):

            def work(emit: Emit, reach: float = reach) -> None:
                emit({"found": attacks.spoofed(victim, image, epsilon=reach, emit=emit)})

            async with aclosing(self.search.run(work)) as steps:
                async for step in steps:
                    if "found" not in step:
                        yield "step", step
                    else:
                        found = await self._judged(model, image, step["found"])
            if found and found["is_spoofed"]:
                break
        assert found is not None, "a search has an end"
        yield "end", found

    async def _judged(self, model: Offered, image: wire.Image, other: wire.Image) -> Record:
        """What one pass and confirm say of what a search for a spoofed certificate found."""
        answer = await self._predicted(model, other)
        served = answer["certified_radius"]
        confirmed = await self._confirmed(model, other, served) if served > 0 else None
        outcome = confirmed["outcome"] if confirmed else None
        distance = pictures.distance(image, other)
        return {
            "image": wire.image_record(other),
            "distance": distance,
            "answer": answer,
            "confirmed": confirmed,
            "smoothed": await self._smoothed(model, other) if confirmed else None,
            "is_spoofed": outcome in ("no", "undecided"),
            "sentence": spoof_sentence(served=served, outcome=outcome, radius=served, distance=distance),
        }

    async def _predicted(self, model: Offered, image: wire.Image) -> Record:
        answers, seconds = await self._asked(model, image[None])
        return wire.prediction_record(answers[0], model.spec, seconds)

    async def _asked(self, model: Offered, images: NDArray[np.float32]) -> tuple[list[Prediction], float]:
        begun = time.perf_counter()
        answers = await self._reached(model.client.predict(wire.sent(images, model.spec)))
        return answers, time.perf_counter() - begun

    async def _confirmed(self, model: Offered, image: wire.Image, radius: float) -> Record:
        tier, begun = model.tier(TierModel.CONFIRM), time.perf_counter()
        n = min(CONFIRM_VOTES, tier.limits.most_n)
        asked = model.client.confirm(wire.sent(image[None], model.spec), radius=radius, n=n)
        answers: list[TierAnswer] = await self._reached(asked)
        return wire.tier_record(answers[0], tier.promise, time.perf_counter() - begun, radius=radius)

    async def _smoothed(self, model: Offered, image: wire.Image) -> Record | None:
        """Class and radius that votes prove, where the server offers it."""
        tier = model.tiers.get(TierModel.CERTIFY)
        if tier is None:
            return None
        begun = time.perf_counter()
        answers: list[TierAnswer] = await self._reached(model.client.certify_fixed(wire.sent(image[None], model.spec)))
        return wire.tier_record(answers[0], tier.promise, time.perf_counter() - begun, radius=None)

    async def _reached(self, answer: Any) -> Any:
        try:
            return await answer
        except UnavailableError:
            await self.server.lost()
            raise

    def _streaming(
        self, stream: Callable[[wire.Question], AsyncGenerator[tuple[str, Record], None]]
    ) -> Callable[[Request], Any]:
        """A route that answers with events; what fails before the first is answered with a status."""

        async def answer(request: Request) -> Response:
            events = stream(wire.Question(await request.body()))
            first = await anext(events)

            async def content() -> AsyncGenerator[bytes, None]:
                async with aclosing(events):
                    yield event(*first)
                    try:
                        async for name, record in events:
                            yield event(name, record)
                    except UnavailableError as error:
                        await self.server.lost()
                        yield event("failed", {"error": said_of(error)})
                    except HeatserveError as error:
                        yield event("failed", {"error": said_of(error), "status": status_of(error)})
                    except Exception as error:
                        traceback.print_exc()
                        yield event("failed", {"error": said_of(error)})

            return _events(content())

        return answer


def event(name: str, record: Record) -> bytes:
    """A server-sent event."""
    return f"event: {name}\ndata: {json.dumps(record)}\n\n".encode()


def _step(step: attacks.Step, distance: float, model: Offered) -> Record:
    return {
        "number": step.number,
        "of": step.of,
        "label": step.label,
        "class_name": model.class_names[step.label],
        "margin": step.margin,
        "distance": distance,
        "image": wire.image_record(step.image),
    }


def _answering(answer: Callable[[wire.Question], Any]) -> Callable[[Request], Any]:
    async def answered(request: Request) -> Response:
        return JSONResponse(await answer(wire.Question(await request.body())))

    return answered


def _events(content: AsyncGenerator[bytes, None]) -> Response:
    return StreamingResponse(content, media_type="text/event-stream")


def playground_app(server: WatchedServer, *, repository: Path, root: Path | None, is_local: bool) -> Application:
    """The application of a playground.

    Args:
        server: that it is about.
        repository: the model repository, whose files attacks follow.
        root: the folder of CIFAR-10, if there is one.
        is_local: whether it listens on this machine only.
    """
    playground = Playground(server, repository=repository, root=root)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        watch = asyncio.create_task(server.watch())
        yield
        watch.cancel()
        with suppress(asyncio.CancelledError):
            await watch
        await server.close()

    routed = Starlette(
        routes=playground.routes(),
        lifespan=lifespan,
        exception_handlers={HeatserveError: _explained, HTTPException: _explained, Exception: _explained},
    )
    return Guarded(routed, is_local=is_local)


async def _explained(_: Request, error: Exception) -> Response:
    status = 500
    if isinstance(error, HeatserveError):
        status = status_of(error)
    elif isinstance(error, HTTPException):
        status, error = (
            error.status_code,
            Refused(error.status_code, "There is no such page, or no such way to ask it."),
        )
    return JSONResponse({"error": said_of(error)}, status_code=status)
