"""`heatserve train` and `heatserve import-weights`. Heavy imports stay inside the functions: `--help` is quick."""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_type_hints

import typer
from rich.console import Console

from heatserve.training.loop.optimisation import Optimisation
from heatserve.training.methods.parameters import METHODS, HeatParameters, Parameters, heat_preset

train = typer.Typer(
    no_args_is_help=True, help="Train a baseline; smooth a trained network, or harden it in one of the other ways."
)

_RECIPE = "How it is optimised (by default the recipe of the method and the data set)"
_LOSS = "The loss"
_RUN = "How it is run"

Data = Annotated[str, typer.Option(help="`digits`, `cifar10`, `imagenet` or `imagefolder:PATH`.")]
Root = Annotated[Path | None, typer.Option(help="Folder of the data set; cifar10 and imagenet need it.")]
Out = Annotated[
    Path,
    typer.Option(help="Where to write the checkpoint (safetensors), after every epoch; the log beside it as .jsonl."),
]
Architecture = Annotated[str, typer.Option(help="`digits_cnn`, `cifar_resnet20`, …, `resnet50`.")]
From = Annotated[Path, typer.Option("--from", help="Checkpoint of the trained network to start from.")]
OwnData = Annotated[str | None, typer.Option(help="Images to train on; by default those of the network.")]
Seed = Annotated[int, typer.Option(help="Decides initial weights, order of the images, augmentation and noise.")]
Device = Annotated[
    str | None,
    typer.Option(rich_help_panel=_RUN, help="`cpu`, `cuda`, `cuda:1`, …; by default a GPU if there is one."),
]
Resume = Annotated[
    bool, typer.Option("--resume", rich_help_panel=_RUN, help="Go on from where this training was stopped, if it was.")
]
Tensorboard = Annotated[Path | None, typer.Option(rich_help_panel=_RUN, help="Folder for TensorBoard's event files.")]
Preset = Annotated[
    str | None,
    typer.Option(help="`paper-cifar10` or `paper-imagenet`: start from the paper's formula; options given still win."),
]

_HELP = {
    "epochs": "Passes over the training images.",
    "batch_size": "Images in one step.",
    "lr": "Learning rate of SGD at the start.",
    "decay": "`cosine` takes the learning rate to 0, `constant` leaves it.",
    "weight_decay": "L2 penalty on the weights.",
    "clip": "Largest norm of the gradient.",
    "precision": "`float32`, or `bfloat16` autocast (for GPUs).",
    "augment": "Shift and mirror the images, where the data set has a rule for it.",
    "sigma": "σ: standard deviation of the Gaussian noise, pixels in [0,1].",
    "kappa": "κ: random projections of the Jacobian, (16).",
    "delta": "δ: step of the finite difference in (16), L2.",
    "estimator": "Of ‖∇v‖²: `projections` as (16), or `displacements` in random directions.",
    "coefficient": "Factor of ‖∇v‖², printed as σ²/2 in (10); by default σ²/200.",
    "distance": "What v is compared by. heat: `probabilities` as (3), (10), or `logits` as (15). average: "
    "`cross-entropy` or `squared`.",
    "penalty": "Penalise ∇ of the `logits` or the `probabilities`.",
    "noisy_share": "Share of images with noise N(0, σ²I): ½ in (10), 0 in (3), (15).",
    "normalisation": "`unbiased` estimate of ‖∇v‖², or the `paper`'s: κ/K of it.",
    "time_steps": "n_T of (15): trainings one after another, each from the network of the one before.",
    "reinitialise": "Start each time step from fresh weights.",
    "draws_at_once": "Displaced batches that go through the network together.",
    "label_free": "Learn from the starting network's softmax at the clean image, not from labels.",
    "epsilon": "ε: radius of the attack's ball, L2.",
    "steps": "Of the attack.",
    "samples": "m: noisy copies of each image.",
    "consistency": "λ: weight of the divergence of an image's m noisy answers from their mean; needs m ≥ 2.",
    "target": "What of f's noisy answers is averaged: `probabilities` or `votes`.",
    "frozen_base": "The starting network is f already, trained by `noise` for this σ; otherwise f is trained beside v.",
}

