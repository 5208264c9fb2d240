"""`heatserve import-weights`. Heavy imports stay inside the function: `--help` is quick."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table
from rich.text import Text

from heatserve.certification.errors import HeatserveError, first_of
from heatserve.commands.new_files import new_checkpoint
from heatserve.commands.options import ClassesFile, Crop, Root, ShorterSide, SkipUnreadable, name_data, numbers
from heatserve.commands.train.options import TrainingData
from heatserve.commands.train.run import why_not_exportable

if TYPE_CHECKING:
    from heatserve.training.checkpoint import Checkpoint
    from heatserve.training.data import ImageData
    from heatserve.training.weights import Diagnosis, Match

_ROWS = 30
_NAMES = 20
_RECORDED = {
    "entry": "entry",
    "prefix": "prefix",
    "renamed": "renamed",
    "types": "types",
    "left_out": "left out",
}
"""What a checkpoint records of its file, and how it is called here."""


def import_weights(
    file: Annotated[
        Path, typer.Argument(help="A state dict (.pth, .pt, .safetensors), wrapped or not, or a heatserve checkpoint.")
    ],
    data: TrainingData,
    out: Annotated[Path, typer.Option(callback=new_checkpoint, help="Where to write the checkpoint (safetensors).")],
    architecture: Annotated[
        str | None,
        typer.Option(
            help="Network that the tensors belong to: `cifar_resnet20`, …, `timm:NAME`, `torchvision:NAME` or "
            "`file.py:function`, whose code is run. Without it, an error says which fit."
        ),
    ] = None,
    root: Root = None,
    resize: ShorterSide = None,
    crop: Crop = None,
    classes: ClassesFile = None,
    skip_unreadable: SkipUnreadable = False,
    mean: Annotated[
        str | None,
        typer.Option(
            metavar="NUMBERS",
            help="Means of the channels, with commas between; subtracted from pixels in [0,1]. [by default those in "
            "FILE, or else ImageNet's]",
        ),
    ] = None,
    std: Annotated[
        str | None,
        typer.Option(
            metavar="NUMBERS",
            help="Standard deviations of the channels, likewise, by which the differences are divided.",
        ),
    ] = None,
    outputs: Annotated[
        Path | None,
        typer.Option(
            help="A text file with a name of a class on each line, in the order of the network's outputs. [by default "
            "they are in the order of the data set]"
        ),
    ] = None,
    entry: Annotated[
        str | None,
        typer.Option(help="Where in FILE the tensors are, such as `model_ema`. [by default the usual names are tried]"),
    ] = None,
    test_images: Annotated[
        int, typer.Option(min=0, help="Test images that the network is tried on; 0: none, and no mistake is found.")
    ] = 1000,
) -> None:
    """Turn somebody else's trained weights into a checkpoint that `train heat` and `export` can start from.

    Nothing in FILE is run. The network is tried on test images: mean, std and the order of the classes must be those
    that it was trained with, and where others would do better, this is said. Grey images have one channel: `--mean 0
    --std 1`.

    **Example:** `heatserve import-weights resnet20.pth --architecture cifar_resnet20 --data cifar10 --root DATA --out
    runs/resnet20.safetensors`
    """
    from heatserve.export.calibration.report import progress_bar
    from heatserve.training import load_checkpoint
    from heatserve.training import weights as others
    from heatserve.training.data import describe_data

    data = name_data(data, resize=resize, crop=crop, classes=classes, skip=skip_unreadable)
    images = _test_images(data, root) if test_images else None
    names, shape = (images.class_names, images.input_shape) if images else describe_data(data, root)
    try:
        others.import_weights(
            file,
            architecture,
            dataset=data,
            class_names=names,
            input_shape=shape,
            mean=None if mean is None else numbers("mean", mean),
            std=None if std is None else numbers("std", std),
            out=out,
            entry=entry,
            outputs=_lines(outputs),
        )
    except others.MismatchError as error:
        Console(stderr=True, highlight=False).print(_misfits(error.match))
        raise
    console = Console(stderr=True, highlight=False)
    checkpoint = load_checkpoint(out)
    _tell(console, checkpoint)
    if reason := why_not_exportable(checkpoint.network, checkpoint.metadata.input_shape):
        console.print(Text(f"it can be trained, and not be exported afterwards: {reason}", style="red"), soft_wrap=True)
    if images is None:
        console.print("not tried on test images", style="yellow")
        return
    diagnosis = others.diagnose(checkpoint, images, images=test_images, progress=progress_bar)
    Console(highlight=False).print(f"accuracy  {diagnosis.accuracy:.2%} of {diagnosis.images:,} test images")
    for hint in _hints(diagnosis, checkpoint):
        console.print(Text(f"hint      {hint}", style="yellow"), soft_wrap=True)


def _test_images(data: str, root: Path | None) -> ImageData:
    from heatserve.export.calibration.report import progress_bar
    from heatserve.training.data import DataError, load_data

    try:
        images = load_data(data, "test", root, progress=progress_bar)
    except DataError as error:
        raise HeatserveError(f"{error}; `--test-images 0` imports without trying the network") from None
    for note in images.notes:
        typer.echo(note, err=True)
    return images


def _tell(console: Console, checkpoint: Checkpoint) -> None:
    """What was read, and what of it was taken."""
    known = checkpoint.metadata
    what = f"{known.architecture}, {known.num_classes} classes, images {list(known.input_shape)}"
    mean, std = (", ".join(f"{number:.4g}" for number in numbers) for numbers in (known.mean, known.std))
    console.print(Text(f"{checkpoint.path}: {what}, mean {mean}, std {std}"), soft_wrap=True)
    for key, label in _RECORDED.items():
        if key in known.hyperparameters:
            console.print(Text(f"{label:<9} {known.hyperparameters[key]}"), soft_wrap=True)


def _hints(diagnosis: Diagnosis, checkpoint: Checkpoint) -> list[str]:
    """What would do better, and how to get it."""
    hints = []
    if order := diagnosis.order:
        names = checkpoint.metadata.class_names
        moved = [f"{mine!r} for {true!r}" for mine, true in zip(names, order.outputs, strict=True) if mine != true]
        hints.append(
            f"with the classes in another order {order.accuracy:.1%} would be right: it answers "
            f"{first_of(moved, _NAMES)}. Write the classes in the order of its outputs into a file, one a line, and "
            f"add --outputs FILE: "
            f"{', '.join(order.outputs[:_NAMES])}{' …' if len(order.outputs) > _NAMES else ''}"
        )
    if better := diagnosis.normalisation:
        mean, std = (",".join(f"{number:.6g}" for number in numbers) for numbers in (better.mean, better.std))
        hints.append(
            f"with another mean and std ({better.name}) {better.accuracy:.1%} would be right: --mean {mean} --std {std}"
        )
    if diagnosis.doubtful_structure:
        hints.append(
            f"no usual mean and std and no order of the classes does better; it answers {diagnosis.commonest!r} for "
            f"{diagnosis.commonest_share:.0%} of the images. Where it is known to be better, its own code may "
            f"differ in what has no tensors: shortcuts, strides, pooling, activations, the size of the images. "
            f"--architecture file.py:function takes that code"
        )
    return hints


def _misfits(match: Match) -> Table:
    """A row for each tensor that the file and the architecture do not agree on, up to a number of them."""
    from heatserve.training.data.decoding import printable

    table = Table(box=SIMPLE, show_edge=False, pad_edge=False, collapse_padding=True)
    for heading in ("tensor", "architecture", "file"):
        table.add_column(heading, overflow="fold")
    for misfit in match.misfits[:_ROWS]:
        shapes = ("–" if shape is None else str(list(shape)) for shape in (misfit.expected, misfit.found))
        table.add_row(Text(printable(misfit.name)), *map(Text, shapes))
    if len(match.misfits) > _ROWS:
        table.add_row(f"… and {len(match.misfits) - _ROWS} more", "", "")
    return table


def _lines(path: Path | None) -> tuple[str, ...] | None:
    """The lines of a text file that are not empty."""
    if path is None:
        return None
    from heatserve.certification.files import read_text

    lines = read_text(path, "a text file with a class on each line").splitlines()
    return tuple(line.strip() for line in lines if line.strip())
