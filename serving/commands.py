"""The commands of this room. Heavy imports stay inside the functions, so that `heatserve --help` is quick."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

if TYPE_CHECKING:
    from export.repository import ModelVersion
    from serving.endpoints import Endpoints
    from serving.triton import TritonServer
    from serving.wire import Prediction

app = typer.Typer()

BROKEN = 3
"""Exit code of an engine that does not mean what the certificate says; 1 and 2 are errors."""

_PORT_HELP = "TCP port; 0 takes any free one."
Host = Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0: all.")]
HttpPort = Annotated[int, typer.Option(help=_PORT_HELP)]
GrpcPort = Annotated[int, typer.Option(help=_PORT_HELP)]
MetricsPort = Annotated[int, typer.Option(help=_PORT_HELP)]
Repository = Annotated[Path, typer.Option(help="Model repository.")]
BackendDirectory = Annotated[
    Path | None, typer.Option(help="Triton's backends, where they are not beside `tritonserver`.")
]


@app.command()
def quickstart(
    once: Annotated[bool, typer.Option("--once", help="Stop after the answers, instead of at Ctrl-C.")] = False,
    repository: Repository = Path("model_repository"),
    runs: Annotated[Path, typer.Option(help="Folder for the checkpoints.")] = Path("runs/quickstart"),
    host: Host = "127.0.0.1",
    http_port: HttpPort = 8000,
    grpc_port: GrpcPort = 8001,
    metrics_port: MetricsPort = 8002,
) -> None:
    """From nothing to certified answers: train, smooth, export, calibrate and serve a classifier of real digits.

    A second start finds the model and serves it at once.

    **Example:** `heatserve quickstart --once`
    """
    from serving import quickstart
    from serving.endpoints import Endpoints

    console = Console(highlight=False)
    model = quickstart.make_model(repository, runs, console)
    endpoints = Endpoints(host=host, http=http_port, grpc=grpc_port, metrics=metrics_port)
    _serve(
        console,
        repository,
        [model.name],
        endpoints,
        on_ready=lambda server: quickstart.ask(server.endpoints, runs, console),
        stay=not once,
    )


@app.command()
def serve(
    models: Annotated[list[str] | None, typer.Argument(metavar="MODEL", help="Models to serve; none: all.")] = None,
    repository: Repository = Path("model_repository"),
    host: Host = "127.0.0.1",
    http_port: HttpPort = 8000,
    grpc_port: GrpcPort = 8001,
    metrics_port: MetricsPort = 8002,
    backend_directory: BackendDirectory = None,
) -> None:
    """Serve certified models with Triton until Ctrl-C.

    Refuses a model whose certificate card does not match its graph; a model that was not calibrated serves radius 0.

    **Example:** `heatserve serve digits --http-port 9000`
    """
    from serving.endpoints import Endpoints

    endpoints = Endpoints(host=host, http=http_port, grpc=grpc_port, metrics=metrics_port)
    _serve(Console(highlight=False), repository, models or (), endpoints, backend_directory=backend_directory)


def _serve(
    console: Console,
    repository: Path,
    models: Sequence[str],
    endpoints: Endpoints,
    *,
    backend_directory: Path | None = None,
    on_ready: Callable[[TritonServer], object] = lambda _: None,
    stay: bool = True,
) -> None:
    """Serve until Ctrl-C or SIGTERM, or only as long as `on_ready` takes."""
    from serving.triton import TritonServer

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends like a Ctrl-C, at any moment
    try:
        with TritonServer(
            repository, models=models, endpoints=endpoints, backend_directory=backend_directory
        ) as server:
            on_ready(server)
            if not stay:
                return
            _print_served(console, server)
            try:
                server.wait()
            except KeyboardInterrupt:
                console.print("Stopping: requests in flight are finished first; Ctrl-C again ends at once.")
    except KeyboardInterrupt:  # before it was ready, or again
        pass
    console.print("Stopped.")


def _print_served(console: Console, server: TritonServer) -> None:
    from serving.table import models_table

    urls = server.endpoints
    console.print(models_table(server.models))
    console.print(f"gRPC     {urls.grpc_url}\nHTTP     {urls.http_url}\nmetrics  {urls.metrics_url}", soft_wrap=True)
    console.print(f"log      {server.log}\n\n{_examples(server.models[0], urls)}", markup=False, soft_wrap=True)
    console.print("\nCtrl-C stops the server.")


def _examples(model: ModelVersion, urls: Endpoints) -> str:
    """How to call `model`: each can be copied and run."""
    channels, height, width = model.card.input_shape
    layout, array, grey = f"[N,{channels},{height},{width}]", "float32 {} in [0,1]", 0.5
    if model.card.input_type == "UINT8":
        layout, array, grey = f"[N,{height},{width},{channels}]", "uint8 {}", 128
    size = "any size" if model.card.resize else f"{width}×{height} pixels"
    return f"""\
