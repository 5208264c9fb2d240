"""Served models and predictions as tables for the terminal."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from rich.box import SIMPLE
from rich.console import Group, RenderableType
from rich.constrain import Constrain
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from heatserve.export.contract import Reason
from heatserve.export.promise import radius_text
from heatserve.export.tiers import TierLimits, TierModel, TierReason, limit_names

if TYPE_CHECKING:
    from heatserve.export.contract import CertificateKind
    from heatserve.export.repository.layout import ModelVersion
    from heatserve.serving.client.answers import Prediction
    from heatserve.serving.client.tier_answers import TierAnswer

_HALF_BLOCKS = " ▄▀█"
_NOTE_WIDTH = 100
_AGAINST_AN_ADVERSARY = (
    "Where the clean image is certifiable at r, an adversary within r can make the system abstain, but never confirm "
    "another class (but for α)."
)
_MEANINGS = {
    "statistical": (
        "Certificate: statistical. A change of smaller L2 norm than the certified radius (pixels in [0,1]) does not "
        "change the smoothed classifier's class, as often as the model's card promises. The nominal radius is the "
        "formula of Cohen et al. on one pass, without a promise."
    ),
    "deterministic": (
        "Certificate: deterministic. No change of smaller L2 norm than the certified radius (pixels in [0,1]) changes "
        "the class that is served, whoever made the image or the change: it is proven, for every image. The nominal "
        "radius is what it would be without rounding."
    ),
}
_OF_RADII = (Reason.CALIBRATED, Reason.PROVEN)
"""The reasons of positive radii, which need no explanation."""
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
    """One row per served model: the kind of its certificate, and what its card promises."""
    table = Table(box=SIMPLE, show_edge=False, pad_edge=False, collapse_padding=True)
    for heading in ("model", "version", "certificate", "σ", "image", "promise of the certified radius"):
        table.add_column(heading)
    for model in models:
        card = model.card
        image = f"{card.input_type} {'×'.join(map(str, card.input_shape))}"
        sigma = "–" if card.is_deterministic else f"{card.sigma:g}"
        table.add_row(model.name, str(model.version), card.certificate_kind, sigma, image, _promise(model))
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
        "An answer with votes is wrong with probability at most α for each image, whatever the image is. "
        f"{_AGAINST_AN_ADVERSARY} The radius of one pass of a model with tiers does not hold against an adversary."
    )
    return Group(table, Constrain(Text(f"\n{note}", style="italic"), _NOTE_WIDTH))


def _promise(model: ModelVersion) -> Text:
    if model.card.is_deterministic:
        return Text("proven: no change within it changes the class that is served, whoever makes it")
    calibration = model.card.calibration
    if calibration is None:
        return Text("radius 0: not calibrated", style="yellow")
    alpha, confidence = f"{calibration.alpha * 100:g}%", f"{calibration.confidence * 100:g}%"
    return Text(
        f"at most {alpha} of positive radii overclaim (confidence {confidence}), for inputs like those calibrated on"
    )


def predictions_table(
    rows: Iterable[tuple[str, Prediction, float]],
    promise: str | None = None,
    kind: CertificateKind | None = "statistical",
) -> Group:
    """One row per image: its class, and in bold the radius that is promised. Below, why radii are 0, and the promise.

    Args:
        rows: the image's name or its `text_art`, its prediction, and the seconds that the request took.
        promise: that of the model's card; None: it is not known.
        kind: of the certificate; None: one that only the promise speaks of.
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
            radius_text(prediction.certified_radius)
            + (f" ({prediction.reason:d})" if prediction.reason not in _OF_RADII else ""),
            radius_text(prediction.l_bound),
            radius_text(prediction.nominal_radius),
            f"{seconds * 1000:.1f}",
        )
    reasons = {prediction.reason for _, prediction, _ in rows if _note_of(prediction.reason)}
    return Group(table, *_notes(sorted(reasons), promise, kind))


def _note_of(reason: Reason) -> str:
    """The number of the note about a reason that needs one."""
    return "" if reason in _OF_RADII else f" ({reason:d})"


def _notes(reasons: Iterable[Reason], promise: str | None, kind: CertificateKind | None) -> Iterator[RenderableType]:
    """What stands below predictions: as wide as the terminal, up to what is easy to read, and not as the table."""
    notes = [f"({reason:d}) {reason.explanation}." for reason in reasons]
    notes += [_MEANINGS[kind]] if kind else []
    notes += [f"Promise of the card: {promise}"] if promise else []
    yield from _italics(notes)


