"""`heatserve bench switch`. Heavy imports stay inside the function: `--help` is quick."""

from __future__ import annotations

from typing import Annotated

import typer

from heatserve.commands.options import REPOSITORY, Json, Out, Repository, Root, deliver, seed_option, tell_page


def switch(
    model: Annotated[str, typer.Argument(help="Model in the repository.")] = "digits",
    repository: Repository = REPOSITORY,
    root: Root = None,
    switches: Annotated[int, typer.Option(min=2, help="Switches and rollbacks, in turn.")] = 20,
    load: Annotated[float, typer.Option(min=0.01, max=1, help="Share of what the server reaches.")] = 0.5,
    seed: Annotated[int, seed_option("the moments of arrivals")] = 0,
    out: Out = None,
    as_json: Json = False,
) -> None:
    """Switch a server under load from version to version, and to versions with a fault, which it must keep out.

    **Example:** `heatserve bench switch digits --out benchmarks/results/switch.json`
    """
    from heatserve.benchmarks.load.setting import TAKEN_IN_TURN, repository_models
    from heatserve.benchmarks.records.record import to_json
    from heatserve.benchmarks.switching.measure import SwitchSettings, measure_switching
    from heatserve.benchmarks.switching.report import switching_report
    from heatserve.export.calibration.report import progress_bar
    from heatserve.export.calibration.sampling import sample
    from heatserve.export.repository.smoothed import SmoothedWork, open_smoothed

    opened = open_smoothed(repository, model, SmoothedWork.FAULTS)
    data = sample(opened.card.trained_on, "test", root=root, count=TAKEN_IN_TURN, seed=seed)
    settings = SwitchSettings(switches=switches, share=load, seed=seed)
    with repository_models(opened, data.images, f"{data.dataset}, test split") as served:
        record = measure_switching(served, settings, progress=progress_bar)
    deliver(to_json(record), lambda: switching_report(record), as_json=as_json, out=out)
    tell_page(out, "switch")
