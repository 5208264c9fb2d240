"""What the page of the paper's evaluation shows: tables and figures of each data set that was measured."""

from __future__ import annotations

from dataclasses import dataclass

from heatserve.benchmarks.pages.kept import KeptResults
from heatserve.benchmarks.paper.orders import orders_table, paper_findings
from heatserve.benchmarks.paper.published import RUNS
from heatserve.benchmarks.paper.tables import PaperTable, PaperView, all_tables, sigmas_of
from heatserve.benchmarks.records.paper import AttackRow, PaperResults, SystemRow


@dataclass(frozen=True)
class PaperSection:
    """One data set at one σ."""

    view: PaperView
    tables: list[PaperTable]
    orders: PaperTable
    findings: list[str]
    folder: str
    """Its results, in benchmarks/results/."""

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
    return {
        "sections": [section for found in kept.paper for section in _sections(found)],
        "runs": RUNS,
        "made": [(found.systems.dataset, row) for found in kept.paper for row in _rows(found)],
    }


def _sections(found: PaperResults) -> list[PaperSection]:
    views = [PaperView(found.systems, found.attacks, sigma) for sigma in sigmas_of(found.systems)]
    return [
        PaperSection(view, all_tables(view), orders_table(view), paper_findings(view), found.systems.dataset)
        for view in views
    ]


def _rows(found: PaperResults) -> list[SystemRow | AttackRow]:
    return [*found.systems.rows, *found.attacks.rows]
