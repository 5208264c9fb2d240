"""The rows of the CIFAR-10 experiment for the eyes: certified accuracy over radius, and a table in the README."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from io import BytesIO
from itertools import compress
from pathlib import Path
from typing import Any

from heatserve.benchmarks.cifar10.experiment import ARCHITECTURE, markdown_table, ordered, shown_radii
from heatserve.certification.errors import HeatserveError
from heatserve.certification.files import write_atomically

BEGIN, END = "<!-- cifar10: written by `heatserve experiment cifar10` -->\n", "<!-- /cifar10 -->\n"


def draw(rows: Sequence[Mapping[str, Any]], sigma: float, path: Path) -> None:
    """Write a figure (SVG) of one σ: what Certify proves of every system, and what a calibrated single pass serves."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "heatserve"  # the same rows give the same file
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(11, 4), sharey=True)
    chosen = ordered(rows, sigma)
    shown = shown_radii(chosen)
    for axes in (left, right):
        axes.set_prop_cycle(color=pyplot.get_cmap("tab20")(range(20)))
    for row in chosen:
        found = {key: list(compress(values, shown)) for key, values in row["evaluation"]["certified_accuracy"].items()}
        name = f"{row['system']} (n = {row['n']:,})"
        left.plot(found["radii"], found["monte_carlo"], marker=".", label=name)
        right.plot(found["radii"], found["single_pass"], marker=".", label=name)
    left.set(title=f"Certify, {ARCHITECTURE}, σ = {sigma:g}", xlabel="L2 radius", ylabel="certified accuracy")
    right.set(title=f"single pass, calibrated at α = {_alpha(rows):g}", xlabel="L2 radius")
    left.set_ylim(0, 1)
    for axes in (left, right):
        axes.set_xticks(found["radii"])
    right.legend(fontsize="x-small", loc="upper left", bbox_to_anchor=(1, 1))
    content = BytesIO()
    figure.savefig(content, format="svg", metadata={"Date": None}, bbox_inches="tight")
    pyplot.close(figure)
    write_atomically(path, content.getvalue())


def update_readme(path: Path, rows: Sequence[Mapping[str, Any]], sigmas: Sequence[float]) -> None:
    """Replace what stands between the marks `cifar10` by a table for each σ.

    Raises:
        HeatserveError: the file has no such marks.
    """
    text = path.read_text()
    if BEGIN not in text or END not in text:
        raise HeatserveError(f"{path}: expected the marks {BEGIN.strip()} and {END.strip()}")
    before, rest = text.split(BEGIN, 1)
    tables = "\n".join(f"**σ = {sigma:g}**\n\n{markdown_table(rows, sigma)}" for sigma in sigmas)
    write_atomically(path, f"{before}{BEGIN}\n{tables}\n{END}{rest.split(END, 1)[1]}".encode())


def _alpha(rows: Sequence[Mapping[str, Any]]) -> float:
    return next((float(row["calibration"]["alpha"]) for row in rows if row["calibration"]), float("nan"))