def _italics(notes: Iterable[str]) -> Iterator[RenderableType]:
    for note in notes:
        yield Constrain(Text(f"\n{note}", style="italic"), _NOTE_WIDTH)


_OUTCOME_STYLES = {"yes": "bold green", "no": "bold red", "undecided": "yellow"}


def confirmed_table(rows: Iterable[tuple[str, TierAnswer, float]], *, radius: float) -> Group:
    """One row per image: its class, what the single pass claims, and whether votes prove it within r. Below, why.

    Args:
        rows: the image's name, the answer of confirm, and the seconds that the request took.
        radius: r, which was asked for.
    """
    rows = list(rows)
    table = Table(box=SIMPLE, show_edge=False, pad_edge=False, collapse_padding=True)
    table.add_column("\nimage", overflow="fold", min_width=8)
    table.add_column("\nclass", overflow="fold", min_width=5)
    table.add_column("one pass:\nradius", justify="right", no_wrap=True)
    table.add_column(f"proven in\n{radius:g}?", no_wrap=True)
    table.add_column("\nvotes", justify="right", no_wrap=True)
    table.add_column("\nwhy", no_wrap=True)
    table.add_column("\nms", justify="right", no_wrap=True)
    for image, answer, seconds in rows:
        table.add_row(
            Text(image),
            Text(answer.class_name or str(answer.label)),
            radius_text(answer.certified_radius or 0),
            Text(answer.outcome.value, style=_OUTCOME_STYLES[answer.outcome.value]),
            f"{answer.votes}",
            answer.reason.value,
            f"{seconds * 1000:.0f}",
        )
    answers = [answer for _, answer, _ in rows]
    reasons = dict.fromkeys(f"{answer.reason.value}: {answer.explanation}." for answer in answers)
    yes = (
        f"yes: the smoothed classifier answers this class for every image within L2 distance {radius:g} (pixels in "
        "[0,1]). The radius of one pass is that of a statistical certificate: it claims as much, but does not hold "
        "against an adversary."
    )
    return Group(table, *_italics(["\n".join([*reasons, yes]), _rigour(answers)]))


def _rigour(answers: Sequence[TierAnswer]) -> str:
    """What answers with votes mean, in the words of every page, for somebody who has no time for the whole promise."""
    alpha = max((answer.alpha for answer in answers), default=0.0)
    words = (
        f"An answer with votes is wrong with probability at most α = {alpha:g} for each image, whoever made it; "
        f"undecided says nothing. {_AGAINST_AN_ADVERSARY}"
    )
    if any(answer.sampling == "float32" for answer in answers):
        words += " This assumes that noise of float32 numbers does as well as exact noise: the image is not of 8 bits."
    return f"{words} `--json` has the whole promise."


def bound_line(answer: TierAnswer, seconds: float, *, votes: int) -> Table:
    """What the votes so far prove of one image, on one line.

    Args:
        answer: of a stream of bounds.
        seconds: since the question.
        votes: the most that will be taken.
    """
    line = Table.grid(padding=(0, 2))
    for _ in range(4):
        line.add_column(no_wrap=True)
    line.add_row(
        ProgressBar(total=votes, completed=min(answer.votes, votes), width=8),
        f"{answer.votes:,} of {votes:,} votes",
        f"{seconds:.1f} s",
        Text(_proven(answer), style="bold"),
    )
    return line


def certified_text(answer: TierAnswer, *, is_stopped: bool) -> Group:
    """What is proven of one image in the end, why it is not more, and what that means.

    Args:
        answer: the last of a stream of bounds.
        is_stopped: whether the user stopped the votes.
    """
    why = "stopped; what was proven until then holds" if is_stopped else answer.explanation
    if answer.reason is TierReason.DEADLINE and not is_stopped:
        why += "; --deadline SECONDS gives it more time"
    return Group(
        Text(f"{_proven(answer)} (L2, pixels in [0,1])", style="bold")
        if answer
        else Text(_proven(answer), style="yellow"),
        Text(f"{answer.votes:,} votes, α = {answer.alpha:g}, noise {answer.sampling}: {why}"),
        *_italics([_rigour([answer])]),
    )


def _proven(answer: TierAnswer) -> str:
    if not answer:
        return "nothing is proven"
    what = f"class {answer.class_name or answer.label}"
    if len(answer.classes) > 1:
        what = f"one of {', '.join(map(str, answer.classes))}"
    return f"{what} proven within {radius_text(answer.proven_radius)}"
