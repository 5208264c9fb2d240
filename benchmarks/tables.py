"""The tables of `heatserve bench` for the terminal, from what it measured."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.box import SIMPLE
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from heatserve.benchmarks.records.calibration import CalibrationRecord, RefusedRow
from heatserve.benchmarks.records.confirming import ConfirmedModel, ConfirmRecord, VoteCounts
from heatserve.benchmarks.records.front import FrontRecord
from heatserve.benchmarks.records.heat_step import ClassifierSteps, HeatStepRecord
from heatserve.benchmarks.records.kinds import KindsRecord
from heatserve.benchmarks.records.lipschitz import LipschitzTrainingRecord
from heatserve.benchmarks.records.networks import NetworksRecord
from heatserve.benchmarks.records.record import Record
from heatserve.benchmarks.records.shadow import ShadowModel, ShadowRecord, alarms_text
from heatserve.benchmarks.records.speed import EngineRecord, EngineRow, LatencyRecord
from heatserve.benchmarks.records.votes import DecidedRadius, VoteRecord


def latency_table(record: LatencyRecord) -> Table:
    """Each way to answer one image, by classifier."""
    table = Table(title=f"ms for one image, random weights; {_machine(record)}", title_justify="left")
    table.add_column("way", no_wrap=True)
    for heading in ("p50", "p90", "p99", "÷ plain", "n₀ passes ÷ p50"):
        table.add_column(heading, justify="right")
    for name, found in record.shapes.items():
        table.add_row(f"[bold]{name}[/] n₀={found.n0}")
        stochastic = found.milliseconds["stochastic"].p50
        for way, times in found.milliseconds.items():
            milliseconds = (f"{quantile:.2f}" for quantile in (times.p50, times.p90, times.p99))
            slower = 1.0 if way == "plain" else found.ratios[f"{way} / plain"].p50
            table.add_row(way, *milliseconds, f"{slower:.3f}", f"{stochastic / times.p50:.1f}")
        table.add_section()
    return table


def front_table(record: FrontRecord) -> Table:
    """Each way to ask for one image, by classifier, and what it takes above another."""
    table = Table(title=f"ms for one image, random weights; {_machine(record)}", title_justify="left")
    table.add_column("way", no_wrap=True)
    for heading in ("p50", "p90", "p99"):
        table.add_column(heading, justify="right")
    for name, found in record.shapes.items():
        table.add_row(f"[bold]{name}[/] front: {found.cpu_microseconds:.0f} µs of a core, {found.megabytes:.0f} MiB")
        for way, times in found.milliseconds.items():
            table.add_row(way, *(f"{quantile:.2f}" for quantile in (times.p50, times.p90, times.p99)))
        for pair, above in found.above.items():
            table.add_row(pair, f"{above.p50:.2f}")
        table.add_section()
    return table


def export_tables(record: EngineRecord) -> Group:
    """A table for each classifier, then the engines that are absent, and why."""
    tables = [
        _export_table(f"{name}: ms for a request, p50; {_machine(record)}", rows)
        for name, rows in record.shapes.items()
    ]
    return Group(*tables, *(Text(f"{engine} absent: {why}") for engine, why in record.absent.items()))


def _export_table(title: str, rows: Sequence[EngineRow]) -> Table:
    table = Table(title=title, title_justify="left", box=SIMPLE)
    for heading in ("batch", "engine", "variant"):
        table.add_column(heading, no_wrap=True)
    for heading in ("plain", "certified", "÷ plain", "fp32 ÷ it"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        plain, certified = (f"{times.p50:.4g}" for times in (row.milliseconds.plain, row.milliseconds.certified))
        faster = f"{row.fp32_to_variant.p50:.2f}" if row.fp32_to_variant else None
        slower = f"{row.certified_to_plain.p50:.3f}"
        table.add_row(str(row.batch), row.engine, row.variant, plain, certified, slower, faster)
    return table


def _machine(record: Record) -> str:
    return f"{record.machine.processor}, {record.machine.cores} cores"


def training_report(record: HeatStepRecord) -> Group:
    """The table of each classifier, then what its steps compute."""
    return Group(*(part for name, found in record.shapes.items() for part in _training_parts(name, found, record)))


def _training_parts(name: str, found: ClassifierSteps, record: HeatStepRecord) -> Iterator[RenderableType]:
    yield _training_table(name, found, record)
    differences = found.gradient_differences
    yield Text(
        f"relative difference of gradients: heat and naive {differences.heat_and_naive:.1e}, "
        f"naive in both memory layouts {differences.naive_in_both_layouts:.1e}"
    )
    for one in found.estimators:
        yield Text(
            f"‖∇v‖² by {one.estimator}, δ={one.delta:g}: mean {one.mean:.4g}, relative spread "
            f"{one.spread_of_an_image:.1%} for an image, {one.spread_of_a_batch:.1%} for a batch"
        )


def _training_table(name: str, found: ClassifierSteps, record: HeatStepRecord) -> Table:
    table = Table(
        title=f"{name}: one step of {found.batch_size} random images, random weights, κ={record.kappa}; "
        f"{record.device_name or record.machine.processor}, threads: {record.threads}",
        title_justify="left",
        box=SIMPLE,
        padding=(0, 1, 0, 0),
    )
    table.add_column("variant", no_wrap=True)
    for heading in ("ms", "images/s", "speed-up", "÷ floor", "MiB"):
        table.add_column(heading, justify="right", no_wrap=True)
    for variant, cost in found.variants.items():
        peak = "–" if cost.peak_mib is None else f"{cost.peak_mib:,.0f}"
        ratios = f"{cost.speed_up:.2f}", f"{cost.ratio_to_floor:.2f}"
        table.add_row(variant, f"{cost.milliseconds.median:,.1f}", f"{cost.images_per_second:,.1f}", *ratios, peak)
    table.add_section()
    table.add_row("floor", f"{found.floor.milliseconds:,.1f}")
    for part, cost_of_part in found.floor.parts.items():
        table.add_row(f"  {cost_of_part.count} × {part}", f"{cost_of_part.milliseconds.median:,.1f}")
    return table


def votes_report(record: VoteRecord) -> Group:
    """The table of speeds with its ratios, then what was decided with how many votes."""
    speed = record.speed
    table = Table(
        title=f"noisy passes a second, {speed.architecture}, random weights; {_machine(record)}", title_justify="left"
    )
    table.add_column("way", no_wrap=True)
    sizes = next(iter(speed.passes_per_second.values())).keys()
    for heading in (*(f"batches of {size}" for size in sizes), "best ÷ torch loop"):
        table.add_column(heading, justify="right")
    best = {name: max(found.values()) for name, found in speed.passes_per_second.items()}
    for name, found in speed.passes_per_second.items():
        row = [f"{found[size]:,.0f}" for size in sizes]
        table.add_row(name, *row, f"{best[name] / best['torch loop']:.2f}")
    ratios = [Text(f"{name}: {ratio:.3f}") for name, ratio in speed.ratios.items()]
    return Group(table, *ratios, *(_decided_lines(record.deciding) if record.deciding else ()))


def _decided_lines(deciding: DecidedRadius) -> Iterator[Text]:
    yield Text(f"\n{deciding.model}, {deciding.data.images} test images: is the radius at least {deciding.radius:g}?")
    for name, found in deciding.samplings.items():
        decide, certify = found.decide, found.certify
        yield Text(
            f"{name}: {decide.yes} yes, {decide.no} no, {decide.undecided} undecided; "
            f"{decide.mean_samples:.0f} votes an image (median {decide.median_samples:.0f}), "
            f"{decide.times_fewer:.1f} times fewer than {deciding.n0 + deciding.n}; "
            f"{decide.passes_per_second:,.0f} a second"
        )
        yield Text(
            f"  Certify with n = {deciding.certify_n}: mean radius {certify.mean_radius:.4f} "
            f"({certify.mean_radius_grey_levels:.1f} grey levels), certified accuracy at {deciding.radius:g} "
            f"{certify.certified_accuracy:.1%}; {certify.passes_per_second:,.0f} passes a second"
        )


def confirm_tables(record: ConfirmRecord) -> Group:
    """A table for each model: every question, by every rule."""
    return Group(*(_confirm_table(name, found, record.n) for name, found in record.models.items()))


def _confirm_table(name: str, found: ConfirmedModel, n: int) -> Table:
    images = found.data.images
    table = Table(
        title=f"{name}: is the class of the single pass proven within r? {images} test images, at most {n} votes; "
        f"noise: {found.sampling}",
        caption="yes: confirmed; right: confirmed, and the class is the label; no: disproven; up: given up; left: not "
        "decided; all in percent of the images. votes: median, mean, 99th percentile; served: the same where the "
        "single pass serves at least r",
        title_justify="left",
        caption_justify="left",
        box=None,
        pad_edge=False,
        collapse_padding=True,
    )
    for heading in ("rule", "yes", "right", "no", "up", "left", "votes", "served"):
        table.add_column(heading, justify="left" if heading == "rule" else "right", no_wrap=True)
    asked = None
    for row in found.rows:
        if asked != (asked := (row.radius, row.alpha)):
            table.add_row()
            table.add_row(f"r = {row.radius:g}, α = {row.alpha:g}", style="bold")
        shares = (row.confirmed, row.right, row.disproven, row.hopeless, row.undecided)
        cells = (f"{100 * share / images:.1f}" for share in shares)
        table.add_row(row.rule, *cells, _vote_cell(row.votes), _vote_cell(row.served_votes))
    return table


def _vote_cell(votes: VoteCounts | None) -> str:
    return f"{votes.median:.0f}, {votes.mean:.0f}, {votes.p99:.0f}" if votes else "–"


def kinds_table(record: KindsRecord) -> Table:
    """A row for each way and model: certified accuracy in percent at each radius, and the cost."""
    table = Table(
        title="certified accuracy in percent: the class is right, and the radius at least r (L2, pixels in [0,1])",
        title_justify="left",
        box=None,
        pad_edge=False,
        collapse_padding=True,
    )
    for heading in ("model", "certificate", "way"):
        table.add_column(heading, no_wrap=True)
    for heading in ("α", "images", "clean", *(f"{radius:.3f}" for radius in record.radii), "passes", "ms"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in record.rows:
        shares = (f"{100 * share:.1f}" for share in (row.accuracy, *row.certified))
        alpha = "–" if row.alpha is None else f"{row.alpha:g}"
        cost = (f"{row.passes:,.0f}", f"{row.milliseconds:.2f}")
        table.add_row(row.model, row.kind, row.way, alpha, f"{row.data.images:,}", *shares, *cost)
    return table


def lipschitz_table(record: LipschitzTrainingRecord) -> Table:
    """Some epochs of a training, and what its network proves in the end, in percent."""
    table = Table(
        title=f"{record.architecture} on {record.dataset}: of training images, right and certified within ε of the "
        "loss; last row: proven, of test images, within each radius (L2, pixels in [0,1])",
        title_justify="left",
        box=None,
        pad_edge=False,
        collapse_padding=True,
    )
    for heading in ("epochs", "hours", "right", "certified"):
        table.add_column(heading, justify="right", no_wrap=True)
    every = max(1, len(record.epochs) // 10)
    for number, epoch in list(enumerate(record.epochs, start=1))[every - 1 :: every]:
        shares = (f"{100 * share:.1f}" for share in (epoch.accuracy, epoch.certified))
        table.add_row(f"{number}", f"{epoch.seconds / 3600:.2f}", *shares)
    proven = ", ".join(
        f"{100 * share:.1f} at {radius:.3f}" for radius, share in zip(record.radii, record.certified, strict=True)
    )
    table.add_row("proven", f"{record.data.images:,} images", f"{100 * record.accuracy:.1f}", proven)
    return table


def calibration_table(record: CalibrationRecord) -> Table:
    """Each way to calibrate under each promise, at some radii."""
    shown = [index for index, radius in enumerate(record.radii) if radius in (0, 0.1, 0.25, 0.5)]
    table = Table(
        title="certified accuracy of the single pass minus that of Certify, in points, at L2 radius r; in brackets: "
        "where no overclaim counts",
        caption=f"Certify, n = {record.test_monte_carlo.n}: "
        + ", ".join(f"{100 * record.certify[i]:.1f} % at {record.radii[i]:g}" for i in shown)
        + f". Each row is tested by itself, at level {record.delta:g}, on images that all share; no attempt is "
        "recorded, and no row is the promise of a card.",
        title_justify="left",
        caption_justify="left",
    )
    for heading in ("promise", "α", "calibrated by"):
        table.add_column(heading)
    for heading in (*(f"r = {record.radii[i]:g}" for i in shown), "overclaims"):
        table.add_column(heading, justify="right")
    for row in record.rows:
        start = (row.promise, f"{row.alpha:g}", row.way)
        if isinstance(row, RefusedRow):
            table.add_row(*start, *["–"] * len(shown), "refused")
            continue
        gaps = (
            f"{100 * (row.single_pass[i] - record.certify[i]):+.1f} ({100 * (row.backed[i] - record.certify[i]):+.1f})"
            for i in shown
        )
        table.add_row(*start, *gaps, f"{row.overclaims} of {row.positive}")
    return table


def shadow_tables(record: ShadowRecord) -> Group:
    """A table for each model: each kind of traffic, and the alarms that it raised."""
    return Group(*(_shadow_table(name, found, record) for name, found in record.models.items()))


def _shadow_table(name: str, found: ShadowModel, record: ShadowRecord) -> Table:
    table = Table(
        title=f"{name}: alarms at level {record.level:g}; promised: overclaims of at most {found.alpha:g}",
        caption="runs with an alarm, and after how many judged answers, or inputs, it was raised: median (least to "
        "most)",
        title_justify="left",
        caption_justify="left",
        box=SIMPLE,
    )
    table.add_column("traffic")
    for heading in ("overclaims", "alarm of the rate", "alarm of the inputs"):
        table.add_column(heading, justify="right")
    for row in found.rows:
        counts = f"{row.overclaims} of {row.judged}"
        table.add_row(row.traffic, counts, alarms_text(row.rate_alarms), alarms_text(row.drift_alarms))
    return table


def networks_table(record: NetworksRecord) -> Table:
    """Each network, its largest error, and why it is refused."""
    table = Table(
        title=f"{record.exact} of {len(record.networks)} networks become a graph whose probabilities are within "
        f"{record.tolerance:g} of torch's",
        title_justify="left",
    )
    for heading in ("network", "image", "parameters", "operators", "largest error", "rounding", "seconds"):
        table.add_column(heading, justify="left" if heading == "network" else "right")
    for name, found in record.networks.items():
        error = f"{max(found.errors.values()):.1e}" if found.errors else "–"
        image = "×".join(map(str, found.input_shape))
        rounding = f"{found.rounding:.1e}" if found.rounding else "–"
        numbers = (f"{found.parameters:,}", str(found.nodes or "–"), error, rounding, f"{found.seconds:.1f}")
        table.add_row(name, image, *numbers)
        if found.refused:
            table.add_row(f"[red]{found.refused}[/]")
    return table
