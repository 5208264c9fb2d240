"""A checkpoint: one safetensors file whose header says everything needed to rebuild the network."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import get_type_hints

import safetensors
import safetensors.torch
from torch import Tensor, nn

from heatserve.certification.errors import HeatserveError
from heatserve.certification.files import write_atomically
from heatserve.certification.lineage import IMPORTED, UNKNOWN, Ancestor, line_of
from heatserve.training.architectures.errors import ArchitectureError
from heatserve.training.architectures.network import ImageClassifier, build_network
from heatserve.training.architectures.own_code import ChosenArchitecture, require_same
from heatserve.training.named import NamingError
from heatserve.training.typed_json import TypedJsonError, checked, dataclass_text, parse_dataclass

HEADER_KEY = "heatserve"

Hyperparameter = str | int | float | bool | None

_PICKLED = re.compile(rb"PK\x03\x04|\x80[\x02-\x05].{6}[^{]", re.DOTALL)
"""How files of torch.save and pickle begin; those of safetensors may, but go on with { after eight bytes."""


class CheckpointError(HeatserveError):
    """A checkpoint is missing, damaged, or not one of heatserve's."""


@dataclass(frozen=True, kw_only=True)
class CheckpointMetadata:
    """What the network is and how it came to be. The types of all fields are checked."""

    architecture: str
    """What `build_network` takes; of a file with the user's own code only the name, not the folder."""
    num_classes: int
    class_names: tuple[str, ...]
    input_shape: tuple[int, int, int]
    """C, H, W of one image; FP32 in [0,1]."""
    mean: tuple[float, ...]
    std: tuple[float, ...]
    method: str
    sigma: float | None
    """Standard deviation of the noise that the network was smoothed for, pixels in [0,1]; None for a baseline."""
    dataset: str
    pixels_sha256: str | None = None
    """SHA-256 of the pixels that it was trained on; see `Ancestor`."""
    seed: int
    epochs: int
    hyperparameters: dict[str, Hyperparameter]
    parent_sha256: str | None
    """sha256 of the file of the network that training started from; None for a baseline."""
    base_sha256: str | None = None
    """sha256 of the checkpoint file of f, where the network v was trained to be the Gaussian average of another network
    f; None where the network is its own f."""
    ancestors: tuple[Ancestor, ...] | None = None
    """The networks that this one came through, the oldest first; None: not recorded, as formerly. The f that `average`
    trains beside v is none of them: both have the same ancestors, images and epochs."""
    code_sha256: str | None = None
    """sha256 of the source of the user's own code that made the network; None: another kind of architecture."""
    versions: dict[str, str]
    date: str

    def __post_init__(self) -> None:
        for name, kind in get_type_hints(type(self)).items():
            object.__setattr__(self, name, checked(getattr(self, name), kind, name))

    @classmethod
    def from_json(cls, text: str) -> CheckpointMetadata:
        """The metadata in the header of a checkpoint.

        Raises:
            TypedJsonError: it is another text.
        """
        return parse_dataclass(text, cls)

    def to_json(self, *, without: Collection[str] = ()) -> str:
        """The text of the header, the fields of `without` left out."""
        return dataclass_text(self, without=without)


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that has been read: `network` in eval mode on the CPU, `sha256` of the file at `path`."""

    network: ImageClassifier
    metadata: CheckpointMetadata
    sha256: str
    path: Path

    @property
    def lineage(self) -> tuple[Ancestor, ...]:
        """Its ancestors and itself, the oldest first."""
        known = self.metadata
        epochs = None if known.method == IMPORTED else known.epochs
        cut_otherwise = known.ancestors is None and known.dataset == "digits"  # their splits were others formerly
        method = UNKNOWN if cut_otherwise else known.method
        own = Ancestor(method, known.dataset, epochs, self.sha256, known.pixels_sha256)
        return line_of(known.ancestors, own, known.parent_sha256)


def save_checkpoint(path: Path, network: ImageClassifier, metadata: CheckpointMetadata) -> None:
    """Write the backbone's tensors and the metadata to `path`, atomically."""
    state = network.backbone.state_dict()
    # Copies: tensors that share their memory, as tied weights do, cannot be written.
    tensors = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in state.items()}
    header = metadata.to_json(without=() if metadata.code_sha256 else ("code_sha256",))
    write_atomically(path, safetensors.torch.save(tensors, {HEADER_KEY: header}))


