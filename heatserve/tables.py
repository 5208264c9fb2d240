"""Served models and predictions as tables for the terminal."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from rich.box import SIMPLE
from rich.console import Group, RenderableType
from rich.constrain import Constrain
from rich.table import Table
from rich.text import Text

from heatserve.export.tiers import TierLimits, TierModel, limit_names

if TYPE_CHECKING:
    from heatserve.export.contract import Reason
    from heatserve.export.repository.layout import ModelVersion
    from heatserve.serving.client.answers import Prediction

_HALF_BLOCKS = " ▄▀█"
_NOTE_WIDTH = 100
_QUESTIONS = {
    TierModel.CONFIRM: "is the class proven in r?",
    TierModel.CERTIFY: "class and largest radius",
    TierModel.CERTIFY_STREAM: "bounds that tighten",
    TierModel.CASCADE: "one pass, then confirm",
}


def text_art(image: NDArray[np.float32]) -> str:
    """The pixels above ½ of a small image [C, H, W] or [H, W], as ⌈H/2⌉ lines of W characters of two pixels each."""
    ink = (image.mean(axis=0) if image.ndim == 3 else image) > 0.5
    if len(ink) % 2:
        ink = np.vstack([ink, np.zeros_like(ink[:1])])
    codes = 2 * ink[::2] + ink[1::2]  # a character is twice as high as wide
    return "\n".join("".join(_HALF_BLOCKS[code] for code in row) for row in codes)


def models_table(models: Iterable[ModelVersion]) -> Table:
    """One row per served model: what its certificate card promises."""
    table = Table(box=SIMPLE, show_edge=False, pad_edge=False, collapse_padding=True)
    for heading in ("model", "version", "σ", "image", "promise of the certified radius"):
        table.add_column(heading)
    for model in models:
        card = model.card
        image = f"{card.input_type} {'×'.join(map(str, card.input_shape))}"
        table.add_row(model.name, str(model.version), f"{card.sigma:g}", image, _promise(model))
    return table


def tiers_table(tiers: Mapping[str, Mapping[TierModel, TierLimits]]) -> Group:
    """One row per tier: the name to ask, the question, and what an answer costs and risks where a request says nothing.

    Args:
        tiers: the tiers of each model, by its name, and their limits.
    """
    table = Table(box=SIMPLE, show_edge=False, pad_edge=False, collapse_padding=True)
    table.add_column("tier", overflow="fold")
    table.add_column("question")
    for heading in ("votes", "α"):
        table.add_column(heading, justify="right", no_wrap=True)
    for model, kinds in tiers.items():
        for kind, limits in kinds.items():
            guess = limits.n0 if "n0" in limit_names(kind) else 0
            most = "" if kind is TierModel.CERTIFY else "≤ "
            table.add_row(kind.beside(model), _QUESTIONS[kind], f"{most}{guess + limits.n:,}", f"{limits.alpha:g}")
    note = (
        "An answer with votes is wrong with probability at most α for each image, whatever the image is. Where the "
        "clean image is certifiable at r, an adversary within r can make the system abstain, but never confirm another "
        "class (but for α). The radius of one pass does not hold against an adversary."
    )
    return Group(table, Constrain(Text(f"\n{note}", style="italic"), _NOTE_WIDTH))


def _promise(model: ModelVersion) -> Text:
    calibration = model.card.calibration
    if calibration is None:
        return Text("radius 0: not calibrated", style="yellow")
    alpha, confidence = f"{calibration.alpha * 100:g}%", f"{calibration.confidence * 100:g}%"
    return Text(
        f"at most {alpha} of positive radii overclaim (confidence {confidence}), for inputs like those calibrated on"
    )


def predictions_table(rows: Iterable[tuple[str, Prediction, float]], promise: str | None = None) -> Group:
    """One row per image: its class, and in bold the radius that is promised. Below, why radii are 0, and the promise.

    Args:
        rows: the image's name or its `text_art`, its prediction, and the seconds that the request took.
        promise: that of the model's card; None: it is not known.
    """
    rows = list(rows)
    table = Table(
        box=SIMPLE,
        show_edge=False,
        pad_edge=False,
        collapse_padding=True,
        show_lines=any("\n" in image for image, *_ in rows),
    )
    table.add_column("\nimage", overflow="fold", min_width=8)
    table.add_column("\nclass", overflow="fold", min_width=5)
    table.add_column("proba-\nbility", justify="right", no_wrap=True)
    table.add_column("certified\nradius", justify="right", no_wrap=True, style="bold")
    for heading in ("\nL-bound", "nominal\nradius", "\nms"):
        table.add_column(heading, justify="right", no_wrap=True)
    for image, prediction, seconds in rows:
        table.add_row(
            Text(image),
            Text(prediction.class_name or str(prediction.label)),
            f"{prediction.probability:.3f}",
            f"{prediction.certified_radius:.4f}" + (f" ({prediction.reason:d})" if prediction.reason else ""),
            f"{prediction.l_bound:.4f}",
            f"{prediction.nominal_radius:.4f}",
            f"{seconds * 1000:.1f}",
        )
    reasons = {prediction.reason for _, prediction, _ in rows if prediction.reason}
    return Group(table, *_notes(sorted(reasons), promise))


def _notes(reasons: Iterable[Reason], promise: str | None) -> Iterator[RenderableType]:
    """What stands below predictions: as wide as the terminal, up to what is easy to read, and not as the table."""
    notes = [f"({reason:d}) {reason.explanation}." for reason in reasons]
    notes.append(
        "A change of smaller L2 norm than the certified radius (pixels in [0,1]) does not change the smoothed "
        "classifier's class, as often as the model's card promises. The nominal radius is the paper's formula, "
        "uncorrected, without a promise."
    )
    notes += [f"Promise of the card: {promise}"] if promise else []
    for note in notes:
        yield Constrain(Text(f"\n{note}", style="italic"), _NOTE_WIDTH)
