"""The ASGI application of the playground: its routes, and what they ask the server."""

from __future__ import annotations

import asyncio
import json
import sys
import traceback
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from heatserve.certification.errors import HeatserveError
from heatserve.playground import attacks, pictures, wire
from heatserve.playground.answers import Answers, Record
from heatserve.playground.examples import Examples
from heatserve.playground.guards import PICTURE, Application, Guarded
from heatserve.playground.page import static_files
from heatserve.playground.refusals import Refused, said_of, status_of
from heatserve.playground.server import Offered, WatchedServer
from heatserve.serving.errors import UnavailableError
from heatserve.training.data.errors import DataError

_QUIET_SECONDS = 15.0
"""After which a stream says that it is still there."""

_LEFT = "The reader has left."

T = TypeVar("T")


class Playground:
    """The routes."""

    def __init__(self, server: WatchedServer, *, repository: Path, root: Path | None) -> None:
        """See `playground_app`."""
        self.server = server
        self.repository = repository
        self.answers = Answers(server, repository=repository)
        self.examples = Examples(root)
        self.files = static_files()
        self._decoding = asyncio.Semaphore(1)  # a picture may take 910 MB

    def routes(self) -> list[Route]:
        """All of them."""
        own = self.answers
        asked = {"predict": own.predict, "noise": own.noise, "confirm": own.confirm}
        watched = {"change": own.change, "certify": own.certify, "attack": own.attack, "spoof": own.spoof}
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
        models = [self._described(model) for model in self.server.models.values()]
        return JSONResponse({"server": self.server.state.record, "models": models})

    def _described(self, model: Offered) -> Record:
        spec = model.spec
        return {
            "name": model.name,
            "version": model.version,
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
            if await request.is_disconnected():
                raise Refused(499, _LEFT)
            image = await asyncio.to_thread(read, content, model.spec)
        return JSONResponse({"image": wire.image_record(image)})

    def _streaming(
        self, stream: Callable[[wire.Question], AsyncGenerator[tuple[str, Record], None]]
    ) -> Callable[[Request], Any]:
        """A route that answers with events; what fails before the first is answered with a status."""

        async def answer(request: Request) -> Response:
            events = stream(wire.Question(await request.body()))
            first = await _unless_left(request, anext(events))

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


def _answering(answer: Callable[[wire.Question], Any]) -> Callable[[Request], Any]:
    async def answered(request: Request) -> Response:
        return JSONResponse(await _unless_left(request, answer(wire.Question(await request.body()))))

    return answered


async def _unless_left(request: Request, answer: Awaitable[T]) -> T:
    """The answer, given up where its reader leaves before it is there."""

    async def gone() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    asked, left = asyncio.ensure_future(answer), asyncio.ensure_future(gone())
    try:
        await asyncio.wait((asked, left), return_when=asyncio.FIRST_COMPLETED)
        if asked.done():
            return asked.result()
        raise Refused(499, _LEFT)
    finally:
        for one in (asked, left):
            one.cancel()
        await asyncio.wait((asked, left))


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
