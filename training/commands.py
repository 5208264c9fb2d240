"""`heatserve train` and `heatserve import-weights`. Heavy imports stay inside the functions: `--help` is quick."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

if TYPE_CHECKING:
    from training.loop import Optimisation

app = typer.Typer()
train_app = typer.Typer(no_args_is_help=True, help="Train a baseline, or smooth a trained network with the heat loss.")
app.add_typer(train_app, name="train")

_RECIPE = "How it is optimised (by default the recipe of the data set)"
_LOSS = "The heat loss"

Data = Annotated[str, typer.Option(help="`digits`, `cifar10`, `imagenet` or `imagefolder:PATH`.")]
Root = Annotated[Path | None, typer.Option(help="Folder of the data set; cifar10 and imagenet need it.")]
Out = Annotated[Path, typer.Option(help="Where to write the checkpoint (safetensors); replaced after every epoch.")]
Seed = Annotated[int, typer.Option(help="Decides initial weights, order of the images, augmentation and noise.")]
Device = Annotated[str | None, typer.Option(help="`cpu`, `cuda`, `cuda:1`, …; by default a GPU if there is one.")]
Architecture = Annotated[str, typer.Option(help="`digits_cnn`, `cifar_resnet20`, …, `resnet50`.")]

Epochs = Annotated[int | None, typer.Option(rich_help_panel=_RECIPE, help="Passes over the training images.")]
BatchSize = Annotated[int | None, typer.Option(rich_help_panel=_RECIPE, help="Images in one step.")]
Lr = Annotated[float | None, typer.Option(rich_help_panel=_RECIPE, help="Learning rate of SGD at the start.")]
Decay = Annotated[
    str | None,
    typer.Option(rich_help_panel=_RECIPE, help="`cosine` takes the learning rate to 0, `constant` leaves it."),
]
WeightDecay = Annotated[float | None, typer.Option(rich_help_panel=_RECIPE, help="L2 penalty on the weights.")]
Clip = Annotated[float | None, typer.Option(rich_help_panel=_RECIPE, help="Largest norm of the gradient.")]

Sigma = Annotated[float, typer.Option(help="σ: standard deviation of the Gaussian to average over, pixels in [0,1].")]
Kappa = Annotated[int, typer.Option(rich_help_panel=_LOSS, help="κ: random projections of the Jacobian, (16).")]
Delta = Annotated[float, typer.Option(rich_help_panel=_LOSS, help="δ: step of the finite difference in (16), L2.")]
Coefficient = Annotated[
    float | None,
    typer.Option(rich_help_panel=_LOSS, help="Factor of ‖∇v‖², printed as σ²/2 in (10); by default σ²/200."),
]
Distance = Annotated[
    str, typer.Option(rich_help_panel=_LOSS, help="Compare `probabilities` as in (3), (10), or `logits` as in (15).")
]
Penalty = Annotated[str, typer.Option(rich_help_panel=_LOSS, help="Penalise ∇ of the `logits` or the `probabilities`.")]
NoisyShare = Annotated[
    float, typer.Option(rich_help_panel=_LOSS, help="Share of images with noise N(0, σ²I): ½ in (10), 0 in (3), (15).")
]
Normalisation = Annotated[
    str, typer.Option(rich_help_panel=_LOSS, help="`unbiased` estimate of ‖∇v‖², or the `paper`'s: κ/K of it.")
]


@train_app.command()
def baseline(
    data: Data,
    architecture: Architecture,
    out: Out,
    root: Root = None,
    epochs: Epochs = None,
    batch_size: BatchSize = None,
    lr: Lr = None,
    decay: Decay = None,
    weight_decay: WeightDecay = None,
    clip: Clip = None,
    seed: Seed = 0,
    device: Device = None,
) -> None:
    """Train an undefended network with cross entropy: the f that smoothing starts from.

    The images of the calibration split are never trained on.

    **Example:** `heatserve train baseline --data digits --architecture digits_cnn --out runs/baseline.safetensors`
    """
    from training.data import load_data
    from training.recipes import baseline_optimisation, train_baseline

    optimisation = _override(
        baseline_optimisation(data),
        epochs=epochs,
        batch_size=batch_size,
        lr=lr,
        decay=decay,
        weight_decay=weight_decay,
        clip=clip,
    )
    images = load_data(data, "train", root)
    train_baseline(images, architecture, out=out, optimisation=optimisation, seed=seed, device=_device(device))
    _summarise(out, data, root)


@train_app.command()
def heat(
    checkpoint: Annotated[Path, typer.Option("--from", help="Checkpoint of the trained network f to smooth.")],
    sigma: Sigma,
    out: Out,
    data: Annotated[str | None, typer.Option(help="Images to train on; by default those of f.")] = None,
    root: Root = None,
    kappa: Kappa = 10,
    delta: Delta = 0.1,
    coefficient: Coefficient = None,
    distance: Distance = "probabilities",
    penalty: Penalty = "logits",
    noisy_share: NoisyShare = 0.5,
    normalisation: Normalisation = "unbiased",
    epochs: Epochs = None,
    batch_size: BatchSize = None,
    lr: Lr = None,
    decay: Decay = None,
    weight_decay: WeightDecay = None,
    clip: Clip = None,
    seed: Seed = 0,
    device: Device = None,
) -> None:
    """Fine-tune a network into its own Gaussian average: Algorithm 1 and equation (10), one epoch, no labels.

    The result is only *close* to the Gaussian average. `heatserve calibrate` measures how close; until then every
    certified radius is 0.

    **Example:** `heatserve train heat --from runs/baseline.safetensors --sigma 0.25 --out runs/heat.safetensors`
    """
    from training.checkpoint import load_checkpoint
    from training.data import load_data
    from training.heat import HeatParameters
    from training.recipes import heat_optimisation, train_heat

    parameters = HeatParameters(
        sigma=sigma,
        kappa=kappa,
        delta=delta,
        coefficient=coefficient,
        distance=distance,
        penalty=penalty,
        noisy_share=noisy_share,
        normalisation=normalisation,
    )
    parent = load_checkpoint(checkpoint)
    name = data or parent.metadata.dataset
    optimisation = _override(
        heat_optimisation(name),
        epochs=epochs,
        batch_size=batch_size,
        lr=lr,
        decay=decay,
        weight_decay=weight_decay,
        clip=clip,
    )
    images = load_data(name, "train", root)
    train_heat(parent, images, parameters, out=out, optimisation=optimisation, seed=seed, device=_device(device))
    _summarise(out, name, root)


@app.command("import-weights")
def import_weights(
    file: Annotated[Path, typer.Argument(help="A state dict as safetensors, without heatserve's header.")],
    architecture: Annotated[str, typer.Option(help="What the tensors belong to: `cifar_resnet20`, …, `resnet50`.")],
    data: Data,
    out: Out,
    root: Root = None,
    mean: Annotated[tuple[float, float, float], typer.Option(help="Of each channel, subtracted first.")] = (
        0.485,
        0.456,
        0.406,
    ),
    std: Annotated[tuple[float, float, float], typer.Option(help="Of each channel, divided by.")] = (
        0.229,
        0.224,
        0.225,
    ),
) -> None:
    """Turn somebody else's trained weights into a checkpoint that `train heat` and `export` can start from.

    Mean and std are ImageNet's by default; they must be those that the network was trained with.

    **Example:** `heatserve import-weights resnet20.safetensors --architecture cifar_resnet20 --data cifar10 --out
    runs/resnet20.safetensors`
    """
    from training import weights
    from training.data import describe_data

    class_names, input_shape = describe_data(data, root)
    weights.import_weights(
        file, architecture, dataset=data, class_names=class_names, input_shape=input_shape, mean=mean, std=std, out=out
    )
    Console(stderr=True).print(f"{out}: {architecture}, {len(class_names)} classes, images {list(input_shape)}")


def _override(recipe: Optimisation, **given: int | float | str | None) -> Optimisation:
    """`recipe` with those options that were given on the command line."""
    chosen = {name: value for name, value in given.items() if value is not None}
    return dataclasses.replace(recipe, **chosen)  # type: ignore[arg-type]


def _device(asked: str | None) -> str:
    """The device that was asked for, or a GPU if there is one."""
    import torch

    from training.loop import TrainingError

    name = asked or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise TrainingError(f"device: expected cpu or a CUDA device of this machine, got {name!r}: {reason}") from None
    return name


def _summarise(out: Path, data: str, root: Path | None) -> None:
    """Print what one pass of the new checkpoint gets right on the test split."""
    from training.checkpoint import load_checkpoint
    from training.data import load_data
    from training.evaluate import accuracy

    checkpoint, images = load_checkpoint(out), load_data(data, "test", root)
    sigma = checkpoint.metadata.sigma
    console = Console(highlight=False)
    console.print(f"checkpoint               {out}", soft_wrap=True)
    console.print(f"test accuracy            {accuracy(checkpoint.network, images):.2%} of {len(images)} images")
    if sigma is not None:
        noisy = accuracy(checkpoint.network, images, sigma=sigma)
        console.print(f"under noise N(0, {sigma:g}²)  {noisy:.2%}")
