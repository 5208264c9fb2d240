"""`heatserve serve`."""

from __future__ import annotations

import math
import os
import shlex
import shutil
import sys
from collections.abc import Callable, Iterable
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from heatserve.commands.options import (
    REPOSITORY,
    BackendDirectory,
    GrpcPort,
    Host,
    HttpPort,
    MetricsPort,
    Repository,
    Trusted,
    trust_in,
)
from heatserve.commands.serve_options import (
    AuditShare,
    ClientCa,
    Grace,
    LogFile,
    MaxConnections,
    NoRestart,
    Rate,
    ServerTokens,
    TlsCert,
    TlsKey,
    TritonHttpPort,
    WatchVersions,
    WithdrawOnAlarm,
)
from heatserve.export.tiers import TierModel

if TYPE_CHECKING:
    from heatserve.export.repository.layout import ModelVersion
    from heatserve.serving.shadow.folder import AuditSettings
    from heatserve.serving.supervised.events import Event
    from heatserve.serving.supervised.server import Server
    from heatserve.serving.triton.endpoints import Endpoints, Service


def serve(
    models: Annotated[list[str] | None, typer.Argument(metavar="MODEL", help="Models to serve; none: all.")] = None,
    repository: Repository = REPOSITORY,
    host: Host = "127.0.0.1",
    http_port: HttpPort = 8000,
    grpc_port: GrpcPort = 8001,
    metrics_port: MetricsPort = 8002,
    backend_directory: BackendDirectory = None,
    tls_cert: TlsCert = None,
    tls_key: TlsKey = None,
    client_ca: ClientCa = None,
    token_file: ServerTokens = None,
    rate: Rate = None,
    max_connections: MaxConnections = 1024,
    triton_http_port: TritonHttpPort = None,
    grace: Grace = 0.0,
    no_restart: NoRestart = False,
    trust: Trusted = None,
    watch: WatchVersions = False,
    audit_share: AuditShare = 0.0,
    withdraw_on_alarm: WithdrawOnAlarm = False,
    log: LogFile = None,
) -> None:
    """Serve certified models with Triton until Ctrl-C.

    Refuses a model whose certificate card does not match its graph; one with a statistical certificate that was not
    calibrated serves radius 0, and one with a deterministic certificate needs no calibration. The tiers of a model
    (`MODEL_confirm`, …), whose answers hold against an adversary, are served with it. What fails is started again.

    **Example:** `heatserve serve digits --http-port 9000`
    """
    from heatserve.serving.front.options import FrontOptions
    from heatserve.serving.observed.logs import log_destination
    from heatserve.serving.supervised.failures import USUAL_RULE
    from heatserve.serving.supervised.server import Server, Supervision
    from heatserve.serving.triton.endpoints import Endpoints

    with log_destination(log) if log else nullcontext() as log_file:
        server = Server(
            repository,
            models=models or (),
            endpoints=Endpoints(host=host, http=http_port, grpc=grpc_port, metrics=metrics_port),
            triton_http=triton_http_port,
            front=FrontOptions(tls_cert, tls_key, client_ca, token_file, rate, max_connections),
            backend_directory=backend_directory,
            trust=trust_in(trust),
            audit=_audit_settings(audit_share, withdraws=withdraw_on_alarm),
            supervision=Supervision(restart=None if no_restart else USUAL_RULE, grace=grace),
            log_file=log_file,
            on_event=tell,
        )
        run_server(Console(highlight=False, stderr=log == "-"), server, watch=watch)


def _audit_settings(share: float, *, withdraws: bool) -> AuditSettings | None:
    from heatserve.serving.shadow.folder import AuditSettings

    if withdraws and not share:
        raise typer.BadParameter("expected --audit-share above 0 with it", param_hint="--withdraw-on-alarm")
    return AuditSettings(share, withdraws) if share else None


