"""What a terminal shows of an audit, and the sentences and numbers that its page shares."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from heatserve.certification.audit import POWER, Rate
from heatserve.export.audit.audit import Audit, Measured
from heatserve.export.calibration.report import ACCURACY_CAPTION
from heatserve.export.card_parts import Calibration, MonteCarlo

LISTED_RADII = 5
"""Every so many radii are in a table; the figure shows all of them."""


def headline(audit: Audit) -> str:
    """The verdict in one line."""
    return f"{'PASS' if audit.verdict.passed else 'FAIL'}: {audit.card.model}, version {audit.version}"


def findings(audit: Audit) -> list[str]:
    """Why it passed or failed, and what that is worth: sentences."""
    measured, verdict = audit.measured, audit.verdict
    if measured is None or audit.card.calibration is None:
        return list(verdict.reasons)
    sentences = list(verdict.reasons) or [_nothing_against(measured, audit.card.calibration)]
    if verdict.detectable is not None and verdict.fails_from is not None:
        sentences.append(
            f"Power: of {measured.overclaims.total} positive radii, {verdict.fails_from} overclaims or more fail. The "
            f"smallest true rate that fails with probability {POWER:.0%} is {percent(verdict.detectable)}."
        )
    return [*sentences, _about_groups(measured)]


def _about_groups(measured: Measured) -> str:
    count, flagged = len(measured.groups), sum(group.flagged for group in measured.groups)
    if not flagged:
        return f"None of {count} groups overclaims detectably more than the promise allows for all requests together."
    return (
        f"{flagged} of {count} groups overclaim more than the promise allows for all requests together. That does not "
        f"decide the verdict: look at them before serving requests that are mostly of their kind."
    )


def _nothing_against(measured: Measured, calibration: Calibration) -> str:
    found = measured.overclaims
    return (
        f"Nothing speaks against the promise: {found.count} of {found.total} positive radii overclaim, and the exact "
        f"lower bound on the rate, {percent(found.lower_bound)}, is not above {percent(calibration.alpha)}."
    )


def rates(measured: Measured) -> list[tuple[str, Rate]]:
    """Everything that was counted, by name; first what the verdict rests on."""
    return [
        ("overclaims, of positive radii", measured.overclaims),
        ("overclaims, of all answers", measured.overclaims_of_all),
        ("overclaims of the nominal radius (no promise)", measured.nominal_overclaims),
        ("agreement with the smoothed class", measured.agreement),
        ("clean accuracy", measured.clean_accuracy),
        ("accuracy of the smoothed classifier", measured.smoothed_accuracy),
    ]


def accuracy_rows(measured: Measured) -> Sequence[tuple[float, ...]]:
    """Radius, then certified accuracy there: single pass, of that what Certify backs, L-bound, nominal, Certify."""
    found = measured.certified_accuracy
    assert found.backed is not None  # an audit always compares with Certify
    columns = (found.radii, found.single_pass, found.backed, found.l_bound, found.nominal, found.monte_carlo)
    return [*zip(*columns, strict=True)][::LISTED_RADII]


def percent(share: float) -> str:
    """A share to a tenth of a percent, or to two digits where that would be 0."""
    return f"{share:.1%}" if share == 0 or share >= 0.001 else f"{100 * share:.2g}%"


def share_of(rate: Rate) -> str:
    """The observed share, in percent."""
    return percent(rate.count / rate.total) if rate.total else "–"


def audit_report(audit: Audit) -> Group:
    """Verdict, promise, rates with their bounds, certified accuracy, and the groups that overclaim."""
    parts: list[RenderableType] = [
        Text(headline(audit), style="bold green" if audit.verdict.passed else "bold red"),
        *(Text(f"  {sentence}") for sentence in findings(audit)),
    ]
    calibration, measured = audit.card.calibration, audit.measured
    if calibration is not None and measured is not None:
        parts += [
            Text(f"promise {calibration.promise}"),
            Text(f"judged  {_certify(measured.monte_carlo)}, graph sha256 {audit.card.graph_sha256}"),
            Text(""),
            _rate_table(measured, calibration.confidence),
            _accuracy_table(measured),
            _group_table(measured, calibration.confidence),
        ]
    return Group(*parts)


def _certify(how: MonteCarlo) -> str:
    return f"with {how.described}, seed = {how.seed}"


def result_table(title: str, *headings: str, caption: str | None = None) -> Table:
    """A table without rows: its first column is flushed left, the others right."""
    table = Table(title=title, caption=caption, title_justify="left", caption_justify="left", box=box.SIMPLE_HEAD)
    for heading in headings:
        table.add_column(heading, justify="right" if table.columns else "left")
    return table


def _cells(rate: Rate) -> tuple[str, ...]:
    return f"{rate.count} of {rate.total}", share_of(rate), percent(rate.lower_bound), percent(rate.upper_bound)


def _rate_table(measured: Measured, confidence: float) -> Table:
    data = measured.data
    table = result_table(
        f"{data.images} images of split {data.split!r} of {data.dataset}",
        "what",
        "count",
        "share",
        "at least",
        "at most",
        caption=f"exact (Clopper-Pearson) bounds, each with confidence {confidence:g}",
    )
    for name, rate in rates(measured):
        table.add_row(name, *_cells(rate))
    return table


def _accuracy_table(measured: Measured) -> Table:
    table = result_table(
        "certified accuracy at L2 radius r, pixels in [0,1]",
        "r ≥",
        "single pass",
        "backed",
        "its L-bound",
        "nominal (no promise)",
        measured.monte_carlo.heading,
        caption=ACCURACY_CAPTION,
    )
    for radius, *shares in accuracy_rows(measured):
        table.add_row(f"{radius:g}", *(percent(share) for share in shares))
    return table


def _group_table(measured: Measured, confidence: float) -> RenderableType:
    """Only the groups in which something overclaims: no other can be flagged."""
    chosen = [group for group in measured.groups if group.overclaims.count]
    if not chosen:
        return Text("")
    table = result_table(
        "groups with an overclaim",
        "by",
        "group",
        "count",
        "share",
        "at least",
        "at most",
        "",
        caption=f"{len(measured.groups)} groups are looked at: bounds hold for all together with confidence "
        f"{confidence:g} (Bonferroni)",
    )
    for group in chosen:
        flag = Text("FLAGGED", style="bold red") if group.flagged else ""
        table.add_row(group.by, group.name, *_cells(group.overclaims), flag)
    return table
