"""Reading other people's files of weights, .pth, .pt and .safetensors, without running or believing what they say.

A .pth file is a pickle, a program that can do anything to who loads it. Here `torch.load(weights_only=True)` reads it:
it builds tensors, numbers and containers and calls nothing else. Objects that training scripts often store beside the
weights (`argparse.Namespace`, a NumPy scalar, a path) become empty stand-ins, whatever the file says is in them; a file
that names any other code is refused.
"""

from __future__ import annotations

import re
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import torch

from heatserve.certification.errors import first_of
from heatserve.training.checkpoint import CheckpointError, parse

_DATA = (
    "argparse.Namespace",
    "numpy._core.multiarray._reconstruct",
    "numpy._core.multiarray.scalar",
    "numpy.core.multiarray._reconstruct",
    "numpy.core.multiarray.scalar",
    "numpy.dtype",
    "numpy.ndarray",
    "pathlib.PosixPath",
    "pathlib.PurePosixPath",
    "pathlib.WindowsPath",
    "pathlib._local.PosixPath",
    "torch.torch_version.TorchVersion",
    "types.SimpleNamespace",
)
"""Classes and functions whose objects hold data only; a stand-in takes their place."""
_DICTIONARIES = (
    "easydict.EasyDict",
    "lightning.fabric.utilities.data.AttributeDict",
    "lightning.pytorch.utilities.parsing.AttributeDict",
    "lightning_fabric.utilities.data.AttributeDict",
    "pytorch_lightning.utilities.parsing.AttributeDict",
    "yacs.config.CfgNode",
)
"""Classes of dictionaries; an empty one that the file may fill takes their place."""
_OTHER_KINDS = (
    (b"\x93NUMPY", "an array of NumPy", "save the state dict of the network with torch.save"),
    (b"\x89HDF\r\n", "weights of Keras (HDF5)", "export that network as ONNX: `heatserve import-onnx` reads it"),
    (b"version https://git-lfs", "a pointer of Git LFS to the file", "`git lfs pull` brings the file"),
    (b"<", "a web page or XML", "download the file itself"),
    (b"\x1f\x8b", "compressed by gzip", "unpack it first"),
    (b"7z\xbc\xaf", "an archive of 7-Zip", "unpack it first"),
)
"""First bytes of files that users take for weights, what these are, and what to do."""
_PICKLES = (b"\x80", b"(", b"c", b"]", b"}")
_WEIGHTS = "weights of PyTorch (.pth, .pt or .safetensors)"
_BYTEARRAY = re.compile(rb"c(builtins|__builtin__)\nbytearray\n")
_SAVE = "python -c \"import torch; torch.save(torch.load('{name}', weights_only=False){of}, 'weights.pth')\""


