"""Other people's weights: a bare state dict becomes a checkpoint."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from heatserve.certification.lineage import IMPORTED
from heatserve.certification.provenance import now, versions
from heatserve.training.architectures.own_code import choose_architecture
from heatserve.training.checkpoint import (
    CheckpointMetadata,
    fill,
    network_of,
    parse,
    read_file,
    save_checkpoint,
)
from heatserve.training.data.images import ImageShape


def import_weights(
    path: Path,
    architecture: str,
    *,
    dataset: str,
    class_names: Sequence[str],
    input_shape: ImageShape,
    mean: Sequence[float],
    std: Sequence[float],
    out: Path,
) -> Path:
    """Turn a safetensors file of plain tensors into a checkpoint.

    Args:
        path: the state dict; every tensor of the architecture under its name there, no more and no fewer.
        architecture: see `build_network`; code that it names is run.
        dataset: what the network was trained on, as far as is known; it is taken that it saw all images of the official
            training set, those of `calibration` among them.
        class_names: in the order of the logits.
        input_shape: C, H, W of one image.
        mean: the mean of each channel, as the network was trained with; pixels in [0,1].
        std: the standard deviation of each channel, likewise.
        out: where to write the checkpoint.

    Returns:
        `out`.

    Raises:
        CheckpointError: no such file, damaged bytes, or tensors of another architecture.
        ArchitectureError: an unknown architecture, or one for other images.
    """
    content = read_file(path)
    tensors, _ = parse(path, content)
    chosen = choose_architecture(architecture)
    metadata = CheckpointMetadata(
        architecture=chosen.reference,
        code_sha256=chosen.code_sha256,
        num_classes=len(class_names),
        class_names=tuple(class_names),
        input_shape=input_shape,
        mean=tuple(mean),
        std=tuple(std),
        method=IMPORTED,
        sigma=None,
        dataset=dataset,
        seed=0,
        epochs=0,
        hyperparameters={"file": path.name},
        parent_sha256=hashlib.sha256(content).hexdigest(),
        ancestors=(),
        versions=versions("torch", "numpy"),
        date=now(),
    )
    network = network_of(metadata)
    fill(path, network.backbone, tensors)
    save_checkpoint(out, network, metadata)
    return out
