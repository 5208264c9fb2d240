"""From somebody's file of weights to a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from heatserve.certification.lineage import IMPORTED
from heatserve.certification.provenance import now, versions
from heatserve.training.architectures.network import ImageClassifier, build_network
from heatserve.training.architectures.own_code import choose_architecture
from heatserve.training.checkpoint import (
    Checkpoint,
    CheckpointError,
    CheckpointMetadata,
    Hyperparameter,
    fill,
    save_checkpoint,
)
from heatserve.training.data.images import ImageShape
from heatserve.training.weights.classes import order_of_outputs, permute_outputs
from heatserve.training.weights.errors import MismatchError
from heatserve.training.weights.matching import Match, match_tensors
from heatserve.training.weights.nearest import nearest_architectures
from heatserve.training.weights.normalisation import choose_normalisation
from heatserve.training.weights.unwrapping import StateDict, read_state_dict

_NAMED = 5
_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def import_weights(
    path: Path,
    architecture: str | None,
    *,
    dataset: str,
    class_names: Sequence[str],
    input_shape: ImageShape,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    out: Path,
    entry: str | None = None,
    outputs: Sequence[str] | None = None,
) -> Path:
    """Turn a file of somebody's tensors into a checkpoint; nothing in the file is run.

    Args:
        path: a state dict as .pth, .pt or .safetensors, by itself or among other entries, with or without the prefixes
            that `DataParallel`, `torch.compile`, EMA and normalising layers add; or a checkpoint of heatserve. float16,
            bfloat16 and float64 become float32.
        architecture: see `build_network`; code that it names is run. None: an error says which fit.
        dataset: what the network was trained on, as far as is known; it is taken that it saw all images of the official
            training set, those of `calibration` among them.
        class_names: in the order of the data set.
        input_shape: C, H, W of one image.
        mean: the mean of each channel, as the network was trained with; pixels in [0,1]. None: what the file says, or
            else ImageNet's.
        std: the standard deviation of each channel, likewise.
        out: where to write the checkpoint.
        entry: see `read_state_dict`.
        outputs: the names of the classes in the order of the network's outputs, where that is another one.

    Returns:
        `out`.

    Raises:
        CheckpointError: an unreadable, damaged or hostile file, or `out` in its place; integers, NaN or infinities in
            it; a network that answers NaN.
        MismatchError: tensors of another architecture.
        ArchitectureError: an unknown architecture, one for other images, or mean and std of other pixels than [0,1].
    """
    if out.resolve() == path.resolve():
        raise CheckpointError(f"out: expected another file than {path}, which it would replace")
    order = None if outputs is None else order_of_outputs(outputs, class_names)
    state = read_state_dict(path, entry=entry)
    statistics = choose_normalisation(state, mean, std, channels=input_shape[0])
    if architecture is None:
        raise _unnamed(state, len(class_names), input_shape[0])
    chosen = choose_architecture(architecture)
    network = build_network(
        chosen.reference, num_classes=len(class_names), input_shape=input_shape, mean=statistics[0], std=statistics[1]
    ).eval()
    match = _matched(state, chosen.reference, network, len(class_names), input_shape[0])
    with torch.no_grad():
        fill(path, network.backbone, _tensors(state, match, network.backbone.state_dict()))
        if order is not None:
            permute_outputs(network.backbone, chosen.reference, order, input_shape=input_shape)
        _check_answers(path, network, input_shape)
    metadata = CheckpointMetadata(
        architecture=chosen.reference,
        code_sha256=chosen.code_sha256,
        num_classes=len(class_names),
        class_names=tuple(class_names),
        input_shape=input_shape,
        mean=statistics[0],
        std=statistics[1],
        method=IMPORTED,
        sigma=None,
        dataset=dataset,
        seed=0,
        epochs=0,
        hyperparameters=_record(state, match, outputs),
        parent_sha256=state.sha256,
        ancestors=Checkpoint(network, state.metadata, state.sha256, path).lineage if state.metadata else (),
        versions=versions("torch", "numpy"),
        date=now(),
    )
    save_checkpoint(out, network, metadata)
    return out


def _matched(state: StateDict, architecture: str, network: ImageClassifier, classes: int, channels: int) -> Match:
    expected = {name: tuple(tensor.shape) for name, tensor in network.backbone.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in state.tensors.items()}
    match = match_tensors(found, expected)
    if not match.complete:
        nearest = nearest_architectures(found, classes=classes, channels=channels, named=state.named)
        raise MismatchError(state.path, architecture, match, nearest, classes, state.named)
    return match


def _unnamed(state: StateDict, classes: int, channels: int) -> CheckpointError:
    """What a file's tensors are, for a user who names no architecture."""
    found = {name: tuple(tensor.shape) for name, tensor in state.tensors.items()}
    nearest = nearest_architectures(found, classes=classes, channels=channels, named=state.named)
    named = f"; the file calls its architecture {state.named!r}" if state.named else ""
    return CheckpointError(
        f"{state.path}: expected --architecture, the network that its {len(found)} tensors belong to"
        + "".join(f"; {line}" for line in nearest)
        + named
    )


def _tensors(state: StateDict, match: Match, expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The file's tensors under the architecture's names, in its types; every number is looked at."""
    tensors = {}
    for name, source in match.sources.items():
        tensor = state.tensors[source].detach()
        kind = str(tensor.dtype).removeprefix("torch.")
        if expected[name].is_floating_point():
            if tensor.dtype not in _FLOATS:
                raise CheckpointError(
                    f"{state.path}: {source}: expected floats (16 to 64 bits), got {kind}: quantised weights are not "
                    f"read; take those of before quantisation (`export` has INT8 and FP16 of its own)"
                )
            tensor = tensor.to(torch.float32)
            if odd := int((~torch.isfinite(tensor)).sum()):
                raise CheckpointError(
                    f"{state.path}: {source}: expected finite float32 numbers, got NaN or infinity in {odd:,} of "
                    f"{tensor.numel():,}"
                )
        tensors[name] = tensor
    return tensors


def _check_answers(path: Path, network: ImageClassifier, input_shape: ImageShape) -> None:
    if not torch.isfinite(network(torch.full((1, *input_shape), 0.5))).all():
        raise CheckpointError(
            f"{path}: expected finite logits, but this network answers NaN or infinity to a grey image (a negative "
            f"running_var, or weights that are too large)"
        )


def _record(state: StateDict, match: Match, outputs: Sequence[str] | None) -> dict[str, Hyperparameter]:
    """Where the tensors come from, as the checkpoint keeps it; what is as in most files is left out."""
    kinds = sorted({str(tensor.dtype).removeprefix("torch.") for tensor in state.tensors.values()} - {"int64"})
    record: dict[str, Hyperparameter] = {"file": state.path.name}
    if state.entry:
        record["entry"] = state.entry
    if match.prefix:
        record["prefix"] = match.prefix
    if match.renamed:
        record["renamed"] = ", ".join(f"{theirs} to {ours}" for theirs, ours in match.renamed.items())
    if kinds != ["float32"]:
        record["types"] = ", ".join(kinds)
    if match.left_out:
        record["left_out"] = ", ".join(match.left_out[:_NAMED]) + (" …" if len(match.left_out) > _NAMED else "")
    if outputs is not None:
        record["outputs"] = "in the order of a list"
    return record
