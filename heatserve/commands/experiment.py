"""`heatserve experiment`. Heavy imports stay inside the functions: `--help` is quick."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

experiment = typer.Typer(no_args_is_help=True, help="Train and measure all systems of the paper; hours, and resumable.")


@experiment.callback()
def _group() -> None:
    """Keep `cifar10` a subcommand."""


@experiment.command()
def cifar10(
    root: Annotated[Path, typer.Option(help="Folder of CIFAR-10, as for `heatserve train`.")],
    system: Annotated[
        list[str] | None, typer.Option(help="`baseline`, `noise`, `average`, …; once for each, by default all.")
    ] = None,
    sigma: Annotated[list[float] | None, typer.Option(help="σ; once for each, by default 0.1 and 0.25.")] = None,
    images: Annotated[int, typer.Option(min=1, help="Test images to certify.")] = 500,
    n: Annotated[int, typer.Option(min=1, help="n of Certify on them.")] = 1000,
    folder: Annotated[Path, typer.Option(help="Of checkpoints and graphs, to go on from.")] = Path("runs/cifar10"),
    results: Annotated[Path, typer.Option(help="JSON file of the rows.")] = Path("benchmarks/results/cifar10.json"),
    readme: Annotated[
        Path | None, typer.Option(help="File whose part between the marks `cifar10` becomes the table.")
    ] = None,
    publish: Annotated[
        str | None, typer.Option(help="Serve the last system at the last σ under this name, from model_repository/.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Decides everything.")] = 0,
    device: Annotated[str, typer.Option(help="`cpu`, `cuda`, ….")] = "cpu",
    as_json: Annotated[bool, typer.Option("--json", help="Print the rows as JSON, not as a table.")] = False,
) -> None:
    """Train every system on CIFAR-10 from one baseline, and hold each against Monte Carlo certification.

    What is trained or measured already is not done again: interrupt it, and start the same command later.

    **Example:** `heatserve experiment cifar10 --root data/cifar10 --system baseline --system average --sigma 0.25`
    """
    from heatserve.benchmarks.cifar10.experiment import SYSTEMS, Experiment, results_table
    from heatserve.benchmarks.cifar10.report import draw, update_readme
    from heatserve.export.repository.layout import republish
    from heatserve.training.loop import Interrupted
    from heatserve.training.methods.parameters import require

    chosen = system or list(SYSTEMS)
    for name in chosen:
        require("system", name, name in SYSTEMS, ", ".join(SYSTEMS))
    runner, sigmas = Experiment(root, folder, results, images, n, seed, device), sigma or [0.1, 0.25]
    try:
        rows = runner.run(chosen, sigmas, Console(stderr=True))
    except Interrupted as interrupted:
        Console(stderr=True, highlight=False).print(str(interrupted).split(";")[0], soft_wrap=True)
        raise typer.Exit(130) from None
    measured = sorted({row["sigma"] for row in rows})
    for value in measured:
        draw(rows, value, results.with_name(f"{results.stem}-{value:g}.svg"))
    if publish:
        republish(runner.model(SYSTEMS[chosen[-1]], sigmas[-1]), Path("model_repository"), publish)
    if readme:
        update_readme(readme, rows, measured)
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
        return
    for value in measured:
        Console(width=200, highlight=False).print(results_table(rows, value))
