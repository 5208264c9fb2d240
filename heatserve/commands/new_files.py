"""Options that name a file to write: refused before the work where it cannot be written, and not after hours of it."""

from __future__ import annotations

import os
from pathlib import Path

import typer


def new_file(path: Path | None) -> Path | None:
    """The callback of such an option.

    Raises:
        typer.BadParameter: a folder, pipe or device, or a place where no file can be made.
    """
    if path is None:
        return None
    if path.exists() and not path.is_file():
        raise typer.BadParameter(
            f"expected a file, got {'the folder' if path.is_dir() else 'the pipe or device'} {path}"
        )
    folder = next(parent for parent in path.absolute().parents if parent.exists())
    if not folder.is_dir():
        raise typer.BadParameter(f"expected a file in a folder, got {path}, where {folder} is a file")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise typer.BadParameter(f"expected a file in a folder that can be written, got {path}, in {folder}")
    return path


def new_checkpoint(path: Path | None) -> Path | None:
    """As `new_file`, of a checkpoint.

    Raises:
        typer.BadParameter: also a name that an ONNX file has, as which it would be read.
    """
    if path is not None and path.suffix == ".onnx":
        raise typer.BadParameter(f"expected another suffix than .onnx for a checkpoint (safetensors), got {path}")
    return new_file(path)


def new_file_and_figure(path: Path | None) -> Path | None:
    """As `new_file`, of results whose figure is written beside them.

    Raises:
        typer.BadParameter: also a name that the figure would have.
    """
    if path is not None and path.suffix == ".svg":
        raise typer.BadParameter(f"expected another suffix than .svg, which the figure beside it gets, got {path}")
    return new_file(path)
