"""`heatserve bench soak`. Heavy imports stay inside the function: `--help` is quick."""

from __future__ import annotations

from typing import Annotated

import typer

from heatserve.commands.bench_load import model_opener
from heatserve.commands.options import (
    REPOSITORY,
    BackendDirectory,
    Json,
    Out,
    Repository,
    Root,
    deliver,
    seed_option,
    tell_page,
)


def soak(
    model: Annotated[
        str, typer.Argument(help="Of the repository, or a classifier with random weights as for `bench latency`.")
    ] = "digits",
    repository: Repository = REPOSITORY,
    root: Root = None,
    minutes: Annotated[float, typer.Option(min=0.05, help="Under load.")] = 30.0,
    share: Annotated[
        float, typer.Option("--load", min=0.05, max=1.0, help="Share of what the same mix reaches in a closed loop.")
    ] = 0.7,
    times: Annotated[int, typer.Option(min=0, max=4, help="How often each fault is done afterwards; 0: none.")] = 3,
    backend_directory: BackendDirectory = None,
    seed: Annotated[int, seed_option("random weights, images, and the moments of arrivals")] = 0,
    out: Out = None,
    as_json: Json = False,
) -> None:
    """Load a `heatserve serve` for long, see what it grows by, and break others like it.

    One pass over gRPC and over HTTP, and confirm, arrive at a share of what was reached; memory, descriptors,
    processes and files are noted between. Then each fault is done to a server that is asked all the time, until it
    answers again: killed and stopped processes, a crash at the start, a full disk. Run it where nothing else runs.

    **Example:** `heatserve bench soak digits --minutes 30 --out benchmarks/results/soak.json`
    """
    from heatserve.benchmarks.load.report import REPORT_WIDTH
    from heatserve.benchmarks.records.record import to_json
    from heatserve.benchmarks.soak.measure import SoakSettings, measure_soak
    from heatserve.benchmarks.soak.report import soak_report
    from heatserve.export.calibration.report import progress_bar

    settings = SoakSettings(minutes, share, times, seed=seed, backend_directory=backend_directory)
    with model_opener(model, repository, root, seed)() as served:
        record = measure_soak(served, settings, progress=progress_bar)
    deliver(to_json(record), lambda: soak_report(record), as_json=as_json, out=out, width=REPORT_WIDTH)
    tell_page(out, "soak")