def load_checkpoint(path: Path, *, architecture: str | None = None) -> Checkpoint:
    """Rebuild the network of a checkpoint. No file decides which code is run: see `own_code`.

    Args:
        path: the file.
        architecture: the reference to the code that made the network, from where it lies now, as a person typed it: it
            is run, if it is what the checkpoint was made with. Other architectures need none.

    Raises:
        CheckpointError: no such file, damaged bytes, a bare state dict, tensors of another architecture, or code that
            was not trusted or is not what made the network.
    """
    content = read_file(path)
    tensors, header = parse(path, content)
    if HEADER_KEY not in header:
        raise CheckpointError(
            f"{path}: not a heatserve checkpoint (its header has no {HEADER_KEY!r} entry); turn a bare state dict "
            f"into one with `heatserve import-weights {path} --architecture … --data … --out …`"
        )
    try:
        metadata = CheckpointMetadata.from_json(header[HEADER_KEY])
        if metadata.num_classes != len(metadata.class_names):
            raise CheckpointError(
                f"{path}: expected {metadata.num_classes} names of classes, got {len(metadata.class_names)}"
            )
        require_same(ChosenArchitecture(metadata.architecture, metadata.code_sha256), architecture)
        network = network_of(metadata)
    except TypedJsonError as error:
        raise CheckpointError(f"{path}: its header does not describe a network: {error}") from None
    except (ArchitectureError, NamingError) as error:
        raise CheckpointError(f"{path}: {error}") from None
    fill(path, network.backbone, tensors)
    return Checkpoint(network.eval(), metadata, hashlib.sha256(content).hexdigest(), path)


def base_path(out: Path) -> Path:
    """Where the training of a single pass v, written to `out`, writes the network f that v is to be the average of."""
    return out.with_name(f"{out.stem}.base{out.suffix}")


def load_base(single_pass: Checkpoint, path: Path | None = None) -> Checkpoint:
    """Read the network f that the single pass v was trained to be the average of.

    Args:
        single_pass: v.
        path: where to read f; by default where the training of v wrote it.

    Raises:
        CheckpointError: unreadable, or not the network that v was trained with.
    """
    base = load_checkpoint(path or base_path(single_pass.path))
    expected = single_pass.metadata.base_sha256
    if expected not in (None, base.sha256):
        raise CheckpointError(
            f"{base.path}: expected the network that {single_pass.path} was trained to be the average of, "
            f"sha256 {expected}; got {base.sha256}"
        )
    return base


def network_of(metadata: CheckpointMetadata) -> ImageClassifier:
    """The network that `metadata` describes, freshly initialised."""
    return build_network(
        metadata.architecture,
        num_classes=metadata.num_classes,
        input_shape=metadata.input_shape,
        mean=metadata.mean,
        std=metadata.std,
        code_sha256=metadata.code_sha256,
    )


def read_file(path: Path) -> bytes:
    """The bytes of `path`, or a CheckpointError that names it."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path}: expected a checkpoint file, but it cannot be read: {error.strerror}") from None


def parse(path: Path, content: bytes) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and header of safetensors bytes, or a CheckpointError that names the file."""
    if path.suffix == ".onnx":
        raise CheckpointError(
            f"{path}: expected a checkpoint, got an ONNX file, which `heatserve import-onnx` takes, but no "
            "training: import the weights that it was made of with `heatserve import-weights`, and train from there"
        )
    try:
        tensors = safetensors.torch.load(content)
        length = int.from_bytes(content[:8], "little")
        return tensors, json.loads(content[8 : 8 + length]).get("__metadata__") or {}
    except (safetensors.SafetensorError, ValueError) as error:
        hint = "; torch.save wrote it: make a checkpoint of it with `heatserve import-weights`"
        said = f"{path}: truncated or not a safetensors file: {error}{hint if _PICKLED.match(content) else ''}"
        raise CheckpointError(said) from None


def fill(path: Path, backbone: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Load `tensors` into `backbone`; all names and shapes must agree.

    `num_batches_tracked` may be missing: older state dicts lack it, and BatchNorm with a momentum never reads it.

    Raises:
        CheckpointError: names the first tensor that is missing, unexpected, or of another shape.
    """
    expected = backbone.state_dict()
    missing = [name for name in expected if name not in tensors and not name.endswith("num_batches_tracked")]
    unexpected = [name for name in tensors if name not in expected]
    if missing or unexpected:
        first = f"tensor {missing[0]!r} is missing" if missing else f"tensor {unexpected[0]!r} is unexpected"
        count = f"{len(missing)} missing, {len(unexpected)} unexpected"
        raise CheckpointError(f"{path}: its tensors are not those of the architecture: {first} ({count})")
    for name, tensor in tensors.items():
        if tensor.shape != expected[name].shape:
            shapes = f"{list(expected[name].shape)}, got {list(tensor.shape)}"
            raise CheckpointError(f"{path}: expected tensor {name!r} of shape {shapes}")
    backbone.load_state_dict(tensors, strict=False)
