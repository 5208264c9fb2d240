"""From what a file of weights holds to one state dict: training scripts store it under many names, beside much else."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from heatserve.certification.provenance import sha256_of
from heatserve.training.checkpoint import HEADER_KEY, CheckpointError, CheckpointMetadata
from heatserve.training.data.decoding import printable
from heatserve.training.typed_json import TypedJsonError
from heatserve.training.weights.files import read_contents

_PLAIN = (
    "state_dict",
    "model_state_dict",
    "model_state",
    "model",
    "net",
    "network",
    "net_state_dict",
    "weights",
    "params",
    "module",
    "backbone",
    "classifier",
)
"""Entries under which training scripts store the weights."""
_AVERAGED = (
    "state_dict_ema",
    "model_state_dict_ema",
    "model_ema",
    "ema",
    "ema_state_dict",
    "ema_model",
    "params_ema",
    "averaged_model",
    "swa_model",
)
"""Entries of an average of the weights over the training."""
_TRAINING = ("optimizer", "scheduler", "scaler", "loss", "criterion", "rng", "callback", "hyper_parameters", "amp")
"""Beginnings of entries that hold the state of a training, not of a network."""
_NAMES_OF_ARCHITECTURES = ("arch", "architecture", "model_name", "arch_name")
_DEEPEST = 4
_SLACK = 1 << 20
"""Bytes by which the tensors of a tiny file may be larger than twice the file: one small tensor under many names."""


@dataclass(frozen=True)
class StateDict:
    """The tensors of a network as somebody stored them, on the CPU, under their names there."""

    path: Path
    sha256: str
    """SHA-256 of the file."""
    tensors: Mapping[str, Tensor]
    entry: str = ""
    """Where in the file they are: keys with dots between; empty: they are all of the file."""
    named: str | None = None
    """The architecture, as the file itself calls it."""
    metadata: CheckpointMetadata | None = None
    """What the file says of its network where it is a checkpoint of heatserve."""


def read_state_dict(path: Path, *, entry: str | None = None) -> StateDict:
    """Read somebody's weights; nothing in the file is run.

    Args:
        path: a file of torch.save (.pth, .pt) or of safetensors.
        entry: where in the file the state dict is, keys with dots between; by default the usual names are tried, those
            of averaged weights last.

    Raises:
        CheckpointError: an unreadable, damaged or hostile file, one without tensors, or one with several state dicts
            where none has a usual name.
    """
    contents, header = read_contents(path)
    found = dict(_state_dicts(contents, "", set()))
    if not found:
        raise CheckpointError(f"{path}: expected tensors under names, got {_described(contents)}")
    chosen = _chosen(path, found) if entry is None else entry
    if chosen not in found:
        raise CheckpointError(f"{path}: entry: expected one of {_listed(found)}, got {entry!r}")
    _check_kinds(path, found[chosen])
    _check_size(path, found[chosen])
    named = [contents[key] for key in _NAMES_OF_ARCHITECTURES if key in contents] if isinstance(contents, dict) else []
    return StateDict(
        path=path,
        sha256=sha256_of(path),
        tensors=found[chosen],
        entry=chosen,
        named=next((name[:100] for name in named if isinstance(name, str)), None),
        metadata=_metadata(path, header),
    )


def _state_dicts(value: object, entry: str, seen: set[int]) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """The dictionaries of tensors in `value`, and where each is; what belongs to a training is left out.

    One that is in the file at several places is looked at once: such files can be made to have endlessly many places.
    """
    if not isinstance(value, dict) or id(value) in seen or entry.count(".") >= _DEEPEST:
        return
    seen.add(id(value))
    tensors = {key: item for key, item in value.items() if isinstance(key, str) and isinstance(item, Tensor)}
    if tensors:
        yield entry, tensors
    for key, item in value.items():
        if isinstance(key, str) and not key.lower().startswith(_TRAINING):
            yield from _state_dicts(item, f"{entry}.{key}" if entry else key, seen)


def _chosen(path: Path, found: Mapping[str, Mapping[str, Tensor]]) -> str:
    """The entry that is taken where the user names none."""
    for names in (_PLAIN, (*_PLAIN, *_AVERAGED)):
        usual = [entry for entry in found if entry and all(key in names for key in entry.split("."))]
        if usual:
            return min(usual, key=lambda entry: ([names.index(key) for key in entry.split(".")], entry))
    nested = [entry for entry in found if entry and len(found[entry]) > len(found.get("", ()))]
    if nested[1:]:
        raise CheckpointError(f"{path}: holds several state dicts, choose one with --entry: {_listed(found)}")
    return nested[0] if nested else ""


def _check_kinds(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Some kinds of tensors have no shape, others no numbers."""
    for name, tensor in tensors.items():
        if tensor.is_nested or tensor.layout != torch.strided or tensor.is_quantized or tensor.device.type != "cpu":
            what = "nested" if tensor.is_nested else "quantised" if tensor.is_quantized else ""
            what = what or f"on device {tensor.device}, layout {tensor.layout}"
            raise CheckpointError(
                f"{path}: {printable(name)}: expected a dense tensor of floats, got one that is {what}"
            )


def _check_size(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """A tensor may repeat few bytes in a huge shape; nothing is computed from it before its size is known."""
    size = path.stat().st_size
    claimed = {name: tensor.numel() * tensor.element_size() for name, tensor in tensors.items()}
    if sum(claimed.values()) > 2 * size + _SLACK:
        largest = max(claimed, key=lambda name: claimed[name])
        raise CheckpointError(
            f"{path}: its {size:,} bytes claim tensors of {sum(claimed.values()):,} bytes; the largest is {largest!r}, "
            f"{list(tensors[largest].shape)}"
        )


def _metadata(path: Path, header: Mapping[str, str]) -> CheckpointMetadata | None:
    if HEADER_KEY not in header:
        return None
    try:
        return CheckpointMetadata.from_json(header[HEADER_KEY])
    except TypedJsonError as error:
        raise CheckpointError(f"{path}: its header does not describe a network: {error}") from None


def _listed(found: Mapping[str, Mapping[str, Tensor]]) -> str:
    entries = [f"{entry or 'the file itself'} ({len(tensors)} tensors)" for entry, tensors in sorted(found.items())]
    return ", ".join(entries[:10]) + (" …" if len(entries) > 10 else "")


def _described(contents: object) -> str:
    if isinstance(contents, dict):
        return f"a dictionary of {', '.join(repr(key) for key in list(contents)[:5]) or 'nothing'}"[:200]
    return type(contents).__name__
