"""`heatserve predict`."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from heatserve.certification.files import write_atomically
from heatserve.commands.asking import (
    Answered,
    Unanswered,
    answer_record,
    ask_each,
    check_answered,
    table_rows,
    unanswered_record,
)
from heatserve.commands.new_files import new_file
from heatserve.commands.options import Json, deliver
from heatserve.commands.server import URL, Ca, Certificate, Headers, Served, ServerOptions, TokenFile, Url

if TYPE_CHECKING:
    from rich.console import RenderableType

    from heatserve.serving.client.answers import ModelSpec, Prediction

_Found = tuple[Sequence[Answered[Any] | Unanswered], list[dict[str, Any]], "RenderableType | None"]
"""What became of each image; the same as JSON has it; and a table of those that were answered, if any."""


def predict(
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE", help="Image files, or .npy arrays.")],
    model: Served,
    url: Url = URL,
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
    ca: Ca = None,
    certificate: Certificate = None,
    token_file: TokenFile = None,
    header: Headers = None,
    svg: Annotated[
        Path | None, typer.Option(callback=new_file, help="Write the table there, as a picture of a terminal.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Ask a server for the class and the certificate of image files.

    Files are decoded as those of training were. An image must have the model's size, if it has one. An .npy array is
    float32 [N,C,H,W] in [0,1], or uint8 [N,H,W,C]. Where a file cannot be answered, the others are, its error follows
    them, and the exit code is 1.

    One pass claims a radius, which holds as often as the model's card promises for images like those that it was
    calibrated on. `--confirm RADIUS` asks more for each image: is its class proven within that radius, whoever made the
    image? That takes tens to hundreds of noisy passes, and answers yes, no or undecided. Where the certificate of the
    model is deterministic, the radius of one pass holds whoever made the image, and there is nothing to confirm.

    **Example:** `heatserve predict cat.png dog.png --model cifar10 --confirm 0.125`
    """
    from heatserve.pictures import terminal_svg

    if alpha is not None and confirm is None:
        raise typer.BadParameter("expected --confirm RADIUS with it, which it is about", param_hint="--alpha")
    server = ServerOptions(url, model, ca, certificate, token_file, header)
    found: _Found = (
        _predicted(server, images) if confirm is None else _confirmed(server, images, radius=confirm, alpha=alpha)
    )
    results, records, table = found
    if table and svg:
        asked = "" if confirm is None else f" --confirm {confirm:g}"
        picture = terminal_svg(table, title=f"heatserve predict … --model {model}{asked}")
        write_atomically(svg, picture.encode())
    if table or as_json:
        deliver(records, lambda: table or "", as_json=as_json)
    check_answered(results)


def _predicted(server: ServerOptions, images: list[Path]) -> _Found:
    """What the single pass says of the images."""
    from heatserve.tables import predictions_table

    with server.client() as client:
        spec = client.spec()
        results = ask_each(images, spec, client.predict)
    records = [
        _record(result, spec) if isinstance(result, Answered) else unanswered_record(result) for result in results
    ]
    rows = table_rows(results)
    return results, records, predictions_table(rows, spec.promise, spec.certificate_kind) if rows else None


def _confirmed(server: ServerOptions, images: list[Path], *, radius: float, alpha: float | None) -> _Found:
    """What is proven of the images."""
    from heatserve.export.tiers import TierModel
    from heatserve.tables import confirmed_table

    with server.patient_client(TierModel.CONFIRM) as client:
        promise = client.tier(TierModel.CONFIRM).promise
        results = ask_each(images, client.spec(), partial(client.confirm, radius=radius, alpha=alpha))
    records = [
        {**answer_record(str(result.image), result.answer, result.seconds, promise=promise), "radius": radius}
        if isinstance(result, Answered)
        else unanswered_record(result)
        for result in results
    ]
    rows = table_rows(results)
    return results, records, confirmed_table(rows, radius=radius) if rows else None


def _record(result: Answered[Prediction], spec: ModelSpec) -> dict[str, Any]:
    from dataclasses import asdict

    prediction = result.answer
    return {
        "image": str(result.image),
        **asdict(prediction),
        "probabilities": prediction.probabilities.tolist(),
        "top_k": prediction.top_k.tolist(),
        "explanation": prediction.reason.explanation,
        "seconds": result.seconds,
        "certificate_kind": spec.certificate_kind,
        "promise": spec.promise,
    }
