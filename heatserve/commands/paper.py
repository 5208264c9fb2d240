"""`heatserve paper`. Heavy imports stay inside the functions: `--help` is quick."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from heatserve.commands.options import ARCHITECTURE_HELP, DATA_HELP, Json, Root

PARTS = ("train", "certify", "attack")

_Sigmas = Annotated[
    list[float] | None, typer.Option(help="σ; once for each. By default those of the data set's recipe.")
]
_Systems = Annotated[
    list[str] | None, typer.Option(help="`baseline`, `noise`, `heat`, …; once for each, by default all.")
]


def paper(
    dataset: Annotated[str, typer.Option(help=DATA_HELP)] = "digits",
    root: Root = None,
    sigma: _Sigmas = None,
    system: _Systems = None,
    part: Annotated[
        list[str] | None, typer.Option(help=f"{', '.join(f'`{one}`' for one in PARTS)}; by default all.")
    ] = None,
    architecture: Annotated[str | None, typer.Option(help=f"{ARCHITECTURE_HELP}. By default the recipe's.")] = None,
    images: Annotated[int | None, typer.Option(min=1, help="Test images of single passes; by default all.")] = None,
    certify_images: Annotated[int, typer.Option(min=1, help="The first of them, to certify.")] = 2000,
    n: Annotated[int, typer.Option(min=1, help="n of Certify.")] = 1000,
    top_k: Annotated[
        int | None, typer.Option(min=1, help="An answer is right where the class is among the k best.")
    ] = None,
    folder: Annotated[
        Path | None, typer.Option(help="Checkpoints, graphs and passes, to go on from; by default runs/paper/DATASET.")
    ] = None,
    results: Annotated[
        Path | None, typer.Option(help="Folder of what is found; by default benchmarks/results/DATASET.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Decides the images, all noise and all training.")] = 0,
    device: Annotated[str, typer.Option(help="That networks are trained on: `cpu`, `cuda`, ….")] = "cpu",
    as_json: Json = False,
) -> None:
    """The paper's tables and figures on any data set, and what the paper does not show; on `digits` in minutes.

    What is trained or measured already is not done again: interrupt it, and start the same command later.

    **Example:** `heatserve paper --dataset cifar10 --root data/cifar10 --sigma 0.1`
    """
    from itertools import product

    from rich.console import Console

    from heatserve.benchmarks.paper.recipes import recipe_of
    from heatserve.benchmarks.paper.run import PaperRun, only_run_in
    from heatserve.benchmarks.paper.training import Trainings
    from heatserve.certification.errors import HeatserveError
    from heatserve.export.calibration.report import progress_bar
    from heatserve.training.data import describe_data
    from heatserve.training.loop import training_bar

    describe_data(dataset, root)  # an unknown one is told before anything is written
    recipe = recipe_of(dataset, device)
    parts = part or list(PARTS)
    for one in parts:
        if one not in PARTS:
            raise HeatserveError(f"part: expected {', '.join(PARTS)}, got {one!r}")
    console = Console(stderr=True, highlight=False)
    short = _short(dataset)
    folder = folder or Path("runs/paper") / short
    results = results or Path("benchmarks/results") / short
    with only_run_in(folder, results):
        trainings = Trainings(
            dataset=dataset,
            root=root,
            folder=folder,
            architecture=architecture or recipe.architecture,
            systems=recipe.systems,
            seed=seed,
            device=device,
            progress=training_bar,
        )
        run = PaperRun(
            trainings=trainings,
            recipe=recipe,
            results=results,
            images=images,
            certify_images=certify_images,
            n=n,
            top_k=top_k or recipe.top_k,
            progress=progress_bar,
        )
        chosen = [trainings.system(name) for name in system or recipe.systems]
        for value, each in product(sigma or recipe.sigmas, chosen):
            console.print(f"[bold]{each.name}[/], σ = {value:g}")
            trainings.checkpoint(each, value)
            if "certify" in parts:
                run.certify(each, value)
            if "attack" in parts:
                run.attack(each, value)


def _short(dataset: str) -> str:
    """A folder's name for a data set: of a folder of pictures, that folder's."""
    from heatserve.training.named import parse_named

    name = parse_named(dataset).name
    return Path(name.partition(":")[2]).name if ":" in name else name