_METHODS = {
    "heat": (
        "Fine-tune a network into its own Gaussian average: Algorithm 1, equations (3), (10), (15); no labels.\n\n"
        "The result is only *close* to the average. `heatserve calibrate` measures how close; until then every "
        "certified radius is 0.",
        "--sigma 0.25",
    ),
    "noise": (
        "RandomizedSmoothing's training: cross entropy on noisy images, with labels or with `--label-free`.",
        "--sigma 0.25 --label-free",
    ),
    "smoothadv": (
        "SmoothAdv: adversarial training of the average over noise, with labels.",
        "--sigma 0.25 --epsilon 0.5",
    ),
    "madry": ("Madry's adversarial training in the L2 ball, with labels.", "--epsilon 0.5"),
    "average": (
        "Train a network under noise and, beside it, the single pass that answers with its average; no labels.\n\n"
        "OUT is the single pass; the network that Monte Carlo certifies is written beside it as `.base`.",
        "--sigma 0.25",
    ),
}


def _with_options(command: Callable[..., None], *kinds: tuple[type, str]) -> Callable[..., None]:
    """`command` with an option for every documented field of the dataclasses, in the place of its `**keywords`.

    A field that is not given comes as None: its default, or that of a recipe, is the callee's to fill in.
    """

    @functools.wraps(command)
    def wrapped(**given: Any) -> None:
        command(**given)

    signature = inspect.signature(command, eval_str=True)
    own = [p for p in signature.parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
    options = [
        _option(field, get_type_hints(kind)[field.name], panel)
        for kind, panel in kinds
        for field in dataclasses.fields(kind)
        if field.name in _HELP
    ]
    parameters = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in [*own, *options]]
    wrapped.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    wrapped.__annotations__ = {p.name: p.annotation for p in parameters}
    return wrapped


