"""`heatserve bench`: everything that prints a number. Heavy imports stay inside the functions: `--help` is quick."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from heatserve.commands.bench_front import front
from heatserve.commands.bench_kinds import kinds
from heatserve.commands.bench_lipschitz import lipschitz
from heatserve.commands.bench_load import load, tiers
from heatserve.commands.bench_networks import networks
from heatserve.commands.bench_shadow import shadow
from heatserve.commands.bench_soak import soak
from heatserve.commands.bench_switch import switch
from heatserve.commands.options import (
    KEPT,
    REPOSITORY,
    Data,
    Json,
    Kept,
    Out,
    Repository,
    Root,
    deliver,
    known_names,
    one_by_one,
    seed_option,
    tell_page,
)

bench = typer.Typer(name="bench", no_args_is_help=True, help="Measure, print, and write what was measured as JSON.")

_COST = "cost"  # the page of everything but calibration
_REQUESTS = "Counted requests each way, after warm-up; as few as one in ten of those which take longer than 20 ms."


@bench.command()
def latency(
    shapes: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="SHAPE", help="`digits`, `cifar10-resnet20`, `cifar10-resnet34`, `imagenet-resnet50`; none: all."
        ),
    ] = None,
    requests: Annotated[int, typer.Option(min=1, help=_REQUESTS)] = 200,
    seed: Annotated[int, seed_option("the random weights, the image and the noise")] = 0,
    out: Out = None,
    as_json: Json = False,
) -> None:
    """What a certificate costs: plain classifier, certified graph, Triton over gRPC and HTTP, n₀ noisy passes.

    All ways answer one image, interleaved in one run; weights are random, which latency does not mind.

    **Example:** `heatserve bench latency cifar10-resnet20 --out benchmarks/results/latency.json`
    """
    from heatserve.benchmarks.classifiers import CLASSIFIERS
    from heatserve.benchmarks.latency import measure_latency
    from heatserve.benchmarks.records.record import made_now, to_json
    from heatserve.benchmarks.records.speed import LatencyRecord
    from heatserve.benchmarks.tables import latency_table
    from heatserve.export.calibration.report import progress_bar
    from heatserve.export.runtime.timing import rounds_for

    rounds = rounds_for(requests)
    record = one_by_one(
        LatencyRecord(**vars(made_now(seed=seed)), shapes={}),
        known_names("shape", shapes, CLASSIFIERS),
        lambda name: measure_latency(name, rounds=rounds, seed=seed, progress=progress_bar),
        out,
    )
    deliver(to_json(record), lambda: latency_table(record), as_json=as_json, out=out)
    tell_page(out, _COST)


@bench.command()
def export(
    shapes: Annotated[
        list[str] | None,
        typer.Argument(metavar="SHAPE", help="The same as for `bench latency`; none: all but `digits`."),
    ] = None,
    variants: Annotated[
        list[str] | None, typer.Option("--variant", help="`fp32`, `uint8`, `fp16` or `int8`; once for each. None: all.")
    ] = None,
    batches: Annotated[
        list[int] | None, typer.Option("--batch", min=1, help="Images in a request; once for each. None: 1, 8, 32.")
    ] = None,
    requests: Annotated[int, typer.Option(min=1, help=_REQUESTS)] = 100,
    seed: Annotated[int, seed_option("the random weights, the images and the order of the ways")] = 0,
    out: Out = None,
    as_json: Json = False,
) -> None:
    """What a certificate costs on each engine and in each variant: plain classifier, certified graph, their ratio.

    Engines are the execution providers of the ONNX Runtime that is installed; the table says which are absent. Weights
    are random, which speed does not mind.

    **Example:** `heatserve bench export cifar10-resnet20 --variant fp32 --out benchmarks/results/export.json`
    """
    from heatserve.benchmarks.classifiers import CLASSIFIERS
    from heatserve.benchmarks.engines import GRAPH_VARIANTS, PROVIDERS, absent_providers, measure_engines
    from heatserve.benchmarks.records.record import made_now, to_json
    from heatserve.benchmarks.records.speed import EngineRecord
    from heatserve.benchmarks.tables import export_tables
    from heatserve.export.calibration.report import progress_bar
    from heatserve.export.runtime.timing import rounds_for

    names = known_names("shape", shapes or [name for name in CLASSIFIERS if name != "digits"], CLASSIFIERS)
    variants = known_names("variant", variants, GRAPH_VARIANTS)
    batches, rounds = batches or [1, 8, 32], rounds_for(requests)
    absent = absent_providers()
    record = one_by_one(
        EngineRecord(**vars(made_now(seed=seed)), absent=absent, shapes={}),
        names,
        lambda name: measure_engines(
            name,
            engines=[engine for engine in PROVIDERS if engine not in absent],
            variants=variants,
            batches=batches,
            rounds=rounds,
            seed=seed,
            progress=progress_bar,
        ),
        out,
    )
    deliver(to_json(record), lambda: export_tables(record), as_json=as_json, out=out)
    tell_page(out, _COST)


@bench.command()
def training(
    shapes: Annotated[
        list[str] | None,
        typer.Option("--shape", help="`cifar10-resnet20` or `imagenet-resnet50`; once for each, by default both."),
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Images in one step; by default 64 for CIFAR-10 and 4 for ImageNet.")
    ] = None,
    kappa: Annotated[int, typer.Option(min=1, help="κ: draws in one step.")] = 10,
    repeats: Annotated[int, typer.Option(min=1, help="Counted runs of each variant, after warm-up.")] = 5,
    variance_draws: Annotated[
        int, typer.Option(min=2, help="Estimates of ‖∇v‖² by each estimator, for their spread.")
    ] = 20,
    device: Annotated[str, typer.Option(help="`cpu`, `cuda`, ….")] = "cpu",
    seed: Annotated[int, seed_option("the random weights, the images and all draws")] = 0,
    out: Out = None,
    as_json: Json = False,
) -> None:
    """What a heat step costs: Algorithm 1 as printed, as `train heat` takes it, and the floor of its passes.

    Interleaved in one run, with the peak memory of each and a check that both have the same gradient. Images and
    weights are random, which speed does not mind.

    **Example:** `heatserve bench training --shape cifar10-resnet20 --out benchmarks/results/training.json`
    """
    from heatserve.benchmarks.heat_step.measure import measure_heat_step
    from heatserve.benchmarks.heat_step.steps import STEP_IMAGES, HeatStepSettings
    from heatserve.benchmarks.records.record import to_json
    from heatserve.benchmarks.tables import training_report
    from heatserve.export.calibration.report import progress_bar

    settings = HeatStepSettings(kappa=kappa, repeats=repeats, variance_draws=variance_draws, seed=seed, device=device)
    record = one_by_one(
        settings.record(),
        known_names("shape", shapes, STEP_IMAGES),
        lambda name: measure_heat_step(name, batch_size or STEP_IMAGES[name], settings, progress=progress_bar),
        out,
    )
    deliver(to_json(record), lambda: training_report(record), as_json=as_json, out=out)
    tell_page(out, _COST)


@bench.command()
def certify(
    rounds: Annotated[int, typer.Option(min=1, help="Runs of each way at each batch size; medians count.")] = 5,
    passes: Annotated[int, typer.Option(min=2, help="n₀ + n: votes of one image.")] = 1000,
    root: Annotated[
        Path | None, typer.Option(help="Folder of CIFAR-10: also count the votes that decide a radius there.")
    ] = None,
    model: Annotated[str, typer.Option(help="Model in the repository whose base classifier decides.")] = "cifar10",
    repository: Repository = REPOSITORY,
    images: Annotated[int, typer.Option(min=1, help="Test images to decide.")] = 100,
    radius: Annotated[float, typer.Option(min=0, help="r to decide, in L2 on pixels in [0,1].")] = 0.25,
    n0: Annotated[int, typer.Option(min=1, help="n₀ of decide and of Certify.")] = 100,
    n: Annotated[int, typer.Option(min=1, help="Votes after which decide gives up; what Certify would take.")] = 10_000,
    certify_n: Annotated[int, typer.Option(min=1, help="n of the Certify whose radii are compared.")] = 500,
    seed: Annotated[int, seed_option("the weights, the images and the noise")] = 0,
    out: Out = None,
    as_json: Json = False,
) -> None:
    """What a vote costs: Certify, bare ONNX Runtime, the usual torch loop, ART; and how few votes decide a radius.

    Speed is that of a ResNet-20 with random weights on CIFAR-10's shape, interleaved in one run.

    **Example:** `heatserve bench certify --root cifar10 --out benchmarks/results/certify.json`
    """
    from dataclasses import replace

    from heatserve.benchmarks.records.record import made_now, to_json, write_record
    from heatserve.benchmarks.records.votes import VoteRecord
    from heatserve.benchmarks.tables import votes_report
    from heatserve.benchmarks.votes import measure_votes, votes_to_decide
    from heatserve.export.calibration.report import progress_bar
    from heatserve.export.calibration.sampling import sample
    from heatserve.export.repository.smoothed import SmoothedWork, open_smoothed

    made = made_now("adversarial-robustness-toolbox", seed=seed)
    if root is not None:  # before anything is measured: what is missing is said at once
        served = open_smoothed(repository, model, SmoothedWork.VOTES)
        data = sample("cifar10", "test", root=root, count=images, seed=seed)
    speed = measure_votes(rounds=rounds, passes=passes, seed=seed, progress=progress_bar)
    record = VoteRecord(**vars(made), speed=speed)
    if root is not None:
        if out:  # an interrupted run keeps what it has
            write_record(out, record)
        deciding = votes_to_decide(
            served, data, radius=radius, n0=n0, n=n, certify_n=certify_n, seed=seed, progress=progress_bar
        )
        record = replace(record, deciding=deciding)
    deliver(to_json(record), lambda: votes_report(record), as_json=as_json, out=out)
    tell_page(out, _COST)


@bench.command()
def confirm(
    names: Annotated[list[str] | None, typer.Argument(metavar="NAME", help="Models in the repository.")] = None,
    root: Root = None,
    repository: Repository = REPOSITORY,
    images: Annotated[int, typer.Option(min=1, help="Test images of each model, at most what the split has.")] = 1000,
    n: Annotated[int, typer.Option(min=1, help="Most votes for an image.")] = 1000,
    seed: Annotated[int, seed_option("the images and the noise")] = 0,
    out: Out = None,
    as_json: Json = False,
) -> None:
    """What a confirmation costs: images confirmed at each radius and α, and votes; what looks and giving up save.

    Votes are drawn once for each image, and every question is asked of them: each is a claim of its own. What is
    counted does not depend on the speed of the machine.

    **Example:** `heatserve bench confirm digits cifar10 --root cifar10 --out benchmarks/results/confirm.json`
    """
    from dataclasses import replace

    from heatserve.benchmarks.confirming import CONFIRM_TOTALS, CONFIRMED_RULES, measure_confirmations
    from heatserve.benchmarks.records.confirming import ConfirmRecord
    from heatserve.benchmarks.records.record import made_now, to_json, write_record
    from heatserve.benchmarks.tables import confirm_tables
    from heatserve.export.calibration.report import progress_bar
    from heatserve.export.calibration.sampling import sample_for
    from heatserve.export.repository.smoothed import SmoothedWork, open_smoothed

    models = [open_smoothed(repository, name, SmoothedWork.VOTES) for name in names or ("digits", "cifar10")]
    made = vars(made_now(seed=seed))
    record = ConfirmRecord(**made, n=n, rules=dict(CONFIRMED_RULES), totals=CONFIRM_TOTALS, models={})
    asked = [
        (model, sample_for(model, model.card.trained_on, "test", root=root, count=images, seed=seed))
        for model in models
    ]
    for model, data in asked:
        found = measure_confirmations(model, data, n=n, seed=seed, progress=progress_bar)
        record = replace(record, models={**record.models, model.name: found})
        if out:  # an interrupted run keeps what it has
            write_record(out, record)
    deliver(to_json(record), lambda: confirm_tables(record), as_json=as_json, out=out)
    tell_page(out, "confirm")


@bench.command()
def calibration(
    name: Annotated[str, typer.Argument(help="Model in the repository.")],
    data: Data = None,
    root: Root = None,
    repository: Repository = REPOSITORY,
    images: Annotated[int, typer.Option(min=1, help="Calibration images, at most what the split has.")] = 2000,
    test_images: Annotated[int, typer.Option(min=1, help="Test images that everything is measured on.")] = 500,
    n: Annotated[int, typer.Option(min=1, help="n of Certify on the calibration images.")] = 500,
    decisions: Annotated[
        int, typer.Option(min=1, help="Calibration images of which one radius is decided; at most what the split has.")
    ] = 2000,
    decision_n: Annotated[int, typer.Option(min=1, help="Most votes for a decision.")] = 10_000,
    test_n: Annotated[int, typer.Option(min=1, help="n of Certify on the test images.")] = 1000,
    delta: Annotated[float, typer.Option(help="δ: each promise holds with confidence 1 − δ.")] = 0.05,
    seed: Annotated[int, seed_option("the images and the noise")] = 0,
    kept: Kept = KEPT,
    out: Out = None,
    as_json: Json = False,
) -> None:
    """What a promise costs: certified accuracy of one pass minus that of Certify, for each way to calibrate.

    Under the promise of `heatserve calibrate` (overclaims among the positive radii), and under the weaker one of most
    of the literature (overclaims among all answers). These are comparisons: no attempt is recorded, and no row is the
    promise of a card.

    **Example:** `heatserve bench calibration cifar10 --root data/cifar10 --out benchmarks/results/calibration.json`
    """
    from heatserve.benchmarks.calibration import compare_calibrations
    from heatserve.benchmarks.records.record import to_json
    from heatserve.benchmarks.tables import calibration_table
    from heatserve.export.calibration.certifier import Certifier
    from heatserve.export.calibration.report import progress_bar
    from heatserve.export.calibration.sampling import sample_for
    from heatserve.export.card_parts import MonteCarlo
    from heatserve.export.repository.smoothed import SmoothedWork, open_smoothed

    model = open_smoothed(repository, name, SmoothedWork.VOTES)
    data = data or model.card.trained_on
    certify = MonteCarlo(n0=100, n=n, alpha=0.001, seed=seed)
    record = compare_calibrations(
        model,
        sample_for(model, data, "calibration", root=root, count=images, seed=seed),
        sample_for(model, data, "test", root=root, count=test_images, seed=seed),
        delta=delta,
        certifier=Certifier(certify, folder=kept, progress=progress_bar),
        decisions=sample_for(model, data, "calibration", root=root, count=decisions, seed=seed),
        decision_votes=decision_n,
        test_monte_carlo=certify.model_copy(update={"n": test_n}),
    )
    deliver(to_json(record), lambda: calibration_table(record), as_json=as_json, out=out, width=110)
    tell_page(out, "calibration")


bench.command()(front)
bench.command()(kinds)
bench.command()(lipschitz)
bench.command()(load)
bench.command()(tiers)
bench.command()(switch)
bench.command()(networks)
bench.command()(shadow)
bench.command()(soak)


@bench.command()
def pages(
    root: Annotated[Path, typer.Option(help="Root of the repository, with benchmarks/results/ and docs/.")] = Path(),
) -> None:
    """Render docs/results/*.md, and the README's table of results, from what is kept in benchmarks/results/.

    Nothing is measured: no figure on these pages is typed by hand, and the same results give the same pages.

    **Example:** `heatserve bench pages`
    """
    from heatserve.benchmarks.pages.render import write_pages

    for path in write_pages(root):
        typer.echo(f"wrote   {path}")
