"""Tables 1, 3 to 5 of the paper on each data set that was measured, with what the paper printed beside them."""

from __future__ import annotations

from collections.abc import Iterator

from heatserve.benchmarks.paper.published import TABLE_3, TABLE_4, TABLE_5, PublishedDistances, PublishedTable
from heatserve.benchmarks.records.paper import AttackRow, SystemRow
from heatserve.benchmarks.report.document import NOT_RUN, Block, Prose, Section, Table
from heatserve.benchmarks.report.evidence import Evidence, PaperResults
from heatserve.benchmarks.report.formats import DASH, count, decimals, percent, plain
from heatserve.benchmarks.report.images import Images, largest, mean, median, named
from heatserve.benchmarks.report.sections.table_2 import table_2

ATTACKS = ("PGD", "DDN", "AutoAttack")


def tables_section(evidence: Evidence) -> Section | None:
    """All tables that a data set has rows for."""
    blocks: list[Block] = []
    for results in evidence.paper:
        if results.systems and results.systems.rows:
            blocks.append(_table_1(results))
        if results.speed:
            blocks.append(table_2(results.folder, results.speed, results.file("speed")))
        for sigma in results.sigmas:
            blocks += [_distances(results, sigma), _table_4(results, sigma)]
    if not blocks:
        return None
    start = Prose(
        "Rows are ours unless they say “the paper”, whose numbers are printed ones: of another network, trained "
        "longer, on "
        "another machine. Distances and radii are L2, pixels in [0,1]."
    )
    return Section("tables", "The paper’s tables, ours beside them", [start, *blocks])


def _table_1(results: PaperResults) -> Table:
    rows = results.systems.rows if results.systems else ()
    return Table(
        caption=f"Table 1, {results.folder}: what each method needs, and gives",
        headings=[
            "system",
            "starts from",
            "labels",
            "certified",
            "σ",
            "epochs",
            "minutes",
            "passes an answer",
            "accuracy",
            "overclaims: served radius",
            "nominal radius",
        ],
        rows=[[*_table_1_cells(row)] for row in rows],
        sources=[results.file("systems")],
        words=4,
        note=(
            "labels: whether any training used them that led to the network. certified: what a radius of one pass "
            "promises. epochs, minutes: after the baseline; of what starts from fresh weights its own. passes: as the "
            "paper answers. "
            "overclaims: of the positive radii of one pass, those above what Certify proves or of another class."
        ),
    )


def _table_1_cells(row: SystemRow) -> Iterator[str]:
    yield named(row.system)
    yield row.trained.start or "fresh weights"
    yield "yes" if row.trained.labels_in_all else "no"
    yield promise(row)
    yield plain(row.sigma)
    yield count(row.trained.epochs)
    yield decimals(None if row.trained.seconds is None else row.trained.seconds / 60, 1)
    certify = row.settings.monte_carlo
    yield count(certify.n0 + certify.n if row.evaluated == "stochastic" else 1)
    yield percent(float(Images(row).right.mean()) if row.one_pass.right else None)
    for radius in ("served", "nominal"):
        yield overclaimed(row, radius)


def promise(row: SystemRow) -> str:
    """What a radius of one pass promises."""
    if row.kind == "deterministic":
        return "proven, every image"
    if row.calibration is None:
        return "no: radius 0 is served"
    return f"rate ≤ {plain(row.calibration.alpha)}, confidence {plain(row.calibration.confidence)}"


def overclaimed(row: SystemRow, radius: str) -> str:
    """How many positive radii of one pass overclaim, of those about which Certify was asked."""
    if row.noisy is None:
        return "–"
    images = Images(row)
    claimed = (images.served if radius == "served" else images.nominal)[: row.proven_images]
    found = row.overclaims("served" if radius == "served" else "nominal")
    return f"{count(found.sum())} of {count((claimed > 0).sum())}"


