"""The paper's tables of one data set, and what it does not show, each with the paper's numbers beside ours.

A table is text in cells, so that the terminal and a page show the same.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from rich.console import Group
from rich.table import Table
from rich.text import Text

from heatserve.benchmarks.paper.published import TABLE_3, TABLE_4, TABLE_5, PublishedPair, PublishedTable
from heatserve.benchmarks.paper.recipes import place_of, recipe_of
from heatserve.benchmarks.paper.summary import BAND_CONFIDENCE, accuracy_of, certify_curve, paper_l_bound, served_curve
from heatserve.benchmarks.records.paper import AttackRow, AttacksRecord, SystemRow, SystemSettings, SystemsRecord
from heatserve.certification.audit import rate
from heatserve.training.named import parse_named

NOT_RUN = "not run"
NO_RADIUS = "–"


@dataclass(frozen=True)
class PaperTable:
    """A table in cells of text; the first column stands left, the others right."""

    title: str
    note: str
    headings: tuple[str, ...]
    lines: tuple[tuple[str, ...], ...]

    def as_rich(self) -> Table:
        """For the terminal."""
        table = Table(title=self.title, caption=self.note, title_justify="left", caption_justify="left")
        for index, heading in enumerate(self.headings):
            table.add_column(heading, justify="right" if index else "left")
        for line in self.lines:
            printed = line[0].startswith("paper")
            table.add_row(*map(Text, line), style="dim" if printed else "")
        return table


@dataclass(frozen=True)
class PaperView:
    """The rows of one data set at one σ; rows that know of no σ belong to each."""

    systems: SystemsRecord
    attacks: AttacksRecord
    sigma: float

    @property
    def rows(self) -> list[SystemRow]:
        """In the order of the tables."""
        rows = [row for row in self.systems.rows if row.sigma in (self.sigma, None)]
        return sorted(rows, key=lambda row: place_of(row.system))

    def row(self, system: str) -> SystemRow | None:
        """The row of a system; None: not measured."""
        return next((row for row in self.rows if row.system == system), None)

    @property
    def unmeasured(self) -> list[str]:
        """The systems of the recipe that have no row, in the order of the tables."""
        return [name for name in recipe_of(self.systems.dataset, "cpu").systems if self.row(name) is None]

    @property
    def calibrated(self) -> list[SystemSettings]:
        """Of each network of the data set that was calibrated, with or without success: all on the same images."""
        return [row.settings for row in self.systems.rows if row.kind == "statistical"]

    @property
    def left_for_chosen(self) -> float:
        """The confidence that a union bound leaves for one that is chosen among `calibrated` by such figures."""
        return max(0.0, 1 - sum(settings.calibration_delta for settings in self.calibrated))

    def attack(self, system: str, name: str) -> AttackRow | None:
        """What an attack found of a system, of the very network of its row if there is one; None: not run."""
        found = [row for row in self.attacks.rows if row.sigma in (self.sigma, None)]
        attack = next((row for row in found if (row.system, row.attack) == (system, name)), None)
        row = self.row(system)
        is_another = attack is not None and row is not None and attack.checkpoint != row.trained.checkpoint
        return None if is_another else attack

    @property
    def published(self) -> PublishedTable:
        """The table of the paper that these rows stand beside: that of CIFAR-10, or of ImageNet-1k for photographs."""
        return TABLE_5 if parse_named(self.systems.dataset).name in ("cifar10", "digits") else TABLE_3

    @property
    def heading(self) -> str:
        """Data set, network and σ, for a title."""
        networks = dict.fromkeys(row.architecture for row in self.rows if row.sigma is not None)
        return f"{self.systems.dataset}, {', '.join(networks)}, σ = {self.sigma:g}"


def sigmas_of(record: SystemsRecord) -> list[float]:
    """The σ of its rows, the smallest first."""
    return sorted({row.sigma for row in record.rows if row.sigma is not None})


def paper_report(systems: SystemsRecord, attacks: AttacksRecord) -> Group:
    """All tables of all σ, for the terminal."""
    views = [PaperView(systems, attacks, sigma) for sigma in sigmas_of(systems)]
    return Group(*(table.as_rich() for view in views for table in all_tables(view)))


def all_tables(view: PaperView) -> list[PaperTable]:
    """Tables 1, 3 or 5, 4, and what the paper does not show."""
    return [needs_table(view), distances_table(view), radii_table(view), claims_table(view), tiers_table_of(view)]


def needs_table(view: PaperView) -> PaperTable:
    """Table 1, from the facts of the run."""
    return PaperTable(
        title=f"Table 1: what each method needs and gives; {view.heading}",
        note="labels: of the row's own training (in brackets: of those before it); passes: forward passes for a class "
        "with a radius, as the paper answers; accuracy: of that answer; overclaims: of the radii that one pass serves, "
        f"where the method answers by one, above what Certify proves or of another class. {promises_note(view)}",
        headings=(
            "method",
            "starts from",
            "labels",
            "epochs",
            "minutes",
            "passes",
            "accuracy",
            "certified",
            "overclaims",
        ),
        lines=tuple(_needs(row) for row in view.rows),
    )


def promises_note(view: PaperView) -> str:
    """What the calibrated radii of all rows of a data set promise, each by itself and all of them together."""
    tried = view.calibrated
    if not tried:
        return "No radius here was calibrated."
    first = tried[0]
    return (
        f"Calibrated: for inputs like {first.calibration_images:,} images of the split calibration, at most a share "
        f"α = {first.calibration_alpha:g} of the positive radii overclaim, with confidence "
        f"{1 - first.calibration_delta:g} for each calibration by itself; {len(tried)} were tried on the same images, "
        f"which leaves {view.left_for_chosen:.2f} for one that is chosen among them by such figures. Overclaims are "
        "counted on the split test."
    )


def _needs(row: SystemRow) -> tuple[str, ...]:
    trained, monte_carlo = row.trained, row.settings.monte_carlo
    labels = "yes" if trained.labels else f"no ({'yes' if trained.labels_in_all else 'no'})"
    passes = 1 if row.evaluated == "deterministic" else monte_carlo.n0 + monte_carlo.n
    return (
        row.system,
        trained.start or "fresh weights",
        labels,
        str(trained.epochs),
        f"{trained.seconds / 60:.1f}" if trained.seconds else NO_RADIUS,
        f"{passes:,}",
        _percent(accuracy_of(row)),
        _certified(row),
        _overclaims(row),
    )


def _certified(row: SystemRow) -> str:
    """What is promised of the radius of the answer."""
    if row.kind == "deterministic":
        return "proven for every image"
    if row.evaluated == "stochastic":
        return f"Certify, α = {row.settings.monte_carlo.alpha:g} an image"
    if row.calibration is None:
        return "no: nothing can be promised"
    return f"calibrated, α = {row.calibration.alpha:g} of radii"


def _overclaims(row: SystemRow) -> str:
    if row.kind == "deterministic":
        return "none possible"
    if row.evaluated == "stochastic":
        return NO_RADIUS  # the answer is Certify's own
    claimed = np.array(row.one_pass.served[: row.proven_images]) > 0
    return f"{int(row.overclaims('served').sum())} of {int(claimed.sum())}"


def distances_table(view: PaperView) -> PaperTable:
    """Table 3 or 5: L-bound, PGD and DDN, and beside them AutoAttack, the calibrated and the proven radius."""
    published, lines = view.published, []
    for row in view.rows:
        lines.append(_distances(row, view))
        if printed := published.rows.get(row.system):
            pairs = (printed.l_bound, printed.pgd, printed.ddn)
            numbers = [cell for pair in pairs for cell in _pair(pair, 4)]
            lines.append((f"paper: {printed.printed}", *numbers, *(NO_RADIUS,) * 5))
    return PaperTable(
        title=f"Table {published.number}: L-bound, adversarial distances, and radii; {view.heading}",
        note=f"median and mean, L2, pixels in [0,1]. paper: {published.dataset}, {published.architecture}, σ = "
        f"{published.sigma:g}. An image that is misclassified as it is counts as distance 0, one that no attack "
        f"changes within 4 as 4. {_attacked_note(view)} calibrated: served by one pass; proven: by Certify, 0 where it "
        "abstains. The radii of `lipschitz` are proven in one pass, its L-bound is the same before rounding.",
        headings=(
            "system",
            "L-bound: median",
            "mean",
            "PGD: median",
            "mean",
            "DDN: median",
            "mean",
            "AutoAttack: robust",
            "calibrated: median",
            "mean",
            "proven: median",
            "mean",
        ),
        lines=tuple(lines),
    )


def _attacked_note(view: PaperView) -> str:
    by_kind = {row.evaluated: row.images.images for row in view.attacks.rows if row.attack != "AutoAttack"}
    counts = [f"{images:,} for {kind} models" for kind, images in by_kind.items()]
    auto = next((row for row in view.attacks.rows if row.attack == "AutoAttack"), None)
    counts += [f"{auto.images.images:,} for AutoAttack, within {auto.settings.limit:g}"] if auto else []
    return f"Attacked images: {', '.join(counts)}." if counts else "Attacks: not run."


def _distances(row: SystemRow, view: PaperView) -> tuple[str, ...]:
    cells = [row.system, *_statistics(paper_l_bound(row))]
    for name in ("PGD", "DDN"):
        attack = view.attack(row.system, name)
        if attack is None:
            cells += [NOT_RUN, NOT_RUN]
        else:
            median = f"> {attack.settings.limit:g}" if attack.median is None else f"{attack.median:.4f}"
            cells += [median, f"{attack.mean:.4f}"]
    auto = view.attack(row.system, "AutoAttack")
    stochastic = row.evaluated == "stochastic"
    cells.append(_percent(float(np.isinf(auto.finite).mean())) if auto else NO_RADIUS if stochastic else NOT_RUN)
    promised = row.calibration is not None or row.kind == "deterministic"
    cells += _statistics(np.array(row.one_pass.served)) if promised else [NO_RADIUS, NO_RADIUS]
    if row.noisy is None:
        return (*cells, *_statistics(np.array(row.one_pass.served)))
    return (*cells, *_statistics(np.array(row.noisy.proven_radius)))


def radii_table(view: PaperView) -> PaperTable:
    """Table 4: certified radii of an adversarially trained network, of the same after one epoch of (10), and others."""
    lines: list[tuple[str, ...]] = []
    for row in view.rows:
        if row.noisy is None:
            continue
        radii = np.array(row.noisy.proven_radius)
        lines.append((row.system, *_statistics(radii), f"{radii.max():.4f}"))
        if printed := TABLE_4.get(row.system):
            numbers = (printed.median, printed.mean, printed.maximum)
            lines.append((f"paper: {printed.printed}", *(f"{number:.4f}" for number in numbers)))
    measured = [row for row in view.rows if row.noisy]
    how = "; ".join(dict.fromkeys(row.settings.monte_carlo.described for row in measured)) or NOT_RUN
    counts = " or ".join(dict.fromkeys(f"{row.proven_images:,}" for row in measured)) or "0"
    return PaperTable(
        title=f"Table 4: certified radii; {view.heading}",
        note=f"{how}, {counts} images, 0 where it abstains. paper: ImageNet-1k, ResNet-50, σ = 0.25, 1,000 images.",
        headings=("system", "median", "mean", "max."),
        lines=tuple(lines),
    )


def claims_table(view: PaperView) -> PaperTable:
    """What the paper does not show: radii of one pass compared with what Certify proves, and with attacks."""
    lines = list[tuple[str, ...]]()
    for row in view.rows:
        if row.noisy is None:
            lines.append((row.system, *(NO_RADIUS,) * 3, "none possible", NO_RADIUS, _broken(row, view)))
            continue
        positive = row.claims("average_l_bound")[0] > 0
        average = f"{row.overclaims('average_l_bound')[positive].mean():.1%}" if positive.any() else NO_RADIUS
        cells = [row.system, average, *(_counted(row, name) for name in ("l_bound", "nominal", "served"))]
        agree = np.array(row.one_pass.label[: row.proven_images]) == np.array(row.noisy.vote_label)
        lines.append((*cells, _percent(float(agree.mean())), _broken(row, view)))
    return PaperTable(
        title=f"Radii of one pass that overclaim; {view.heading}",
        note="of positive radii: above what Certify proves at that image, or of another class than its own; ≤: "
        f"exact bound, confidence {BAND_CONFIDENCE:g}, of a calibrated radius without regard to that others were "
        "refused on the same images. L-bound of the average: of the probabilities of all noisy passes, for which "
        "Theorem 3 holds: what it has is no error of a single pass, but of comparing probabilities with the votes, and "
        "the n, of Certify. agree: one pass names the class with most votes. A radius that Certify cannot prove with "
        f"its n may hold all the same. attacked within: {_within_note(view)}{_refused_note(view)}",
        headings=(
            "system",
            "L-bound of the average",
            "L-bound of v",
            "nominal radius of v",
            "calibrated radius",
            "agree",
            "attacked within",
        ),
        lines=tuple(lines),
    )


def _counted(row: SystemRow, name: Literal["served", "nominal", "l_bound"]) -> str:
    """How many of the positive radii overclaim, with the exact bound of their share."""
    positive = row.claims(name)[0] > 0
    seen = rate(row.overclaims(name)[positive], delta=1 - BAND_CONFIDENCE)
    most = math.ceil(1000 * seen.upper_bound) / 1000
    share = f" ({seen.count / positive.sum():.1%}, ≤ {most:.1%})" if positive.any() else ""
    return f"{seen.count} of {positive.sum()}{share}"


def _within_note(view: PaperView) -> str:
    found = [row for row in view.attacks.rows if row.attack == "PGD" and row.evaluated == "deterministic"]
    nearest = f" above {found[0].nearest:g}, the nearest that PGD looks" if found else ""
    return (
        "images at which an attack changed the class of one pass within the radius that it serves, of those that were "
        f"attacked and have one{nearest}. A calibrated radius is about the smoothed class, and does not exclude it; "
        "that of `lipschitz`, which is proven, does."
    )


def _refused_note(view: PaperView) -> str:
    """Why the single pass of some systems serves no radius, shortly: what follows in the message is advice."""
    refused = [(row.system, row.refused.split("; ")[0]) for row in view.rows if row.refused]
    return "".join(f" Nothing is promised of `{system}`: {reason}." for system, reason in refused)


def _broken(row: SystemRow, view: PaperView) -> str:
    """Attacks on one pass that succeeded within the radius that it serves, by any of the attacks.

    Of the images that have a radius which is not nearer than the attacks look.
    """
    attacks = [found for name in ("PGD", "DDN", "AutoAttack") if (found := view.attack(row.system, name))]
    if row.evaluated == "stochastic" or not any(row.one_pass.served):
        return NO_RADIUS
    if not attacks:
        return NOT_RUN
    nearest, looked = np.full(len(row.one_pass.served), np.inf), min(attack.nearest for attack in attacks)
    for attack in attacks:
        count = min(len(attack.distances), len(nearest))
        nearest[:count] = np.minimum(nearest[:count], attack.finite[:count])
    served = np.array(row.one_pass.served)
    seen = np.arange(len(served)) < max(len(one.distances) for one in attacks)
    attacked = (nearest > 0) & (served > looked) & seen
    return f"{int((attacked & (nearest < served)).sum())} of {int(attacked.sum())}"


def tiers_table_of(view: PaperView) -> PaperTable:
    """What each tier of answer certifies and costs, of the systems whose one pass promises anything."""
    confirmed = next((row.confirmed for row in view.rows if row.confirmed), ())
    radii = [one.radius for one in confirmed] or [view.sigma]
    lines = [line for row in view.rows for line in _tiers(row, radii)]
    return PaperTable(
        title=f"Tiers of answer: certified accuracy and cost; {view.heading}",
        note="in percent: right, and certified within r; passes: mean over images and radii; ms: passes times what one "
        "takes in ONNX Runtime without a server. An overclaim of one pass whose class is right counts as certified.",
        headings=("system, tier", *(f"at {radius:g}" for radius in radii), "passes", "ms", "holds"),
        lines=tuple(lines),
    )


def _tiers(row: SystemRow, radii: Sequence[float]) -> Iterator[tuple[str, ...]]:
    at = np.array(radii)
    if row.kind == "deterministic":
        shares = [_percent(share) for share in served_curve(row, at).share]
        yield (f"{row.system}, one pass", *shares, "1", f"{row.times.one_pass:.2f}", "proven")
        return
    if row.noisy is None or row.times.noisy_pass is None:
        return
    monte_carlo, each = row.settings.monte_carlo, row.times.noisy_pass
    if row.calibration is not None:
        shares = [_percent(share) for share in served_curve(row, at).share]
        held = f"α = {row.calibration.alpha:g} of radii"
        yield (f"{row.system}, one pass", *shares, "1", f"{row.times.one_pass:.2f}", held)
    truth, label = (np.array(values[: row.proven_images]) for values in (row.one_pass.truth, row.one_pass.label))
    shares = [_percent(float((np.array(one.proven) & (truth == label)).mean())) for one in row.confirmed]
    votes = float(np.mean([one.votes for one in row.confirmed]))
    took = row.times.one_pass + votes * each
    held = f"α = {row.settings.confirm_alpha:g} an image"
    yield (f"{row.system}, confirm", *shares, f"{1 + votes:,.0f}", f"{took:.2f}", held)
    curve = certify_curve(row, at)
    if curve is not None:
        passes = monte_carlo.n0 + monte_carlo.n
        shares = [_percent(share) for share in curve.share]
        held = f"α = {monte_carlo.alpha:g} an image"
        yield (f"{row.system}, certify", *shares, f"{passes:,}", f"{passes * each:.2f}", held)


def _pair(pair: PublishedPair | None, digits: int) -> tuple[str, str]:
    return (NO_RADIUS, NO_RADIUS) if pair is None else (f"{pair.median:.{digits}f}", f"{pair.mean:.{digits}f}")


def _statistics(values: Any) -> tuple[str, str]:
    return f"{np.median(values):.4f}", f"{np.mean(values):.4f}"


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"