def _option(field: dataclasses.Field[Any], kind: Any, panel: str) -> inspect.Parameter:
    text = _HELP[field.name]
    if field.default is dataclasses.MISSING and panel == _LOSS:
        return inspect.Parameter(
            field.name, inspect.Parameter.KEYWORD_ONLY, annotation=Annotated[kind, typer.Option(help=text)]
        )
    if panel == _LOSS and field.default not in (None, False):
        text += f" [by default {field.default}]"
    annotation = Annotated[kind | None, typer.Option(rich_help_panel=panel, help=text)]
    return inspect.Parameter(field.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


def _baseline(
    data: Data,
    architecture: Architecture,
    out: Out,
    root: Root = None,
    seed: Seed = 0,
    device: Device = None,
    resume: Resume = False,
    tensorboard: Tensorboard = None,
    **recipe: Any,
) -> None:
    """Train an undefended network with cross entropy: the f that smoothing starts from.

    The images of the calibration split are never trained on.

    **Example:** `heatserve train baseline --data digits --architecture digits_cnn --out runs/baseline.safetensors`
    """
    from heatserve.training.data.splits import load_data
    from heatserve.training.loop.fitting import Run
    from heatserve.training.loop.progress import training_bar
    from heatserve.training.recipes import baseline_optimisation
    from heatserve.training.train import train_baseline

    run = Run(device=_device(device), resume=resume, tensorboard=tensorboard, progress=training_bar)
    optimisation = _override(baseline_optimisation(data), recipe)
    images = load_data(data, "train", root)
    with _interruptible():
        train_baseline(images, architecture, out=out, optimisation=optimisation, seed=seed, run=run)
    _summarise(out, data, root)


def _fine_tune(
    method: str,
    checkpoint: From,
    out: Out,
    data: OwnData = None,
    root: Root = None,
    seed: Seed = 0,
    device: Device = None,
    resume: Resume = False,
    tensorboard: Tensorboard = None,
    preset: Preset = None,
    **given: Any,
) -> None:
    from heatserve.training.checkpoint import load_checkpoint
    from heatserve.training.data.splits import load_data
    from heatserve.training.loop.fitting import Run
    from heatserve.training.loop.progress import training_bar
    from heatserve.training.recipes import fine_tuning
    from heatserve.training.train import train_from

    own = {field.name: given.pop(field.name) for field in dataclasses.fields(METHODS[method])}
    parameters: Parameters
    if preset is None:
        parameters = METHODS[method](**{name: value for name, value in own.items() if value is not None})
    else:
        parameters = _override(heat_preset(preset, own["sigma"]), own)
    run = Run(device=_device(device), resume=resume, tensorboard=tensorboard, progress=training_bar)
    parent = load_checkpoint(checkpoint)
    name = data or parent.metadata.dataset
    optimisation = _override(fine_tuning(method, name), given)
    images = load_data(name, "train", root)
    with _interruptible():
        train_from(parent, images, parameters, out=out, optimisation=optimisation, seed=seed, run=run)
    _summarise(out, name, root)


def _describe(command: Callable[..., None], name: str, text: str, example: str) -> Callable[..., None]:
    """`command` under another name and help text."""

    @functools.wraps(command)
    def wrapped(**given: Any) -> None:
        command(name, **given)

    signature = inspect.signature(command, eval_str=True)
    given = list(signature.parameters.values())[1:]
    parameters = [p for p in given if name == "heat" or p.name != "preset"]
    wrapped.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    wrapped.__doc__ = (
        f"{text}\n\n**Example:** `heatserve train {name} --from runs/baseline.safetensors {example} "
        f"--out runs/{name}.safetensors`"
    )
    return wrapped


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
    from heatserve.training import weights
    from heatserve.training.data.splits import describe_data

    class_names, input_shape = describe_data(data, root)
    weights.import_weights(
        file, architecture, dataset=data, class_names=class_names, input_shape=input_shape, mean=mean, std=std, out=out
    )
    Console(stderr=True).print(f"{out}: {architecture}, {len(class_names)} classes, images {list(input_shape)}")


D = TypeVar("D", Optimisation, HeatParameters)


def _override(recipe: D, given: Mapping[str, Any]) -> D:
    """`recipe` with those options that were given on the command line."""
    return dataclasses.replace(recipe, **{name: value for name, value in given.items() if value is not None})


@contextmanager
def _interruptible() -> Iterator[None]:
    """Say how to go on with a training that was interrupted, and exit with 130."""
    from heatserve.training.loop.distributed import leads
    from heatserve.training.loop.fitting import Interrupted

    try:
        yield
    except Interrupted as interrupted:
        if leads():
            Console(stderr=True, highlight=False).print(str(interrupted), soft_wrap=True)
        raise typer.Exit(130) from None


def _device(asked: str | None) -> str:
    """The device that was asked for, or a GPU if there is one."""
    import torch

    from heatserve.training.loop.trainer import TrainingError

    name = asked or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise TrainingError(f"device: expected cpu or a CUDA device of this machine, got {name!r}: {reason}") from None
    return name


def _summarise(out: Path, data: str, root: Path | None) -> None:
    """Print what one pass of the new checkpoint gets right on the test split."""
    from heatserve.training.loop.distributed import leads

    if not leads():
        return
    from heatserve.training.checkpoint import load_base, load_checkpoint
    from heatserve.training.data.splits import load_data
    from heatserve.training.evaluate import accuracy

    checkpoint, images = load_checkpoint(out), load_data(data, "test", root)
    sigma, has_base = checkpoint.metadata.sigma, checkpoint.metadata.base_sha256 is not None
    console = Console(highlight=False)
    console.print(f"checkpoint               {out}", soft_wrap=True)
    console.print(f"test accuracy            {accuracy(checkpoint.network, images):.2%} of {len(images)} images")
    if sigma is not None:
        certified = load_base(checkpoint) if has_base else checkpoint
        console.print(f"under noise N(0, {sigma:g}²)  {accuracy(certified.network, images, sigma=sigma):.2%}")
    if sigma is not None and has_base:
        console.print(f"  answered by            {certified.path}", soft_wrap=True)


train.command("baseline")(_with_options(_baseline, (Optimisation, _RECIPE)))
for _name, (_text, _example) in _METHODS.items():
    _command = _describe(_fine_tune, _name, _text, _example)
    train.command(_name)(_with_options(_command, (METHODS[_name], _LOSS), (Optimisation, _RECIPE)))
