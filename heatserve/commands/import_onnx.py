"""`heatserve import-onnx`. Heavy imports stay inside the function: `--help` is quick."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Group
from rich.text import Text

from heatserve.certification.errors import HeatserveError
from heatserve.commands.export import Input, Precise, Resize, ServedBy, Tf32, variant_of
from heatserve.commands.options import (
    DATA_HELP,
    REPOSITORY,
    Json,
    Repository,
    Root,
    deliver,
    line,
    numbers,
    uncalibrated,
)

PIXELS, CLASSES, SERVED = "What the network takes", "What it answers", "How it is served"
"""Panels of the help."""


def import_onnx(
    file: Annotated[
        Path, typer.Argument(help="An ONNX classifier: of PyTorch, Keras, scikit-learn or another library.")
    ],
    name: Annotated[str, typer.Option(help="Name of the served model.")],
    sigma: Annotated[float, typer.Option(help="σ of the smoothing noise, pixels in [0,1].")],
    base: Annotated[
        Path | None,
        typer.Option(help="ONNX file of the base classifier f that Monte Carlo certifies; by default the same file."),
    ] = None,
    repository: Repository = REPOSITORY,
    input_shape: Annotated[
        str | None,
        typer.Option(
            metavar="C,H,W",
            rich_help_panel=PIXELS,
            help="Channels, height and width of an image, where the file does not say them, as for flattened pixels.",
        ),
    ] = None,
    layout: Annotated[
        Literal["NCHW", "NHWC"] | None,
        typer.Option(
            case_sensitive=False,
            rich_help_panel=PIXELS,
            help="Order of the axes, also of flattened pixels (by default NCHW); otherwise as the file's shape tells.",
        ),
    ] = None,
    white: Annotated[
        float | None,
        typer.Option(
            rich_help_panel=PIXELS,
            help="The number for white, such as 255. By default 1, or 255 where the network takes UINT8.",
        ),
    ] = None,
    mean: Annotated[
        str,
        typer.Option(
            metavar="NUMBERS",
            rich_help_panel=PIXELS,
            help="What is to be subtracted from the pixels, on the scale of `--white`: a number, or one a channel with "
            "commas between. Not if it is in the network.",
        ),
    ] = "0",
    std: Annotated[
        str, typer.Option(metavar="NUMBERS", rich_help_panel=PIXELS, help="What they are divided by, likewise.")
    ] = "1",
    bgr: Annotated[bool, typer.Option("--bgr", rich_help_panel=PIXELS, help="The network takes blue first.")] = False,
    output: Annotated[
        str | None, typer.Option(rich_help_panel=CLASSES, help="The output with the scores, where there are several.")
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=CLASSES,
            help=f"What it was trained on, {DATA_HELP}: names the classes, and none of its training images calibrates.",
        ),
    ] = None,
    root: Root = None,
    classes: Annotated[
        Path | None,
        typer.Option(rich_help_panel=CLASSES, help="File of the names of the classes, a line each, in their order."),
    ] = None,
    input_type: Input = None,
    resize: Resize = None,
    precision: Precise = "fp32",
    backend: ServedBy = "auto",
    tf32: Tf32 = False,
    as_json: Json = False,
) -> None:
    """Turn somebody's ONNX classifier into one certified graph that Triton serves, with its certificate card.

    Logits or probabilities, any opset from 11 on, any names; classes that the file answers besides are left out. What
    cannot be used is named with its node. The graph is compared with what the file answers before it is written.

    A network in an ONNX file is not trained any further: train it under noise N(0, σ²I) where it is from, or it has
    small radii. `import-weights` takes its weights instead, and `train average` smooths them without labels.

    **Example:** `heatserve import-onnx classifier.onnx --name theirs --sigma 0.25 --data digits`
    """
    from heatserve.export import importing
    from heatserve.export.graph.imported.pixels import Preprocessing

    preprocessing = Preprocessing(
        input_shape=_shape(input_shape),
        layout=layout,
        white=white,
        mean=numbers("mean", mean),
        std=numbers("std", std),
        bgr=bgr,
    )
    model = importing.import_onnx(
        file,
        repository=repository,
        name=name,
        sigma=sigma,
        base=base,
        preprocessing=preprocessing,
        output=output,
        class_names=_class_names(classes, data, root),
        dataset=data,
        variant=variant_of(input_type, precision, resize, data, root),
        backend=backend,
        tf32=tf32,
    )
    card = model.card
    deliver(
        card.model_dump_json(indent=2),
        lambda: Group(
            line("wrote", model.path),
            line("input", card.training["file_input"]),
            line("output", card.training["file_scores"]),
            line("exact", f"probabilities within {card.training['file_error']:.1e} of those of the file"),
            line("classes", f"{len(card.class_names)}: {', '.join(card.class_names[:10])}"),
            line("graph", f"sha256 {card.graph_sha256}"),
            uncalibrated(f"{name} --calibration-data DATA"),
            Text(_NEXT.format(sigma=f"{card.sigma:g}")),
        ),
        as_json=as_json,
    )


_NEXT = """where DATA are images that no training of the network saw.
An ONNX file is not trained any further, so this network is as smooth as it came. If radii are small, train it \
where it is from under noise of σ = {sigma}; or import its weights (import-weights), smooth them (train average), \
export."""


def _shape(text: str | None) -> tuple[int, int, int] | None:
    if text is None:
        return None
    found = numbers("input shape", text)
    if len(found) != 3 or not all(number.is_integer() for number in found):
        raise HeatserveError(f"input shape: expected channels, height and width, such as 3,224,224, got {text!r}")
    channels, height, width = map(int, found)
    return channels, height, width


def _class_names(file: Path | None, data: str | None, root: Path | None) -> tuple[str, ...] | None:
    """The lines of a file, or the classes of a data set; None: neither was named."""
    if file is not None:
        from heatserve.certification.files import read_text

        lines = read_text(file, "names of classes, a line each").splitlines()
        return tuple(line.strip() for line in lines if line.strip())
    if data is None:
        return None
    from heatserve.training.data import describe_data

    return describe_data(data, root)[0]
