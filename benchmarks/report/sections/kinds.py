"""Both kinds of certificates, and what votes prove, on the same images."""

from __future__ import annotations

from heatserve.benchmarks.paper.summary import BAND_CONFIDENCE
from heatserve.benchmarks.records.kinds import KindRow, KindsRecord
from heatserve.benchmarks.report.charts.chart import Axis, Chart
from heatserve.benchmarks.report.curves import share_line
from heatserve.benchmarks.report.document import Bullets, Figure, Prose, Section, Table
from heatserve.benchmarks.report.formats import count, decimals, joined, percentage, plain, radius_name
from heatserve.benchmarks.report.reported import ReportedResults

_STYLES = {"one pass": 1, "confirm": 3, "certify": 0}


def kinds_section(reported: ReportedResults) -> Section | None:
    """The table and the curves of `bench kinds`."""
    record = reported.kept.kinds
    if record is None:
        return None
    return Section(
        "kinds",
        "Two kinds of certificates",
        [
            Prose(
                "A statistical certificate is about the smoothed classifier and holds for most images like those "
                "that it was calibrated on. A deterministic one is about the class that is served, and holds for "
                "every image, whoever made it: the network is 1-Lipschitz by construction. Both take one pass."
            ),
            kinds_figure(record),
            Bullets([_meaning(row) for row in record.rows]),
        ],
    )


def kinds_chart(record: KindsRecord) -> Chart:
    """Certified accuracy over radius, each way of answering a curve."""
    order = sorted(range(len(record.radii)), key=record.radii.__getitem__)
    radii = [0.0, *(record.radii[i] for i in order)]
    lines = [
        share_line(
            kind_row_name(row),
            radii,
            [row.accuracy, *(row.certified[i] for i in order)],
            style=_style(row),
            images=row.data.images,
        )
        for row in record.rows
    ]
    return Chart(
        label=f"Certified accuracy over radius, {joined(line.name for line in lines)}",
        x=Axis(label="L2 radius, pixels in [0,1]", low=0, high=max(radii) or 1),
        y=Axis(label="certified accuracy", low=0, high=1, percent=True),
        lines=lines,
    )


def kinds_figure(record: KindsRecord) -> Figure:
    """The chart with its table."""
    data = record.rows[0].data
    return Figure(
        name="kinds-figure",
        title=f"Certified accuracy over radius, {data.dataset}",
        chart=kinds_chart(record),
        take_away=_take_away(record),
        promise=(
            f"Split “{data.split}” of {data.dataset}. At radius 0: accuracy. Bands: exact, confidence "
            f"{BAND_CONFIDENCE:g} at each radius. Of the statistical pass an overclaim whose class is right counts as "
            "certified; 36/255, 72/255 and 108/255 are the radii of the literature on Lipschitz networks."
        ),
        numbers=Table(
            caption="What each way keeps of the accuracy, and what it costs",
            headings=[
                "model",
                "certificate",
                "way",
                "α",
                "test images",
                "accuracy",
                *(f"r = {radius_name(radius)}" for radius in record.radii),
                "passes",
                "ms an image",
            ],
            rows=[
                [
                    row.model,
                    row.kind,
                    row.way,
                    plain(row.alpha),
                    count(row.data.images),
                    percentage(row.accuracy),
                    *(percentage(share) for share in row.certified),
                    count(row.passes),
                    decimals(row.milliseconds, 2),
                ]
                for row in record.rows
            ],
            sources=["kinds.json"],
            words=3,
            note="ms: in ONNX Runtime, without a server; of confirm and Certify their passes times what one takes "
            "in batches.",
        ),
    )


def kind_row_name(row: KindRow) -> str:
    """A way of answering, for a legend."""
    if row.kind == "deterministic":
        return f"{row.way}, deterministic ({row.model})"
    return f"{row.way} ({row.model})"


def _style(row: KindRow) -> int:
    return 2 if row.kind == "deterministic" else _STYLES.get(row.way, 4)


def _take_away(record: KindsRecord) -> str:
    at = largest_common(record)
    ordered = sorted(record.rows, key=lambda row: -row.certified[at])
    return (
        f"At radius {radius_name(record.radii[at])}: "
        + joined(f"{percentage(row.certified[at])} by {kind_row_name(row)}" for row in ordered)
        + "."
    )


def largest_common(record: KindsRecord) -> int:
    """The index of the radius that is compared: 0.25 where there is one."""
    return record.radii.index(0.25) if 0.25 in record.radii else 0


def _meaning(row: KindRow) -> str:
    if row.kind == "deterministic":
        return f"{row.model}, {row.way}: proven for every image; nothing is left to chance."
    if row.way == "one pass":
        return (
            f"{row.model}, {row.way}: at most a share α = {plain(row.alpha)} of the positive radii overclaim, with "
            "the confidence on the card, for images like those of the calibration; not for images that an adversary "
            "makes."
        )
    return (
        f"{row.model}, {row.way}: each answer is wrong with probability at most α = {plain(row.alpha)}, whatever the "
        "image is."
    )
