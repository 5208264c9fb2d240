"""The figure of the CIFAR-10 experiment: certified accuracy over radius."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from itertools import compress, product
from pathlib import Path

from heatserve.benchmarks.cifar10.tables import (
    has_backed,
    largest_radius,
    network_names,
    ordered_rows,
    row_name,
    shown_radii,
)
from heatserve.benchmarks.records.cifar10 import Cifar10Row
from heatserve.certification.files import write_atomically


def draw_cifar10(rows: Sequence[Cifar10Row], sigma: float, path: Path) -> None:
    """Write a figure (SVG) of one σ: what Certify proves of every system, and what a calibrated single pass serves.

    A system has one colour and marker; with another n of Certify its line is broken. What Certify backs of the single
    pass is a dotted line, in rows that say so; the other one counts overclaims of the right class.
    """
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "heatserve"  # the same rows give the same file
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(9.5, 4.2), sharey=True, layout="constrained")
    chosen = ordered_rows(rows, sigma)
    shown = shown_radii(chosen)
    systems = list(dict.fromkeys(row.system for row in chosen))
    styles = dict(zip(systems, product("os^", pyplot.get_cmap("tab10")(range(10))), strict=False))
    drawn = set()
    for row in chosen:
        found = row.evaluation.certified_accuracy
        radii, certify, one_pass = (
            list(compress(values, shown)) for values in (found.radii, found.monte_carlo, found.single_pass)
        )
        marker, color = styles[row.system]
        further = row.system in drawn  # with another n of Certify, which changes nothing about the single pass
        line, size = ("--" if further else "-"), 4
        most = sum(radius <= largest_radius(row) for radius in radii)  # farther out no network has a radius
        certify, one_pass = certify[:most], one_pass[:most]
        left.plot(radii[:most], certify, line, marker=marker, color=color, markersize=size, label=row_name(row))
        if not further:
            right.plot(radii[:most], one_pass, line, marker=marker, color=color, markersize=size)
            if found.backed:
                right.plot(radii[:most], list(compress(found.backed, shown))[:most], ":", color=color)
        drawn.add(row.system)
    left.set(title=f"Certify, {network_names(chosen)}, σ = {sigma:g}", ylabel="certified accuracy", ylim=(0, 1))
    dotted = " (dotted: without)" if has_backed(chosen) else ""
    right.set(title=f"single pass at α = {_alpha(rows):g}, overclaims counted{dotted}")
    for axes in (left, right):
        axes.set(xlabel="L2 radius (pixels in [0,1])", xticks=radii, xticklabels=[f"{radius:g}" for radius in radii])
        axes.tick_params(axis="x", labelsize="small")
        axes.grid(alpha=0.3)
    figure.legend(loc="outside lower center", ncols=4, fontsize="small", frameon=False)
    content = BytesIO()
    figure.savefig(content, format="svg", metadata={"Date": None})
    pyplot.close(figure)
    write_atomically(path, content.getvalue())


def _alpha(rows: Sequence[Cifar10Row]) -> float:
    return next((row.calibration.alpha for row in rows if row.calibration), float("nan"))
