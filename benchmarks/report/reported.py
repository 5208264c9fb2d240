"""All results that a folder keeps, each where it is there, and which files they are from."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, fields
from html.parser import HTMLParser
from pathlib import Path
from typing import TypeVar, get_args, get_type_hints

from heatserve.benchmarks.pages.kept import kept_file
from heatserve.benchmarks.paper.tables import PaperView, sigmas_of
from heatserve.benchmarks.records.attack import AttackRecord
from heatserve.benchmarks.records.attack_tiers import TierAttackRecord
from heatserve.benchmarks.records.calibration import CalibrationRecord
from heatserve.benchmarks.records.confirming import ConfirmRecord
from heatserve.benchmarks.records.kinds import KindsRecord
from heatserve.benchmarks.records.line import LineRecord
from heatserve.benchmarks.records.load import LoadRecord
from heatserve.benchmarks.records.paper import AttackRow, AttacksRecord, SystemRow, SystemsRecord
from heatserve.benchmarks.records.record import Record, RecordError, read_record
from heatserve.benchmarks.records.serving import ConformanceRecord
from heatserve.benchmarks.records.speed import LatencyRecord
from heatserve.benchmarks.records.table2 import SpeedRecord
from heatserve.benchmarks.records.tiers import TiersRecord
from heatserve.export.card import CARD_NAME, Card, CardError, read_card
from heatserve.export.repository.layout import version_dirs

R = TypeVar("R")

_HASH = re.compile(r"\b[0-9a-f]{64}\b")


@dataclass(frozen=True, kw_only=True)
class ReportedFiles:
    """The files of a folder of results that the report shows; None: the file is not there."""

    calibration: CalibrationRecord | None = None
    confirm: ConfirmRecord | None = None
    conformance: ConformanceRecord | None = None
    kinds: KindsRecord | None = None
    latency: LatencyRecord | None = None
    line: LineRecord | None = None
    load: LoadRecord | None = None
    tiers: TiersRecord | None = None


@dataclass(frozen=True, kw_only=True)
class DatasetResults:
    """What `heatserve paper` measured on one data set."""

    folder: str
    """Its name, which is that of the data set."""
    systems: SystemsRecord | None
    attacks: AttacksRecord | None
    speed: SpeedRecord | None

    @property
    def sigmas(self) -> list[float]:
        """Of the systems, least first."""
        return sigmas_of(self.systems) if self.systems else []

    def view(self, sigma: float) -> PaperView:
        """What its tables are made of."""
        none = AttacksRecord(dataset=self.folder)
        return PaperView(self.systems or SystemsRecord(dataset=self.folder), self.attacks or none, sigma)

    def rows(self, sigma: float) -> list[SystemRow]:
        """The systems at one σ, and those that know of no noise, in the order of the tables."""
        return self.view(sigma).rows

    def row(self, system: str, sigma: float) -> SystemRow | None:
        """One system; None: not measured."""
        return self.view(sigma).row(system)

    def attack(self, system: str, sigma: float, attack: str) -> AttackRow | None:
        """One attack on one system; those of systems that know of no noise are the same for every σ."""
        return self.view(sigma).attack(system, attack)

    def file(self, name: str) -> str:
        """The path of a file in the folder of results, as sources name it."""
        return f"{self.folder}/{name}.json"

    @property
    def made(self) -> Iterator[tuple[str, list[tuple[str, Record]]]]:
        """How each file was made."""
        if self.systems:
            yield (
                self.file("systems"),
                [(_row_name(row.system, row.sigma), row.provenance) for row in self.systems.rows],
            )
        if self.attacks:
            rows = self.attacks.rows
            yield (
                self.file("attacks"),
                [(f"{row.attack} on {_row_name(row.system, row.sigma)}", row.provenance) for row in rows],
            )
        if self.speed:
            yield self.file("speed"), [("", self.speed)]


def _row_name(system: str, sigma: float | None) -> str:
    return system if sigma is None else f"{system} σ = {sigma:g}"


@dataclass(frozen=True)
class AuditVerdict:
    """What the first lines of an audit page say."""

    file: str
    headline: str
    findings: tuple[str, ...]
    hashes: frozenset[str]
    """SHA-256 of the graphs that it names."""
    command: str | None
    """That made the page; None: it does not say."""

    @property
    def passed(self) -> bool:
        """Whether nothing spoke against the promise."""
        return self.headline.startswith("PASS")


@dataclass(frozen=True, kw_only=True)
class ReportedResults:
    """Everything that the page is made of."""

    kept: ReportedFiles
    attacks: Mapping[str, AttackRecord]
    """By model."""
    tier_attacks: Mapping[str, TierAttackRecord]
    """By model."""
    audits: tuple[AuditVerdict, ...]
    cards: Mapping[str, Card]
    """Of the newest version of each model that a result is about, by its name."""
    other_graphs: Mapping[str, str]
    """SHA-256 of graphs that results are about and no newest card is, by the name of the model."""
    paper: tuple[DatasetResults, ...]
    """By data set."""

    @property
    def absent(self) -> list[str]:
        """Files that were looked for and are not there."""
        return [kept_file(field.name) for field in fields(ReportedFiles) if getattr(self.kept, field.name) is None]

    @property
    def made(self) -> dict[str, list[tuple[str, Record]]]:
        """How each file was made, by its name; of a file whose rows say it for themselves, each row by its name."""
        whole = {kept_file(field.name): getattr(self.kept, field.name) for field in fields(ReportedFiles)}
        whole |= {f"attack-{name}.json": record for name, record in self.attacks.items()}
        whole |= {f"attack-tiers-{name}.json": record for name, record in self.tier_attacks.items()}
        found = {name: [("", record)] for name, record in whole.items() if isinstance(record, Record)}
        for results in self.paper:
            found |= dict(results.made)
        return {name: records for name, records in sorted(found.items()) if records}


def read_reported(results: Path, repository: Path) -> ReportedResults:
    """Read what is there.

    Args:
        results: folder of the JSON files and audit pages.
        repository: Triton model repository; its newest cards are shown. It need not be there.

    Raises:
        RecordError: no such folder, nothing in it that the report knows, or a file that is not what its name says.
    """
    if not results.is_dir():
        raise RecordError(f"{results}: expected a folder of results, found none; --results names it")
    kinds = {name: get_args(kind)[0] for name, kind in get_type_hints(ReportedFiles).items()}
    kept = ReportedFiles(**{name: _if_there(results / kept_file(name), kind) for name, kind in kinds.items()})
    attacks = dict(_each(results, "attack-", AttackRecord, but="attack-tiers-"))
    tiers = dict(_each(results, "attack-tiers-", TierAttackRecord))
    audits = tuple(_verdict(path) for path in sorted(results.glob("audit-*.html")))
    measured = {row.graph_sha256: row.model for row in (kept.kinds.rows if kept.kinds else ())}
    measured |= {model.graph_sha256: name for name, model in (kept.tiers.shapes.items() if kept.tiers else ())}
    measured |= {one.graph_sha256: one.model for one in tiers.values()}
    measured |= {one.graph_sha256: one.model for one in attacks.values()}
    if kept.calibration:
        measured[kept.calibration.model.graph_sha256] = kept.calibration.model.name
    cards = _cards(repository, {*measured}.union(*(audit.hashes for audit in audits)))
    shown = {card.graph_sha256 for card in cards.values()}
    reported = ReportedResults(
        kept=kept,
        attacks=attacks,
        tier_attacks=tiers,
        audits=audits,
        cards=cards,
        other_graphs={name: graph for graph, name in sorted(measured.items()) if graph not in shown},
        paper=tuple(_paper(folder) for folder in sorted(results.iterdir()) if _has_paper(folder)),
    )
    if not reported.made:
        raise RecordError(f"{results}: expected results of heatserve's benchmarks, such as kinds.json, found none")
    return reported


_PAPER_KINDS: Mapping[str, type] = {"systems": SystemsRecord, "attacks": AttacksRecord, "speed": SpeedRecord}


def _has_paper(folder: Path) -> bool:
    return folder.is_dir() and any((folder / f"{name}.json").exists() for name in _PAPER_KINDS)


def _paper(folder: Path) -> DatasetResults:
    found = {name: _if_there(folder / f"{name}.json", kind) for name, kind in _PAPER_KINDS.items()}
    results = DatasetResults(folder=folder.name, **found)
    for row in results.systems.rows if results.systems else ():
        _check_lengths(folder / "systems.json", row)
    return results


def _check_lengths(path: Path, row: SystemRow) -> None:
    """All arrays about the same images have as many.

    Raises:
        RecordError: one has fewer or more; names the file, the system and the array.
    """
    groups: list[tuple[object, int]] = [(row.one_pass, len(row.one_pass.label))]
    if row.noisy:
        groups.append((row.noisy, len(row.noisy.proven_label)))
    groups += [(one, len(one.votes)) for one in row.confirmed]
    for group, expected in groups:
        for name, values in vars(group).items():
            if isinstance(values, tuple) and len(values) != expected:
                raise RecordError(
                    f"{path}: {row.system}, {name}: expected {expected} values, one for each image, got {len(values)}"
                )


def _if_there(path: Path, kind: type[R]) -> R | None:
    return read_record(path, kind) if path.exists() else None


def _each(folder: Path, start: str, kind: type[R], *, but: str | None = None) -> Iterator[tuple[str, R]]:
    """The records of the files whose names begin so, by the rest of the name."""
    for path in sorted(folder.glob(f"{start}*.json")):
        if but is None or not path.name.startswith(but):
            yield path.stem.removeprefix(start), read_record(path, kind)


def _cards(repository: Path, graphs: Collection[str]) -> dict[str, Card]:
    """The newest card of each model whose graph a result is about.

    Raises:
        RecordError: a card is not one.
    """
    found = {}
    for folder in sorted(repository.iterdir()) if repository.is_dir() else ():
        for version in reversed(version_dirs(folder)):
            if (version / CARD_NAME).exists():
                try:
                    card = read_card(version)
                except CardError as error:
                    raise RecordError(str(error)) from None
                if card.graph_sha256 in graphs:
                    found[folder.name] = card
                break
    return found


def _verdict(path: Path) -> AuditVerdict:
    reader = _AuditPage()
    text = path.read_text(encoding="utf-8", errors="replace")
    reader.feed(text)
    lines = [" ".join(line.split()) for line in reader.lines]
    if not lines:
        raise RecordError(f"{path}: expected a page of `heatserve audit`, got no heading in it")
    command = " ".join(reader.command.split()) or None
    return AuditVerdict(path.name, lines[0], tuple(lines[1:]), frozenset(_HASH.findall(text)), command)


class _AuditPage(HTMLParser):
    """The texts of the heading and the paragraphs in `<header>`, and that of `<dd>` after `<dt>command</dt>`."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []
        self.command = ""
        self._inside = False
        self._open = self._term = ""

    def handle_starttag(self, tag: str, attrs: object) -> None:  # noqa: ARG002 (the name is HTMLParser's)
        if tag == "header":
            self._inside = True
        elif tag in ("dt", "dd") or (self._inside and tag in ("h1", "p")):
            self._open = tag
            if tag == "dt":
                self._term = ""
            elif tag != "dd":
                self.lines.append("")

    def handle_endtag(self, tag: str) -> None:
        if tag == "header":
            self._inside = False
        elif tag == self._open:
            self._open = ""

    def handle_data(self, data: str) -> None:
        if self._open == "dt":
            self._term += data
        elif self._open == "dd":
            self.command += data if self._term == "command" else ""
        elif self._open:
            self.lines[-1] += data
