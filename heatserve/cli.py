"""The command line: all commands, and errors that are explained instead of shown as tracebacks."""

from __future__ import annotations

import errno
import io
import math
import os
import re
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import requires
from typing import NoReturn

import typer
from rich.console import Console
from rich.markup import escape
from typer.core import TyperGroup

from heatserve.certification.cores import cpu_quota, usable_cores
from heatserve.certification.errors import HeatserveError
from heatserve.commands.attack import attack
from heatserve.commands.attack_tiers import attack_tiers
from heatserve.commands.audit import audit
from heatserve.commands.bench import bench
from heatserve.commands.calibrate import calibrate, calibrate_variant
from heatserve.commands.certify import certify_dataset
from heatserve.commands.certify_image import certify
from heatserve.commands.conformance import conformance
from heatserve.commands.export import export
from heatserve.commands.fuzz import fuzz
from heatserve.commands.import_onnx import import_onnx
from heatserve.commands.import_weights import import_weights
from heatserve.commands.paper import paper
from heatserve.commands.plan import plan
from heatserve.commands.playground import playground
from heatserve.commands.predict import predict
from heatserve.commands.quickstart import quickstart
from heatserve.commands.reference import reference
from heatserve.commands.report import report
from heatserve.commands.serve import serve
from heatserve.commands.sign import sign
from heatserve.commands.switch import rollback, switch
from heatserve.commands.tiers import tiers
from heatserve.commands.train import train
from heatserve.commands.tune import tune

_PANELS: Mapping[str, Sequence[Callable[..., None] | typer.Typer]] = {
    "Start here": (quickstart, playground),
    "Your own model": (
        train,
        import_weights,
        export,
        import_onnx,
        calibrate,
        calibrate_variant,
        audit,
        reference,
        certify_dataset,
    ),
    "Serve": (serve, switch, rollback, predict, certify, tiers, tune, sign, plan),
    "Measure": (conformance, fuzz, attack, attack_tiers, bench, paper, report),
}
"""The parts of the front page, and the commands and groups of commands in each."""
_NO_ROOM = "room to write"
_EXPECTED: Mapping[int | None, str] = {
    errno.ENOSPC: _NO_ROOM,
    errno.EDQUOT: _NO_ROOM,
    errno.EFBIG: _NO_ROOM,
    errno.EROFS: "a place that can be written",
    errno.EACCES: "permission to read or write it",
    errno.EPERM: "permission to read or write it",
    errno.ENOENT: "a file or folder that is there",
    errno.EEXIST: "a folder, or none yet",
    errno.ENOTDIR: "a folder",
    errno.EISDIR: "a file",
    errno.ENAMETOOLONG: "a shorter name",
}
"""What was expected where the system refused to read or write a file, by the number of its error."""
_ORDER = [
    command.info.name if isinstance(command, typer.Typer) else command.__name__.replace("_", "-")
    for commands in _PANELS.values()
    for command in commands
]


class _InOrder(TyperGroup):
    """Lists commands in the order of `_PANELS`; typer's own group lists groups of commands last."""

    def list_commands(self, ctx: typer.Context) -> list[str]:  # type: ignore[override]
        """The names of the commands."""
        return sorted(super().list_commands(ctx), key=_ORDER.index)


app = typer.Typer(
    cls=_InOrder,
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help=(
        "Certified image classification in one forward pass, served by Triton.\n\n"
        "**Start here:** `heatserve quickstart` trains, smooths, exports, calibrates and serves a digit classifier.\n\n"
        "**Your own model:** `train baseline` → `train heat` or `train average` → `export` → `calibrate` → `audit` → "
        "`serve` → `predict`."
    ),
)
for panel, commands in _PANELS.items():
    for command in commands:
        if isinstance(command, typer.Typer):
            app.add_typer(command, rich_help_panel=panel)
        else:
            app.command(rich_help_panel=panel)(command)


def main() -> None:
    """Run the command line.

    Exit codes: 0 done, 1 an error that was explained, 2 wrong usage, 3 a failed audit, or an engine that breaks
    promises, 130 interrupted.
    """
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # what fails is explained, by the client
    os.environ.setdefault("PYTHONSAFEPATH", "1")  # processes of ours import nothing from the folder they run in
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and not stream.encoding.lower().startswith("utf"):
            stream.reconfigure(errors="replace")  # a terminal without σ shows another sign, and loses no result
    _keep_to_quota()
    _end_like_ctrl_c()
    try:
        app()
    except HeatserveError as error:
        _fail(str(error))
    except OSError as error:
        expected = _EXPECTED.get(error.errno, "to be able to read or write it" if error.filename else None)
        if expected is None or error.strerror is None:  # not about a file
            raise
        name = f"{error.filename}: " if error.filename else ""
        _fail(f"{name}expected {expected}, got: {error.strerror}")
    except ModuleNotFoundError as error:  # every other library comes with an extra
        package = (error.name or "").partition(".")[0]
        _fail(
            f"this command needs the package {package!r}, which is not installed: {sys.executable} -m pip install "
            f"{_extras_with(package)}"
        )


def _extras_with(package: str) -> str:
    """The extra that has a package, where only attacks need it; else what each extra is for."""
    if any(re.match(rf"{re.escape(package)}\b.*extra == .bench.", line) for line in requires("heatserve") or ()):
        return "'heatserve[bench]'"
    return (
        "'heatserve[train]' to train, export, audit and measure, 'heatserve[bench]' to attack and for the paper's "
        "tables, 'heatserve[serve]' to serve, 'heatserve[client]' to ask a server"
    )


def _end_like_ctrl_c() -> None:
    """Have SIGTERM, and a terminal that is closed, end a command in order: a server of its own and its files go along.

    `nohup` ignores the end of the terminal, and so does the command then.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:
        signal.signal(signal.SIGHUP, signal.default_int_handler)


def _keep_to_quota() -> None:
    """Have torch and numpy start no more threads than a container's quota of CPU time lets run; the user's word stays.

    They count the cores of the machine. OpenMP reads the variable when one of them is loaded, which is later.
    """
    if cpu_quota() < math.inf:
        os.environ.setdefault("OMP_NUM_THREADS", str(usable_cores()))


def _fail(message: str) -> NoReturn:
    Console(stderr=True, highlight=False).print(f"[bold red]error:[/] {escape(message)}", soft_wrap=True)
    sys.exit(1)
