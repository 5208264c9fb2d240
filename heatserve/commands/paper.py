"""`heatserve paper`. Heavy imports stay inside the functions: `--help` is quick."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from heatserve.certification.errors import HeatserveError
from heatserve.certification.sigma import sigma_problem
from heatserve.commands.options import ARCHITECTURE_HELP, DATA_HELP, Json, Root, deliver, seed_option, tell_page
from heatserve.commands.paper_speed import PARTS_WITHOUT_DATA, measure_without_data

if TYPE_CHECKING:
    from rich.console import RenderableType

    from heatserve.benchmarks.paper.run import PaperRun
    from heatserve.benchmarks.paper.training import System

PARTS = ("train", "certify", "attack", *PARTS_WITHOUT_DATA)

_Sigmas = Annotated[
    list[float] | None, typer.Option(help="σ; once for each, by default 0.25, on CIFAR-10 0.1 and 0.25.")
]
_Systems = Annotated[
    list[str] | None, typer.Option(help="`baseline`, `noise`, `heat`, …; once for each, by default all.")
]
_Parts = Annotated[
    list[str] | None,
    typer.Option("--part", help=f"{', '.join(f'`{one}`' for one in PARTS)}; once for each, by default all."),
]
_TopK = Annotated[
    int | None,
    typer.Option(min=1, help="An answer is right where the true class is among the k best; by default 1, ImageNet 5."),
]
_AttackImages = Annotated[
    int,
    typer.Option(
        min=1,
        help="The first of them, to attack stochastic models at. Others are attacked at all, of photographs at 1,000.",
    ),
]
_Folder = Annotated[
    Path | None, typer.Option(help="Checkpoints, graphs and passes, to go on from; by default runs/paper/DATASET.")
]
_Results = Annotated[Path | None, typer.Option(help="Folder of what is found; by default benchmarks/results/DATASET.")]


def paper(
    dataset: Annotated[str, typer.Option(help=DATA_HELP)] = "digits",
    root: Root = None,
    sigma: _Sigmas = None,
    system: _Systems = None,
    parts: _Parts = None,
    architecture: Annotated[str | None, typer.Option(help=f"{ARCHITECTURE_HELP}. By default the recipe's.")] = None,
    images: Annotated[
        int | None, typer.Option(min=1, help="Test images of single passes; by default all, of photographs 5,000.")
    ] = None,
    certify_images: Annotated[int, typer.Option(min=1, help="The first of them, to certify.")] = 2000,
    attack_images: _AttackImages = 300,
    autoattack_images: Annotated[int, typer.Option(min=1, help="The first of them, for AutoAttack.")] = 1000,
    n: Annotated[int, typer.Option(min=1, help="n of Certify.")] = 1000,
    top_k: _TopK = None,
    folder: _Folder = None,
    results: _Results = None,
    seed: Annotated[int, seed_option("the images, all noise and all training")] = 0,
    device: Annotated[str, typer.Option(help="That networks are trained on: `cpu`, `cuda`, ….")] = "cpu",
    as_json: Json = False,
) -> None:
    """The paper's tables and figures on any data set, and what the paper does not show; on `digits` within an hour.

    What is trained or measured already is not done again: interrupt it, and start the same command later. `speed` is
    Table 2, of networks with random weights: run it where nothing else runs. `line` is Figures 3 and 4, which belong to
    no data set: they are written beside the folder of the results.

    **Example:** `heatserve paper --dataset cifar10 --root data/cifar10 --sigma 0.1`
    """
    from heatserve.benchmarks.paper.recipes import recipe_of
    from heatserve.benchmarks.paper.run import PaperRun, only_run_in
    from heatserve.benchmarks.paper.training import Trainings, take_kept
    from heatserve.commands.attack import use_threads
    from heatserve.export.calibration.report import progress_bar
    from heatserve.training.data import describe_data
    from heatserve.training.loop import training_bar
    from heatserve.training.methods.parameters import require

    for part in parts or ():
        require("part", part, part in PARTS, ", ".join(PARTS))
    if not parts or "attack" in parts:
        import_module("heatserve.benchmarks.paper.attacking")  # what it lacks is told before hours of training
    short = folder_name(dataset)
    folder, results = folder or Path("runs/paper") / short, results or Path("benchmarks/results") / short
    if parts and set(parts) <= set(PARTS_WITHOUT_DATA):
        records, tables = measure_without_data(parts, dataset, results, seed=seed)
        _deliver_without_data(records, tables, as_json=as_json)
        return
    _, shape = describe_data(dataset, root)  # an unknown one is told before anything is written
    recipe = recipe_of(dataset, device)
    for value in sigma or recipe.sigmas:
        if problem := sigma_problem(value):
            raise HeatserveError(f"sigma: {problem}")
    use_threads(math.prod(shape), None)
    with only_run_in(folder, results):
        take_kept(results, folder)
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
            images=images or recipe.images,
            certify_images=certify_images,
            attack_images=attack_images,
            autoattack_images=autoattack_images,
            n=n,
            top_k=top_k or recipe.top_k,
            progress=progress_bar,
        )
        chosen = [trainings.system(name) for name in system or recipe.systems]
        _work(run, [(each, value) for value in sigma or recipe.sigmas for each in chosen], parts or list(PARTS))
    _deliver(results, as_json=as_json)
    if not parts or set(parts) & set(PARTS_WITHOUT_DATA):
        _, tables = measure_without_data(parts, dataset, results, seed=seed)
        if not as_json:
            _deliver_without_data({}, tables, as_json=False)


def _deliver_without_data(records: dict[str, object], tables: list[RenderableType], *, as_json: bool) -> None:
    from rich.console import Group

    from heatserve.benchmarks.records.record import to_json

    text = ",".join(f'"{part}":{to_json(record)}' for part, record in records.items())
    deliver(f"{{{text}}}", lambda: Group(*tables), as_json=as_json, width=120)


def _work(run: PaperRun, systems: list[tuple[System, float]], parts: list[str]) -> None:
    """Each part for all systems, before the next part; at Ctrl-C say that all of it is kept."""
    from functools import partial

    from rich.console import Console

    from heatserve.benchmarks.paper.run import FURTHER_ATTACKS, PAPER_ATTACKS

    console = Console(stderr=True, highlight=False)
    work: Mapping[str, Callable[[System, float], object]] = {
        "train": run.trainings.checkpoint,
        "certify": run.certify,
        "attack": partial(run.attack, names=PAPER_ATTACKS),
        "attack by AutoAttack": partial(run.attack, names=FURTHER_ATTACKS),
    }
    try:
        for what, do in work.items():
            for each, value in systems if what.split()[0] in parts else ():
                console.print(f"[bold]{what}[/] {each.name}" + ("" if each.lipschitz else f", σ = {value:g}"))
                do(each, value)
    except KeyboardInterrupt:
        console.print(
            f"interrupted; what was done is kept in {run.trainings.folder}: the same command goes on from it",
            soft_wrap=True,
        )
        raise typer.Exit(130) from None


def _deliver(results: Path, *, as_json: bool) -> None:
    """Draw the figures, and show the tables of all that is measured there."""
    from rich.console import Group

    from heatserve.benchmarks.paper.figures import draw_paper
    from heatserve.benchmarks.paper.tables import PaperView, paper_report, sigmas_of
    from heatserve.benchmarks.records.paper import SYSTEMS_FILE, read_paper
    from heatserve.benchmarks.records.record import to_json

    if not (results / SYSTEMS_FILE).is_file():
        deliver("{}", Group, as_json=as_json)
        return
    found = read_paper(results)
    for value in sigmas_of(found.systems):
        for path in draw_paper(PaperView(found.systems, found.attacks, value), results):
            typer.echo(f"wrote   {path}", err=True)
    deliver(to_json(found), lambda: paper_report(found.systems, found.attacks), as_json=as_json, width=220)
    tell_page(results / SYSTEMS_FILE, "paper")


def folder_name(dataset: str) -> str:
    """A folder's name for a data set: of a folder of pictures that folder's own, of `imagefolder:.` too."""
    from heatserve.training.named import parse_named

    name = parse_named(dataset).name
    return Path(name.partition(":")[2]).resolve().name if ":" in name else name