def _distances(results: PaperResults, sigma: float) -> Table:
    published = TABLE_3 if results.folder.startswith("imagenet") else TABLE_5
    return Table(
        caption=f"Table {published.number}, {results.folder}, σ = {plain(sigma)}: bounds, and distances to "
        f"misclassification",
        headings=[
            "system",
            "L\N{NON-BREAKING HYPHEN}bound: median",
            "mean",
            *(f"{attack}: {what}" if what == "median" else what for attack in ATTACKS for what in ("median", "mean")),
            "served radius: median",
            "mean",
            "proven radius: median",
            "mean",
            "images: bound",
            "attacks",
        ],
        rows=[
            *([*_distance_cells(results, row, sigma)] for row in results.rows(sigma)),
            *(_printed_distances(row, published) for row in published.rows.values()),
        ],
        sources=[results.file("systems"), results.file("attacks")],
        note=(
            "An image that is misclassified as it is has distance 0; one for which no attack succeeds within the "
            "limit counts "
            "as the limit in means. The L-bound of stochastic models is of averaged probabilities, as in the paper. "
            "served: "
            "calibrated; proven: by Certify. The paper’s rows: "
            f"{published.dataset}, {published.architecture}, σ = {plain(published.sigma)}."
        ),
    )


def _printed_distances(row: PublishedDistances, published: PublishedTable) -> list[str]:
    """A row of the paper; it has no AutoAttack, no calibrated and no proven radii."""
    bound = (DASH, DASH) if row.l_bound is None else (f"{row.l_bound.median:.3f}", f"{row.l_bound.mean:.3f}")
    attacks = [f"{value:.4f}" for pair in (row.pgd, row.ddn) for value in (pair.median, pair.mean)]
    images = DASH if published.images is None else count(published.images)
    return [f"the paper: {row.printed}", *bound, *attacks, *[DASH] * 6, images, images]


def _distance_cells(results: PaperResults, row: SystemRow, sigma: float) -> Iterator[str]:
    images = Images(row)
    yield named(row.system)
    yield decimals(median(images.l_bound))
    yield decimals(mean(images.l_bound))
    attacks = [results.attack(row.system, sigma, attack) for attack in ATTACKS]
    for found in attacks:
        yield from _of_attack(found)
    yield decimals(median(images.served))
    yield decimals(mean(images.served))
    proven = images.proven if row.noisy else images.served
    yield decimals(median(proven))
    yield decimals(mean(proven))
    yield count(len(images.l_bound))
    yield " / ".join(count(len(found.distances)) for found in attacks if found) or NOT_RUN


def _of_attack(found: AttackRow | None) -> tuple[str, str]:
    if found is None:
        return NOT_RUN, NOT_RUN
    middle = found.median
    return (f"> {plain(found.settings.limit)}" if middle is None else decimals(middle), decimals(found.mean))


def _table_4(results: PaperResults, sigma: float) -> Table:
    """Adversarially trained, then one epoch of (10), and the baseline."""
    found = [(name, results.row(name, sigma)) for name in ("madry-heat", "madry", "baseline")]
    return Table(
        caption=f"Table 4, {results.folder}, σ = {plain(sigma)}: certified radius of adversarially trained models",
        headings=["system", "by", "median", "mean", "maximum", "images"],
        rows=[
            *([name, *cells] for name, row in found for cells in _radius_cells(row)),
            *(
                [
                    f"the paper: {row.printed}",
                    "Certify",
                    f"{row.median:.4f}",
                    f"{row.mean:.4f}",
                    f"{row.maximum:.4f}",
                    DASH,
                ]
                for row in TABLE_4.values()
            ),
        ],
        sources=[results.file("systems")],
        words=2,
        note="An image at which Certify abstains counts with radius 0. served: what one calibrated pass answers. "
        "The paper’s rows: 1,000 images of ImageNet-1k, ResNet-50, σ = 0.25.",
    )


def _radius_cells(row: SystemRow | None) -> Iterator[list[str]]:
    if row is None or row.noisy is None:
        yield ["Certify", NOT_RUN, NOT_RUN, NOT_RUN, NOT_RUN]
        return
    images = Images(row)
    for by, values in (("Certify", images.proven), ("served", images.served)):
        yield [by, *(decimals(of(values)) for of in (median, mean, largest)), count(len(values))]
