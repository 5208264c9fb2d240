"""Which of the known architectures a file's tensors are those of."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress

from heatserve.training.architectures.builtin import ARCHITECTURES
from heatserve.training.architectures.errors import ArchitectureError
from heatserve.training.architectures.network import architecture_names, tensor_shapes
from heatserve.training.weights.errors import outputs_of
from heatserve.training.weights.matching import Match, Shapes, match_tensors

_LISTED = 3
_FAMILIES = 3
"""How many families of torchvision's architectures are looked at whole."""
_NEAR = 0.75
"""The share of tensors from which no others are looked for."""
_ALIKE = 0.1
"""The share of tensors below which no architecture is named as the nearest."""
_OF_TIMM = (
    "convnext_tiny",
    "convnext_small",
    "convnext_base",
    "convnextv2_tiny",
    "deit_tiny_distilled_patch16_224",
    "deit_small_distilled_patch16_224",
    "efficientnet_b0",
    "efficientnet_b3",
    "mixer_b16_224",
    "mobilenetv3_large_100",
    "mobilenetv3_small_100",
    "regnety_008",
    "resnet26",
    "resnetv2_50",
    "swin_tiny_patch4_window7_224",
    "swin_small_patch4_window7_224",
    "vit_tiny_patch16_224",
    "vit_small_patch16_224",
    "vit_base_patch16_224",
)
"""The networks of timm that a file is compared with; timm has a thousand more."""


def nearest_architectures(found: Shapes, *, classes: int, channels: int, named: str | None = None) -> tuple[str, ...]:
    """Up to three architectures that share most tensors with a file, a sentence for each, the nearest first.

    A file is compared with what it calls itself, with the built-in architectures, with those families of torchvision's
    (`resnet`, `vit`, …) whose first member has the most names in common, and with some of timm, until one fits or
    nearly does.

    Args:
        found: name and shape of each tensor of the file.
        classes: K, of the images that the network is for.
        channels: C of those images.
        named: what the file calls its architecture.
    """
    known: dict[str, Match] = {}

    def compare(names: Iterable[str]) -> bool:
        """Whether one that was compared fits, or nearly does; each is remembered."""
        for name in names:
            with suppress(ArchitectureError):  # not for such images, or not to be built without weights
                known[name] = match_tensors(found, tensor_shapes(name, num_classes=classes, channels=channels))
        return any(_fits(match, classes) or _likeness(match) > _NEAR for match in known.values())

    calls_itself = (named, f"torchvision:{named}", f"timm:{named}") if named and named.isidentifier() else ()
    _ = (
        compare(calls_itself)
        or compare(ARCHITECTURES)
        or compare(_likely_of_torchvision(compare, known))
        or compare(f"timm:{name}" for name in _OF_TIMM)
    )
    best = sorted(known, key=lambda name: -_likeness(known[name]))
    fitting = [name for name in best if _fits(known[name], classes)]
    alike = [name for name in best[:1] if _likeness(known[name]) > _ALIKE]
    if not fitting and not alike:
        return ("no network that is known here is like it",)
    return tuple(_sentence(name, known[name], classes) for name in (fitting or alike)[:_LISTED])


def _likely_of_torchvision(compare: Callable[[Iterable[str]], bool], known: Mapping[str, Match]) -> list[str]:
    """The members of those families whose first one has the most names in common with the file."""
    families: dict[str, list[str]] = defaultdict(list)
    for name in architecture_names():
        if ":" in name and name.partition(":")[2] not in ARCHITECTURES:
            families[re.sub("[^a-z].*", "", name.partition(":")[2])].append(name)
    compare(names[0] for names in families.values())
    first = sorted((names for names in families.values() if names[0] in known), key=lambda n: -_shared(known[n[0]]))
    return [name for names in first[:_FAMILIES] for name in names]


def _fits(match: Match, classes: int) -> bool:
    return match.complete or outputs_of(match, classes) is not None


def _likeness(match: Match) -> float:
    """The share of tensors that both have, among those that one of them has."""
    one_sided = sum(misfit.found is None or misfit.expected is None for misfit in match.misfits)
    return match.fitting / max(1, len(match.sources) + one_sided)


def _shared(match: Match) -> float:
    """The share of names that both have, whatever the shapes: members of a family differ in width and depth."""
    missing = sum(misfit.found is None for misfit in match.misfits)
    return len(match.sources) / max(1, len(match.sources) + missing)


def _sentence(name: str, match: Match, classes: int) -> str:
    outputs = outputs_of(match, classes)
    if match.complete:
        return f"they are those of {name}"
    if outputs is not None:
        return f"they are those of {name} with {outputs} classes, where the images have {classes}"
    return f"nearest is {name}: {match.fitting} tensors fit, {len(match.misfits)} do not"
