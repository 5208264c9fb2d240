"""What the page of the paper's evaluation shows: tables and figures of each data set that was measured."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from heatserve.benchmarks.pages.kept import KeptResults
from heatserve.benchmarks.paper.orders import orders_table, paper_findings
from heatserve.benchmarks.paper.published import RUNS
from heatserve.benchmarks.paper.tables import NO_RADIUS, PaperTable, PaperView, all_tables, sigmas_of
from heatserve.benchmarks.records.paper import AttackRow, PaperResults, SystemRow
from heatserve.benchmarks.records.record import Record

README_DATASET, README_SIGMA = "cifar10", 0.1
"""What the README's table is about; its radius is σ."""


@dataclass(frozen=True)
class PaperSection:
    """One data set at one σ."""

    view: PaperView
    tables: list[PaperTable]
    orders: PaperTable
    findings: list[str]
    folder: str
    """Its results, in benchmarks/results/."""
    glance: Glance

    def own_numbers(self, row: SystemRow) -> dict[str, object]:
        """The hyperparameters of a row's training, but for those that all rows have alike."""
        rows = [one.trained.hyperparameters for one in self.view.rows]
        alike = {name for name, value in rows[0].items() if all(name in one and one[name] == value for one in rows)}
        return {name: value for name, value in row.trained.hyperparameters.items() if name not in alike}

    @property
    def figures(self) -> dict[str, str]:
        """What is drawn, by the name of the file."""
        number = "2" if self.view.published.number == 3 else "5"
        found = {
            "certified": "Figure 1: certified accuracy over radius",
            "attacked": f"Figure {number}: share of images misclassified over distance",
            "claims": "radii of one pass over what Certify proves, image by image; above each panel how many overclaim",
            "tiers": "certified accuracy by tier of answer",
        }
        attacked = any(self.view.attack(row.system, "PGD") for row in self.view.rows)
        promised = any(row.calibration for row in self.view.rows)
        left_out = {*(() if attacked else ("attacked",)), *(() if promised else ("tiers",))}
        return {f"{name}-{self.view.sigma:g}.svg": text for name, text in found.items() if name not in left_out}


def paper_page(kept: KeptResults) -> dict[str, object] | None:
    """Every data set and σ, and what the paper's run was."""
    if not kept.paper:
        return None
    made = [(found.systems.dataset, row) for found in kept.paper for row in _rows(found)]
    return {
        "sections": [section for found in kept.paper for section in _sections(found)],
        "runs": RUNS,
        "made": made,
        "made_by": _made_by([row.provenance for _, row in made]),
    }


def _made_by(records: list[Record]) -> str:
    """Seeds, machines and versions of all rows, each once."""
    seeds = dict.fromkeys(str(record.seed) for record in records)
    machines = dict.fromkeys(f"{record.machine.processor}, {record.machine.cores} cores" for record in records)
    versions = dict.fromkeys(pair for record in records for pair in record.versions.items())
    return (
        f"Seed {', '.join(seeds)}; {' and '.join(machines)}, others working on them: times compare roughly, and only "
        f"within one machine; {', '.join(f'{name} {version}' for name, version in versions)}."
    )


def _sections(found: PaperResults) -> list[PaperSection]:
    views = [PaperView(found.systems, found.attacks, sigma) for sigma in sigmas_of(found.systems)]
    return [
        PaperSection(
            view, all_tables(view), orders_table(view), paper_findings(view), found.systems.dataset, Glance.of(view)
        )
        for view in views
    ]


def _rows(found: PaperResults) -> list[SystemRow | AttackRow]:
    return [*found.systems.rows, *found.attacks.rows]


def readme_table(kept: KeptResults) -> dict[str, object] | None:
    """What each system of one data set certifies at the radius σ; None: none was measured that has votes."""
    for section in (section for found in kept.paper for section in _sections(found)):
        if (section.folder, section.view.sigma) == (README_DATASET, README_SIGMA):
            return {"section": section}
    return None


@dataclass(frozen=True)
class Glance:
    """What each system certifies at the radius σ, in many passes and in one, on the same images."""

    images: int
    passes: int
    lines: list[list[str]]

    @classmethod
    def of(cls, view: PaperView) -> Glance:
        """The rows of a data set and σ, of which one at least has votes."""
        images = min(row.proven_images for row in view.rows if row.noisy)
        settings = view.rows[0].settings
        return cls(
            images=images,
            passes=settings.monte_carlo.n0 + settings.monte_carlo.n,
            lines=[[*_cells(row, images, view.sigma)] for row in view.rows],
        )


def _cells(row: SystemRow, images: int, radius: float) -> Iterator[str]:
    one, trained = row.one_pass, row.trained
    truth, label, served = (np.array(values[:images]) for values in (one.truth, one.label, one.served))
    before = "" if trained.start in (None, "baseline") else f", after `{trained.start}`"
    yield from (f"`{row.system}`", f"{'yes' if trained.labels else 'no'}{before}", str(trained.epochs))
    yield _share(label == truth)
    if row.noisy is None:
        yield from (NO_RADIUS, NO_RADIUS)
    else:
        proven, proven_radius = np.array(row.noisy.proven_label[:images]), np.array(row.noisy.proven_radius[:images])
        yield _share(np.array(row.noisy.vote_label[:images]) == truth)
        yield _share((proven == truth) & (proven_radius >= radius))
    overclaims = row.overclaims("served")[:images]
    yield _share((label == truth) & (served >= radius) & ~overclaims)
    yield f"{overclaims.sum():,} of {(served > 0).sum():,}" if row.noisy else "none possible"


def _share(found: NDArray[np.bool_]) -> str:
    return f"{100 * found.mean():.1f}"
