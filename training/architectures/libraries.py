"""Networks of timm and of torchvision by name, with fresh weights: nothing is downloaded and no file is read."""

from __future__ import annotations

import importlib
import re
from collections.abc import Mapping, Sequence
from difflib import get_close_matches

from torch import nn

from heatserve.training.architectures.errors import ArchitectureError, first_line
from heatserve.training.named import OptionValue
from heatserve.training.torchvision_import import import_torchvision

_OURS = frozenset({"num_classes", "in_chans"})
"""Options that follow from the data."""
_READS = re.compile(r"pretrained.*|weights.*|checkpoint_path|cache_dir|.*_file|.*_url")
"""Options by which a library would read a file or download one."""
_NOT_A_CLASSIFIER = frozenset({"features_only", "out_indices", "aux_logits"})
_TIMM_NAME = re.compile(r"\w+(\.\w+)?", re.ASCII)


def torchvision_names() -> tuple[str, ...]:
    """The classifiers of torchvision, in alphabetical order."""
    models = import_torchvision("models")
    return tuple(models.list_models(module=models))


def torchvision_network(name: str, num_classes: int, channels: int, options: Mapping[str, OptionValue]) -> nn.Module:
    """A classifier of torchvision; the auxiliary heads of `googlenet` and `inception_v3` are left out.

    Raises:
        ArchitectureError: an unknown name, images of other than 3 channels, or options that it does not take.
    """
    reference = f"torchvision:{name}"
    _check_known(reference, name, torchvision_names())
    _check_options(reference, options)
    if channels != 3:
        raise ArchitectureError(f"{reference}: expected images of 3 channels, got {channels}")
    heads = {"aux_logits": False, "init_weights": True} if name in ("googlenet", "inception_v3") else {}
    try:
        network: nn.Module = import_torchvision("models").get_model(
            name, weights=None, num_classes=num_classes, **heads, **options
        )
    except Exception as error:
        raise ArchitectureError(f"{reference}: torchvision cannot build it: {first_line(error)}") from None
    return network


def timm_network(name: str, num_classes: int, channels: int, options: Mapping[str, OptionValue]) -> nn.Module:
    """A network of timm's own registry.

    Raises:
        ArchitectureError: an unknown name (those of a hub or a folder are), or options that it does not take.
    """
    reference = f"timm:{name}"
    import_torchvision("models")  # timm imports it, and where its operators are missing it must be prepared
    timm = importlib.import_module("timm")
    if not _TIMM_NAME.fullmatch(name) or not timm.is_model(name):
        _check_known(reference, name, timm.list_models())
    _check_options(reference, options)
    try:
        network: nn.Module = timm.create_model(
            name, pretrained=False, num_classes=num_classes, in_chans=channels, **options
        )
    except Exception as error:
        raise ArchitectureError(f"{reference}: timm cannot build it: {first_line(error)}") from None
    return network


def _check_known(reference: str, name: str, known: Sequence[str]) -> None:
    if name not in known:
        library = reference.partition(":")[0]
        near = get_close_matches(name, known, 3, 0.5)
        hint = f"; near it are {', '.join(near)}" if near else ""
        raise ArchitectureError(
            f"architecture: expected {library}:NAME, NAME one of {library}'s own {len(known)} names, got "
            f"{reference!r}{hint}"
        )


def _check_options(reference: str, options: Mapping[str, OptionValue]) -> None:
    for option in options:
        if option in _OURS:
            raise ArchitectureError(f"{reference}: {option} follows from the images and their classes: leave it out")
        if _READS.fullmatch(option):
            raise ArchitectureError(
                f"{reference}: {option} would read weights or download them; bring weights as a file, with "
                f"`heatserve import-weights`"
            )
        if option in _NOT_A_CLASSIFIER:
            raise ArchitectureError(f"{reference}: {option} gives a network of several outputs; leave it out")