def run_server(
    console: Console,
    server: Server,
    *,
    watch: bool = False,
    on_ready: Callable[[Server], object] = lambda _: None,
    stay: bool = True,
    picture: Path = Path("picture.png"),
) -> None:
    """Serve until Ctrl-C, SIGTERM or the end of the terminal; with `stay` False, only as long as `on_ready` takes.

    Args:
        console: told what is served and how to call it.
        server: not started yet.
        watch: whether to switch to new versions that are published.
        on_ready: called with the server once it answers.
        stay: whether to go on after `on_ready`.
        picture: an image file for the examples that are printed.
    """
    from heatserve.serving.switching.switching import Switching

    def say(text: str) -> None:
        with suppress(OSError, SystemExit):  # nobody reads any more, or the disk is full: no reason to end
            console.print(text, markup=False, soft_wrap=True)

    try:
        with server:
            on_ready(server)
            if not stay:
                return
            _print_served(console, server, picture)
            try:
                with Switching(
                    server.repository,
                    lambda: server.triton.versions,
                    watch=watch,
                    say=say,
                    on_switch=server.note_switch,
                ):
                    server.wait()
            except KeyboardInterrupt:
                console.print("Stopping: requests in flight are finished first; Ctrl-C again ends at once.")
    except KeyboardInterrupt:  # before it was ready, or again
        pass
    console.print("Stopped.")


def tell(event: Event) -> None:
    """Say on stderr what failed, and that it is up again; where nobody reads that, the server goes on."""
    with suppress(OSError):
        typer.echo(event.described, err=True)


def _print_served(console: Console, server: Server, picture: Path) -> None:
    from heatserve.export.repository.tiers import served_tiers, tier_limits
    from heatserve.tables import models_table, tiers_table

    urls = server.endpoints
    console.print(models_table(server.models))
    limits = {
        model.name: {kind: tier_limits(config) for kind, config in served_tiers(model).items()}
        for model in server.models
    }
    if any(limits.values()):
        console.print("", tiers_table(limits), sep="\n")
    shown = next((model for model in server.models if TierModel.CONFIRM in limits[model.name]), server.models[0])
    paragraphs = [examples(shown, urls, picture)]
    if TierModel.CONFIRM in limits[shown.name]:
        paragraphs.append(confirm_examples(shown, urls, picture))
    console.print(
        f"\n{address_lines(urls)}\nlog      {server.log}  of Triton, for when it fails",
        *_only_local(server),
        *callers_need(urls, has_tokens=server.has_tokens),
        *not_audited(server.models, is_asked=server.audits),
        *paragraphs,
        "Ctrl-C stops the server.",
        sep="\n\n",
        markup=False,
        soft_wrap=True,
    )


def address_lines(urls: Endpoints) -> str:
    """Where a server answers, and whom: a line each for HTTP, gRPC and metrics."""
    rows: list[tuple[str, Service, str]] = [
        ("HTTP", "http", urls.http_url),
        ("gRPC", "grpc", urls.grpc_url),
        ("metrics", "metrics", urls.metrics_url),
    ]
    width = max(len(url) for *_, url in rows)
    others = "this machine under any address" if urls.host == "0.0.0.0" else urls.host
    lines = []
    for name, service, url in rows:
        is_local = urls.is_loopback or service in urls.local
        lines.append(f"{name:8} {url:{width}}  for {'this machine only' if is_local else f'all who reach {others}'}")
    return "\n".join(lines)


def callers_need(urls: Endpoints, *, has_tokens: bool) -> list[str]:
    """What callers over HTTP have to bring and the examples leave out: a paragraph, or none.

    Args:
        urls: where it answers.
        has_tokens: whether the front lets in only who brings a token.
    """
    needs = []
    if "http" in urls.encrypted:
        needs.append("as host a name that is on the certificate, `--cacert FILE` for a CA of your own")
    if has_tokens:
        needs.append("`-H 'Authorization: Bearer TOKEN'`")
    return [f"For HTTP and metrics, curl needs besides: {', and '.join(needs)}."] if needs else []


