"""`heatserve experiment`. Heavy imports stay inside the functions: `--help` is quick."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console, Group

from heatserve.commands.new_files import new_file
from heatserve.commands.options import ARCHITECTURE_HELP, REPOSITORY, Json, deliver, seed_option, tell_page

_Systems = Annotated[
    list[str] | None, typer.Option(help="`baseline`, `noise`, `average`, …; once for each, by default all.")
]
_Results = Annotated[
    Path, typer.Option(callback=new_file, help="JSON file of the rows; a figure for each σ is drawn beside it.")
]
_Publish = Annotated[
    str | None,
    typer.Option(
        help="Also export the last system at the last σ to model_repository/, under this name, and calibrate it there "
        "on images that no system was measured on."
    ),
]

experiment = typer.Typer(
    name="experiment",
    no_args_is_help=True,
    help="Train and measure all systems of the paper. It takes hours, and goes on where it was interrupted.",
)


@experiment.callback()
def _group() -> None:
    """Keep `cifar10` a subcommand."""


@experiment.command()
def cifar10(
    root: Annotated[Path, typer.Option(help="Folder of CIFAR-10, as for `heatserve train`.")],
    architecture: Annotated[str | None, typer.Option(help=f"{ARCHITECTURE_HELP}. By default `cifar_resnet20`.")] = None,
    system: _Systems = None,
    sigma: Annotated[list[float] | None, typer.Option(help="σ; once for each, by default 0.1 and 0.25.")] = None,
    images: Annotated[int, typer.Option(min=1, help="Test images to certify.")] = 500,
    n: Annotated[int, typer.Option(min=1, help="n of Certify.")] = 1000,
    folder: Annotated[Path, typer.Option(help="Folder of checkpoints and graphs, to go on from.")] = Path(
        "runs/cifar10"
    ),
    results: _Results = Path("benchmarks/results/cifar10.json"),
    publish: _Publish = None,
    seed: Annotated[int, seed_option("the images, all noise and all training")] = 0,
    device: Annotated[str, typer.Option(help="`cpu`, `cuda`, ….")] = "cpu",
    as_json: Json = False,
) -> None:
    """Train every system on CIFAR-10 from one baseline, and compare each with Monte Carlo certification.

    What is trained or measured already is not done again: interrupt it, and start the same command later.

    **Example:** `heatserve experiment cifar10 --root data/cifar10 --system baseline --system average --sigma 0.25`
    """
    from itertools import product

    from heatserve.benchmarks.cifar10.experiment import Experiment, read_rows
    from heatserve.benchmarks.cifar10.figure import draw_cifar10
    from heatserve.benchmarks.cifar10.systems import SYSTEMS
    from heatserve.benchmarks.cifar10.tables import cifar10_table
    from heatserve.benchmarks.records.cifar10 import ARCHITECTURE
    from heatserve.benchmarks.records.record import to_json
    from heatserve.export.calibration.report import progress_bar
    from heatserve.export.repository.layout import check_model_name
    from heatserve.training.loop import Interrupted
    from heatserve.training.methods.parameters import require

    if publish:
        check_model_name(publish)
    chosen = system or list(SYSTEMS)
    for name in chosen:
        require("system", name, name in SYSTEMS, ", ".join(SYSTEMS))
    where = {"root": root, "folder": folder, "results": results}
    network = architecture or ARCHITECTURE
    runner = Experiment(
        **where, architecture=network, images=images, n=n, seed=seed, device=device, progress=progress_bar
    )
    sigmas, console = sigma or [0.1, 0.25], Console(stderr=True, highlight=False)
    try:
        for value, name in product(sigmas, chosen):
            console.print(f"[bold]{name}[/], σ = {value:g}")
            runner.measure_system(SYSTEMS[name], value)
    except Interrupted as interrupted:
        console.print(str(interrupted).split(";")[0], soft_wrap=True)
        raise typer.Exit(130) from None
    record = read_rows(results)
    measured = sorted({row.sigma for row in record.rows})
    for value in measured:
        draw_cifar10(record.rows, value, results.with_name(f"{results.stem}-{value:g}.svg"))
    if publish:
        runner.publish(SYSTEMS[chosen[-1]], sigmas[-1], repository=REPOSITORY, name=publish)
    deliver(
        to_json(record),
        lambda: Group(*(cifar10_table(record.rows, value) for value in measured)),
        as_json=as_json,
        width=200,
    )
    tell_page(results, "cifar10")
