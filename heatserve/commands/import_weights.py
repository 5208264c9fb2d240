"""`heatserve import-weights`. Heavy imports stay inside the function: `--help` is quick."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

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
        tuple[float, float, float], typer.Option(help="Mean of each channel, which is subtracted from pixels in [0,1].")
    ] = IMAGENET_MEAN,
    std: Annotated[
        tuple[float, float, float],
        typer.Option(help="Standard deviation of each channel, by which the difference is divided."),
    ] = IMAGENET_STD,
) -> None:
    """Turn somebody else's trained weights into a checkpoint that `train heat` and `export` can start from.

    Mean and std are ImageNet's by default; they must be those that the network was trained with.

    **Example:** `heatserve import-weights resnet20.safetensors --architecture cifar_resnet20 --data cifar10 --out
    runs/resnet20.safetensors`
    """
    from heatserve.training import weights
    from heatserve.training.data import describe_data

    class_names, input_shape = describe_data(data, root)
    weights.import_weights(
        file, architecture, dataset=data, class_names=class_names, input_shape=input_shape, mean=mean, std=std, out=out
    )
    Console(stderr=True).print(f"{out}: {architecture}, {len(class_names)} classes, images {list(input_shape)}")
