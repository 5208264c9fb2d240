"""Options of `heatserve serve`, in the groups that `--help` shows."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

_STRANGERS = "For callers from elsewhere"
_KEEPING_UP = "Keeping it up"
_SHADOW_AUDIT = "Shadow audit"

TlsCert = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        rich_help_panel=_STRANGERS,
        help="TLS: the server's certificate, with its chain (PEM).",
    ),
]
TlsKey = Annotated[
    Path | None,
    typer.Option(metavar="FILE", rich_help_panel=_STRANGERS, help="Key of --tls-cert, without a password (PEM)."),
]
ClientCa = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        rich_help_panel=_STRANGERS,
        help="Over TLS, let in only who shows a certificate of this CA (PEM).",
    ),
]
ServerTokens = Annotated[
    Path | None,
    typer.Option(
        "--token-file",
        metavar="FILE",
        rich_help_panel=_STRANGERS,
        help="Over HTTP, let in only who sends `Authorization: Bearer TOKEN` with a token of this file, one a line; it "
        "is read again when it changes. gRPC is for this machine only then.",
    ),
]
Rate = Annotated[
    float | None,
    typer.Option(
        rich_help_panel=_STRANGERS,
        help="Requests a second over HTTP of one token, or else of one address; by default any number.",
    ),
]
MaxConnections = Annotated[
    int,
    typer.Option(
        min=1, rich_help_panel=_STRANGERS, help="Connections over HTTP that may be open, half of them of one address."
    ),
]
TritonHttpPort = Annotated[
    int | None,
    typer.Option(
        rich_help_panel=_STRANGERS,
        help="Also open Triton's own HTTP; beyond this machine only for a Triton without known holes.",
    ),
]
Grace = Annotated[
    float,
    typer.Option(
        min=0,
        metavar="SECONDS",
        rich_help_panel=_KEEPING_UP,
        help="At the end: go on to answer for so long while readiness fails, for load balancers to take notice.",
    ),
]
NoRestart = Annotated[
    bool,
    typer.Option(
        "--no-restart",
        rich_help_panel=_KEEPING_UP,
        help="End with exit code 1 where something fails, and leave the restart to an orchestrator.",
    ),
]
WatchVersions = Annotated[
    bool,
    typer.Option(
        "--watch",
        rich_help_panel=_KEEPING_UP,
        help="Switch to each new version of a model that is published, once it has passed its trial.",
    ),
]
AuditShare = Annotated[
    float,
    typer.Option(
        min=0,
        max=1,
        rich_help_panel=_SHADOW_AUDIT,
        help="Share of the images answered that Certify judges in idle time, by chance; 0: none.",
    ),
]
WithdrawOnAlarm = Annotated[
    bool,
    typer.Option(
        "--withdraw-on-alarm",
        rich_help_panel=_SHADOW_AUDIT,
        help="Answer radius 0 once the judged answers speak against a model's promise, until the server is stopped. "
        "Strangers who send images can bring that about.",
    ),
]
LogFile = Annotated[
    str | None,
    typer.Option(
        "--log",
        metavar="FILE",
        rich_help_panel=_KEEPING_UP,
        help="Write a line of JSON for each request over HTTP, and for what fails, to a file, or to stdout (-).",
    ),
]
