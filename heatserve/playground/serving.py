"""Serving the playground: a socket, uvicorn, and what it was started with."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import socket
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import cast

import uvicorn

from heatserve.export.tiers import tier_of
from heatserve.playground.app import playground_app
from heatserve.playground.server import WatchedServer
from heatserve.serving.client.access import Access
from heatserve.serving.client.async_client import AsyncClient
from heatserve.serving.client.connection import AsyncConnection
from heatserve.serving.errors import ServingError
from heatserve.serving.triton.endpoints import bind_port

_CONNECTIONS = 64
_LOOK_TIMEOUT = 3.0
_END_SECONDS = 1
_CONFIG_NAME = "config.pbtxt"


@dataclass(frozen=True)
class Settings:
    """What a playground was started with."""

    url: str
    host: str
    port: int
    repository: Path
    root: Path | None
    models: Sequence[str]
    """Names of models that the server may offer, besides those in the repository."""


def known_models(settings: Settings) -> list[str]:
    """The names of models that the server may offer: a server does not say which ones it has.

    Raises:
        ServingError: there is none.
    """
    folders = settings.repository.iterdir() if settings.repository.is_dir() else ()
    found = sorted(folder.name for folder in folders if (folder / _CONFIG_NAME).is_file() and not tier_of(folder.name))
    names = list(dict.fromkeys([*settings.models, *found]))
    if not names:
        raise ServingError(
            f"--repository {settings.repository}: expected a model repository, whose names are asked for, found no "
            "model in it; name those of the server with --model NAME"
        )
    return names


def serve_playground(
    settings: Settings, access: Access, *, client: Callable[[str], AsyncClient], on_ready: Callable[[str], None]
) -> None:
    """Serve until Ctrl-C.

    Args:
        settings: see there.
        access: to the server.
        client: makes a client of the model of that name.
        on_ready: is told the page's address, once it listens.

    Raises:
        ServingError: the port is taken, or there is no model to ask about.
    """
    names = known_models(settings)
    watched = WatchedServer(
        settings.url, names, client=client, connection=lambda: AsyncConnection(access, timeout=_LOOK_TIMEOUT)
    )
    is_local = _is_loopback(settings.host)
    app = playground_app(watched, repository=settings.repository, root=settings.root, is_local=is_local)
    config = uvicorn.Config(
        cast("object", app),  # type: ignore[arg-type]
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        limit_concurrency=_CONNECTIONS,
        timeout_graceful_shutdown=_END_SECONDS,
    )
    with closing(socket.socket(socket.AF_INET6 if ":" in settings.host else socket.AF_INET)) as listening:
        port = bind_port(listening, settings.host, settings.port, "--port")
        listening.listen(_CONNECTIONS)
        host = "127.0.0.1" if settings.host == "0.0.0.0" else settings.host
        on_ready(f"http://{f'[{host}]' if ':' in host else host}:{port}/")
        logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)  # what fails is told by the application
        _Ending(config, watched).run(sockets=[listening])


class _Ending(uvicorn.Server):
    """Ends the streams that pages listen to, which would keep it from its end."""

    def __init__(self, config: uvicorn.Config, watched: WatchedServer) -> None:
        super().__init__(config)
        self._watched = watched

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to end, at a signal."""
        super().handle_exit(sig, frame)
        asyncio.get_running_loop().call_soon_threadsafe(self._watched.end)


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        raise ServingError(f"--host {host}: expected an address in digits, or localhost") from None
