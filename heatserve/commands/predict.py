"""`heatserve predict`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from heatserve.certification.files import write_atomically
from heatserve.commands.options import Json, deliver

if TYPE_CHECKING:
    from heatserve.serving.client.answers import Prediction


def predict(
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE", help="Image files, or .npy arrays.")],
    model: Annotated[str, typer.Option(help="The model's name on the server.")],
    url: Annotated[str, typer.Option(help="grpc://host:port, or http://host:port.")] = "grpc://127.0.0.1:8001",
    svg: Annotated[Path | None, typer.Option(help="Write the table there, as a picture of a terminal.")] = None,
    as_json: Json = False,
) -> None:
    """Ask a server for the class and the certificate of image files.

    An image must have the model's size. An .npy array is float32 [N,C,H,W] in [0,1], or uint8 [N,H,W,C].

    **Example:** `heatserve predict cat.png dog.png --model cifar10`
    """
    from heatserve.pictures import terminal_svg
    from heatserve.serving.client.client import Client
    from heatserve.serving.client.image_files import read_images
    from heatserve.tables import predictions_table

    rows: list[tuple[str, Prediction, float]] = []
    with Client(url, model=model) as client:
        spec, promise = client.spec(), client.promise()
        for path in images:
            pixels = read_images(path, spec.input_shape, spec.input_type)
            start = time.perf_counter()
            predictions = client.predict(pixels)
            seconds = time.perf_counter() - start
            rows.extend((str(path), prediction, seconds) for prediction in predictions)
    if svg:
        picture = terminal_svg(predictions_table(rows, promise), title=f"heatserve predict … --model {model}")
        write_atomically(svg, picture.encode())
    records = [{**_record(*row), "promise": promise} for row in rows]
    deliver(records, lambda: predictions_table(rows, promise), as_json=as_json)


def _record(image: str, prediction: Prediction, seconds: float) -> dict[str, Any]:
    from dataclasses import asdict

    return {
        "image": image,
        **asdict(prediction),
        "probabilities": prediction.probabilities.tolist(),
        "top_k": prediction.top_k.tolist(),
        "explanation": prediction.reason.explanation,
        "seconds": seconds,
    }
