"""`heatserve bench`: everything that prints a number. Heavy imports stay inside the functions: `--help` is quick."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from benchmarks.attack_commands import app as attack_app
from benchmarks.experiment_commands import app as experiment_app

app = typer.Typer()
bench_app = typer.Typer(no_args_is_help=True, help="Measure, print, and write what was measured as JSON.")
app.add_typer(bench_app, name="bench")
app.add_typer(experiment_app, name="experiment")
app.add_typer(attack_app)


@bench_app.command()
def latency(
    shapes: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="SHAPE", help="`digits`, `cifar10-resnet20`, `cifar10-resnet34`, `imagenet-resnet50`; none: all."
        ),
    ] = None,
    requests: Annotated[int, typer.Option(min=1, help="Counted requests each way, after warm-up.")] = 200,
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

    from benchmarks.latency import SHAPES, measure, rounds
    from benchmarks.results import provenance, write_results

    names = _chosen(shapes, SHAPES)
    results: dict[str, Any] = {**provenance(seed=seed), "weights": "random", "batch": 1, "shapes": {}}
    with Progress(console=Console(stderr=True), transient=True) as progress:
        for name in names:
            advance = partial(progress.advance, progress.add_task(name, total=rounds(requests)))
            results["shapes"][name] = measure(SHAPES[name], requests=requests, seed=seed, on_round=advance)
            if out:  # after each shape: an interrupted run keeps what it has
                write_results(out, results)
    if as_json:
        typer.echo(json.dumps(results, indent=2))
    else:
        Console().print(_latency_table(results))


@bench_app.command()
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

    from benchmarks.results import provenance, write_results
    from benchmarks.training import SHAPES, Settings, measure, steps

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
            _print_training(name, results)


def _chosen(names: list[str] | None, shapes: Mapping[str, object]) -> list[str]:
    """The shapes that were asked for, all of them where none was."""
    from certification.errors import HeatserveError

    unknown = [name for name in names or () if name not in shapes]
    if unknown:
        raise HeatserveError(f"shape: expected one of {', '.join(shapes)}, got {unknown[0]}")
    return names or list(shapes)


def _latency_table(results: dict[str, Any]) -> Table:
    machine = results["machine"]
    table = Table(
        title=f"ms for one image, random weights; {machine['processor']}, {machine['cores']} cores",
        title_justify="left",
    )
    table.add_column("way", no_wrap=True)
    for heading in ("p50", "p90", "p99", "p50 ÷ plain", "n₀ passes ÷ p50"):
        table.add_column(heading, justify="right")
    for name, shape in results["shapes"].items():
        table.add_row(f"[bold]{name}[/] n₀={shape['n0']}")
        p50 = {way: times["p50"] for way, times in shape["milliseconds"].items()}
        for way, times in shape["milliseconds"].items():
            milliseconds = [f"{times[quantile]:.2f}" for quantile in ("p50", "p90", "p99")]
            table.add_row(way, *milliseconds, f"{p50[way] / p50['plain']:.3f}", f"{p50['stochastic'] / p50[way]:.1f}")
        table.add_section()
    return table


def _print_training(name: str, results: dict[str, Any]) -> None:
    """The table of one shape, then what its steps compute."""
    shape, console = results["shapes"][name], Console(highlight=False)
    console.print(_training_table(name, results))
    differences = shape["gradient_differences"]
    console.print(
        f"relative difference of gradients: heat and naive {differences['heat and naive']:.1e}, "
        f"naive in both memory layouts {differences['naive in both layouts']:.1e}"
    )
    for found in shape["estimators"]:
        console.print(
            f"‖∇v‖² by {found['estimator']}, δ={found['delta']:g}: mean {found['mean']:.4g}, relative spread "
            f"{found['spread_of_an_image']:.1%} for an image, {found['spread_of_a_batch']:.1%} for a batch"
        )


def _training_table(name: str, results: dict[str, Any]) -> Table:
    shape, machine = results["shapes"][name], results["machine"]
    table = Table(
        title=f"{name}: one step of {shape['batch_size']} random images, random weights, κ={results['kappa']}; "
        f"{results['device_name'] or machine['processor']}, threads: {results['threads']}",
        title_justify="left",
    )
    table.add_column("variant", no_wrap=True)
    for heading in ("ms", "images/s", "naive ÷ it", "it ÷ floor", "peak MiB"):
        table.add_column(heading, justify="right")
    for variant, found in shape["variants"].items():
        peak = "–" if found["peak_mib"] is None else f"{found['peak_mib']:,.0f}"
        ratios = f"{found['speed_up']:.2f}", f"{found['ratio_to_floor']:.2f}"
        table.add_row(
            variant, f"{found['milliseconds']['median']:,.1f}", f"{found['images_per_second']:,.1f}", *ratios, peak
        )
    table.add_section()
    table.add_row("floor", f"{shape['floor']['milliseconds']:,.1f}")
    for part, found in shape["floor"]["parts"].items():
        table.add_row(f"  {found['count']} × {part}", f"{found['milliseconds']['median']:,.1f}")
    return table
