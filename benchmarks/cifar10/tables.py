"""The rows of the CIFAR-10 experiment as tables, for the terminal and for a page."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import compress

import numpy as np
from rich.table import Table

from heatserve.benchmarks.cifar10.systems import SYSTEMS
from heatserve.benchmarks.records.cifar10 import Cifar10Row
from heatserve.certification.monte_carlo import largest_provable

USUAL_N = 1000
"""n of Certify that a table does not name."""


def network_names(rows: Sequence[Cifar10Row]) -> str:
    """The architectures of the rows, for a title."""
    return ", ".join(dict.fromkeys(row.architecture for row in rows))


def cifar10_table(rows: Sequence[Cifar10Row], sigma: float) -> Table:
    """What the rows say, in percent, for one σ, for the terminal."""
    table = Table(
        title=f"CIFAR-10, {network_names(rows)}, σ = {sigma:g}",
        caption="pass r: certified accuracy of the single pass, in which an overclaim of the right class counts; "
        "backed r: no overclaim counts; overclaims: of all positive radii.",
        title_justify="left",
        caption_justify="left",
    )
    headings, *lines = table_cells(rows, sigma)
    for heading in headings:
        table.add_column(heading, justify="left" if heading == "system" else "right")
    for line in lines:
        table.add_row(*line)
    return table


def table_cells(rows: Sequence[Cifar10Row], sigma: float) -> list[list[str]]:
    """The headings, then the cells of each row of one σ."""
    chosen = ordered_rows(rows, sigma)
    shown, backed = shown_radii(chosen), has_backed(chosen)
    cells = [list(_columns(row, shown, backed=backed)) for row in chosen]
    return [[heading for heading, _ in cells[0]], *([cell for _, cell in row] for row in cells)]


def ordered_rows(rows: Sequence[Cifar10Row], sigma: float) -> list[Cifar10Row]:
    """The rows of one σ, in the order of `SYSTEMS`."""
    names = list(SYSTEMS)
    return sorted((row for row in rows if row.sigma == sigma), key=lambda row: (names.index(row.system), row.n))


def shown_radii(rows: Sequence[Cifar10Row]) -> list[bool]:
    """The radii at which Certify or the single pass certifies any image of any row: overclaims are never hidden."""
    found = [row.evaluation.certified_accuracy for row in rows]
    shown: list[bool] = np.any(
        [way for shares in found for way in (shares.monte_carlo, shares.single_pass)], 0
    ).tolist()
    return shown


def has_backed(rows: Sequence[Cifar10Row]) -> bool:
    """Whether any row says what of the single pass's certified accuracy Certify backs; former ones do not."""
    return any(row.evaluation.certified_accuracy.backed for row in rows)


def row_name(row: Cifar10Row) -> str:
    """The system, with n of Certify where it is not the usual one."""
    return row.system + (f" (n = {row.n:,})" if row.n != USUAL_N else "")


def largest_radius(row: Cifar10Row) -> float:
    """What so many votes prove where all are for one class: no radius of any network is larger."""
    certify = row.evaluation.monte_carlo
    return row.sigma * largest_provable(n=certify.n, alpha=certify.alpha)


def _columns(row: Cifar10Row, shown: Sequence[bool], *, backed: bool) -> Iterator[tuple[str, str]]:
    found = row.evaluation
    accuracies = found.certified_accuracy
    yield "system", row_name(row)
    yield "labels", "yes" if row.labels else "no"
    yield "epochs", str(row.epochs)
    yield "minutes", f"{row.training_seconds / 60:.0f}" if row.training_seconds else "–"
    yield "clean", _percent(row.clean_accuracy)
    yield "smoothed", _percent(found.smoothed_accuracy)
    provable = largest_radius(row)
    for radius, share in compress(zip(accuracies.radii, accuracies.monte_carlo, strict=True), shown):
        yield f"Certify {radius:g}", _percent(share) if radius <= provable else "–"  # too few votes for any network
    yield "agree", _percent(found.agreement)
    for radius, share in compress(zip(accuracies.radii, accuracies.single_pass, strict=True), shown):
        yield f"pass {radius:g}", _percent(share)
    if backed:
        shares = accuracies.backed or [None] * len(accuracies.radii)
        for radius, known in compress(zip(accuracies.radii, shares, strict=True), shown):
            yield f"backed {radius:g}", "–" if known is None else _percent(known)
    yield "overclaims", f"{found.calibrated.overclaims} of {found.calibrated.positive}"


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"
