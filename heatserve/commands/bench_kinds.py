"""`heatserve bench kinds`. Heavy imports stay inside the function: `--help` is quick."""

from __future__ import annotations

from typing import Annotated

import typer

from heatserve.commands.options import REPOSITORY, Data, Json, Out, Repository, Root, deliver, seed_option, tell_page


def kinds(
    names: Annotated[
        list[str],
        typer.Argument(help="Models of the same data set; the first statistical one also confirms and certifies."),
    ],
    data: Data = None,
    repository: Repository = REPOSITORY,
    root: Root = None,
    images: Annotated[int, typer.Option(min=1, help="Test images of each single pass.")] = 10_000,
    proofs: Annotated[int, typer.Option(min=1, help="The first of them, which votes prove something about.")] = 500,
    seed: Annotated[int, seed_option("the images and the noise")] = 0,
    out: Out = None,
    as_json: Json = False,
) -> None:
    """Certified accuracy of a deterministic single pass beside a statistical one, confirm and Certify, and their cost.

    **Example:** `heatserve bench kinds cifar10_lipschitz cifar10 --root cifar10 --out benchmarks/results/kinds.json`
    """
    from heatserve.benchmarks.kinds import KIND_RADII, measure_proofs, measure_single_passes
    from heatserve.benchmarks.records.kinds import KindsRecord
    from heatserve.benchmarks.records.record import made_now, to_json
    from heatserve.benchmarks.tables import kinds_table
    from heatserve.export.calibration.report import progress_bar
    from heatserve.export.calibration.sampling import check_classes, sample_for
    from heatserve.export.repository.layout import open_model

    models = [open_model(repository, name) for name in names]
    dataset = data or models[0].card.trained_on
    for model in models:
        check_classes(model.card, dataset, root=root)
    made = vars(made_now(seed=seed))
    drawn = sample_for(models[0], dataset, "test", root=root, count=images, seed=seed)
    rows = measure_single_passes(models, drawn, seed=seed, progress=progress_bar)
    for model in [model for model in models if not model.card.is_deterministic][:1]:
        few = sample_for(model, dataset, "test", root=root, count=proofs, seed=seed)
        rows += measure_proofs(model, few, seed=seed, progress=progress_bar)
    record = KindsRecord(**made, radii=KIND_RADII, rows=tuple(rows))
    deliver(to_json(record), lambda: kinds_table(record), as_json=as_json, out=out, width=120)
    tell_page(out, "kinds")
