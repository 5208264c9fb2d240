"""Which version of a model a server serves: the one that is pinned in its repository, else the newest.

    <repository>/<name>/served.json     {"version": 4, "before": 5, "passed_over": [5]}

`heatserve switch` and `heatserve rollback` write it, and so may an operator. It says what is to be served, so that a
server that is started again serves what was served before.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from heatserve.certification.errors import HeatserveError
from heatserve.certification.files import read_text, write_atomically
from heatserve.export.digest import read_json
from heatserve.export.repository.layout import ModelVersion, open_model, version_dirs

PIN_NAME = "served.json"


@dataclass(frozen=True)
class Pin:
    """What is to be served of a model."""

    version: int
    before: int | None = None
    """The version that was served before it, to which a rollback goes."""
    passed_over: tuple[int, ...] = ()
    """Newer versions that were there when this one was chosen: who waits for new versions leaves them alone."""


def read_pin(repository: Path, name: str) -> Pin | None:
    """The pin of a model; None where nothing is pinned.

    Raises:
        HeatserveError: the file is none that pins a version. Names it, and says what to do.
    """
    path = repository / name / PIN_NAME
    if not path.exists():
        return None
    try:
        return _pin(read_json(read_text(path, "the version to serve").encode()))
    except (ValueError, TypeError, RecursionError):
        example = json.dumps({"version": 1, "before": None, "passed_over": []})
        raise HeatserveError(
            f"{path}: expected a JSON object such as {example}, found something else; write it with "
            "`heatserve switch`, or remove it to serve the newest version"
        ) from None


def version_before(name: str, pin: Pin | None) -> int:
    """The version to go back to.

    Raises:
        HeatserveError: there is none.
    """
    if pin is None or pin.before is None:
        raise HeatserveError(
            f"{name}: expected a version that was served before, found none in {PIN_NAME}; name one: "
            f"heatserve switch {name} VERSION"
        )
    return pin.before


def newer_versions(repository: Path, name: str, version: int) -> tuple[int, ...]:
    """The versions of a model that are passed over where this one is chosen."""
    return tuple(number for path in version_dirs(repository / name) if (number := int(path.name)) > version)


def write_pin(repository: Path, name: str, pin: Pin) -> None:
    """Pin a version of a model, atomically.

    Raises:
        OSError: the file cannot be written.
    """
    write_atomically(repository / name / PIN_NAME, (json.dumps(asdict(pin)) + "\n").encode())


def open_pinned(repository: Path, name: str, *, version: int | None = None) -> ModelVersion:
    """The version of a model that is to be served: `version`, else the one that is pinned, else the newest.

    Raises:
        CardError: see `open_model`.
        HeatserveError: see `read_pin`.
    """
    return open_model(repository, name, version=pinned_version(repository, name, version))


def pinned_version(repository: Path, name: str, version: int | None = None) -> int | None:
    """The number of the version of a model that is to be served, as `open_pinned` takes it; None: the newest.

    Raises:
        HeatserveError: see `read_pin`.
    """
    if version is not None or not version_dirs(repository / name):  # without one, `open_model` says what is wrong
        return version
    pin = read_pin(repository, name)
    return pin.version if pin else None


def _pin(content: dict[str, Any]) -> Pin:
    fields = dict(content)
    passed_over = fields.pop("passed_over", [])
    pin = Pin(**fields, passed_over=tuple(passed_over))
    numbers = (pin.version, *([] if pin.before is None else [pin.before]), *pin.passed_over)
    if not all(type(number) is int and number > 0 for number in numbers):
        raise ValueError
    return pin
