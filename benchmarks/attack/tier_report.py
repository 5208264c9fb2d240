"""What an attack on the tiers found, for a reader: tables and sentences."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group
from rich.table import Table
from rich.text import Text

from heatserve.benchmarks.records.attack_tiers import (
    AskedOften,
    HonestCost,
    KnownSeed,
    SpoofedRadii,
    TierAttackRecord,
    TierTotal,
    WithinEpsilon,
)

_PROMISE = (
    "Where the clean image is certifiable at r, an adversary within r can make the system abstain, but never confirm "
    "another class (but for α)."
)
"""What a user of confirm may rely on."""


def tier_report(record: TierAttackRecord) -> Group:
    """Tables of honest and of attacked inputs, of what each tier overclaims, and of questions that were repeated."""
    broken = sum(row.broken for row in record.within)
    promised = sum(row.promised for row in record.within)
    return Group(
        _honest_table(record.honest),
        _within_table(record.within),
        _spoofed_table(record.spoofed),
        _total_table(record),
        Text(_PROMISE),
        Text(
            f"Another class confirmed near {broken} of {promised} images proven at r, by inputs nearer than r",
            style="bold red" if broken else "green",
        ),
        *map(_often, record.asked_often),
        _known_seed(record.known_seed),
    )


def _table(title: str, caption: str, first: Sequence[str], headings: Sequence[str]) -> Table:
    table = Table(title=title, caption=caption, title_justify="left", caption_justify="left")
    for heading in first:
        table.add_column(heading)
    for heading in headings:
        table.add_column(heading, justify="right")
    return table


def _honest_table(rows: Sequence[HonestCost]) -> Table:
    table = _table(
        f"Images as they are, {rows[0].images} of 8 bits",
        "proven: Certify proves r for the class of the single pass; in brackets: of those",
        (),
        ("r", "proven", "confirm: yes", "cascade: yes", "claimed", "votes: median", "mean", "mean, cascade"),
    )
    for row in rows:
        table.add_row(
            f"{row.radius:g}",
            str(row.proven),
            f"{row.confirmed} ({row.confirmed_of_proven})",
            f"{row.cascaded} ({row.cascaded_of_proven})",
            f"{row.claimed} ({row.claimed_of_proven})",
            f"{row.median_votes:g}",
            f"{row.mean_votes:.1f}",
            f"{row.mean_votes_cascade:.1f}",
        )
    return table


def _within_table(rows: Sequence[WithinEpsilon]) -> Table:
    table = _table(
        "Images near which the searches within L2 ε found such inputs",
        "false claims: one pass serves r at an input whose class is not certified at r, by many votes; refused: of "
        "these, confirm says yes at no such input; false yes: it says yes at one; promised: images proven at r, where "
        "ε is at most r; another: of these, confirm says yes to another class; abstains: it says no longer yes, of "
        "those where it does for the clean image",
        (),
        ("ε", "r", "false claims", "refused", "false yes", "promised", "another", "abstains"),
    )
    for row in rows:
        table.add_row(
            f"{row.epsilon:g}",
            f"{row.radius:g}",
            str(row.overclaimed),
            str(row.refused),
            str(row.confirm_overclaims),
            *((str(row.promised), str(row.broken), f"{row.stopped} of {row.held}") if row.can_promise else "–––"),
        )
    return table


def _spoofed_table(rows: Sequence[SpoofedRadii]) -> Table:
    table = _table(
        "Served radii driven above that of the class, and confirm asked about these very radii",
        "the radius of the class is judged by a sequential test of many votes, not by what Certify proves",
        (),
        ("ε", "spoofed", "confirm: no", "undecided", "yes"),
    )
    for row in rows:
        counts = (row.refuted, row.undecided, row.confirmed)
        table.add_row(f"{row.epsilon:g}", f"{row.spoofed} of {row.images}", *map(str, counts))
    return table


def _total_table(record: TierAttackRecord) -> Table:
    table = _table(
        "Overclaims in all questions about what was found",
        f"bound: {record.settings.confidence:.0%}, on their share, were the questions independent; images: of "
        f"{record.data.images}, those near which one was found",
        ("tier",),
        ("questions", "overclaims", "bound", "images"),
    )
    for tier, total in record.totals.items():
        table.add_row(tier, *_counts(total))
    return table


def _counts(total: TierTotal) -> tuple[str, ...]:
    return f"{total.questions:,}", str(total.overclaims), f"{total.upper_bound:.2%}", str(total.images)


def _often(row: AskedOften) -> Text:
    if row.nearest_share is None:
        return Text(f"r = {row.radius:g}: nothing was found to ask again.")
    return Text(
        f"r = {row.radius:g}, α = {row.alpha:g}: {row.yes} of {row.questions} repeated questions at {row.inputs} "
        f"inputs were answered yes, each wrongly (their classes have at most {row.nearest_share:.1%} of the votes, r "
        f"needs {row.needed_share:.1%}); with so many, at most {row.alpha * row.questions:.2g} are expected"
    )


def _known_seed(found: KnownSeed) -> Text:
    return Text(
        f"A classifier whose class 1 has {found.probability:.1%} of all votes at every image: who knows the noise "
        f"has it confirmed at {found.confirmed_with_known_seed} of {found.images} images; with fresh noise "
        f"{found.confirmed_with_fresh_noise} of {found.fresh_questions} questions are answered yes"
    )
