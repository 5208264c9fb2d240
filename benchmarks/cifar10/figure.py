"""The figure of the CIFAR-10 experiment: certified accuracy over radius."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from itertools import compress
from pathlib import Path

from heatserve.benchmarks.cifar10.systems import ARCHITECTURE
from heatserve.benchmarks.cifar10.tables import ordered_rows, shown_radii
from heatserve.benchmarks.records.cifar10 import Cifar10Row
from heatserve.certification.files import write_atomically


def draw_cifar10(rows: Sequence[Cifar10Row], sigma: float, path: Path) -> None:
    """Write a figure (SVG) of one σ: what Certify proves of every system, and what a calibrated single pass serves."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "heatserve"  # the same rows give the same file
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(11, 4), sharey=True)
    chosen = ordered_rows(rows, sigma)
    shown = shown_radii(chosen)
    for axes in (left, right):
        axes.set_prop_cycle(color=pyplot.get_cmap("tab20")(range(20)))
    for row in chosen:
        found = row.evaluation.certified_accuracy
        radii, certify, one_pass = (
            list(compress(values, shown)) for values in (found.radii, found.monte_carlo, found.single_pass)
        )
        name = f"{row.system} (n = {row.n:,})"
        left.plot(radii, certify, marker=".", label=name)
        right.plot(radii, one_pass, marker=".", label=name)
    left.set(title=f"Certify, {ARCHITECTURE}, σ = {sigma:g}", xlabel="L2 radius", ylabel="certified accuracy")
    right.set(title=f"single pass, calibrated at α = {_alpha(rows):g}", xlabel="L2 radius")
    left.set_ylim(0, 1)
    for axes in (left, right):
        axes.set_xticks(radii)
    right.legend(fontsize="x-small", loc="upper left", bbox_to_anchor=(1, 1))
    content = BytesIO()
    figure.savefig(content, format="svg", metadata={"Date": None}, bbox_inches="tight")
    pyplot.close(figure)
    write_atomically(path, content.getvalue())


def _alpha(rows: Sequence[Cifar10Row]) -> float:
    return next((row.calibration.alpha for row in rows if row.calibration), float("nan"))
