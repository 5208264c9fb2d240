"""`heatserve bench`: everything that prints a number. Heavy imports stay inside the functions: `--help` is quick."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

app = typer.Typer()
bench_app = typer.Typer(no_args_is_help=True, help="Measure, print, and write what was measured as JSON.")
app.add_typer(bench_app, name="bench")


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
    from certification.errors import HeatserveError

    names = shapes or list(SHAPES)
    unknown = [name for name in names if name not in SHAPES]
    if unknown:
        raise HeatserveError(f"shape: expected one of {', '.join(SHAPES)}, got {unknown[0]}")
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
