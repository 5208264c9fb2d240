"""What all of `heatserve train` does with its options. Heavy imports stay inside the functions: `--help` is quick."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console

from heatserve.certification.errors import HeatserveError

if TYPE_CHECKING:
    from torch import nn

    from heatserve.training import Checkpoint
    from heatserve.training.data import ImageData
    from heatserve.training.loop import Run
    from heatserve.training.methods import Parameters


def open_parent(checkpoint: Path, architecture: str | None) -> Checkpoint:
    """Read the network to start from; `architecture` is the code of the user's own that it is made by, if it is any."""
    from heatserve.training import load_checkpoint

    return load_checkpoint(checkpoint, architecture=architecture)


def fine_tune(
    parent: Checkpoint,
    parameters: Parameters,
    recipe: Mapping[str, Any],
    *,
    out: Path,
    data: str | None,
    root: Path | None,
    seed: int,
    run: Run,
) -> None:
    """Train `parent` by the method of `parameters`, and print how well the result does on the test split.

    `recipe` has the fields of the optimisation that were given; `data` None are the images the network was trained on.
    """
    from heatserve.training import fine_tuning, train_from

    name = data or parent.metadata.dataset
    optimisation = replace(fine_tuning(parameters.method, name), **recipe)
    images = read_images(name, root)
    with interruptible():
        train_from(parent, images, parameters, out=out, optimisation=optimisation, seed=seed, run=run)
    summarise(out, name, root)


def read_images(data: str, root: Path | None) -> ImageData:
    """The images to train on; what there is to know of their folder is said on stderr.

    The test images, which the result is measured on, are looked for too: it is now that a user can add them.

    Raises:
        DataError: images to train on or to test are missing, or are not of one size and the same classes.
    """
    from heatserve.export.calibration.report import progress_bar
    from heatserve.training.data import DataError, load_data
    from heatserve.training.loop import leads

    images = load_data(data, "train", root, progress=progress_bar)
    test = load_data(data, "test", root, progress=progress_bar)
    if test.input_shape != images.input_shape:
        raise DataError(f"{data}: expected test images {images.input_shape}, as those of train, got {test.input_shape}")
    for note in images.notes if leads() else ():
        typer.echo(note, err=True)
    return images


def check_exportable(architecture: str, data: ImageData) -> None:
    """Try, before hours of training, whether a graph can be what they end with.

    Raises:
        HeatserveError: `export` would refuse the network afterwards; says why.
    """
    from heatserve.training.architectures import ARCHITECTURES, build_network, choose_architecture
    from heatserve.training.channels import channel_statistics
    from heatserve.training.loop import leads

    if architecture in ARCHITECTURES or not leads():
        return
    reference, shape = choose_architecture(architecture).reference, data.input_shape
    mean, std = channel_statistics(shape)
    network = build_network(reference, num_classes=len(data.class_names), input_shape=shape, mean=mean, std=std)
    if reason := why_not_exportable(network, shape):
        raise HeatserveError(f"{architecture}: it could be trained, and not be exported afterwards: {reason}")


def why_not_exportable(network: nn.Module, input_shape: tuple[int, int, int]) -> str | None:
    """Why `export` would refuse a network; None: it would not, or ONNX is not installed and nobody knows."""
    if not all(map(find_spec, ("onnx", "onnxscript", "onnxruntime"))):
        return None
    from heatserve.export.graph.tracing import NotExportableError
    from heatserve.export.runtime.exact import exact_graph
    from heatserve.export.runtime.session import GraphError

    try:
        exact_graph(network, input_shape=input_shape)
    except (NotExportableError, GraphError) as error:
        return str(error)
    return None


def run_on(device: str | None, *, resume: bool, tensorboard: Path | None) -> Run:
    """How a command trains: on the device that was asked for, or on a GPU if there is one, behind a progress bar."""
    from heatserve.training.loop import Run, training_bar

    return Run(device=_device(device), resume=resume, tensorboard=tensorboard, progress=training_bar)


@contextmanager
def interruptible() -> Iterator[None]:
    """Say how to go on with a training that was interrupted, and exit with 130."""
    from heatserve.training.loop import Interrupted, leads

    try:
        yield
    except Interrupted as interrupted:
        if leads():
            Console(stderr=True, highlight=False).print(str(interrupted), soft_wrap=True, markup=False)
        raise typer.Exit(130) from None


def _device(asked: str | None) -> str:
    """The device that was asked for, or a GPU if there is one; of several processes of torchrun each has its own."""
    import torch

    from heatserve.training.loop import TrainingError

    name = asked or ("cuda" if torch.cuda.is_available() else "cpu")
    if name.startswith("cuda") and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        if name != "cuda":
            raise TrainingError(f"device: expected cuda, of which each process of torchrun takes its own, got {name!r}")
        name = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
    try:
        torch.ones(1, device=name).item()  # `meta` makes tensors, and computes nothing
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise TrainingError(f"device: expected cpu or a CUDA device of this machine, got {name!r}: {reason}") from None
    return name


def summarise(out: Path, data: str, root: Path | None) -> None:
    """Print what one pass of the new checkpoint gets right on the test split."""
    from heatserve.training import accuracy, load_base, load_checkpoint
    from heatserve.training.data import load_data
    from heatserve.training.loop import leads

    if not leads():
        return

    checkpoint, images = load_checkpoint(out), load_data(data, "test", root)
    sigma, has_base = checkpoint.metadata.sigma, checkpoint.metadata.base_sha256 is not None
    console = Console(highlight=False)
    console.print(f"checkpoint               {out}", soft_wrap=True, markup=False)
    console.print(f"test accuracy            {accuracy(checkpoint.network, images):.2%} of {len(images)} images")
    if checkpoint.metadata.method == "lipschitz":
        epsilon = float(checkpoint.metadata.hyperparameters["epsilon"] or 0)
        kept = accuracy(checkpoint.network, images, margin=2**0.5 * epsilon)
        console.print(f"  within {epsilon:.3f}           {kept:.2%}, by norms that are estimated until the export")
    if sigma is not None:
        certified = load_base(checkpoint) if has_base else checkpoint
        console.print(f"under noise N(0, {sigma:g}²)  {accuracy(certified.network, images, sigma=sigma):.2%}")
    if sigma is not None and has_base:
        console.print(f"  answered by            {certified.path}", soft_wrap=True, markup=False)
