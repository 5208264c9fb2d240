"""Importing code of the user's own, from a file that is read once or as a module; failures are explained."""

from __future__ import annotations

import importlib.util
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from types import ModuleType

from heatserve.certification.interrupts import passing_interrupts
from heatserve.training.architectures.errors import ArchitectureError, first_line


def read_source(path: Path, name: str) -> bytes:
    """The bytes of a source file, or an ArchitectureError that begins with `name`."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise ArchitectureError(
            f"{name}: expected the Python file {path}, which cannot be read: {error.strerror}"
        ) from None


def source_of_module(module: str, name: str) -> Path:
    """The source file of a module; the packages that it lies in are imported to find it.

    Raises:
        ArchitectureError: no such module, a package that fails, or one without Python source.
    """
    with explaining(name, None, "be imported"):
        spec = importlib.util.find_spec(module)
    if spec is None:
        raise ArchitectureError(f"{name}: expected a module that Python finds here, got none named {module}")
    if spec.origin is None or not spec.origin.endswith(".py"):
        raise ArchitectureError(f"{name}: expected a module with Python source, got {spec.origin or 'a folder'}")
    return Path(spec.origin)


def run_file(path: Path, source: bytes, digest: str) -> ModuleType:
    """The module that `source`, the bytes of `path`, makes; no cache of compiled code is read or written."""
    module = ModuleType(f"{path.stem}_{digest[:12]}")
    module.__file__ = str(path.resolve())
    sys.modules[module.__name__] = module  # dataclasses look for the module of a class there
    try:
        exec(compile(source, module.__file__, "exec"), module.__dict__)
    except BaseException:
        del sys.modules[module.__name__]
        raise
    return module


def function_of(module: ModuleType, function: str, name: str) -> Callable[..., object]:
    """The function, or class, of a module that makes networks."""
    found = getattr(module, function, None)
    if not callable(found):
        defined = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise ArchitectureError(
            f"{name}: expected a function {function} of the number of classes there; "
            f"got {', '.join(defined[:10]) or 'no function'}"
        )
    made: Callable[..., object] = found
    return made


@contextmanager
def searching(folder: str | None) -> Iterator[None]:
    """While this is open, imports are looked for in `folder` first; None: in the current folder, after all others."""
    before = list(sys.path)
    sys.path[:] = [folder, *before] if folder else [*before, os.getcwd()]
    try:
        yield
    finally:
        sys.path[:] = before


@contextmanager
def explaining(name: str, source: Path | None, what: str) -> Iterator[None]:
    """Turn what the user's code raises, its exit too, into an ArchitectureError; what it prints goes to stderr.

    Args:
        name: the reference to the code.
        source: its file, whose line of the failure is named.
        what: it was to do, such as "be imported".
    """
    try:
        with passing_interrupts(), redirect_stdout(sys.stderr):
            yield
    except ArchitectureError:
        raise
    except SystemExit as error:
        raise ArchitectureError(f"{name}: expected it to {what}, but it exits: {first_line(error)}") from None
    except Exception as error:
        where = _line_of(error, source)
        raise ArchitectureError(f"{name}: expected it to {what}, but it raises {first_line(error)}{where}") from None


def _line_of(error: Exception, source: Path | None) -> str:
    """The innermost line of `source` that `error` went through, for the end of a message."""
    if source is None:
        return ""
    path = str(source.resolve())
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == path]
    if isinstance(error, SyntaxError) and error.filename == path:
        lines.append(error.lineno)
    return f" ({source.name}, line {lines[-1]})" if lines else ""
