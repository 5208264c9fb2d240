"""The paper's figures of one data set at one σ, as SVG: the same rows give the same file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from heatserve.benchmarks.paper.recipes import place_of
from heatserve.benchmarks.paper.summary import (
    BAND_CONFIDENCE,
    ShareCurve,
    attacked_curve,
    certify_curve,
    paper_curve,
    served_curve,
)
from heatserve.benchmarks.paper.tables import PaperView
from heatserve.benchmarks.records.paper import AttackRow, SystemRow
from heatserve.certification.files import write_atomically
from heatserve.certification.radius import Float64Array

_SCATTERED = 300
"""Images of each system that are drawn one by one: the first ones."""
_POINTS = 201
_ACROSS = 4
"""Panels beside each other, at most."""
_RADIUS = "L2 radius (pixels in [0,1])"


def draw_paper(view: PaperView, folder: Path) -> list[Path]:
    """Write all figures for which there are rows, and say which."""
    drawn = {
        "certified": draw_certified,
        "attacked": draw_attacked,
        "claims": draw_claims,
        "tiers": draw_tiers,
    }
    paths = [(folder / f"{name}-{view.sigma:g}.svg", draw) for name, draw in drawn.items()]
    return [path for path, draw in paths if draw(view, path)]


def draw_certified(view: PaperView, path: Path) -> bool:
    """Figure 1: certified accuracy over radius, with bands; whether there was anything to draw."""
    rows = view.rows
    grid = _grid([value for row in rows if row.noisy for value in row.noisy.named_radius + row.noisy.top_k_radius])
    with _figure(path, 1) as axes:
        for row in rows:
            curve = paper_curve(row, grid)
            label = row.system if curve else f"{row.system} (one pass, proven)"
            _band(axes[0], curve or served_curve(row, grid), label, _color(row.system))
        best = f", top-{rows[0].settings.top_k}" if rows else ""
        axes[0].set(title=f"Figure 1: {view.heading}{best}", xlabel=_RADIUS, ylabel="certified accuracy", ylim=(0, 1))
    return bool(rows)


def draw_attacked(view: PaperView, path: Path) -> bool:
    """Figures 2 and 5: share of images misclassified within a distance, by PGD and by DDN, with bands."""
    found = {
        name: [attack for row in view.rows if (attack := view.attack(row.system, name))] for name in ("PGD", "DDN")
    }
    attacks = [attack for rows in found.values() for attack in rows]
    grid = _grid([float(one) for attack in attacks for one in _within(attack)])
    with _figure(path, 2) as axes:
        for ax, (name, rows) in zip(axes, found.items(), strict=True):
            for row in rows:
                _band(ax, attacked_curve(row, grid), row.system, _color(row.system))
            number = "2" if view.published.number == 3 else "5"
            title = f"Figure {number}, {name}: {view.heading}"
            ax.set(title=title, xlabel="L2 distance (pixels in [0,1])", ylim=(0, 1))
        axes[0].set(ylabel="share of images misclassified")
    return bool(attacks)


def draw_claims(view: PaperView, path: Path) -> bool:
    """Radii of one pass over what Certify proves, image by image, for every method; overclaims are red crosses."""
    rows = [row for row in view.rows if row.noisy]
    if not rows:
        return False
    largest = max(max(row.noisy.proven_radius) for row in rows if row.noisy) or 1.0
    with _figure(path, len(rows), size=(2.7, 2.9)) as axes:
        for ax, row in zip(axes, rows, strict=True):
            _scatter(ax, row, largest)
        for ax in axes[::_ACROSS]:
            ax.set_ylabel("radius of one pass", fontsize="small")
    return True


def draw_tiers(view: PaperView, path: Path) -> bool:
    """Certified accuracy over radius by tier of answer, with bands, of each system whose one pass promises anything."""
    rows = [row for row in view.rows if row.calibration is not None and row.noisy]
    if not rows:
        return False
    proven = view.row("lipschitz")
    grid = _grid([value for row in rows if row.noisy for value in row.noisy.proven_radius])
    with _figure(path, len(rows), size=(2.9, 2.9)) as axes:
        for ax, row in zip(axes, rows, strict=True):
            _band(ax, served_curve(row, grid), "one pass", "tab:blue")
            if curve := certify_curve(row, grid):
                _band(ax, curve, "certify", "tab:green")
            _confirm_points(ax, row)
            if proven:
                _band(ax, served_curve(proven, grid), "1-Lipschitz, one pass", "tab:gray")
            ax.set(title=row.system, ylim=(0, 1))
            ax.set_xlabel(_RADIUS, fontsize="small")
        for ax in axes[::_ACROSS]:
            ax.set_ylabel("certified accuracy", fontsize="small")
    return True


def _confirm_points(ax: Any, row: SystemRow) -> None:
    truth, label = (np.array(values[: row.proven_images]) for values in (row.one_pass.truth, row.one_pass.label))
    radii = [one.radius for one in row.confirmed]
    shares = [float((np.array(one.proven) & (truth == label)).mean()) for one in row.confirmed]
    votes = ", ".join(f"{np.mean(one.votes):.0f}" for one in row.confirmed)
    ax.plot(radii, shares, "D", color="tab:orange", markersize=4, label="confirm")
    ax.text(0.98, 0.97, f"votes of confirm: {votes}", transform=ax.transAxes, ha="right", va="top", fontsize="x-small")


def _scatter(ax: Any, row: SystemRow, largest: float) -> None:
    """The first images of a row; what is above the axes is drawn at their edge."""
    if row.noisy is None:
        return
    count, top = min(_SCATTERED, row.proven_images), 2 * largest
    proven = np.array(row.noisy.proven_radius)[:count]
    nominal, served = (np.array(getattr(row.one_pass, name))[:count] for name in ("nominal", "served"))
    over = row.overclaims("served")[:count]
    ax.plot([0, top], [0, top], color="0.4", linewidth=0.8)
    ax.plot(proven, np.minimum(nominal, top), ".", color="0.75", markersize=2.5, label="nominal")
    ax.plot(proven[~over], served[~over], ".", color="tab:blue", markersize=3, label="served")
    ax.plot(proven[over], served[over], "x", color="tab:red", markersize=4, label="served, overclaims")
    ax.set(xlim=(-0.03 * largest, 1.05 * largest), ylim=(-0.05 * largest, 1.03 * top))
    nominal_over = int(row.overclaims("nominal")[:count].sum())
    ax.set_title(f"{row.system}: {int(over.sum())} of {int((served > 0).sum())}; nominal {nominal_over} of {count}")
    ax.set_xlabel("proven radius (Certify)", fontsize="small")
    ax.tick_params(labelsize="x-small")


def _within(attack: AttackRow) -> Float64Array:
    found: Float64Array = attack.finite[np.isfinite(attack.finite)]
    return found


def _grid(values: Sequence[float]) -> Float64Array:
    return np.linspace(0, max(values, default=0.0) or 1.0, _POINTS)


def _band(ax: Any, curve: ShareCurve, label: str, color: Any) -> None:
    ax.plot(curve.at, curve.share, color=color, label=label, linewidth=1.2)
    ax.fill_between(curve.at, curve.lower, curve.upper, color=color, alpha=0.12, linewidth=0)


def _color(system: str) -> Any:
    from matplotlib import pyplot

    return pyplot.get_cmap("tab10")(place_of(system))


@contextmanager
def _figure(path: Path, panels: int, *, size: tuple[float, float] = (5.4, 4.0)) -> Iterator[list[Any]]:
    """Panels to draw in, at most four beside each other; the file is written at the end, with one legend for them."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "heatserve"  # the same rows give the same file
    from matplotlib import pyplot

    across, down = min(panels, _ACROSS), -(-panels // _ACROSS)
    width, height = max(size[0] * across, 6.4), size[1] * down + 0.5
    figure, axes = pyplot.subplots(down, across, figsize=(width, height), layout="constrained", squeeze=False)
    found, unused = list(axes.flat)[:panels], list(axes.flat)[panels:]
    yield found
    for ax in found:
        ax.grid(alpha=0.3)
        ax.title.set_fontsize(8 if panels > 2 else "medium")
    for ax in unused:
        ax.axis("off")
    lines = {label: line for ax in found for line, label in zip(*ax.get_legend_handles_labels(), strict=True)}
    figure.legend(
        lines.values(),
        lines.keys(),
        loc="outside lower center",
        ncols=4 if across == 1 else 5,
        fontsize="small",
        frameon=False,
        title=f"bands: exact, confidence {BAND_CONFIDENCE:g} at each radius" if _has_bands(found) else None,
        title_fontsize="x-small",
    )
    content = BytesIO()
    figure.savefig(content, format="svg", metadata={"Date": None})
    pyplot.close(figure)
    write_atomically(path, content.getvalue())


def _has_bands(axes: Sequence[Any]) -> bool:
    return any(ax.collections for ax in axes)
