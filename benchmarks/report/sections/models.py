"""What was trained, what is served, and what audits and conformance say of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from heatserve.benchmarks.paper.summary import right_answers
from heatserve.benchmarks.paper.tables import NOT_RUN
from heatserve.benchmarks.records.paper import SystemRow
from heatserve.benchmarks.records.serving import ConformanceRecord
from heatserve.benchmarks.report.document import Block, Bullets, Prose, Section, Table
from heatserve.benchmarks.report.formats import count, decimals, joined, percentage, plain
from heatserve.benchmarks.report.images import SYSTEM_MEANINGS, named
from heatserve.benchmarks.report.reported import AuditVerdict, DatasetResults, ReportedResults
from heatserve.export.card import Card

SHORT_HASH = 12
"""Characters of a hash that a table shows."""


def trained_section(reported: ReportedResults) -> Section | None:
    """The systems with how they were trained, and the models that are served."""
    blocks: list[Block] = [_meanings(reported)]
    blocks += [_systems(results) for results in reported.paper if results.systems and results.systems.rows]
    if reported.cards:
        blocks.append(_served(reported.cards))
    if reported.other_graphs:
        blocks.append(
            Bullets(
                [
                    f"{name} was measured on a graph ({graph[:SHORT_HASH]}) that is not the newest of a model here: "
                    "its card is not shown."
                    for name, graph in reported.other_graphs.items()
                ]
            )
        )
    return Section("trained", "What was trained", blocks) if len(blocks) > 1 else None


def _meanings(reported: ReportedResults) -> Bullets:
    """What each system is that some result is about."""
    found = {row.system for results in reported.paper if results.systems for row in results.systems.rows}
    return Bullets([f"{name}: {says}." for name, says in SYSTEM_MEANINGS.items() if name in found])


def _systems(results: DatasetResults) -> Table:
    rows = results.systems.rows if results.systems else ()
    return Table(
        caption=f"{results.folder}: what heatserve paper trained",
        headings=[
            "system",
            "method",
            "starts from",
            "labels",
            "σ",
            "network",
            "epochs",
            "in all",
            "minutes",
            "accuracy",
            "test images",
            "checkpoint",
        ],
        rows=[[*_system_cells(row)] for row in rows],
        sources=[results.file("systems")],
        words=4,
        note="labels: of the last training; epochs and minutes: after the baseline, of what starts from fresh weights "
        "its own; accuracy: as the paper answers, by one pass or by an average over noise. A dash: no log was kept."
        f"{_unmeasured(results)}",
    )


def _unmeasured(results: DatasetResults) -> str:
    missing = {sigma: results.view(sigma).unmeasured for sigma in results.sigmas}
    return "".join(
        f" Not measured yet at σ = {plain(sigma)}: {joined(names)}." for sigma, names in missing.items() if names
    )


def _system_cells(row: SystemRow) -> Iterator[str]:
    trained = row.trained
    yield from (named(row.system), trained.method, trained.start or "fresh weights", "yes" if trained.labels else "no")
    yield from (plain(row.sigma), row.architecture, count(trained.epochs), count(trained.epochs_in_all))
    yield decimals(None if trained.seconds is None else trained.seconds / 60, 1)
    answered = right_answers(row)
    yield percentage(float(np.mean(answered)) if answered else None)
    yield count(len(answered))
    yield trained.checkpoint[:SHORT_HASH]


def _served(cards: Mapping[str, Card]) -> Table:
    return Table(
        caption="Models that the results are about, from their certificate cards",
        headings=["model", "certificate", "network", "trained on", "epochs in all", "σ", "promise", "graph"],
        rows=[
            [
                name,
                card.certificate_kind,
                str(card.training.get("architecture", "–")),
                card.trained_on,
                str(card.training.get("epochs_in_all", card.training.get("epochs", "–"))),
                plain(card.sigma) if card.sigma else "–",
                _promise(card),
                card.graph_sha256[:SHORT_HASH],
            ]
            for name, card in cards.items()
        ],
        words=4,
    )


def _promise(card: Card) -> str:
    if card.is_deterministic:
        return "proven, every image"
    if card.calibration is None:
        return "none: radius 0"
    found = card.calibration
    return f"α = {plain(found.alpha)}, confidence {plain(found.confidence)}"


def audits_section(reported: ReportedResults) -> Section | None:
    """The verdicts of the audit pages, in their own words, and conformance."""
    blocks: list[Block] = []
    if reported.audits:
        passed = sum(audit.passed for audit in reported.audits)
        blocks.append(
            Prose(
                f"{count(passed)} of {count(len(reported.audits))} audits passed. Of a statistical certificate an "
                "audit compares the served bytes with Certify on images and noise that the card has not seen; a pass "
                "is no proof of the promise, and says what it could have found. Of a deterministic one it makes the "
                "proof again from the bytes, and attacks images within their radii."
            )
        )
        blocks += [_verdict(audit) for audit in reported.audits]
    if reported.kept.conformance:
        blocks.append(_conformance(reported.kept.conformance))
        blocks.append(Bullets([f"{name} was not run: {why}" for name, why in reported.kept.conformance.absent.items()]))
    return Section("audits", "Audits and conformance", blocks) if blocks else None


def _verdict(audit: AuditVerdict) -> Bullets:
    made = [f"Made by: {audit.command}"] if audit.command else []
    return Bullets([f"{audit.headline} ({audit.file})", *audit.findings, *made])


def _conformance(record: ConformanceRecord) -> Table:
    return Table(
        caption="Whether each engine answers what the certificate says, compared with float64",
        headings=["engine", "cases", "failures", "largest error of a probability"],
        rows=[
            *(
                [name, count(found.cases), count(found.failures), f"{found.probability_off:.1e}"]
                for name, found in record.engines.items()
            ),
            *([name, NOT_RUN, NOT_RUN, NOT_RUN] for name in record.absent),
        ],
        sources=["conformance.json"],
    )
