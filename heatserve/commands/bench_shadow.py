"""`heatserve bench shadow`: the shadow audit on traffic that is known. Heavy imports stay inside the function."""

from __future__ import annotations

from typing import Annotated

import typer

from heatserve.commands.options import REPOSITORY, Json, Out, Repository, Root, deliver, seed_option, tell_page


def shadow(
    names: Annotated[list[str] | None, typer.Argument(metavar="NAME", help="Models in the repository.")] = None,
    root: Root = None,
    repository: Repository = REPOSITORY,
    images: Annotated[int, typer.Option(min=1, help="Test images of each model, at most what the split has.")] = 10_000,
    honest_runs: Annotated[int, typer.Option(min=1, help="Runs of honest traffic.")] = 10,
    runs: Annotated[int, typer.Option(min=1, help="Runs of each other kind.")] = 5,
    inputs: Annotated[int, typer.Option(min=1, help="Most inputs of a run.")] = 1000,
    judged: Annotated[int, typer.Option(min=1, help="Most answers that Certify judges in a run.")] = 100,
    seed: Annotated[int, seed_option("the images of each run")] = 0,
    out: Out = None,
    as_json: Json = False,
) -> None:
    """After how many inputs the shadow audit raises an alarm: honest traffic, a swapped network, changed images.

    What is counted does not depend on the speed of the machine.

    **Example:** `heatserve bench shadow digits cifar10 --root data/cifar10 --out benchmarks/results/shadow.json`
    """
    from dataclasses import replace

    from heatserve.benchmarks.records.record import made_now, to_json, write_record
    from heatserve.benchmarks.records.shadow import ShadowRecord
    from heatserve.benchmarks.shadow import measure_shadow
    from heatserve.benchmarks.tables import shadow_tables
    from heatserve.export.calibration.report import progress_bar
    from heatserve.export.calibration.sampling import sample
    from heatserve.export.repository.smoothed import SmoothedWork, open_smoothed
    from heatserve.serving.shadow.auditor import LEVEL

    models = [open_smoothed(repository, name, SmoothedWork.VOTES) for name in names or ("digits", "cifar10")]
    record = ShadowRecord(**vars(made_now(seed=seed)), level=LEVEL, judged=judged, models={})
    asked = [(model, sample(model.card.trained_on, "test", root=root, count=images, seed=seed)) for model in models]
    for model, data in asked:
        found = measure_shadow(
            model,
            data,
            honest_runs=honest_runs,
            runs=runs,
            inputs=inputs,
            judged=judged,
            seed=seed,
            progress=progress_bar,
        )
        record = replace(record, models={**record.models, model.name: found})
        if out:  # an interrupted run keeps what it has
            write_record(out, record)
    deliver(to_json(record), lambda: shadow_tables(record), as_json=as_json, out=out)
    tell_page(out, "shadow")
