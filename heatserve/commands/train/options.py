"""The options of `heatserve train`: fields of a method's parameters, fields of the optimisation, and how it is run.

An option of the heat loss is None where it is not given, since a preset may decide it; so is one of the optimisation,
which the recipe of the method and the data set decides.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from heatserve.commands.new_files import new_checkpoint
from heatserve.commands.options import ARCHITECTURE_HELP, DATA_HELP, seed_option
from heatserve.training.methods.parameters import HeatParameters

RECIPE = "How it is optimised (by default the recipe of the method and the data set)"
LOSS = "The loss"
RUN = "How it is run"

TrainingData = Annotated[str, typer.Option(help=f"{DATA_HELP}.")]
OwnData = Annotated[str | None, typer.Option(help="Images to train on; by default those of the network.")]
Architecture = Annotated[str, typer.Option(help=f"{ARCHITECTURE_HELP}.")]
From = Annotated[Path, typer.Option("--from", help="Checkpoint of the trained network to start from.")]
CheckpointOut = Annotated[
    Path,
    typer.Option(
        callback=new_checkpoint,
        help="Where to write the checkpoint (safetensors), as the training goes and in the end; the log beside it as "
        ".jsonl.",
    ),
]
TrainingSeed = Annotated[int, seed_option("initial weights, order of the images, augmentation and noise")]
Preset = Annotated[
    str | None,
    typer.Option(
        help="`paper-cifar10` or `paper-imagenet`: start from the paper's formula; options given replace its own."
    ),
]
Sigma = Annotated[float, typer.Option(help="σ: standard deviation of the Gaussian noise, pixels in [0,1].")]

Device = Annotated[
    str | None,
    typer.Option(rich_help_panel=RUN, help="`cpu`, `cuda`, `cuda:1`, …; by default a GPU if there is one."),
]
Resume = Annotated[
    bool, typer.Option("--resume", rich_help_panel=RUN, help="Go on from where this training was stopped, if it was.")
]
Tensorboard = Annotated[Path | None, typer.Option(rich_help_panel=RUN, help="Folder for TensorBoard's event files.")]

Kappa = Annotated[
    int | None,
    typer.Option(
        rich_help_panel=LOSS, help=f"κ: random projections of the Jacobian, (16). [by default {HeatParameters.kappa}]"
    ),
]
Delta = Annotated[
    float | None,
    typer.Option(
        rich_help_panel=LOSS, help=f"δ: step of the finite difference in (16), L2. [by default {HeatParameters.delta}]"
    ),
]
Estimator = Annotated[
    str | None,
    typer.Option(
        rich_help_panel=LOSS,
        help="Estimator of ‖∇v‖²: `projections` as (16), or `displacements` in random directions. "
        f"[by default {HeatParameters.estimator}]",
    ),
]
HeatDistance = Annotated[
    str | None,
    typer.Option(
        rich_help_panel=LOSS,
        help="What v and f are compared by: `probabilities` as (3), (10), or `logits` as (15). "
        f"[by default {HeatParameters.distance}]",
    ),
]
HeatPenalty = Annotated[
    str | None,
    typer.Option(
        rich_help_panel=LOSS,
        help=f"Penalise ∇ of the `logits` or the `probabilities`. [by default {HeatParameters.penalty}]",
    ),
]
NoisyShare = Annotated[
    float | None,
    typer.Option(
        rich_help_panel=LOSS,
        help="Share of images with noise N(0, σ²I): ½ in (10), 0 in (3), (15). "
        f"[by default {HeatParameters.noisy_share}]",
    ),
]
Normalisation = Annotated[
    str | None,
    typer.Option(
        rich_help_panel=LOSS,
        help=f"`unbiased` estimate of ‖∇v‖², or the `paper`'s: κ/K of it. [by default {HeatParameters.normalisation}]",
    ),
]
Coefficient = Annotated[
    float | None,
    typer.Option(rich_help_panel=LOSS, help="Factor of ‖∇v‖², printed as σ²/2 in (10); by default σ²/200."),
]
TimeSteps = Annotated[
    int | None,
    typer.Option(
        rich_help_panel=LOSS,
        help="n_T of (15): trainings one after another, each from the network of the one before. "
        f"[by default {HeatParameters.time_steps}]",
    ),
]
Reinitialise = Annotated[
    bool | None, typer.Option(rich_help_panel=LOSS, help="Start each time step from fresh weights.")
]
DrawsAtOnce = Annotated[
    int | None,
    typer.Option(
        rich_help_panel=LOSS,
        help=f"Displaced batches that go through the network together. [by default {HeatParameters.draws_at_once}]",
    ),
]

LabelFree = Annotated[
    bool,
    typer.Option(
        rich_help_panel=LOSS, help="Learn from the starting network's softmax at the clean image, not from labels."
    ),
]
Samples = Annotated[int, typer.Option(rich_help_panel=LOSS, help="m: noisy copies of each image.")]
Consistency = Annotated[
    float,
    typer.Option(
        rich_help_panel=LOSS,
        help="λ: weight of the divergence of an image's m noisy answers from their mean; needs m ≥ 2.",
    ),
]
Epsilon = Annotated[float, typer.Option(rich_help_panel=LOSS, help="ε: radius of the attack's ball, L2.")]
Steps = Annotated[int, typer.Option(rich_help_panel=LOSS, help="Steps of the attack.")]
AverageTarget = Annotated[
    str,
    typer.Option(
        rich_help_panel=LOSS, help="What of f's noisy answers is averaged: their `probabilities` or their `votes`."
    ),
]
AverageDistance = Annotated[
    str,
    typer.Option(
        rich_help_panel=LOSS, help="What v and the average are compared by: `cross-entropy` or `squared` difference."
    ),
]
FrozenBase = Annotated[
    bool,
    typer.Option(
        rich_help_panel=LOSS,
        help="The starting network is f already, trained by `noise` for this σ; otherwise f is trained beside v.",
    ),
]

Epochs = Annotated[int | None, typer.Option(rich_help_panel=RECIPE, help="Passes over the training images.")]
BatchSize = Annotated[int | None, typer.Option(rich_help_panel=RECIPE, help="Images in one step.")]
LearningRate = Annotated[float | None, typer.Option(rich_help_panel=RECIPE, help="Largest learning rate of SGD.")]
Decay = Annotated[
    str | None,
    typer.Option(
        rich_help_panel=RECIPE,
        help="`cosine` takes the learning rate to 0, `constant` leaves it, `one-cycle` raises it to --lr first.",
    ),
]
WeightDecay = Annotated[float | None, typer.Option(rich_help_panel=RECIPE, help="L2 penalty on the weights.")]
Clip = Annotated[float | None, typer.Option(rich_help_panel=RECIPE, help="Largest norm of the gradient.")]
TrainingPrecision = Annotated[
    str | None,
    typer.Option(
        rich_help_panel=RECIPE, help="`float32`, or `bfloat16` autocast, for GPUs and CPUs with instructions for it."
    ),
]
Augment = Annotated[
    bool | None,
    typer.Option(rich_help_panel=RECIPE, help="Shift and mirror the images, where the data set has a rule for it."),
]

LipschitzArchitecture = Annotated[
    str | None,
    typer.Option(
        help="`lipschitz_digits` for images of 8×8, `lipschitz_xs`, `_s`, `_m` for 32×32, or code of yours that makes "
        "such a network, which is run. [by default what the data set and the device have time for]"
    ),
]
Teacher = Annotated[
    Path | None,
    typer.Option("--from", help="Checkpoint of a network whose classes are learned; no label is read then."),
]
TeacherCode = Annotated[
    str | None,
    typer.Option(help="Where the network of --from is code of yours: `file.py:function`, …, which is run."),
]
Start = Annotated[
    Path | None,
    typer.Option(
        help="Checkpoint of a network of the same architecture to go on from, with labels; best with a small --lr and "
        "--decay cosine."
    ),
]
MarginEpsilon = Annotated[
    float | None,
    typer.Option(
        "--epsilon",
        rich_help_panel=LOSS,
        help="ε: the radius that matters, L2, pixels in [0,1]; the loss asks for twice that. A larger one trades "
        "accuracy for radius. In tables of CIFAR-10 radii are 36, 72 and 108 of 255. [by default 36/255 = 0.141]",
    ),
]
Temperature = Annotated[
    float | None,
    typer.Option(
        rich_help_panel=LOSS,
        help="T of the loss T·CE(logits/T): small ones spend less on images that keep the margin. [by default 0.25]",
    ),
]


def given(**options: Any) -> dict[str, Any]:
    """Those options that were given on the command line."""
    return {name: value for name, value in options.items() if value is not None}
