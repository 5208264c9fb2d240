"""`heatserve predict`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from heatserve.certification.files import write_atomically
from heatserve.commands.options import Json, Served, Url, deliver
from heatserve.commands.tier_client import answer_record, patient_client

if TYPE_CHECKING:
    from rich.console import RenderableType

    from heatserve.serving.client.answers import Prediction
    from heatserve.serving.client.tier_answers import TierAnswer


def predict(
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE", help="Image files, or .npy arrays.")],
    model: Served,
    url: Url = "grpc://127.0.0.1:8001",
    confirm: Annotated[
        float | None,
        typer.Option(metavar="RADIUS", help="Have the class proven within this L2 radius (pixels in [0,1]), by votes."),
    ] = None,
    alpha: Annotated[
        float | None,
        typer.Option(
            help="With --confirm: a yes or no is wrong with at most this probability; by default the server's."
        ),
    ] = None,
    svg: Annotated[Path | None, typer.Option(help="Write the table there, as a picture of a terminal.")] = None,
    as_json: Json = False,
) -> None:
    """Ask a server for the class and the certificate of image files.

    An image must have the model's size. An .npy array is float32 [N,C,H,W] in [0,1], or uint8 [N,H,W,C].

    One pass claims a radius, which holds as often as the model's card promises for images like those that it was
    calibrated on. `--confirm RADIUS` asks more for each image: is its class proven within that radius, whoever made the
    image? That takes tens of noisy passes, and answers yes, no or undecided.

    **Example:** `heatserve predict cat.png dog.png --model cifar10 --confirm 0.125`
    """
    from heatserve.pictures import terminal_svg

    if alpha is not None and confirm is None:
        raise typer.BadParameter("expected --confirm RADIUS with it, which it is about", param_hint="--alpha")
    if confirm is None:
        records, table = _predicted(url, model, images)
    else:
        records, table = _confirmed(url, model, images, radius=confirm, alpha=alpha)
    if svg:
        asked = "" if confirm is None else f" --confirm {confirm:g}"
        picture = terminal_svg(table, title=f"heatserve predict … --model {model}{asked}")
        write_atomically(svg, picture.encode())
    deliver(records, lambda: table, as_json=as_json)


def _predicted(url: str, model: str, images: list[Path]) -> tuple[list[dict[str, Any]], RenderableType]:
    """What the single pass says of the images, as records and as a table."""
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
    return [{**_record(*row), "promise": promise} for row in rows], predictions_table(rows, promise)


def _confirmed(
    url: str, model: str, images: list[Path], *, radius: float, alpha: float | None
) -> tuple[list[dict[str, Any]], RenderableType]:
    """What is proven of the images, as records and as a table."""
    from heatserve.export.tiers import TierModel
    from heatserve.serving.client.image_files import read_images
    from heatserve.tables import confirmed_table

    rows: list[tuple[str, TierAnswer, float]] = []
    with patient_client(url, model, TierModel.CONFIRM) as client:
        spec, promise = client.spec(), client.tier(TierModel.CONFIRM).promise
        for path in images:
            pixels = read_images(path, spec.input_shape, spec.input_type)
            start = time.perf_counter()
            answers = client.confirm(pixels, radius=radius, alpha=alpha)
            seconds = time.perf_counter() - start
            rows.extend((str(path), answer, seconds) for answer in answers)
    records = [{**answer_record(*row, promise=promise), "radius": radius} for row in rows]
    return records, confirmed_table(rows, radius=radius)


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
