"""1-Lipschitz networks that tests share: a small one that was trained for a moment, and what it must answer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import numpy_helper
from tiny_model import edit_card
from torch import Tensor, nn
from torch.nn import functional

from heatserve.certification.provenance import sha256_of
from heatserve.export.card import GRAPH_NAME
from heatserve.export.card_parts import LipschitzBound
from heatserve.export.repository.layout import ModelVersion
from heatserve.training.architectures.lipschitz import ConvexPotential
from heatserve.training.checkpoint import CheckpointMetadata, network_of, save_checkpoint
from heatserve.training.data import load_data
from heatserve.training.data.sources import DIGITS_CLASSES

METADATA = CheckpointMetadata(
    architecture="lipschitz_digits",
    num_classes=10,
    class_names=DIGITS_CLASSES,
    input_shape=(1, 8, 8),
    mean=(0.5,),
    std=(1.0,),
    method="lipschitz",
    sigma=None,
    dataset="digits",
    seed=0,
    epochs=1,
    hyperparameters={"temperature": 0.25},
    parent_sha256=None,
    ancestors=(),
    versions={},
    date="2026-01-01T00:00:00+00:00",
)


def write_lipschitz_checkpoint(
    path: Path, *, steps: int = 60, change: Callable[[nn.Module], None] | None = None, **metadata: Any
) -> Path:
    """A network of digits after so many steps of Adam, then changed by `change`; `metadata` replaces what it has."""
    torch.manual_seed(0)
    described = replace(METADATA, **metadata)
    network = network_of(described)
    images, labels = (torch.from_numpy(part) for part in load_data("digits", "train").arrays())
    optimiser = torch.optim.Adam(network.parameters(), lr=0.01)
    for step in range(steps):
        batch = torch.arange(step * 64, step * 64 + 64) % len(images)
        optimiser.zero_grad()
        functional.cross_entropy(network.train()(images[batch]) / 0.1, labels[batch]).backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    if change is not None:
        with torch.no_grad():
            change(network.backbone)
    save_checkpoint(path, network.eval(), described)
    return path


def exact_logits(backbone: nn.Module, bound: LipschitzBound, images: NDArray[np.float32]) -> NDArray[np.float64]:
    """The logits in float64 by torch's convolutions, with the weights and the steps that are exported."""
    x, layers = torch.from_numpy(images).double() - 0.5, iter(bound.layers)
    for module in backbone.children():
        x = _potential(module, next(layers).step, x) if isinstance(module, ConvexPotential) else module(x)
    return np.asarray(x.detach().numpy())


def _potential(module: ConvexPotential, step: float, x: Tensor) -> Tensor:
    kernel, bias = module.kernel.half().double(), module.bias.double()
    hidden = functional.relu(functional.conv2d(x, kernel, bias, padding=module.padding))
    return x - step * functional.conv_transpose2d(hidden, kernel, padding=module.padding)


def with_logits(content: bytes) -> bytes:
    """A served graph that also answers its logits."""
    model = onnx.load_from_string(content)
    classes = next(o for o in model.graph.output if o.name == "probabilities").type.tensor_type.shape.dim[1].dim_value
    model.graph.output.append(onnx.helper.make_tensor_value_info("logits", onnx.TensorProto.DOUBLE, ["N", classes]))
    return bytes(model.SerializeToString())


def change_constant(model: onnx.ModelProto, ending: str, value: Callable[[NDArray[Any]], NDArray[Any]]) -> None:
    """Replace the first constant whose name ends so."""
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name.endswith(ending))
    changed = value(numpy_helper.to_array(tensor).copy())
    tensor.CopyFrom(numpy_helper.from_array(np.asarray(changed), tensor.name))


def rewrite(
    version: ModelVersion,
    change: Callable[[onnx.ModelProto], object],
    card: Callable[[dict[str, Any]], object] = lambda _: None,
) -> None:
    """Change the graph of a version, and its card, and make hashes and digest fit again, as a forger would."""
    graph = onnx.load(version.path / GRAPH_NAME)
    change(graph)
    onnx.save(graph, version.path / GRAPH_NAME)
    sha256 = sha256_of(version.path / GRAPH_NAME)
    edit_card(version.path, lambda fields: (fields.update(graph_sha256=sha256, base_sha256=sha256), card(fields)))
