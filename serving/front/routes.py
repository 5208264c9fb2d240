"""From a path to an answer: the paths of the Open Inference Protocol, and what each takes."""

from __future__ import annotations

import http
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import cache
from urllib.parse import unquote_to_bytes

import orjson

from heatserve.certification.provenance import versions
from heatserve.serving.front.described import as_json
from heatserve.serving.front.refusals import FrontAnswer, Refusal, unavailable
from heatserve.serving.front.served import Served
from heatserve.serving.front.triton import TritonCalls

READ = ("GET", "HEAD")
WRITE = ("POST",)
_VERSION = re.compile(r"[0-9]{1,18}", re.ASCII)
_EXTENSIONS = ("binary_tensor_data", "classification", "parameters", "model_configuration", "statistics", "generate")
_NAME = "triton"  # clients of Triton look whether it is one, which answers behind the front


@dataclass(frozen=True, slots=True)
class Route:
    """Where a request goes: the name of the route, the methods it takes, and a model and its version, if any."""

    name: str
    methods: tuple[str, ...] = READ
    model: str = ""
    version: str = ""


LIVE_PATH = b"/v2/health/live"
"""Whether the front lives."""

_FIXED = {
    b"/v2": Route("metadata"),
    b"/v2/": Route("metadata"),
    LIVE_PATH: Route("live"),
    b"/v2/health/ready": Route("ready"),
}
_OF_A_MODEL = {
    "": ("model_metadata", READ),
    "ready": ("model_ready", READ),
    "config": ("model_config", READ),
    "stats": ("model_statistics", READ),
    "infer": ("infer", WRITE),
    "generate_stream": ("generate_stream", WRITE),
}
OPEN = frozenset({"live", "ready"})
"""Routes that ask for no token and count for no rate: probes have none."""


def route_of(path: bytes) -> Route | None:
    """The route of a path as it was sent, percent signs included; None: there is none."""
    fixed = _FIXED.get(path)
    if fixed is not None:
        return fixed
    parts = path.split(b"/")
    if parts[:3] != [b"", b"v2", b"models"] or not 4 <= len(parts) <= 7:
        return None
    try:  # each part by itself, so that %2F makes no further part
        model, *rest = (unquote_to_bytes(part).decode() for part in parts[3:])
    except UnicodeDecodeError:
        return None
    version = ""
    if rest[:1] == ["versions"] and len(rest) >= 2:
        version, rest = rest[1], rest[2:]
        if not _VERSION.fullmatch(version):
            return None
    if len(rest) > 1 or (rest and not rest[0]):
        return None
    found = _OF_A_MODEL.get(rest[0] if rest else "")
    return Route(*found, model=model, version=version) if found else None


class Descriptions:
    """The answers to requests that ask about the server or a model, and compute nothing."""

    def __init__(self, served: Served) -> None:
        """Answer for what is served."""
        self._served = served
        self._by_name: dict[str, Callable[[Route], Awaitable[FrontAnswer]]] = {
            "live": self._live,
            "ready": self._ready,
            "metadata": self._metadata,
            "model_metadata": self._model_metadata,
            "model_ready": self._model_ready,
            "model_config": self._model_config,
            "model_statistics": self._model_statistics,
        }

    async def answer(self, route: Route) -> FrontAnswer:
        """The answer of a route.

        Raises:
            Refusal: no such model, or no Triton.
        """
        return await self._by_name[route.name](route)

    async def _live(self, route: Route) -> FrontAnswer:
        del route
        return FrontAnswer(200, b'{"live":true}')

    async def _ready(self, route: Route) -> FrontAnswer:
        del route
        is_ready, failure = await self._served.readiness()
        if is_ready:
            return FrontAnswer(200, b'{"ready":true}')
        reason = self._served.state.reason or "a model does not answer"
        body = orjson.dumps({"ready": False, "error": f"server: expected one that is ready, found: {reason}"})
        return FrontAnswer(http.HTTPStatus.SERVICE_UNAVAILABLE, body, headers={b"retry-after": b"1"}, failure=failure)

    async def _metadata(self, route: Route) -> FrontAnswer:
        del route
        return FrontAnswer(200, _server_metadata())

    async def _known(self, route: Route) -> TritonCalls:
        """Triton, which has the model and the version; asked about another version it calls it not ready or invalid."""
        calls = await self._served.calls()
        self._served.check_name(route.model)
        if route.version:
            await self._served.rules(route.model, route.version)
        return calls

    async def _model_metadata(self, route: Route) -> FrontAnswer:
        calls = await self._known(route)
        return FrontAnswer(200, orjson.dumps(as_json(await calls.model_metadata(route.model, route.version))))

    async def _model_ready(self, route: Route) -> FrontAnswer:
        calls = await self._known(route)
        failure = None
        try:
            is_ready = await calls.is_model_ready(route.model, route.version)
        except Refusal as refusal:
            is_ready, failure = False, refusal.failure
        if not is_ready:
            raise unavailable("model: expected one that is ready, found that it does not answer now").after(failure)
        return FrontAnswer(200, orjson.dumps({"name": route.model, "ready": True}))

    async def _model_config(self, route: Route) -> FrontAnswer:
        calls = await self._known(route)
        return FrontAnswer(200, orjson.dumps(as_json(await calls.config(route.model, route.version))))

    async def _model_statistics(self, route: Route) -> FrontAnswer:
        calls = await self._known(route)
        return FrontAnswer(200, orjson.dumps(as_json(await calls.statistics(route.model, route.version))))


@cache
def _server_metadata() -> bytes:
    said = {"name": _NAME, "version": versions().get("heatserve", "unknown"), "extensions": _EXTENSIONS}
    return orjson.dumps(said)


def check_method(route: Route, method: str) -> None:
    """Refuse a method that a route has not.

    Raises:
        Refusal: as said.
    """
    if method not in route.methods:
        allowed = ", ".join(route.methods)
        raise Refusal(
            405, f"method: expected {allowed} for this path", reason="method", headers={b"allow": allowed.encode()}
        )
