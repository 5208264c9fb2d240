"""Outputs of a network brought into the order of the classes of a data set."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from heatserve.certification.errors import HeatserveError
from heatserve.training.architectures.network import tensor_shapes
from heatserve.training.data.images import ImageShape


def order_of_outputs(outputs: Sequence[str], class_names: Sequence[str]) -> list[int]:
    """The output of each class.

    Args:
        outputs: the class that each output is for.
        class_names: the same names, in the order of the data set.

    Raises:
        HeatserveError: other names, or a name twice.
    """
    unknown = [name for name in outputs if name not in class_names]
    missing = [name for name in class_names if name not in outputs]
    if unknown or missing or len(outputs) != len(class_names):
        wrong = [f"{name!r} is no class of the images" for name in unknown[:3]]
        wrong += [f"{name!r} is missing" for name in missing[:3]]
        raise HeatserveError(
            f"outputs: expected the {len(class_names)} classes of the images, each once, got {len(outputs)} names"
            + "".join(f"; {what}" for what in wrong)
        )
    return [outputs.index(name) for name in class_names]


def permute_outputs(backbone: nn.Module, architecture: str, order: Sequence[int], *, input_shape: ImageShape) -> None:
    """Make output i of `backbone` what its output `order[i]` was, by permuting the rows of its last layer.

    Args:
        backbone: the network, in eval mode; it is changed.
        architecture: what built it.
        order: a permutation of its K outputs.
        input_shape: C, H, W of one image.

    Raises:
        HeatserveError: the outputs of such a network are more than rows of tensors.
    """
    image = torch.rand(1, *input_shape, generator=torch.Generator().manual_seed(0))
    before = backbone(image)
    known = backbone.state_dict()
    one_more = tensor_shapes(architecture, num_classes=len(order) + 1, channels=input_shape[0])
    for name, shape in one_more.items():
        if name in known and shape != known[name].shape:
            known[name].copy_(known[name][list(order)])
    if not torch.allclose(backbone(image), before[:, list(order)], rtol=1e-4, atol=1e-4):
        raise HeatserveError(
            f"outputs: those of {architecture} cannot be put into another order; bring the images' classes into "
            f"the order of its outputs instead"
        )
