"""What an attack found, for a reader: tables, sentences and a figure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from heatserve.benchmarks.records.attack import AttackRecord, CountedOverclaims, DefenceRow, SearchedOverclaims
from heatserve.certification.files import write_atomically


def attack_report(record: AttackRecord) -> Group:
    """Tables of distances, spoofing and defences, and what they say about the theorems and the promise."""
    return Group(*_parts(record))


def _parts(record: AttackRecord) -> Iterator[RenderableType]:
    yield _distance_table(record)
    proven, served = record.within_proven, record.within_served
    yield Text(
        f"Smoothed class changed within a proven radius: {proven.violations} of {proven.tested} attacks "
        f"(the theorem allows none; Certify and Predict each err with probability {record.monte_carlo.alpha:g} for an "
        f"image)",
        style="bold red" if proven.violations else "green",
    )
    yield Text(
        f"Single-pass class changed within its served radius: {served.changed} of {served.positive} images. "
        f"The theorems do not exclude it: a radius speaks of the smoothed classifier's class, not of the single pass's."
    )
    if record.spoofing is None or record.defences is None:
        yield Text("Not calibrated: every certified radius is 0, so there is nothing to spoof.", style="yellow")
        return
    yield _spoofing_table(record.spoofing, record.settings.confidence)
    yield Text(
        "These inputs were searched for: the promise on the card is for inputs drawn like the calibration images, and "
        "does not speak of them. A longer search may find more."
    )
    yield _defence_table(record.defences)


def _distance_table(record: AttackRecord) -> Table:
    settings = record.settings
    table = Table(
        title=f"L2 distance ([0,1] pixels) to another top-{settings.top_k} answer, {record.data.images} images; "
        f"{settings.steps} steps, at most {settings.epsilon:g}",
        caption="mean: an image without success counts as the limit; misclassified: a wrong answer counts as 0",
        title_justify="left",
        caption_justify="left",
    )
    for heading in ("system", "attack"):
        table.add_column(heading)
    for heading in ("changed", "median", "mean", "misclassified: median", "mean"):
        table.add_column(heading, justify="right")
    for row in record.distances:
        numbers = (row.median, row.mean, row.median_misclassified, row.mean_misclassified)
        table.add_row(row.system, row.attack, f"{row.changed:.0%}", *map(_number, numbers))
    return table


def _spoofing_table(rows: Sequence[SearchedOverclaims], confidence: float) -> Table:
    table = Table(
        title="Spoofed certificates within L2 ε: served radii compared with Certify",
        caption=f"bound: exact, {confidence:.0%}, given a positive radius, and of all answers",
        caption_justify="left",
        title_justify="left",
    )
    for heading in (
        "ε",
        "radius > 0",
        "overclaims",
        "bound",
        "of all",
        "median served",
        "median proven",
    ):
        table.add_column(heading, justify="right")
    for row in rows:
        table.add_row(
            f"{row.epsilon:g}" if row.epsilon else "0",
            f"{row.positive} of {row.images}",
            _rate(row),
            f"{row.upper_bound:.1%}",
            f"{row.upper_bound_of_all:.1%}",
            _number(row.median_served),
            _number(row.median_proven),
        )
    return table


def _defence_table(rows: Sequence[DefenceRow]) -> Table:
    radii = rows[0].certified_at
    table = Table(
        title=f"Defences, each measured and none served; attack within L2 {rows[0].epsilon:g}",
        caption="clean: certified accuracy of the images as they are, where an overclaim of the right class counts; "
        "unaware: overclaims under the attack on the undefended graph; adaptive: under one that knows the defence; "
        "an adversary may use either",
        title_justify="left",
        caption_justify="left",
    )
    table.add_column("defence")
    for heading in (
        "passes",
        *(f"clean {'> 0' if r == 0 else f'≥ {r:g}'}" for r in radii),
        "unaware",
        "adaptive",
    ):
        table.add_column(heading, justify="right")
    for row in rows:
        accuracies = [f"{share:.1%}" for share in row.certified_accuracy]
        table.add_row(row.name, f"+{row.passes:g}", *accuracies, _rate(row.unaware), _rate(row.adaptive))
    return table


def draw_attack(record: AttackRecord, path: Path) -> None:
    """Write a figure (SVG): share of images attacked over distance, and the overclaim rate over ε."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "heatserve"  # the same results give the same file
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(11, 4))
    radii = np.linspace(0, record.settings.epsilon, 401)
    for row in record.distances:
        distances = np.array([np.inf if d is None else d for d in row.distances])
        attacked = [np.mean(np.where(row.right, distances, 0) <= radius) for radius in radii]
        dashes = "--" if row.attack == "PGD" else "-"
        left.plot(radii, attacked, dashes, label=f"{row.system}, {row.attack}")
    left.set(title=f"{record.model}: misclassified", xlabel="L2 distance", ylabel="share of images", ylim=(0, 1))
    left.legend(fontsize="small")
    rows = record.spoofing or ()
    epsilons = [row.epsilon for row in rows]
    right.plot(epsilons, [row.rate for row in rows], marker=".", label="found")
    right.plot(epsilons, [row.upper_bound for row in rows], ":", label="upper bound")
    right.set(title="overclaims, given a positive radius", xlabel="searched within L2 ε", ylim=(0, 1))
    right.legend(fontsize="small")
    content = BytesIO()
    figure.savefig(content, format="svg", metadata={"Date": None}, bbox_inches="tight")
    pyplot.close(figure)
    write_atomically(path, content.getvalue())


def _rate(row: CountedOverclaims) -> str:
    return f"{row.overclaims} of {row.positive} ({row.rate:.0%})"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
