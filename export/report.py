"""A certificate card for the eyes, and progress."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

from rich.console import Console, Group
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from export.card import Card, Evaluation, OverclaimRate

Item = TypeVar("Item")


def progress_bar(items: Iterable[Item], total: int, description: str) -> Iterable[Item]:
    """Pass items through, showing on stderr how many there are and how long the rest will take."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        yield from progress.track(items, total=total, description=description)


def card_report(card: Card) -> Group:
    """The promise, what it cost, and what was measured on images that neither training nor calibration saw."""
    if card.calibration is None or card.evaluation is None:
        return Group(Text(f"{card.model}: not calibrated, every certified radius is 0", style="yellow"))
    seen, evaluation = card.calibration.overclaim, card.evaluation
    return Group(
        Text(f"promise {card.calibration.promise}"),
        Text(
            f"shift   t = {card.calibration.shift:.2f}, checked on {seen.images} images of split "
            f"{card.calibration.check.split!r}: {_rate(seen)}"
        ),
        Text(""),
        _accuracy_table(evaluation),
        Text(
            f"overclaims on the {evaluation.data.images} images of split {evaluation.data.split!r}: "
            f"certified {_rate(evaluation.calibrated)}; nominal {_rate(evaluation.nominal)}"
        ),
        *_attack_lines(card),
    )


def _attack_lines(card: Card) -> Iterable[Text]:
    for spoofed in card.attack.spoofed if card.attack else ():
        found = f"attacked within L2 {spoofed.epsilon:g} of each image: {_rate(spoofed.overclaim)}"
        yield Text(found, style="yellow")


def _rate(rate: OverclaimRate) -> str:
    return f"{rate.overclaims} of {rate.positive} positive radii overclaim (bound {rate.upper_bound:.1%})"


def _accuracy_table(evaluation: Evaluation) -> Table:
    data, accuracy = evaluation.data, evaluation.certified_accuracy
    table = Table(
        title=f"certified accuracy at L2 radius r ([0,1] pixels), {data.images} {data.split} images, {data.dataset}",
        caption=(
            f"accuracy {evaluation.clean_accuracy:.1%}, of the smoothed classifier {evaluation.smoothed_accuracy:.1%}; "
            f"they agree on {evaluation.agreement:.1%}"
        ),
        title_justify="left",
        caption_justify="left",
    )
    table.add_column("r ≥", justify="right")
    for heading in ("single pass", "its L-bound", "nominal (no promise)", f"Certify, n = {evaluation.monte_carlo.n}"):
        table.add_column(heading, justify="right")
    columns = (accuracy.single_pass, accuracy.l_bound, accuracy.nominal, accuracy.monte_carlo)
    for radius, *shares in zip(accuracy.radii, *columns, strict=True):
        table.add_row(f"{radius:g}", *(f"{share:.1%}" for share in shares))
    return table
