"""What a terminal shows of a certificate card, a comparison and a certified data set, and the progress of Certify."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeVar

from rich.console import Console, Group
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from heatserve.certification.noise import grey_levels
from heatserve.certification.radius import RadiusMap
from heatserve.export.calibration.compare import Comparison
from heatserve.export.card import Calibration, Card, Evaluation, OverclaimRate

T = TypeVar("T")


def progress_bar(items: Iterable[T], total: int, description: str) -> Iterable[T]:
    """Pass items through, showing on stderr how many there are and how long the rest will take."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        yield from progress.track(items, total=total, description=description)


def card_report(card: Card) -> Group:
    """The promise, what it was tested on, and what was measured on images that neither training nor calibration saw."""
    if card.calibration is None or card.evaluation is None:
        return Group(Text(f"{card.model}: not calibrated, every certified radius is 0", style="yellow"))
    seen, evaluation = card.calibration.overclaim, card.evaluation
    return Group(
        Text(f"promise {card.calibration.promise}"),
        Text(
            f"map     {_steps(card.calibration.radius_map)}, checked on {seen.images} images of split "
            f"{card.calibration.check.split!r}: {_rate(seen)}"
        ),
        *_vouched_line(card.calibration),
        Text(""),
        _accuracy_table(evaluation),
        Text(
            f"overclaims on the {evaluation.data.images} images of split {evaluation.data.split!r}: "
            f"certified {_rate(evaluation.calibrated)}; nominal {_rate(evaluation.nominal)}"
        ),
        *_attack_lines(card),
    )


def _vouched_line(calibration: Calibration) -> Iterable[Text]:
    """A warning where it is not known that training never saw the calibration images."""
    if calibration.vouched:
        data = calibration.check
        yield Text(f"vouched that no training saw these images of {data.dataset}: a user's word", style="yellow")


def comparison_report(found: Comparison) -> Table:
    """What a variant wins and loses, compared with its model."""
    ours, other = found.evaluations
    table = Table(
        title=f"{' compared with '.join(found.names)}, on the same {ours.data.images} test images", title_justify="left"
    )
    for heading in ("", *found.names, "difference"):
        table.add_column(heading, justify="right")
    fast, slow = found.milliseconds
    table.add_row("ms for one image", f"{fast:.3f}", f"{slow:.3f}", f"{slow / fast:.2f} times as fast")
    accuracies = (ours.certified_accuracy.single_pass, other.certified_accuracy.single_pass)
    rows = [("accuracy", ours.clean_accuracy, other.clean_accuracy)]
    for radius, after, before in zip(ours.certified_accuracy.radii, *accuracies, strict=True):
        rows.append((f"certified, r ≥ {radius:g}", after, before))
    for name, after, before in rows:
        table.add_row(name, f"{after:.1%}", f"{before:.1%}", f"{100 * (after - before):+.1f} points")
    return table


def _steps(radius_map: RadiusMap) -> str:
    radii = radius_map.radii
    return f"the radius {radii[0]:g}" if len(radii) == 1 else f"{len(radii)} radii from {radii[0]:g} to {radii[-1]:g}"


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
            f"they agree on {evaluation.agreement:.1%}. An overclaim of the right class counts as certified."
        ),
        title_justify="left",
        caption_justify="left",
    )
    table.add_column("r ≥", justify="right")
    for heading in ("single pass", "its L-bound", "nominal (no promise)", evaluation.monte_carlo.heading):
        table.add_column(heading, justify="right")
    columns = (accuracy.single_pass, accuracy.l_bound, accuracy.nominal, accuracy.monte_carlo)
    for radius, *shares in zip(accuracy.radii, *columns, strict=True):
        table.add_row(f"{radius:g}", *(f"{share:.1%}" for share in shares))
    return table


def dataset_report(summary: dict[str, Any]) -> Group:
    """The summary of `dataset.certify_dataset`: certified accuracy over radius."""
    recipe, table = summary["recipe"], Table()
    for heading in ("r ≥", "grey levels", "certified"):
        table.add_column(heading, justify="right")
    for radius, share in zip(summary["radii"], summary["certified_accuracy"], strict=True):
        table.add_row(f"{radius:g}", f"{grey_levels(radius):.1f}", f"{share:.1%}")
    rule = f"top {recipe['top_k']}, " if recipe["top_k"] > 1 else ""
    return Group(
        Text(
            f"{summary['model']}, Certify, {rule}σ = {recipe['sigma']:g}, n = {recipe['n']}: certified accuracy at L2 "
            f"radius r ([0,1] pixels), {summary['images']} images, {recipe['dataset']}"
        ),
        table,
        Text(f"{summary['abstained']} abstained; mean radius {summary['mean_radius']:.4f}"),
    )
