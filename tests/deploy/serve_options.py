"""Whether arguments of `heatserve serve` that stand in a file are ones that it takes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import typer

from heatserve.cli import app


def check_serve(arguments: Sequence[str]) -> None:
    """Have the command line read what a container runs after `heatserve serve`; nothing is started.

    Raises:
        Exception: an option that does not exist, or a value that it does not take. Says which.
    """
    serve: Any = typer.main.get_command(app).commands["serve"]  # type: ignore[attr-defined]
    serve.make_context("heatserve serve", [*arguments])
