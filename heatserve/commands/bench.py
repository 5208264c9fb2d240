"""`heatserve bench`: everything that prints a number. Heavy imports stay inside the functions: `--help` is quick."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from heatserve.benchmarks.report import calibration_table, export_tables, latency_table, print_certify, print_training
from heatserve.commands.options import KEPT, Kept

bench = typer.Typer(no_args_is_help=True, help="Measure, print, and write what was measured as JSON.")

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
    seed: Annotated[int, typer.Option(help="Of the random weights, the image and the noise.")] = 0,
    out: Annotated[Path | None, typer.Option(help="Write the results there, as JSON.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Write JSON to stdout, not a table.")] = False,
) -> None:
    """What a certificate costs: plain classifier, certified graph, Triton over gRPC and HTTP, n₀ noisy passes.

    All ways answer one image, interleaved in one run; weights are random, which latency does not mind.

    **Example:** `heatserve bench latency cifar10-resnet20 --out benchmarks/results/latency.json`
    """
    import json
    from functools import partial

    from rich.progress import Progress

    from heatserve.benchmarks.classifiers import SHAPES
    from heatserve.benchmarks.latency import measure
    from heatserve.benchmarks.results import provenance, write_results
    from heatserve.export.runtime.timing import rounds_for

    names, rounds = _chosen(shapes, SHAPES), rounds_for(requests)
    results: dict[str, Any] = {**provenance(seed=seed), "weights": "random", "batch": 1, "shapes": {}}
    with Progress(console=Console(stderr=True), transient=True) as progress:
        for name in names:
            advance = partial(progress.advance, progress.add_task(name, total=1 + rounds))
            results["shapes"][name] = measure(SHAPES[name], rounds=rounds, seed=seed, on_round=advance)
            if out:  # after each shape: an interrupted run keeps what it has
                write_results(out, results)
    if as_json:
        typer.echo(json.dumps(results, indent=2))
    else:
        Console().print(latency_table(results))


@bench.command()
def export(
    shapes: Annotated[
        list[str] | None, typer.Argument(metavar="SHAPE", help="As of `bench latency`; none: all but `digits`.")
    ] = None,
    variants: Annotated[
        list[str] | None, typer.Option("--variant", help="`fp32`, `uint8`, `fp16` or `int8`; once for each. None: all.")
    ] = None,
    batches: Annotated[
        list[int] | None, typer.Option("--batch", min=1, help="Images in a request; once for each. None: 1, 8, 32.")
    ] = None,
    requests: Annotated[int, typer.Option(min=1, help=_REQUESTS)] = 100,
    seed: Annotated[int, typer.Option(help="Of the random weights, the images and the order of the ways.")] = 0,
    out: Annotated[Path | None, typer.Option(help="Write the results there, as JSON.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Write JSON to stdout, not a table.")] = False,
) -> None:
    """What a certificate costs on each engine and in each variant: plain classifier, certified graph, their ratio.

    Engines are the execution providers of the ONNX Runtime that is installed; the table says which are absent. Weights
    are random, which speed does not mind.

    **Example:** `heatserve bench export cifar10-resnet20 --variant fp32 --out benchmarks/results/export.json`
    """
    import json
    from functools import partial

    from rich.progress import Progress

    from heatserve.benchmarks.classifiers import SHAPES
    from heatserve.benchmarks.engines import ENGINES, VARIANTS, absent_engines, measure
    from heatserve.benchmarks.results import provenance, write_results
    from heatserve.export.runtime.timing import rounds_for

    names = _chosen(shapes or [name for name in SHAPES if name != "digits"], SHAPES)
    variants, batches, rounds = _chosen(variants, VARIANTS, "variant"), batches or [1, 8, 32], rounds_for(requests)
    absent = absent_engines()
    engines = [engine for engine in ENGINES if engine not in absent]
    results: dict[str, Any] = {**provenance(seed=seed), "weights": "random", "absent": absent, "shapes": {}}
    with Progress(console=Console(stderr=True), transient=True) as progress:
        for name in names:
            results["shapes"][name] = measure(
                SHAPES[name],
                engines=engines,
                variants=variants,
                batches=batches,
                rounds=rounds,
                seed=seed,
                on_round=partial(progress.advance, progress.add_task(name, total=len(batches) * (1 + rounds))),
            )
            if out:  # after each shape: an interrupted run keeps what it has
                write_results(out, results)
    if as_json:
        typer.echo(json.dumps(results, indent=2))
    else:
        Console(highlight=False).print(export_tables(results))


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
    seed: Annotated[int, typer.Option(help="Of the random weights, the images and all draws.")] = 0,
    out: Annotated[Path | None, typer.Option(help="Write the results there, as JSON.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Write JSON to stdout, not a table.")] = False,
) -> None:
    """What a heat step costs: Algorithm 1 as printed, as `train heat` takes it, and the floor of its passes.

    Interleaved in one run, with the peak memory of each and a check that both have the same gradient. Images and
    weights are random, which speed does not mind.

    **Example:** `heatserve bench training --shape cifar10-resnet20 --out benchmarks/results/training.json`
    """
    import json
    from dataclasses import replace
    from functools import partial

    from rich.progress import Progress

    from heatserve.benchmarks.heat_step.measure import measure, steps
    from heatserve.benchmarks.heat_step.steps import SHAPES, Settings
    from heatserve.benchmarks.results import provenance, write_results

    names = _chosen(shapes, SHAPES)
    settings = Settings(kappa=kappa, repeats=repeats, variance_draws=variance_draws, seed=seed, device=device)
    results: dict[str, Any] = {**provenance(seed=seed), **settings.described(), "shapes": {}}
    with Progress(console=Console(stderr=True), transient=True) as progress:
        for name in names:
            shape = replace(SHAPES[name], batch_size=batch_size or SHAPES[name].batch_size)
            advance = partial(progress.advance, progress.add_task(name, total=steps(settings)))
            results["shapes"][name] = measure(shape, settings, on_step=advance)
            if out:  # after each shape: an interrupted run keeps what it has
                write_results(out, results)
    if as_json:
        typer.echo(json.dumps(results, indent=2))
    else:
        for name in names:
            print_training(name, results)


@bench.command()
def certify(
    rounds: Annotated[int, typer.Option(min=1, help="Runs of each way at each batch size; medians count.")] = 5,
    passes: Annotated[int, typer.Option(min=2, help="n₀ + n: votes of one image.")] = 1000,
    root: Annotated[
        Path | None, typer.Option(help="Folder of CIFAR-10: also count the votes that decide a radius there.")
    ] = None,
    model: Annotated[str, typer.Option(help="Model in the repository whose base classifier decides.")] = "cifar10",
    repository: Annotated[Path, typer.Option(help="Triton model repository.")] = Path("model_repository"),
    images: Annotated[int, typer.Option(min=1, help="Test images to decide.")] = 100,
    radius: Annotated[float, typer.Option(min=0, help="r to decide, in L2 on pixels in [0,1].")] = 0.25,
    n0: Annotated[int, typer.Option(min=1, help="n₀ of decide and of Certify.")] = 100,
    n: Annotated[int, typer.Option(min=1, help="Votes after which decide gives up; what Certify would take.")] = 10_000,
    certify_n: Annotated[int, typer.Option(min=1, help="n of the Certify whose radii are compared.")] = 500,
    seed: Annotated[int, typer.Option(help="Of the weights, the images and the noise.")] = 0,
    out: Annotated[Path | None, typer.Option(help="Write the results there, as JSON.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Write JSON to stdout, not a table.")] = False,
) -> None:
    """What a vote costs: Certify, bare ONNX Runtime, the usual torch loop, ART; and how few votes decide a radius.

    Speed is that of a ResNet-20 with random weights on CIFAR-10's shape, interleaved in one run.

    **Example:** `heatserve bench certify --root cifar10 --out benchmarks/results/certify.json`
    """
    import json
    from functools import partial

    from rich.progress import Progress

    from heatserve.benchmarks.results import provenance, write_results
    from heatserve.benchmarks.votes import measure, runs, samples_to_decide
    from heatserve.certification.provenance import versions
    from heatserve.export.calibration.sampling import sample
    from heatserve.export.card import BASE_NAME
    from heatserve.export.repository.layout import open_model
    from heatserve.export.runtime.session import classifier, open_session

    results = provenance(seed=seed)
    results["versions"] |= versions("adversarial-robustness-toolbox")
    with Progress(console=Console(stderr=True), transient=True) as progress:
        if root is not None:
            served = open_model(repository, model)
            data = sample("cifar10", "test", root=root, count=images, seed=seed)
        advance = partial(progress.advance, progress.add_task("speed", total=runs(rounds)))
        results["speed"] = measure(rounds=rounds, passes=passes, seed=seed, on_way=advance)
        if out:  # an interrupted run keeps what it has
            write_results(out, results)
        if root is not None:
            results["deciding"] = {"model": served.name, "base_sha256": served.card.base_sha256} | samples_to_decide(
                classifier(open_session(served.path / BASE_NAME)),
                data,
                sigma=served.card.sigma,
                radius=radius,
                n0=n0,
                n=n,
                certify_n=certify_n,
                seed=seed,
                progress=partial(progress.track, description="deciding"),
            )
    if out:
        write_results(out, results)
    if as_json:
        typer.echo(json.dumps(results, indent=2))
    else:
        print_certify(results)


@bench.command()
def calibration(
    name: Annotated[str, typer.Argument(help="Model in the repository.")],
    data: Annotated[
        str | None, typer.Option(help="`digits`, `cifar10`, …; by default what the model was trained on.")
    ] = None,
    root: Annotated[Path | None, typer.Option(help="Folder of the data set; cifar10 and imagenet need it.")] = None,
    repository: Annotated[Path, typer.Option(help="Triton model repository.")] = Path("model_repository"),
    images: Annotated[int, typer.Option(min=1, help="Calibration images, at most what the split has.")] = 2000,
    test_images: Annotated[int, typer.Option(min=1, help="Test images that everything is measured on.")] = 500,
    n: Annotated[int, typer.Option(min=1, help="n of Certify on the calibration images.")] = 500,
    decisions: Annotated[
        int, typer.Option(min=1, help="Calibration images of which one radius is decided; at most what the split has.")
    ] = 2000,
    decision_n: Annotated[int, typer.Option(min=1, help="Most votes for a decision.")] = 10_000,
    test_n: Annotated[int, typer.Option(min=1, help="n of Certify on the test images.")] = 1000,
    delta: Annotated[float, typer.Option(help="δ: each promise holds with confidence 1 − δ.")] = 0.05,
    seed: Annotated[int, typer.Option(help="Of the images and of the noise.")] = 0,
    kept: Kept = KEPT,
    out: Annotated[Path | None, typer.Option(help="Write the results there, as JSON.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Write JSON to stdout, not a table.")] = False,
) -> None:
    """What a promise costs: certified accuracy of one pass minus that of Certify, for each way to calibrate.

    Under the promise of `heatserve calibrate` (overclaims among the positive radii), and under the weaker one of most
    of the literature (overclaims among all answers).

    **Example:** `heatserve bench calibration cifar10 --root data/cifar10 --out benchmarks/results/calibration.json`
    """
    import json

    from heatserve.benchmarks.calibration import compare
    from heatserve.benchmarks.results import provenance, write_results
    from heatserve.export.calibration.certifier import Certifier
    from heatserve.export.calibration.report import progress_bar
    from heatserve.export.calibration.sampling import sample_for
    from heatserve.export.card import MonteCarlo
    from heatserve.export.repository.layout import open_model

    model = open_model(repository, name)
    data = data or str(model.card.training["dataset"])
    certify = MonteCarlo(n0=100, n=n, alpha=0.001, seed=seed)
    results = {
        **provenance(seed=seed),
        **compare(
            model,
            sample_for(model, data, "calibration", root=root, count=images, seed=seed),
            sample_for(model, data, "test", root=root, count=test_images, seed=seed),
            delta=delta,
            certifier=Certifier(certify, folder=kept, progress=progress_bar),
            decisions=sample_for(model, data, "calibration", root=root, count=decisions, seed=seed),
            decision_votes=decision_n,
            test_monte_carlo=certify.model_copy(update={"n": test_n}),
        ),
    }
    if out:
        write_results(out, results)
    if as_json:
        typer.echo(json.dumps(results, indent=2))
    else:
        Console(highlight=False, width=110).print(calibration_table(results))


@bench.command()
def pages(
    root: Annotated[Path, typer.Option(help="Of the repository: with benchmarks/results/ and docs/.")] = Path(),
) -> None:
    """Render docs/results/*.md, and the README's table of results, from what is kept in benchmarks/results/.

    Nothing is measured: no figure on these pages is typed by hand, and the same results give the same pages.

    **Example:** `heatserve bench pages`
    """
    from heatserve.benchmarks.pages.render import write_pages

    for path in write_pages(root):
        typer.echo(f"wrote   {path}")


def _chosen(names: list[str] | None, known: Mapping[str, object], option: str = "shape") -> list[str]:
    """The names that were asked for, all of them where none was."""
    from heatserve.certification.errors import HeatserveError

    unknown = [name for name in names or () if name not in known]
    if unknown:
        raise HeatserveError(f"{option}: expected one of {', '.join(known)}, got {unknown[0]}")
    return names or list(known)