def _only_local(server: Server) -> list[str]:
    """Why gRPC is for this machine only, where the operator asked for others."""
    from heatserve.serving.triton.versions import below_floor

    if "grpc" not in server.endpoints.local:
        return []
    reason = below_floor(server.triton.version) or "Triton's gRPC knows no tokens (--token-file) and no rates (--rate)"
    return [
        f"gRPC is for this machine only, whatever --host is: {reason}. Callers elsewhere ask over HTTP, or over gRPC "
        "through nginx: deploy/nginx, docs/security.md."
    ]


def not_audited(models: Iterable[ModelVersion], *, is_asked: bool) -> list[str]:
    """Which models are served without the shadow audit that the operator asked for: a paragraph, or none."""
    proven = [model.name for model in models if is_asked and model.card.is_deterministic]
    if not proven:
        return []
    return [
        f"No answer of {', '.join(proven)} is audited: the certificate is deterministic, and there is no rate of "
        "overclaims that live answers could speak against."
    ]


def examples(model: ModelVersion, urls: Endpoints, picture: Path) -> str:
    """How to call a served model from the shell, from Python and from anywhere: paragraphs to copy and to run.

    Args:
        model: which is served.
        urls: where it answers.
        picture: an image file of the model's size.
    """
    _, height, width = model.card.input_shape
    shape, grey = _grey(model)
    dtype, values = ("uint8", "") if model.card.input_type == "UINT8" else ("float32", " in [0,1]")
    size = "any size" if model.card.resize else f"{width}×{height} pixels"
    return f"""\
# From the shell, with a picture of {size}:
{_program("heatserve")} predict {shlex.quote(str(picture))} --url {urls.grpc_url} --model {model.name}

# From Python ({_program("python")}), with images {dtype} [N, {shape}]{values}; here a grey one:
import numpy as np
from heatserve import Client
with Client("{urls.grpc_url}", model="{model.name}") as client:
    print(client.predict(np.full((1, {shape}), {grey}, np.{dtype})))

# From anywhere, over HTTP; here a grey image:
python3 -c 'import json; print(json.dumps({{"inputs": [{_json_image(model)}]}}))' |
    curl -s {urls.http_url}/v2/models/{model.name}/infer -d @-"""


def confirm_examples(model: ModelVersion, urls: Endpoints, picture: Path) -> str:
    """How to ask whether the class of a model's single pass is proven within σ/2, as `examples` does."""
    radius = f"{model.card.sigma / 2:g}"
    return f"""\
# Is the class proven within L2 distance {radius}? This holds against an adversary:
{_program("heatserve")} predict {shlex.quote(str(picture))} --url {urls.grpc_url} --model {model.name} \\
    --confirm {radius}

# The same from anywhere, over HTTP:
python3 -c 'import json; print(json.dumps({{"parameters": {{"radius": {radius}}},
    "inputs": [{_json_image(model)}]}}))' |
    curl -s {urls.http_url}/v2/models/{TierModel.CONFIRM.beside(model.name)}/infer -d @-"""


def _json_image(model: ModelVersion) -> str:
    """A grey image as Python writes an input of a JSON request."""
    shape, grey = _grey(model)
    return (
        f'{{"name": "image", "datatype": "{model.card.input_type}",\n'
        f'    "shape": [1, {shape}], "data": [{grey}] * {math.prod(model.card.input_shape)}}}'
    )


def _grey(model: ModelVersion) -> tuple[str, str]:
    """The shape of one image as the model takes it, and a grey value."""
    channels, height, width = model.card.input_shape
    if model.card.input_type == "UINT8":
        return f"{height}, {width}, {channels}", "128"
    return f"{channels}, {height}, {width}", "0.5"


def _program(name: str) -> str:
    """What to type for a program of this Python's environment: its name if the shell finds it, else its quoted path."""
    path = Path(sys.executable).parent / name
    return name if shutil.which(name) == str(path) else shlex.quote(os.path.relpath(path))
