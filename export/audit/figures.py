"""The figures of an audit: certified accuracy over radius, and served over proven radii. Needs matplotlib."""

from __future__ import annotations

from io import BytesIO
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from heatserve.export.audit.audit import Answers
from heatserve.export.card_parts import CertifiedAccuracy

_RASTER_FROM = 2000
"""As many points or more are drawn as one picture inside the SVG: a point each would make megabytes."""
_STYLE: dict[Any, Any] = {
    "svg.hashsalt": "heatserve",  # the same audit gives the same figure
    "svg.fonttype": "none",
    "font.size": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "savefig.transparent": True,
}


def accuracy_figure(found: CertifiedAccuracy, *, reference: str) -> bytes:
    """Certified accuracy over L2 radius, SVG: served, what Certify backs of it, proven by Certify, and nominal."""
    with matplotlib.rc_context(_STYLE):
        figure, axes = _axes()
        for shares, name, style in (
            (found.monte_carlo, reference, {"color": "black", "linestyle": "--"}),
            (found.single_pass, "single pass, overclaims count", {"color": "#0072b2", "linewidth": 2.2}),
            (found.backed, "single pass, backed by Certify", {"color": "#0072b2", "linestyle": (0, (4, 2))}),
            (found.l_bound, "its L-bound", {"color": "#009e73", "linestyle": "-."}),
            (found.nominal, "nominal, no promise", {"color": "#d55e00", "linestyle": ":"}),
        ):
            if shares is not None:
                axes.plot(found.radii, shares, label=name, **style)
        axes.set(xlabel="L2 radius, pixels in [0,1]", ylabel="certified accuracy", ylim=(0, 1), xlim=(0, None))
        axes.legend(frameon=False, fontsize="small")
        return _svg(figure)


def reliability_figure(answers: Answers) -> bytes:
    """Served over proven radius of every positive radius, SVG; what overclaims is marked."""
    served, proven = np.array(answers.certified_radius), np.array(answers.proven_radius)
    overclaims = np.array(answers.overclaims, dtype=bool)
    backed = (served > 0) & ~overclaims
    end = 1.05 * max(served.max(initial=0.0), proven.max(initial=0.0), 1e-3)
    with matplotlib.rc_context(_STYLE):
        figure, axes = _axes()
        axes.plot([0, end], [0, end], color="black", linewidth=1, label="served = proven")
        axes.scatter(
            proven[backed],
            served[backed],
            s=14,
            color="#0072b2",
            alpha=0.7,
            linewidths=0,
            label=f"backed: {backed.sum():,}",
            rasterized=bool(backed.sum() >= _RASTER_FROM),
        )
        label = f"overclaim: {overclaims.sum():,}"
        axes.scatter(
            proven[overclaims],
            served[overclaims],
            s=40,
            marker="x",
            color="#cc0000",
            label=label,
            clip_on=False,
            zorder=3,
        )
        axes.set(xlabel="radius that Certify proves", ylabel="radius served", xlim=(0, end), ylim=(0, end))
        axes.legend(frameon=False, fontsize="small", loc="upper left")
        return _svg(figure)


def _axes() -> tuple[Figure, Axes]:
    figure = Figure(figsize=(5.6, 3.9), layout="constrained")
    return figure, figure.add_subplot()


def _svg(figure: Figure) -> bytes:
    content = BytesIO()
    figure.savefig(content, format="svg", metadata={"Date": None}, dpi=150)
    return content.getvalue()
