"""`heatserve certify-dataset`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from heatserve.commands.new_files import new_file
from heatserve.commands.options import (
    REPOSITORY,
    Data,
    Json,
    Repository,
    Root,
    Sampling,
    Seed,
    TestImages,
    deliver,
    line,
)


def certify_dataset(
    name: Annotated[str, typer.Argument(help="Model in the repository; the newest version's base is certified.")],
    data: Data = None,
    root: Root = None,
    repository: Repository = REPOSITORY,
    results: Annotated[
        Path | None,
        typer.Option(
            callback=new_file, help="Results file, continued if it exists; by default runs/NAME.certify.jsonl."
        ),
    ] = None,
    images: TestImages = 500,
    n0: Annotated[int, typer.Option(min=1, help="n₀: votes to guess the class.")] = 100,
    n: Annotated[int, typer.Option(min=1, help="n: votes to bound its probability.")] = 10_000,
    alpha: Annotated[float, typer.Option(min=0, max=1, help="Error probability of each certificate.")] = 0.001,
    top_k: Annotated[int, typer.Option(min=1, help="k: a vote for any of the k most frequent classes counts.")] = 1,
    seed: Seed = 0,
    sampling: Sampling = "float32",
    ray: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="Ray cluster that does the work, or `local` to start one.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Certify a test set with Monte Carlo: certified accuracy over radius. Interrupted, it goes on where it was.

    Each image's result is a line of an append-only file, the same on one machine and on a cluster.

    **Example:** `heatserve certify-dataset digits --n 1000`
    """
    from rich.console import Group

    from heatserve.certification.noise import source_of
    from heatserve.export.calibration.certifier import Certifier
    from heatserve.export.calibration.dataset import certify_dataset as run
    from heatserve.export.calibration.dataset import on_ray
    from heatserve.export.calibration.report import dataset_report, progress_bar
    from heatserve.export.calibration.sampling import check_classes, sample_for
    from heatserve.export.card_parts import MonteCarlo
    from heatserve.export.repository.smoothed import SmoothedWork, open_smoothed
    from heatserve.training.methods.parameters import require

    require("alpha", alpha, 0 < alpha < 1, "a number between 0 and 1")  # before the file has a line of it
    model, file = open_smoothed(repository, name, SmoothedWork.VOTES), results or Path("runs") / f"{name}.certify.jsonl"
    classes = len(model.card.class_names)
    require("top_k", top_k, top_k < classes, f"1 to {classes - 1} for {classes} classes")
    data = data or model.card.trained_on
    check_classes(model.card, data, root=root)
    summary = run(
        model,
        sample_for(model, data, "test", root=root, count=images, seed=seed),
        Certifier(
            MonteCarlo(n0=n0, n=n, alpha=alpha, seed=seed, sampling=source_of(sampling).key),
            file=file,
            top_k=top_k,
            executor=on_ray(ray) if ray else None,
            progress=progress_bar,
        ),
    )
    deliver(summary, lambda: Group(line("wrote", file), dataset_report(summary)), as_json=as_json)
