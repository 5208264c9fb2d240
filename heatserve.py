"""The command line: mounts the commands of each room, and explains errors instead of showing tracebacks."""

from __future__ import annotations

import sys
from typing import NoReturn

import typer
from rich.console import Console
from rich.markup import escape

import benchmarks.commands
import export.commands
import serving.commands
import training.commands
from certification.errors import HeatserveError

app = typer.Typer(
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
for room in (training, export, serving, benchmarks):
    app.add_typer(room.commands.app)


def main() -> None:
    """Run the command line.

    Exit codes: 0 done, 1 an error that was explained, 2 wrong usage, 3 a failed audit, or an engine that breaks
    promises, 130 interrupted.
    """
    try:
        app()
    except HeatserveError as error:
        _fail(str(error))
    except ModuleNotFoundError as error:  # every other library comes with an extra
        _fail(
            f"this command needs the package {error.name!r}, which is not installed: pip install 'heatserve[train]' "
            f"to train, export, audit and measure, 'heatserve[bench]' to attack, 'heatserve[serve]' to serve, "
            f"'heatserve[client]' to ask"
        )


def _fail(message: str) -> NoReturn:
    Console(stderr=True, highlight=False).print(f"[bold red]error:[/] {escape(message)}", soft_wrap=True)
    sys.exit(1)


if __name__ == "__main__":
    main()
