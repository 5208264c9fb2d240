"""`heatserve export`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Group, RenderableType
from rich.text import Text

from heatserve.commands.options import REPOSITORY, Json, OwnCode, Repository, deliver, line, uncalibrated

if TYPE_CHECKING:
    from heatserve.export.card import InputType, Precision
    from heatserve.export.card_parts import LipschitzBound
    from heatserve.export.repository.layout import ModelVersion
    from heatserve.export.variants import Variant


INT8_IMAGES = 256
"""Training images that set the ranges of INT8 activations."""
Input = Annotated[
    Literal["FP32", "UINT8"] | None,
    typer.Option(
        "--input",
        case_sensitive=False,
        help="FP32 [N,C,H,W] in [0,1], or UINT8 [N,H,W,C]; by default UINT8 where pictures are resized, or else FP32.",
    ),
]
Resize = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="With UINT8: take pictures of any size, resize their shorter side to so many pixels, and cut out the "
        "centre; by default as in training, if that resized pictures. Radii are about what is cut out.",
    ),
]
ServedBy = Annotated[
    Literal["auto", "onnxruntime-cuda", "onnxruntime-tensorrt", "tensorrt"],
    typer.Option(
        help="`auto`: ONNX Runtime on the CPU, in whatever Triton is at hand. `tensorrt`: a plan, built here for the "
        "GPU of this machine. `onnxruntime-…`: ONNX Runtime's providers, which may round to TF32. A model is "
        "calibrated where it is served: on that GPU."
    ),
]

Precise = Annotated[
    Literal["fp32", "fp16", "int8"],
    typer.Option(
        "--precision",
        help="Precision of the network; fp16 is for GPUs, int8 for CPUs. The certificate is FP32 always. A 1-Lipschitz "
        "network takes neither: it is served in float64.",
    ),
]
Tf32 = Annotated[
    bool, typer.Option("--tf32", help="Let a plan's convolutions round their inputs to ten bits of mantissa.")
]


def export(
    checkpoint: Annotated[Path, typer.Argument(help="Checkpoint of the single-pass model v, from `heatserve train`.")],
    name: Annotated[str, typer.Option(help="Name of the served model.")],
    repository: Repository = REPOSITORY,
    base: Annotated[
        Path | None,
        typer.Option(help="Checkpoint of the base classifier f that Monte Carlo certifies; by default v itself."),
    ] = None,
    architecture: OwnCode = None,
    sigma: Annotated[
        float | None, typer.Option(help="σ of the smoothing noise, pixels in [0,1]; by default v's own.")
    ] = None,
    input_type: Input = None,
    resize: Resize = None,
    precision: Precise = "fp32",
    root: Annotated[
        Path | None, typer.Option(help="Folder of the data set that v was trained on; int8 finds its ranges there.")
    ] = None,
    backend: ServedBy = "auto",
    tf32: Tf32 = False,
    as_json: Json = False,
) -> None:
    """Turn a checkpoint into one certified ONNX graph that Triton serves, with its certificate card.

    The graph holds normalisation, softmax, certificate and input checks. That of a smoothed network serves radius 0
    until it is calibrated.

    Export a checkpoint again, under another name, as another variant: with `--input uint8`, or in another precision.
    Each is calibrated by itself: `heatserve calibrate-variant VARIANT NAME` says what it wins and what it loses.

    Beside a new model it writes its tiers (`NAME_confirm`, …), which prove with votes and need no calibration.

    A network of `train lipschitz` gets a deterministic certificate: its radii are proven of the class that is served,
    from the first answer on. It needs no base, σ, calibration or tiers, and its graph is float64.

    **Example:** `heatserve export runs/heat.safetensors --name digits`
    """
    from heatserve.export.calibration.report import progress_bar
    from heatserve.export.exporting import export_checkpoint
    from heatserve.training import load_checkpoint

    int8 = precision == "int8"
    dataset = load_checkpoint(checkpoint, architecture=architecture).metadata.dataset if int8 else None
    variant = variant_of(input_type, precision, resize, dataset, root)
    model = export_checkpoint(
        checkpoint,
        repository=repository,
        name=name,
        base=base,
        architecture=architecture,
        sigma=sigma,
        variant=variant,
        backend=backend,
        tf32=tf32,
        progress=progress_bar,
    )
    deliver(
        model.card.model_dump_json(indent=2),
        lambda: Group(
            line("wrote", model.path),
            line("graph", f"sha256 {model.card.graph_sha256}"),
            *(_proven(model.card.lipschitz, name) if model.card.lipschitz else _to_calibrate(model)),
        ),
        as_json=as_json,
    )


def _to_calibrate(model: ModelVersion) -> Iterator[RenderableType]:
    """What a statistical certificate has beside it, and what it needs next."""
    from heatserve.export.repository.tiers import served_tiers
    from heatserve.training.named import parse_named

    where = " --root FOLDER" if parse_named(model.card.trained_on).name in ("cifar10", "imagenet") else ""
    yield line("tiers", ", ".join(kind.beside(model.name) for kind in served_tiers(model)) or "none")
    yield uncalibrated(f"{model.name}{where}")


def _proven(bound: LipschitzBound, name: str) -> Iterator[RenderableType]:
    """What a deterministic certificate stands on, what it says, and how to go on."""
    yield line("proven", f"the norms of {len(bound.layers)} layers; {bound.slack:.2g} is taken off radii for rounding")
    yield Text(
        "No change of smaller L2 norm than the certified radius changes the class that is served, whoever made the "
        "image: no calibration is needed, and no tier."
    )
    for what in (f"serve {name}", f"predict IMAGE --model {name}"):
        yield line("next", f"heatserve {what}")


def variant_of(
    input_type: InputType | None, precision: Precision, resize: int | None, dataset: str | None, root: Path | None
) -> Variant:
    """The variant that the options ask for; INT8 takes its ranges from training images of `dataset`."""
    from heatserve.export.calibration.sampling import sample
    from heatserve.export.variants import Variant

    if precision != "int8" or dataset is None:
        return Variant(input_type, precision, resize=resize)
    return Variant(input_type, precision, sample(dataset, "train", root=root, count=INT8_IMAGES), resize)
