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
from heatserve.export.card import Card
from heatserve.export.card_parts import Calibration, Evaluation, OverclaimCount, OverclaimRate
from heatserve.export.promise import stated

T = TypeVar("T")

_COMPARED = {"single_pass": "single pass", "backed": "backed"}
"""What the tables call two curves of `CertifiedAccuracy`."""
ACCURACY_CAPTION = (
    "Under “single pass” an overclaim of the right class counts as certified, under “backed” no overclaim counts."
)
"""What their columns count."""


def progress_bar(items: Iterable[T], total: int, description: str) -> Iterable[T]:
    """Pass items through; a terminal shows on stderr how many there are and how long the rest will take."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        yield from progress.track(items, total=total, description=description)


def card_report(card: Card) -> Group:
    """The promise, what it was tested on, what was measured on test images, and what other inputs are answered."""
    calibration, evaluation = card.calibration, card.evaluation
    if calibration is None or evaluation is None:
        return Group(Text(f"{card.model}: not calibrated, every certified radius is 0", style="yellow"))
    seen = calibration.overclaim
    return Group(
        Text(f"promise {calibration.promise}"),
        _attempt_line(calibration),
        Text(
            f"map     {_steps(calibration.radius_map)}; it was chosen on {calibration.fit.images} images, and by the "
            f"test on {seen.images} others of split {calibration.check.split!r}, where {_count(seen)}"
        ),
        *_vouched_line(calibration),
        *_training_line(card),
        Text(""),
        _accuracy_table(evaluation),
        Text(
            f"overclaims on the {evaluation.data.images} images of split {evaluation.data.split!r}, which chose no "
            f"map, with exact bounds (confidence {evaluation.confidence:g} each): "
            f"certified {_rate(evaluation.calibrated)}; nominal {_rate(evaluation.nominal)}"
        ),
        *_radius_table(evaluation),
        *_other_table(evaluation),
        *_attack_lines(card),
    )


def _attempt_line(calibration: Calibration) -> Text:
    """Which attempt this is of those that count, what may go wrong in it, and what is left for later ones."""
    delta = 1 - calibration.confidence
    left = delta - calibration.spent - calibration.level
    passes = f"a model that breaks the promise passes its test with probability at most {calibration.level:.3g}"
    if calibration.looks == 1:
        rest = f"; later attempts have the other {left:.3g} of δ = {stated(delta, up=True)}" if left > 1e-9 else ""
        return Text(f"attempt the first on record for these images and this network: {passes}{rest}")
    return Text(
        f"attempt {calibration.looks} of those on record in this model repository that used these images, or failed "
        f"for this network: {passes}, those of the earlier ones with {calibration.spent:.3g}; confidence "
        f"{stated(calibration.confidence, up=False)} holds for all of them together"
    )


def _training_line(card: Card) -> Iterable[Text]:
    """Epochs of the last training, and of all that led to the network where that is known."""
    last, all_of_them = (card.training.get(name) for name in ("epochs", "epochs_in_all"))
    if last is not None:
        known = "not known" if all_of_them is None else all_of_them
        yield Text(f"trained epochs: {last} in the last training, in all that led to this network: {known}")


def _vouched_line(calibration: Calibration) -> Iterable[Text]:
    """A warning where it is not known that training never saw the calibration images."""
    if calibration.vouched:
        data = calibration.check
        yield Text(f"vouched that no training saw these images of {data.dataset}: a user's word", style="yellow")


def comparison_report(found: Comparison) -> Table:
    """What a variant wins and loses, compared with its model."""
    ours, other = found.evaluations
    table = Table(
        title=f"{' compared with '.join(found.names)}, on the same {ours.data.images} test images",
        caption=ACCURACY_CAPTION,
        title_justify="left",
        caption_justify="left",
    )
    table.add_column("", no_wrap=True)
    for heading in (*found.names, "difference"):
        table.add_column(heading, justify="right")
    fast, slow = found.milliseconds
    table.add_row("ms for one image", f"{fast:.3f}", f"{slow:.3f}", f"{slow / fast:.2f} times as fast")
    rows = [("accuracy", ours.clean_accuracy, other.clean_accuracy)]
    for name, radius, after, before in found.accuracies:
        rows.append((f"{_COMPARED[name]}, r ≥ {radius:g}", after, before))
    for name, after, before in rows:
        table.add_row(name, f"{after:.1%}", f"{before:.1%}", f"{100 * (after - before):+.1f} points")
    return table


def _steps(radius_map: RadiusMap) -> str:
    radii = radius_map.radii
    if not radii:
        return "no radius"
    return f"the radius {radii[0]:g}" if len(radii) == 1 else f"{len(radii)} radii from {radii[0]:g} to {radii[-1]:g}"


def _attack_lines(card: Card) -> Iterable[Text]:
    for spoofed in card.attack.spoofed if card.attack else ():
        found = f"attacked within L2 {spoofed.epsilon:g} of each image: {_rate(spoofed.overclaim)}"
        yield Text(found, style="yellow")


def _count(seen: OverclaimCount) -> str:
    return f"{seen.overclaims} of {seen.positive} positive radii overclaim"


def _rate(rate: OverclaimRate) -> str:
    return f"{_count(rate)} (bound {rate.upper_bound:.1%})"


def _accuracy_table(evaluation: Evaluation) -> Table:
    data, accuracy = evaluation.data, evaluation.certified_accuracy
    table = Table(
        title=f"certified accuracy at L2 radius r ([0,1] pixels), {data.images} {data.split} images, {data.dataset}",
        caption=(
            f"accuracy {evaluation.clean_accuracy:.1%}, of the smoothed classifier {evaluation.smoothed_accuracy:.1%}; "
            f"they agree on {evaluation.agreement:.1%}. {ACCURACY_CAPTION}"
        ),
        title_justify="left",
        caption_justify="left",
    )
    columns = {
        _COMPARED["single_pass"]: accuracy.single_pass,
        _COMPARED["backed"]: accuracy.backed,
        "its L-bound": accuracy.l_bound,
        "nominal (no promise)": accuracy.nominal,
        evaluation.monte_carlo.heading: accuracy.monte_carlo,
    }
    table.add_column("r ≥", justify="right")
    for heading in columns:
        table.add_column(heading, justify="right")
    for index, radius in enumerate(accuracy.radii):
        table.add_row(f"{radius:g}", *(f"{shares[index]:.1%}" if shares else "–" for shares in columns.values()))
    return table


def _radius_table(evaluation: Evaluation) -> Iterable[Table]:
    """Overclaims by served radius, where they were counted."""
    if not evaluation.by_radius:
        return
    table = Table(
        title="overclaims by served radius",
        caption="α bounds the rate over all radii and classes together: one bin, or one class, may have more.",
        title_justify="left",
        caption_justify="left",
    )
    for heading in ("radius", "overclaims", "share"):
        table.add_column(heading, justify="right")
    for part in evaluation.by_radius:
        share = f"{part.overclaims / part.positive:.1%}" if part.positive else "–"
        table.add_row(f"({part.above:g}, {part.up_to:g}]", f"{part.overclaims} of {part.positive}", share)
    yield table


def _other_table(evaluation: Evaluation) -> Iterable[Table]:
    """What other inputs are answered, where that was measured."""
    if not evaluation.other_inputs:
        return
    table = Table(
        title=f"inputs that the card was not made for: {evaluation.data.split} images of {evaluation.data.dataset}, "
        "changed",
        caption="No promise is about these inputs, nor about any other that is not drawn like the calibration images. "
        "Refused: radius 0, since the image is unlike the calibration images.",
        title_justify="left",
        caption_justify="left",
    )
    for heading in ("change", "images", "radius > 0", "overclaims of these", "refused"):
        table.add_column(heading, justify="left" if heading == "change" else "right")
    for row in evaluation.other_inputs:
        table.add_row(row.kind, str(row.images), str(row.positive), str(row.overclaims), str(row.refused))
    yield table


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