class _StandIn:
    """What a file says is some object with data; nothing of it is kept."""

    def __init__(self, *_data: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass


class _Dictionary:
    """`cls.__new__` and a call both give an empty dictionary."""

    def __new__(cls, *_data: object) -> OrderedDict[object, object]:  # type: ignore[misc]
        return OrderedDict()


def read_contents(path: Path) -> tuple[object, dict[str, str]]:
    """What a file of weights holds: nested dictionaries with tensors on the CPU, and the header of a safetensors file.

    No tensor has been looked at: it may claim a shape that no memory holds.

    Raises:
        CheckpointError: no such file, one of another kind, damaged bytes, a file that names code, or that would grow
            when it is read.
    """
    if not path.is_file():
        kind = "a folder: name a file in it" if path.is_dir() else "no such file" if not path.exists() else "no file"
        raise CheckpointError(f"{path}: expected {_WEIGHTS}, got {kind}")
    try:
        with path.open("rb") as file:
            start = file.read(512)
    except OSError as error:
        raise CheckpointError(f"{path}: expected a file of weights, but it cannot be read: {error.strerror}") from None
    if start[8:9] == b"{":
        return parse(path, path.read_bytes())
    if start.startswith(b"PK\x03\x04"):
        _check_zip(path)
        return _torch_load(path, mmap=True), {}
    if start[257:262] == b"ustar":
        raise CheckpointError(f"{path}: expected a file of weights, got an archive of tar: unpack it first")
    if start.startswith(_PICKLES):
        return _torch_load(path, mmap=False), {}
    for first, what, then in _OTHER_KINDS:
        if start.lstrip().startswith(first):
            raise CheckpointError(f"{path}: expected {_WEIGHTS}, got {what}: {then}")
    raise CheckpointError(
        f"{path}: expected {_WEIGHTS}, got {'an empty file' if not start else 'something else, or a damaged file'}"
    )


def _check_zip(path: Path) -> None:
    """torch.save compresses nothing and stores nothing twice: what would grow is refused before it is read."""
    try:
        with zipfile.ZipFile(path) as archive:
            records = archive.infolist()
    except (zipfile.BadZipFile, ValueError, OSError, NotImplementedError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path}: truncated or damaged: {error}; download or copy it again") from None
    names = {record.filename.split("/", 1)[-1] for record in records}
    if "constants.pkl" in names:
        raise CheckpointError(
            f'{path}: holds a program of TorchScript, which is not run here; save its tensors: python -c "import '
            f"torch; torch.save(torch.jit.load('{path.name}', map_location='cpu').state_dict(), 'weights.pth')\""
        )
    if any(name.endswith(".npy") for name in names):
        raise CheckpointError(f"{path}: holds arrays of NumPy; save the state dict of the network with torch.save")
    if "data.pkl" not in names:
        raise CheckpointError(
            f"{path}: expected a file of torch.save, got an archive of {len(records)} other files "
            f"({', '.join(sorted(names)[:3])} …); where the weights are in it, unpack it"
        )
    if len({record.filename.lower() for record in records}) < len(records):  # torch would not tell which is meant
        raise CheckpointError(f"{path}: holds records of one name, up to capitals, and is not read")
    size = path.stat().st_size
    claimed = sum(record.file_size for record in records)
    if claimed > size or any(record.compress_type != zipfile.ZIP_STORED for record in records):
        raise CheckpointError(
            f"{path}: its {size:,} bytes would be unpacked to {claimed:,}; torch.save compresses nothing, so this file "
            f"was made by something else and is not read"
        )


def _torch_load(path: Path, *, mmap: bool) -> object:
    if _asks_for_room(path):
        raise CheckpointError(f"{path}: its pickle asks for a bytearray, which may be of any size: it is not read")
    stand_ins: list[Callable[..., object] | tuple[Callable[..., object], str]] = []
    stand_ins += [(_StandIn, name) for name in _DATA]
    stand_ins += [(_Dictionary, name) for name in _DICTIONARIES]
    try:
        with torch.serialization.safe_globals(stand_ins), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about old formats of tensors, which are read all the same
            return torch.load(str(path), map_location="cpu", weights_only=True, mmap=mmap)
    except Exception as error:  # a file that means harm can make an unpickler raise anything
        raise CheckpointError(f"{path}: {_explained(path, error)}") from None


def _asks_for_room(path: Path) -> bool:
    """Whether a pickle names `bytearray`: the one call among those that torch allows that fills what it allocates."""
    if not zipfile.is_zipfile(path):
        return _BYTEARRAY.search(path.read_bytes()) is not None
    with zipfile.ZipFile(path) as archive:
        pickles = [archive.read(name) for name in archive.namelist() if name.endswith("data.pkl")]
    return any(_BYTEARRAY.search(content) for content in pickles)


def _explained(path: Path, error: Exception) -> str:
    """Why `torch.load` refused a file, and what to do; never torch's own advice, which is to run the file's code."""
    message = str(error)
    if found := re.search(r"GLOBAL (\S+?) (?:was not|whose module)", message):
        names = _code_in(path) or [found[1]]
        whole = any(name.startswith("torch.nn.modules.") for name in names)
        what = "holds a whole network, not its tensors" if whole else "holds objects beside its tensors"
        recipe = _SAVE.format(name=path.name, of=".state_dict()" if whole else "['state_dict']")
        return (
            f"{what}, and reading them would run code that the file names, which is not done: {first_of(names)}; "
            f"save the tensors alone where the file was made, or here if you trust whoever made it: {recipe}"
        )
    if path.suffix == ".safetensors":
        return "expected a file of safetensors, got one of torch.save: let its name end in .pth"
    reason = re.sub(r"(?s).*WeightsUnpickler error:", "", message).strip() or type(error).__name__
    return f"truncated, damaged, or not a file of torch.save: {reason.splitlines()[0][:200]}"


def _code_in(path: Path) -> list[str]:
    """The code that a file names, beyond what is read; empty where only the first name can be found."""
    try:
        names = torch.serialization.get_unsafe_globals_in_checkpoint(str(path))
    except Exception:  # the older format, or operations that are not read anyway
        return []
    return sorted(set(names) - {*_DATA, *_DICTIONARIES})
