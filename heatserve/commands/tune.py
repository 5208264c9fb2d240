"""`heatserve tune`."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console

from heatserve.commands.options import REPOSITORY, BackendDirectory, Json, Out, Repository, deliver, tell_page
from heatserve.serving.tuning.settings import DEFAULT_MULTIPLE


def tune(
    name: Annotated[str, typer.Argument(help="Model in the repository; its newest version is tuned.")],
    p99: Annotated[
        float | None,
        typer.Option(
            min=0.001,
            help=f"Target in milliseconds for the 99th percentile; by default {DEFAULT_MULTIPLE} times what one "
            "request to an idle server takes.",
        ),
    ] = None,
    repository: Repository = REPOSITORY,
    seconds: Annotated[float, typer.Option(min=0.1, help="Length of each measurement.")] = 2.0,
    backend_directory: BackendDirectory = None,
    out: Out = None,
    as_json: Json = False,
) -> None:
    """Find the instances, threads and batching that answer the most images within a latency, on this machine.

    Measures each on a real Triton, from 1 to 64 callers that ask for one image at a time, and writes the best into the
    model's `config.pbtxt` at the end: interrupted, it changes nothing. Run it where nothing else runs.

    **Example:** `heatserve tune cifar10 --p99 20`
    """
    from dataclasses import asdict

    from heatserve.certification.provenance import provenance
    from heatserve.export.calibration.report import progress_bar
    from heatserve.export.repository.layout import open_model
    from heatserve.serving.tuning import tune as tuning
    from heatserve.serving.tuning.report import tuning_table

    model = open_model(repository, name)
    tuned = tuning.tune(model, target=p99, seconds=seconds, backend_directory=backend_directory, progress=progress_bar)
    results = {**provenance("onnxruntime", "tritonclient", "nvidia-pytriton"), "seconds": seconds, **asdict(tuned)}
    deliver(results, lambda: tuning_table(tuned), as_json=as_json, out=out)
    tell_page(out, "cost")
    wrote = f"wrote   {tuning.write_choice(model, tuned)}"
    Console(stderr=True, highlight=False).print(wrote, soft_wrap=True, markup=False)
