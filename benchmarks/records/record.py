"""What every kept result says about how it was made, and how it is written and read.

Importing it needs no pydantic, which a bare GPU machine lacks; writing and reading do (`gpu` writes its own).
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, TypeVar

from heatserve.certification.errors import HeatserveError
from heatserve.certification.files import write_atomically
from heatserve.certification.provenance import provenance

_PACKAGES = ("torch", "onnx", "onnxruntime", "numpy", "tritonclient", "nvidia-pytriton")

_NUMBERS = re.compile(r"\[\n([^\[\]{}\"]*)\]")
"""An array that holds neither text nor other arrays; a text in JSON has no line break."""

R = TypeVar("R")


class RecordError(HeatserveError):
    """A results file is missing, or has another form than the benchmark that writes it."""


@dataclass(frozen=True, kw_only=True)
class Machine:
    """Where something was measured."""

    processor: str
    cores: int
    """How many the process may use."""
    system: str
    load_average: float | None = None
    """The average of the last minute before the measurement. Well above 0, what is timed is noisy. None: not noted, as
    by `tune` and `conformance`, and in the files of `bench training` and the rows of CIFAR-10 that are older than the
    field."""


@dataclass(frozen=True, kw_only=True)
class Record:
    """How a result was made, so that somebody else can make it again."""

    __pydantic_config__: ClassVar[Mapping[str, object]] = {"extra": "forbid"}

    command: str
    machine: Machine
    versions: Mapping[str, str]
    """The versions of heatserve, Python and the packages that matter to the result."""
    date: str
    """UTC, ISO 8601."""
    seed: int | None = None
    """What all random numbers are drawn from; None where a command draws none that matters (`tune`,
    `calibrate-variant`)."""


def made_now(*packages: str, seed: int) -> Record:
    """How a measurement is made that is being taken now, with the load of the machine by others.

    Args:
        packages: whose versions matter, besides those that every benchmark names.
        seed: what all random numbers are drawn from.
    """
    found = provenance(*_PACKAGES, *packages)
    machine = Machine(**found.pop("machine"), load_average=os.getloadavg()[0])
    return Record(**found, machine=machine, seed=seed)


def to_json(record: object) -> str:
    """A record as JSON."""
    from pydantic import TypeAdapter

    return TypeAdapter(type(record)).dump_json(record, indent=2).decode()


def write_record(path: Path, record: object, *, in_lines: bool = False) -> None:
    """Write a record as JSON, atomically; `in_lines`: each array of numbers in one line, where there are thousands."""
    text = to_json(record)
    if in_lines:
        text = _NUMBERS.sub(lambda found: f"[{' '.join(found[1].split())}]", text)
    write_atomically(path, (text + "\n").encode())


def read_record(path: Path, kind: type[R]) -> R:
    """Read a record of one kind.

    Raises:
        RecordError: no such file, or not a record of this kind. Says which field is wrong.
    """
    from pydantic import TypeAdapter, ValidationError

    try:
        return TypeAdapter(kind).validate_json(path.read_bytes())
    except FileNotFoundError:
        raise RecordError(f"{path}: expected the results of a benchmark, found no file") from None
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'file'}: {e['msg']}" for e in error.errors()[:3])
        raise RecordError(f"{path}: expected a {kind.__name__}, got {problems}") from None
