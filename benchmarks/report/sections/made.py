"""How each number can be made again."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from heatserve.benchmarks.records.record import Record
from heatserve.benchmarks.report.formats import count, decimals


@dataclass(frozen=True)
class Made:
    """Rows of one file that were made by the same command, seed, machine and versions."""

    rows: Sequence[str]
    """Their names; none: the whole file."""
    records: Sequence[Record]

    @property
    def record(self) -> Record:
        """One of them."""
        return self.records[0]

    @property
    def dates(self) -> str:
        """UTC; of several rows the first and the last."""
        found = sorted({record.date for record in self.records})
        return found[0] if len(found) == 1 else f"{found[0]} to {found[-1]}"

    @property
    def machine(self) -> str:
        """Where it was measured."""
        machine = self.record.machine
        cores = "1 core" if machine.cores == 1 else f"{count(machine.cores)} cores"
        load = "" if machine.load_average is None else f", load by others {decimals(machine.load_average, 1)}"
        return f"{machine.processor}, {cores}{load}, {machine.system}"

    @property
    def versions(self) -> str:
        """Of heatserve and what matters to the result."""
        return ", ".join(f"{name} {version}" for name, version in self.record.versions.items())


@dataclass(frozen=True)
class MadeFile:
    """One file of results."""

    file: str
    parts: Sequence[Made]

    @property
    def anchor(self) -> str:
        """That tables and figures link to."""
        return anchor_of(self.file)


def anchor_of(file: str) -> str:
    """The anchor of a file of results, made of letters, digits and hyphens."""
    return "made-" + "".join(letter if letter.isascii() and letter.isalnum() else "-" for letter in file)


def all_made(files: Mapping[str, Sequence[tuple[str, Record]]]) -> list[MadeFile]:
    """Every file, in the order of names."""
    return [MadeFile(file, _grouped(files[file])) for file in sorted(files)]


def _grouped(rows: Sequence[tuple[str, Record]]) -> list[Made]:
    """Rows that differ in nothing but their dates and the load of the machine."""
    groups: dict[object, list[tuple[str, Record]]] = defaultdict(list)
    for name, record in rows:
        machine = record.machine
        same = (record.command, record.seed, machine.processor, machine.cores, machine.system)
        groups[same, tuple(record.versions.items())].append((name, record))
    return [Made([name for name, _ in group if name], [record for _, record in group]) for group in groups.values()]
