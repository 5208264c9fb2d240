"""Served models and predictions as tables for the terminal."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from rich.box import SIMPLE
from rich.console import Group
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from export.conformance import Findings
    from export.repository import ModelVersion
    from serving.tuning import Tuning
    from serving.wire import Prediction

_HALF_BLOCKS = " ▄▀█"


def text_art(image: NDArray[np.float32]) -> str:
    """A small image [C, H, W] or [H, W] in [0,1] as ⌈H/2⌉ lines of W characters of two pixels each; bright is ink."""
    ink = (image.mean(axis=0) if image.ndim == 3 else image) > 0.5
    if len(ink) % 2:
        ink = np.vstack([ink, np.zeros_like(ink[:1])])
    codes = 2 * ink[::2] + ink[1::2]  # a character is twice as high as wide
    return "\n".join("".join(_HALF_BLOCKS[code] for code in row) for row in codes)


def models_table(models: Iterable[ModelVersion]) -> Table:
    """One row per served model: what its certificate card promises."""
    table = Table("model", "version", "σ", "image", "certified radius")
    for model in models:
        card = model.card
        image = f"{card.input_type} {'×'.join(map(str, card.input_shape))}"
        table.add_row(model.name, str(model.version), f"{card.sigma:g}", image, _promise(model))
    return table


def _promise(model: ModelVersion) -> Text:
    calibration = model.card.calibration
    if calibration is None:
        return Text("radius 0: not calibrated", style="yellow")
    alpha, confidence = f"{calibration.alpha * 100:g}%", f"{calibration.confidence * 100:g}%"
    return Text(
        f"at most {alpha} of positive radii overclaim, confidence {confidence}, inputs like those calibrated on"
    )


def predictions_table(rows: Iterable[tuple[str, Prediction, float]]) -> Table:
    """One row per image.

    Args:
        rows: the image's name or its `text_art`, its prediction, and the seconds that the request took.
    """
    table = Table(show_lines=True)
    table.add_column("image", overflow="fold")
    table.add_column("class")
    for heading in ("probability", "L-bound", "certified radius", "nominal radius", "ms"):
        table.add_column(heading, justify="right")
    for image, prediction, seconds in rows:
        table.add_row(
            Text(image),
            Text(prediction.class_name or str(prediction.label)),
            f"{prediction.probability:.3f}",
            f"{prediction.l_bound:.4f}",
            f"{prediction.certified_radius:.4f}",
            f"{prediction.nominal_radius:.4f}",
            f"{seconds * 1000:.1f}",
        )
    return table


def conformance_table(findings: Mapping[str, Findings], absent: Mapping[str, str]) -> Group:
    """One row per engine, what was broken first, and which engines are not here."""
    table = Table(
        caption="each case: one promise for one image; off: of a probability; below: of a nominal radius, in σ",
        caption_justify="left",
    )
    for heading in ("engine", "cases", "broken", "off", "below"):
        table.add_column(heading, justify="left" if heading == "engine" else "right")
    notes: list[Text] = []
    for name, found in findings.items():
        counts = (f"{found.cases:,}", f"{found.failures:,}")
        largest = (f"{found.probability_off:.1e}", f"{found.nominal_below:.1e}")
        table.add_row(name, *counts, *largest, style=None if found.passed else "red")
        notes += [Text(f"{name}: {found.ended_by}", style="red")] if found.ended_by else []
        for promise, tally in found.promises.items():
            if tally.failures:
                notes.append(Text(f"{name}: {promise}: {tally.failures} of {tally.cases} broken, first {tally.first}"))
    notes += [Text(f"{name} could not be run here. {reason}", style="yellow") for name, reason in absent.items()]
    return Group(table, *notes)


def tuning_table(tuning: Tuning) -> Table:
    """One row per load that a setting was tried under; the choice in bold."""
    table = Table(
        title=f"{tuning.model}: 99th percentile within {tuning.target:.3g} ms",
        caption="cores: instances × threads; batch: preferred, in images\n"
        "delay: µs that requests wait for it; asking: cores that the callers took",
        title_justify="left",
        caption_justify="left",
        box=SIMPLE,
    )
    for heading in ("cores", "batch", "delay", "callers", "images/s", "p50 ms", "p99 ms", "asking", "met"):
        table.add_column(heading, justify="right", no_wrap=True)
    for trial in tuning.trials:
        setting, load = trial.setting, trial.load
        table.add_row(
            f"{setting.instances}×{setting.threads}",
            *map(str, (setting.preferred_batch, setting.queue_delay_us, load.concurrency)),
            f"{load.images_per_second:.0f}",
            f"{load.p50:.2f}",
            f"{load.p99:.2f}",
            f"{load.caller_cores:.2f}",
            "yes" if trial.meets_target else "no",
            style="bold" if trial == tuning.choice else None,
        )
    return table
