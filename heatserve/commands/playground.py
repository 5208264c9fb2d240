"""`heatserve playground`."""

from __future__ import annotations

import os
import sys
import webbrowser
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from heatserve.commands.options import REPOSITORY, Host
from heatserve.commands.server import URL, Ca, Certificate, Headers, ServerOptions, TokenFile, Url

if TYPE_CHECKING:
    from heatserve.serving.client.async_client import AsyncClient


def playground(
    url: Url = URL,
    port: Annotated[int, typer.Option(help="TCP port of the page; 0 takes any free one.")] = 7860,
    host: Host = "127.0.0.1",
    repository: Annotated[
        Path, typer.Option(help="Model repository of the server: names of models, and files that attacks follow.")
    ] = REPOSITORY,
    root: Annotated[Path | None, typer.Option(help="Folder of CIFAR-10, for examples of its pictures.")] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(help="A model of the server that is not in --repository; may be repeated."),
    ] = None,
    is_opened: Annotated[bool, typer.Option("--open/--no-open", help="Open the page in a browser.")] = True,
    ca: Ca = None,
    certificate: Certificate = None,
    token_file: TokenFile = None,
    header: Headers = None,
) -> None:
    """Open a page on a running server: choose, drop or draw a picture, and try to break what is promised about it.

    The page shows the class and each radius with its promise, what a change of that size looks like, noise, attacks,
    spoofed certificates, and proofs as the server finds them. It is for this machine only, unless `--host` says
    otherwise: whoever reaches it may ask the server, and have this machine search for attacks.

    **Example:** `heatserve playground --root DATA`
    """
    from heatserve.playground.serving import Settings, serve_playground
    from heatserve.serving.errors import ServingError

    if root is not None and not root.is_dir():
        raise ServingError(f"--root {root}: expected the folder of CIFAR-10, found no folder")
    options = ServerOptions(url, "", ca, certificate, token_file, header)

    def client(name: str) -> AsyncClient:
        return replace(options, model=name).async_client()

    def say(address: str) -> None:
        typer.echo(f"The playground is at {address}  (server: {url}); Ctrl-C ends it.")
        if is_opened and _has_screen():
            webbrowser.open(address)

    settings = Settings(url, host, port, repository, root, model or ())
    serve_playground(settings, options.access(), client=client, on_ready=say)


def _has_screen() -> bool:
    """Whether a browser would have a window: without one, a browser of the terminal would take it over."""
    return sys.platform != "linux" or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
