"""`heatserve tune`."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from heatserve.commands.options import BackendDirectory, Repository


def tune(
    name: Annotated[str, typer.Argument(help="Model in the repository; its newest version is tuned.")],
    p99: Annotated[
        float | None,
        typer.Option(
            min=0.001,
            help="Target in milliseconds for the 99th percentile; by default 5 times what one request to an idle "
            "server takes.",
        ),
    ] = None,
    repository: Repository = Path("model_repository"),
    seconds: Annotated[float, typer.Option(min=0.1, help="Length of each measurement.")] = 2.0,
    backend_directory: BackendDirectory = None,
    out: Annotated[Path | None, typer.Option(help="Write all that was measured there, as JSON.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Write JSON to stdout, not a table.")] = False,
) -> None:
    """Find the instances, threads and batching that answer the most images within a latency, on this machine.

    Measures each on a real Triton, from 1 to 64 callers that ask for one image at a time, and writes the best into the
    model's `config.pbtxt` at the end: interrupted, it changes nothing. Run it where nothing else runs.

    **Example:** `heatserve tune cifar10 --p99 20`
    """
    import json
    from dataclasses import asdict

    from rich.progress import Progress

    from heatserve.certification.files import write_atomically
    from heatserve.certification.provenance import provenance
    from heatserve.export.repository.layout import open_model
    from heatserve.serving.tuning import tune as tuning
    from heatserve.serving.tuning.report import tuning_table

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends like a Ctrl-C: Triton and its files go along
    model = open_model(repository, name)
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(f"settings for {name}", total=tuning.settings_to_try())
        tuned = tuning.tune(
            model,
            target=p99,
            seconds=seconds,
            backend_directory=backend_directory,
            on_setting=lambda: progress.advance(task),
        )
    results = {**provenance("onnxruntime", "tritonclient", "nvidia-pytriton"), "seconds": seconds, **asdict(tuned)}
    text = json.dumps(results, indent=2) + "\n"
    if out:
        write_atomically(out, text.encode())
    if as_json:
        typer.echo(text, nl=False)
    else:
        Console(highlight=False).print(tuning_table(tuned))
    Console(stderr=True, highlight=False).print(f"wrote   {tuning.write_choice(model, tuned)}", soft_wrap=True)