from the shell, with a picture of {size}:
    {_program("heatserve")} predict picture.png --url {urls.grpc_url} --model {model.name}
from {_program("python")}, images {array.format(layout)}:
    from serving import Client
    with Client("{urls.grpc_url}", model="{model.name}") as client:
        print(client.predict(images))
from anywhere, a grey image over HTTP:
    python3 -c 'import json; print(json.dumps({{"inputs": [{{"name": "image", "datatype": "{model.card.input_type}",
        "shape": {layout.replace("N", "1")}, "data": [{grey}] * {channels * height * width}}}]}}))' |
        curl -s {urls.http_url}/v2/models/{model.name}/infer -d @-"""


def _program(name: str) -> str:
    """What to type for a program of this Python's environment: its name if the shell finds it, else its path."""
    path = Path(sys.executable).parent / name
    return name if shutil.which(name) == str(path) else os.path.relpath(path)


@app.command()
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

    from certification.files import write_atomically
    from export.provenance import provenance
    from export.repository import open_model
    from serving import tuning
    from serving.table import tuning_table

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


@app.command()
def conformance(
    engines: Annotated[
        list[str] | None,
        typer.Option("--engine", help="One of those in the table; several times for several; by default all."),
    ] = None,
    examples: Annotated[int, typer.Option(min=1, help="Hard cases for each of the graphs.")] = 1000,
    seed: Annotated[int, typer.Option(min=0, help="Of the cases.")] = 0,
    out: Annotated[Path | None, typer.Option(help="Write all that was found there, as JSON.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Write JSON to stdout, not a table.")] = False,
) -> None:
    """Does every engine on this machine mean what the certificate says? Hold each against float64.

    Graphs whose logits are known, ties and extremes among them, for 2, 10 and 1000 classes; every invalid pixel.
    No radius may be above its float64 value for the engine's own probabilities. Engines that are absent are named.

    **Exit codes:** 0 all promises kept, 3 one was broken or a graph refused, 1 an error, or no engine is here.

    **Example:** `heatserve conformance --engine onnxruntime --examples 100`
    """
    import json

    from rich.progress import Progress

    from certification.files import write_atomically
    from export.provenance import provenance
    from serving.conformance import conform_all
    from serving.table import conformance_table

    with Progress(console=Console(stderr=True), transient=True) as progress:
        findings, absent = conform_all(
            engines,
            examples=examples,
            seed=seed,
            progress=lambda name, probes: partial(progress.advance, progress.add_task(name, total=probes)),
        )
    results = {
        **provenance("onnx", "onnxruntime", "numpy", "scipy", "nvidia-pytriton"),
        "seed": seed,
        "examples": examples,
        "engines": {name: found.to_dict() for name, found in findings.items()},
        "absent": absent,
    }
    text = json.dumps(results, indent=2) + "\n"
    if out:
        write_atomically(out, text.encode())
    if as_json:
        typer.echo(text, nl=False)
    else:
        Console(highlight=False).print(conformance_table(findings, absent))
    if not all(found.passed for found in findings.values()):
        raise typer.Exit(BROKEN)


@app.command()
def predict(
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE", help="Image files, or .npy arrays.")],
    model: Annotated[str, typer.Option(help="The model's name on the server.")],
    url: Annotated[str, typer.Option(help="grpc://host:port, or http://host:port.")] = "grpc://127.0.0.1:8001",
    as_json: Annotated[bool, typer.Option("--json", help="Write JSON to stdout, not a table.")] = False,
) -> None:
    """Ask a server for the class and the certificate of image files.

    An image must have the model's size. An .npy array is float32 [N,C,H,W] in [0,1], or uint8 [N,H,W,C].

    **Example:** `heatserve predict cat.png dog.png --model cifar10`
    """
    from serving.client import Client
    from serving.image_files import read_images
    from serving.table import predictions_table

    rows: list[tuple[str, Prediction, float]] = []
    with Client(url, model=model) as client:
        spec = client.spec()
        for path in images:
            pixels = read_images(path, spec.input_shape, spec.input_type)
            start = time.perf_counter()
            predictions = client.predict(pixels)
            seconds = time.perf_counter() - start
            rows.extend((str(path), prediction, seconds) for prediction in predictions)
    if as_json:
        _write_json(rows)
    else:
        Console().print(predictions_table(rows))


def _write_json(rows: list[tuple[str, Prediction, float]]) -> None:
    import json
    from dataclasses import asdict

    records = [
        {
            "image": image,
            **asdict(prediction),
            "probabilities": prediction.probabilities.tolist(),
            "top_k": prediction.top_k.tolist(),
            "seconds": seconds,
        }
        for image, prediction, seconds in rows
    ]
    json.dump(records, sys.stdout, indent=2)
    sys.stdout.write("\n")
