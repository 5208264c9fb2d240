"""`heatserve import-weights`. Heavy imports stay inside the function: `--help` is quick."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from heatserve.certification.errors import HeatserveError
from heatserve.commands.options import Root
from heatserve.commands.train.options import TrainingData
from heatserve.training.channels import IMAGENET_MEAN, IMAGENET_STD


def import_weights(
    file: Annotated[Path, typer.Argument(help="A state dict as safetensors, without heatserve's header.")],
    architecture: Annotated[
        str, typer.Option(help="Network that the tensors belong to: `cifar_resnet20`, …, `resnet50`.")
    ],
    data: TrainingData,
    out: Annotated[Path, typer.Option(help="Where to write the checkpoint (safetensors).")],
    root: Root = None,
    mean: Annotated[
        str,
        typer.Option(
            metavar="NUMBERS", help="Means of the channels, with commas between; subtracted from pixels in [0,1]."
        ),
    ] = ",".join(map(str, IMAGENET_MEAN)),
    std: Annotated[
        str,
        typer.Option(
            metavar="NUMBERS",
            help="Standard deviations of the channels, likewise, by which the differences are divided.",
        ),
    ] = ",".join(map(str, IMAGENET_STD)),
) -> None:
    """Turn somebody else's trained weights into a checkpoint that `train heat` and `export` can start from.

    Mean and std are ImageNet's by default; they must be those that the network was trained with. Grey images have one
    channel: `--mean 0 --std 1`.

    **Example:** `heatserve import-weights resnet20.safetensors --architecture cifar_resnet20 --data cifar10 --out
    runs/resnet20.safetensors`
    """
    from heatserve.training import weights
    from heatserve.training.data import describe_data

    class_names, input_shape = describe_data(data, root)
    weights.import_weights(
        file,
        architecture,
        dataset=data,
        class_names=class_names,
        input_shape=input_shape,
        mean=_numbers("mean", mean),
        std=_numbers("std", std),
        out=out,
    )
    Console(stderr=True).print(f"{out}: {architecture}, {len(class_names)} classes, images {list(input_shape)}")


def _numbers(name: str, text: str) -> tuple[float, ...]:
    """What an option with commas holds."""
    try:
        return tuple(float(number) for number in text.split(","))
    except ValueError:
        raise HeatserveError(f"{name}: expected numbers with commas between them, got {text!r}") from None
