"""`heatserve quickstart`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from heatserve.commands.options import REPOSITORY, GrpcPort, Host, HttpPort, MetricsPort, Repository
from heatserve.commands.serve import run_server, tell


def quickstart(
    once: Annotated[bool, typer.Option("--once", help="Stop after the answers, instead of at Ctrl-C.")] = False,
    repository: Repository = REPOSITORY,
    runs: Annotated[Path, typer.Option(help="Folder for the checkpoints.")] = Path("runs/quickstart"),
    host: Host = "127.0.0.1",
    http_port: HttpPort = 8000,
    grpc_port: GrpcPort = 8001,
    metrics_port: MetricsPort = 8002,
) -> None:
    """From nothing to certified answers: train, smooth, export, calibrate and serve a classifier of real digits.

    A second start finds the model and serves it at once.

    **Example:** `heatserve quickstart --once`
    """
    from heatserve import quickstart as steps
    from heatserve.serving.supervised.server import Server
    from heatserve.serving.triton.endpoints import Endpoints

    console = Console(highlight=False)
    model = steps.make_model(repository, runs, console)
    console.print("serve    with Triton")
    endpoints = Endpoints(host=host, http=http_port, grpc=grpc_port, metrics=metrics_port)
    run_server(
        console,
        Server(repository, models=[model.name], endpoints=endpoints, on_event=tell),
        on_ready=lambda server: steps.ask(server.endpoints, runs, console),
        stay=not once,
        picture=steps.picture(runs, 0),
    )
