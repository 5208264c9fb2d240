"""Which tensor of a file is which tensor of an architecture: by name, after the prefixes that wrappers add."""

from __future__ import annotations

import itertools
import math
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

Shapes = Mapping[str, Sequence[int]]

_WRAPPERS = ("module", "_orig_mod")
"""Parts of names that `DataParallel`, `DistributedDataParallel` and `torch.compile` add, in front or within."""
_SYNONYMS = (("fc", "linear", "classifier", "head"), ("downsample", "shortcut"))
"""Parts of names that mean the same in different codes of one network."""
_ALIKE = 0.5
"""Points for each tensor of the architecture (one for a name, one for its shape) from which a prefix is believed."""
_COUNTERS = ("num_batches_tracked", "total_ops", "total_params", "n_averaged")
"""Last parts of names that no answer depends on: counters of BatchNorm, of profilers and of averages of weights."""
_OTHER_HEADS = ("aux1", "aux2", "AuxLogits")
"""Parts of names of heads that only training uses."""
MEANS = ("mean", "means", "mu", "_mean", "new_mean", "pixel_mean", "image_mean")
STDS = ("std", "stds", "sds", "sigma", "_std", "new_std", "pixel_std", "image_std")
"""Last parts of names of what a layer in front of the network normalises by."""
_OLD_DENSENET = re.compile(r"\b(norm|conv)\.([12])\.")
"""`norm.1.weight` in published DenseNets, which is `norm1.weight` today."""


@dataclass(frozen=True)
class Misfit:
    """A tensor that the architecture and the file do not agree on."""

    name: str
    """In the architecture; of an unexpected one in the file, less what wrappers add."""
    expected: tuple[int, ...] | None
    """Its shape in the architecture; None: no such tensor there."""
    found: tuple[int, ...] | None
    """Its shape in the file; None: no such tensor there."""


@dataclass(frozen=True)
class Match:
    """How a file's tensors and an architecture's belong together."""

    sources: Mapping[str, str]
    """Name in the architecture → name in the file."""
    prefix: str
    """What stands before each name in the file, such as `module.1.`."""
    renamed: Mapping[str, str]
    """Parts of names in the file → as the architecture has them."""
    left_out: tuple[str, ...]
    """Names in the file that are not needed."""
    misfits: tuple[Misfit, ...]

    @property
    def complete(self) -> bool:
        """Whether every tensor has its place."""
        return not self.misfits

    @property
    def fitting(self) -> int:
        """How many tensors of the architecture are in the file, in the same shape."""
        return len(self.sources) - sum(
            misfit.found is not None and misfit.expected is not None for misfit in self.misfits
        )


def match_tensors(found: Shapes, expected: Shapes) -> Match:
    """The best way to give the tensors of a file to those of an architecture, by their names.

    Args:
        found: name and shape of each tensor of the file.
        expected: likewise of the architecture.
    """
    plain = _unwrapped(found, expected)
    prefix = _best_prefix(plain, found, expected)
    inside = {name[len(prefix) :]: source for name, source in plain.items() if name.startswith(prefix)}
    renamed = _best_renaming(inside, expected)
    inside = {_rename(name, renamed, expected): source for name, source in inside.items()}
    spare = [name for name, source in inside.items() if name not in expected and _needless(name, found[source])]
    left_out = [inside.pop(name) for name in spare]
    left_out += [source for name, source in plain.items() if not name.startswith(prefix)]
    sources = {name: source for name, source in inside.items() if name in expected}
    return Match(
        sources=sources,
        prefix=_common_prefix(sources) or prefix,
        renamed=renamed,
        left_out=tuple(sorted(left_out)),
        misfits=tuple(_misfits(inside, found, expected)),
    )


def _unwrapped(found: Iterable[str], expected: Iterable[str]) -> dict[str, str]:
    """Name without what wrappers add → name in the file."""
    own = {part for name in expected for part in name.split(".")}
    wrappers = [part for part in _WRAPPERS if part not in own]
    names = list(found)
    plain = {".".join(part for part in name.split(".") if part not in wrappers): name for name in names}
    return plain if len(plain) == len(names) else {name: name for name in names}


def _best_prefix(plain: Mapping[str, str], found: Shapes, expected: Shapes) -> str:
    """What to take from the front of the names, so that most are those of the architecture, in their shapes."""
    fitting: dict[str, int] = defaultdict(int)
    for name, source in plain.items():
        for start in (0, *(match.end() for match in re.finditer(r"\.", name))):
            if name[start:] in expected:
                same = tuple(found[source]) == tuple(expected[name[start:]])
                fitting[name[:start]] += 2 if same else 1
    best = max(fitting, key=lambda prefix: (fitting[prefix], "ema" not in prefix, -len(prefix)), default="")
    return best if fitting[best] > _ALIKE * len(expected) else ""


def _best_renaming(inside: Mapping[str, str], expected: Shapes) -> dict[str, str]:
    """Which synonyms of parts of names make most names those of the architecture."""
    here = {part for name in inside for part in name.split(".")}
    there = {part for name in expected for part in name.split(".")}
    choices = [
        [None, *itertools.product((part for part in group if part in here - there), set(group) & (there - here))]
        for group in _SYNONYMS
    ]
    renamings = [dict(filter(None, pairs)) for pairs in itertools.product(*choices)]
    return max(renamings, key=lambda renamed: sum(_rename(name, renamed, expected) in expected for name in inside))


def _rename(name: str, renamed: Mapping[str, str], expected: Shapes) -> str:
    other = ".".join(renamed.get(part, part) for part in name.split("."))
    merged = _OLD_DENSENET.sub(r"\1\2.", other)
    return merged if other not in expected and merged in expected else other


def _needless(name: str, shape: Sequence[int]) -> bool:
    """Whether a tensor that the architecture does not have changes no answer, or only normalises."""
    *parts, last = name.split(".")
    normalises = last in (*MEANS, *STDS) and math.prod(shape) <= 4
    return last in _COUNTERS or normalises or any(part in _OTHER_HEADS for part in parts)


def _common_prefix(sources: Mapping[str, str]) -> str:
    """What stands before every name in the file; empty where it is not the same for all."""
    prefixes = {source[: -len(name)] for name, source in sources.items() if source.endswith(name)}
    return min(prefixes, default="") if len(prefixes) == 1 else ""


def _misfits(inside: Mapping[str, str], found: Shapes, expected: Shapes) -> Iterator[Misfit]:
    """Tensors of another shape, missing ones, and unexpected ones; a counter may be missing."""
    for name, shape in expected.items():
        if name in inside and tuple(found[inside[name]]) != tuple(shape):
            yield Misfit(name, tuple(shape), tuple(found[inside[name]]))
    for name, shape in expected.items():
        if name not in inside and name.rpartition(".")[2] not in _COUNTERS:
            yield Misfit(name, tuple(shape), None)
    for name, source in inside.items():
        if name not in expected:
            yield Misfit(name, None, tuple(found[source]))
