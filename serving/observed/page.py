"""The page of metrics: what all processes of a server counted, in the text that Prometheus reads."""

from __future__ import annotations

import fcntl
import json
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from heatserve.certification.files import write_atomically
from heatserve.serving.observed.facts import read_facts
from heatserve.serving.observed.families import CARD_ALPHA, FAMILIES, OF_PROMISE, Family
from heatserve.serving.observed.recorder import bound_text
from heatserve.serving.observed.series import SUFFIX, Key, read_series

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
"""Of the page."""

_LOCK_NAME = "reading.lock"
_ENDED_NAME = "ended.json"
_ESCAPED = {"\\": r"\\", '"': r"\"", "\n": r"\n"}

_OF_PROMISE = frozenset(family.name for family in OF_PROMISE)
_Numbers = dict[Key, tuple[float, float]]
"""The number of each series, and when it was set; 0 of what is counted."""


def page(folder: Path) -> str:
    """What all processes that count in a folder, and those that did and have ended, counted; and the facts beside it.

    The counts of processes that ended are brought together in one file, so that the folder does not grow with each
    restart. What was set about a promise is left out where the version that is served has none. A folder that is not
    there yet, or is no more, has an empty page.
    """
    try:
        numbers = _read(folder)
    except OSError:
        return ""
    facts = read_facts(folder)
    promised = {key[1] for key, _ in facts if key[0] == CARD_ALPHA.name}
    if facts:  # the version before this one may have left an alarm about its own promise
        for key in [key for key in numbers if key[0] in _OF_PROMISE and key[1] not in promised]:
            del numbers[key]
    for key, value in facts:
        numbers[key] = (value, 0.0)
    return "".join(_family_text(family, numbers) for family in FAMILIES)


def value_of(folder: Path, family: Family, **labels: str) -> float:
    """The sum of a counter's or a gauge's series, or the number of a histogram's values, that have these labels."""
    suffix = "_bucket" if family.kind == "histogram" else ""
    wanted = {family.labels.index(name): value for name, value in labels.items()}
    return sum(
        value
        for (name, *values), (value, _) in _read(folder).items()
        if name == family.name + suffix and all(values[index] == label for index, label in wanted.items())
    )


def _read(folder: Path) -> _Numbers:
    lock = os.open(folder / _LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return _read_alone(folder)
    finally:
        os.close(lock)


def _read_alone(folder: Path) -> _Numbers:
    """Read all files, and fold those of processes that ended into one."""
    names, numbers = _ended(folder)
    living = _Numbers()
    folded = [*names]
    for path in sorted(folder.glob(f"*{SUFFIX}")):
        if path.name in names:  # what folded them ended before it removed them
            continue
        with suppress(FileNotFoundError), path.open("rb") as file:
            has_ended = _is_free(file.fileno())
            _add(numbers if has_ended else living, read_series(file.read()))
            if has_ended:
                folded.append(path.name)
    if folded:
        _keep_ended(folder, folded, numbers)
    _add(numbers, ((key, value, when) for key, (value, when) in living.items()))
    return numbers


def _is_free(file: int) -> bool:
    """Whether the process that locked a file has ended."""
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _ended(folder: Path) -> tuple[set[str], _Numbers]:
    """The files that were folded and may still be there, and the numbers in them and in all before."""
    try:
        content = json.loads((folder / _ENDED_NAME).read_bytes())
    except FileNotFoundError:
        return set(), {}
    return set(content["files"]), {tuple(key): (value, when) for key, value, when in content["series"]}


def _keep_ended(folder: Path, files: list[str], numbers: _Numbers) -> None:
    """Write the numbers of processes that ended, and remove their files; on a disk without room, both stay as is."""
    series = [[key, value, when] for key, (value, when) in numbers.items()]
    with suppress(OSError):
        write_atomically(folder / _ENDED_NAME, json.dumps({"files": files, "series": series}).encode())
        for name in files:
            (folder / name).unlink(missing_ok=True)
        write_atomically(folder / _ENDED_NAME, json.dumps({"files": [], "series": series}).encode())


def _add(numbers: _Numbers, series: Iterable[tuple[Key, float, float]]) -> None:
    """Add what was counted; of gauges, which have a time, keep the last."""
    for key, value, when in series:
        before, then = numbers.get(key, (0.0, 0.0))
        if not when:
            numbers[key] = (before + value, 0.0)
        elif when >= then:
            numbers[key] = (value, when)


def _family_text(family: Family, numbers: _Numbers) -> str:
    samples = [*(_histogram if family.kind == "histogram" else _plain)(family, numbers)]
    if not samples:
        return ""
    return "\n".join([f"# HELP {family.name} {family.help}", f"# TYPE {family.name} {family.kind}", *samples, ""])


def _plain(family: Family, numbers: _Numbers) -> Iterator[str]:
    for key in sorted(key for key in numbers if key[0] == family.name):
        yield _sample(family.name, family.labels, key[1:], numbers[key][0])


def _histogram(family: Family, numbers: _Numbers) -> Iterator[str]:
    """Buckets that add up, the sum and the number of values, for each combination of labels."""
    bounds = [bound_text(family, index) for index in range(len(family.buckets) + 1)]
    for labels in sorted({key[1:] for key in numbers if key[0] == f"{family.name}_sum"}):
        count = 0.0
        for bound in bounds:
            count += numbers.get((f"{family.name}_bucket", *labels, bound), (0.0, 0.0))[0]
            yield _sample(f"{family.name}_bucket", (*family.labels, "le"), (*labels, bound), count)
        yield _sample(f"{family.name}_sum", family.labels, labels, numbers[(f"{family.name}_sum", *labels)][0])
        yield _sample(f"{family.name}_count", family.labels, labels, count)


def _sample(name: str, labels: tuple[str, ...], values: tuple[str, ...], value: float) -> str:
    pairs = ",".join(f'{label}="{_escaped(text)}"' for label, text in zip(labels, values, strict=True))
    return f"{name}{{{pairs}}} {value:.17g}" if pairs else f"{name} {value:.17g}"


def _escaped(text: str) -> str:
    return re.sub(r'[\\"\n]', lambda found: _ESCAPED[found[0]], text)
