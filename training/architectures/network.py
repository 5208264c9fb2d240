"""From a reference to a network: FP32 images in [0,1] in, logits out, normalisation inside."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from heatserve.training.architectures.builtin import ARCHITECTURES
from heatserve.training.architectures.errors import ArchitectureError, first_line
from heatserve.training.architectures.libraries import timm_network, torchvision_names, torchvision_network
from heatserve.training.architectures.own_code import is_own_code, own_network
from heatserve.training.data.images import ImageShape
from heatserve.training.named import NamedWithOptions, parse_named


class ImageClassifier(nn.Module):
    """Images [N, C, H, W] in [0,1] → logits [N, K]: normalises each channel, then runs `backbone`.

    The state dict has only the backbone's tensors; mean and std are part of a checkpoint's metadata.
    """

    def __init__(self, backbone: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.backbone = backbone
        self.mean: Tensor
        self.std: Tensor
        self.channels_last = True
        """Whether `backbone` takes images and weights whose channels lie last in memory, which is faster on a CPU."""
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.backbone((images - self.mean) / self.std)
        return logits


def build_network(
    architecture: str,
    *,
    num_classes: int,
    input_shape: ImageShape,
    mean: Sequence[float],
    std: Sequence[float],
    code_sha256: str | None = None,
) -> ImageClassifier:
    """A freshly initialised network (from torch's global generator), which was tried on two black images.

    Args:
        architecture: one of `ARCHITECTURES`, `timm:NAME`, `torchvision:NAME`, or, once `trust_code` was called with it,
            `file.py:function` or `package.module:function`. The last four take options: `timm:NAME?option=value&…`.
        num_classes: K, the length of the logits.
        input_shape: C, H, W of one image.
        mean: the mean of each channel, subtracted first.
        std: the standard deviation of each channel, divided by.
        code_sha256: SHA-256 that the source of the user's own code must have; None: as it was trusted.

    Raises:
        ArchitectureError: an unknown reference, code that was not trusted or fails, images of a size or number of
            channels that the network does not take, outputs other than float32 [N, K], or mean and std of another
            length than C.
    """
    channels = input_shape[0]
    named = parse_named(architecture)
    _check_known(architecture, named)
    if min(input_shape) < 1:
        raise ArchitectureError(f"input_shape: expected numbers of at least 1, got {list(input_shape)}")
    if len(mean) != channels or len(std) != channels or not all(one > 0 for one in std):
        raise ArchitectureError(
            f"mean, std: expected one number a channel ({channels}) each, std > 0, got {mean} and {std}"
        )
    network = ImageClassifier(_backbone(named, num_classes, channels, code_sha256), mean, std).eval()
    _check_answers(named, network, num_classes, input_shape)
    if named.name not in ARCHITECTURES:
        network.channels_last = _takes_channels_last(network, input_shape)
    return network.train()


def memory_format_of(network: nn.Module) -> torch.memory_format:
    """How weights and images of a network are best laid out in memory."""
    classifiers = [module for module in network.modules() if isinstance(module, ImageClassifier)]
    return torch.channels_last if all(each.channels_last for each in classifiers) else torch.contiguous_format


def architecture_names() -> tuple[str, ...]:
    """References to networks that weights may belong to: those built in, then all of torchvision's classifiers."""
    return (*ARCHITECTURES, *(f"torchvision:{name}" for name in torchvision_names()))


def tensor_shapes(architecture: str, *, num_classes: int, channels: int) -> dict[str, torch.Size]:
    """Name and shape of each tensor of a network, without the memory that its weights would need.

    Raises:
        ArchitectureError: see `build_network`; also a network that cannot be built without weights.
    """
    named = parse_named(architecture)
    _check_known(architecture, named)
    try:
        with torch.device("meta"):
            backbone = _backbone(named, num_classes, channels, None)
    except (RuntimeError, NotImplementedError) as error:
        raise ArchitectureError(f"{named}: cannot be built without weights: {first_line(error)}") from None
    return {name: tensor.shape for name, tensor in backbone.state_dict().items()}


def _check_known(architecture: str, named: NamedWithOptions) -> None:
    if not architecture.isprintable():
        raise ArchitectureError(f"architecture: expected printable characters, got {architecture!r}")
    library = named.name.startswith(("timm:", "torchvision:"))
    if named.name not in ARCHITECTURES and not library and not is_own_code(named.name):
        raise ArchitectureError(
            f"architecture: expected one of {', '.join(ARCHITECTURES)}, or timm:NAME, torchvision:NAME, "
            f"file.py:function or package.module:function, got {architecture!r}"
        )
    if named.name in ARCHITECTURES and named.options:
        raise ArchitectureError(f"{named.name}: expected no options, got {architecture!r}")


def _backbone(named: NamedWithOptions, num_classes: int, channels: int, code_sha256: str | None) -> nn.Module:
    if named.name in ARCHITECTURES:
        return ARCHITECTURES[named.name](num_classes, channels)
    library, _, name = named.name.partition(":")
    if library in _LIBRARIES:
        return _LIBRARIES[library](name, num_classes, channels, dict(named.options))
    return own_network(named, num_classes, code_sha256)


_LIBRARIES = {"timm": timm_network, "torchvision": torchvision_network}


def _check_answers(
    named: NamedWithOptions, network: ImageClassifier, num_classes: int, input_shape: ImageShape
) -> None:
    """Two black images must give float32 logits [2, K]."""
    try:
        with torch.no_grad():
            answers: object = network(torch.zeros(2, *input_shape))
    except (Exception, SystemExit) as error:
        size = " (some networks take their size as an option: ?img_size= of timm, ?image_size= of torchvision)"
        raise ArchitectureError(
            f"{named}: expected a network of images {list(input_shape)}, but it raises {first_line(error)}"
            f"{size if ':' in named.name else ''}"
        ) from None
    if not isinstance(answers, Tensor):
        kind = f"{len(answers)} outputs" if isinstance(answers, Mapping | tuple | list) else type(answers).__name__
        raise ArchitectureError(f"{named}: expected one tensor of logits, got {kind} ({type(answers).__name__})")
    if answers.shape != (2, num_classes) or answers.dtype != torch.float32:
        raise ArchitectureError(
            f"{named}: expected float32 logits [2, {num_classes}] of two images, got {answers.dtype} "
            f"{list(answers.shape)}"
        )
    others = [name for name, value in network.backbone.state_dict().items() if not isinstance(value, Tensor)]
    if others:
        raise ArchitectureError(f"{named}: expected a state of tensors only, got {others[0]!r}, which is none")


def _takes_channels_last(network: ImageClassifier, input_shape: ImageShape) -> bool:
    """Whether a network, in eval mode, computes with channels last; `x.view(len(x), -1)` of a feature map does not."""
    images = torch.zeros(2, *input_shape).to(memory_format=torch.channels_last)
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    try:
        with torch.no_grad():
            network(images)
    except RuntimeError:
        return False
    finally:
        network.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    return True
