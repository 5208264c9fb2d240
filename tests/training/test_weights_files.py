"""Files of weights as scripts, libraries and adversaries write them: read without running them, or refused by name."""

from __future__ import annotations

import argparse
import io
import json
import os
import pickle
import struct
import types
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from heatserve.training.checkpoint import CheckpointError
from heatserve.training.weights import read_state_dict

TENSORS = {"conv.weight": torch.arange(6.0).view(2, 3), "conv.bias": torch.tensor([1.0, -2.0])}


def saved(tmp_path: Path, content: object, **how: Any) -> Path:
    path = tmp_path / "weights.pth"
    torch.save(content, path, **how)
    return path


def rewritten(path: Path, change: Callable[[bytes], bytes], **how: Any) -> Path:
    """The file of torch.save with another `data.pkl`."""
    with zipfile.ZipFile(path) as before:
        records = {name: before.read(name) for name in before.namelist()}
    with zipfile.ZipFile(path, "w", **how) as after:
        for name, content in records.items():
            after.writestr(name, change(content) if name.endswith("data.pkl") else content)
    return path


def same(found: Any) -> bool:
    return found.keys() == TENSORS.keys() and all(torch.equal(found[name], TENSORS[name]) for name in TENSORS)


@pytest.mark.parametrize(
    ("content", "entry"),
    [
        (TENSORS, ""),
        (OrderedDict(TENSORS), ""),
        ({name: nn.Parameter(tensor) for name, tensor in TENSORS.items()}, ""),
        ({"state_dict": TENSORS, "epoch": 90, "best_acc1": torch.tensor(0.9)}, "state_dict"),
        ({"model_state_dict": TENSORS, "optimizer_state_dict": {"momentum": torch.zeros(9)}}, "model_state_dict"),
        ({"model": TENSORS, "model_ema": {"n_averaged": torch.tensor(3)}}, "model"),
        ({"net": TENSORS, "acc": 95.1, "epoch": 200}, "net"),
        ({"model": {"state_dict": TENSORS}}, "model.state_dict"),
        ({"ema": TENSORS, "epoch": 3}, "ema"),
        ({"best": TENSORS, "lr": 0.1}, "best"),
    ],
)
def test_the_tensors_are_found_under_the_names_that_training_scripts_use(
    content: object, entry: str, tmp_path: Path
) -> None:
    found = read_state_dict(saved(tmp_path, content))
    assert same(found.tensors)
    assert found.entry == entry


def test_plain_weights_come_before_averaged_ones_and_the_user_may_choose(tmp_path: Path) -> None:
    averaged = {name: tensor + 1 for name, tensor in TENSORS.items()}
    path = saved(tmp_path, {"state_dict_ema": averaged, "state_dict": TENSORS, "arch": "resnet18"})
    found = read_state_dict(path)
    assert (found.entry, found.named) == ("state_dict", "resnet18")
    assert torch.equal(read_state_dict(path, entry="state_dict_ema").tensors["conv.bias"], torch.tensor([2.0, -1.0]))
    with pytest.raises(CheckpointError, match=r"entry: expected one of state_dict \(2 tensors\).* got 'ema'"):
        read_state_dict(path, entry="ema")


def test_several_state_dicts_without_usual_names_are_for_the_user_to_choose(tmp_path: Path) -> None:
    path = saved(tmp_path, {"teacher": TENSORS, "student": TENSORS | {"more": torch.zeros(1)}})
    with pytest.raises(CheckpointError, match=r"several state dicts.*--entry: student \(3 tensors\), teacher"):
        read_state_dict(path)


def test_the_formats_of_torch_and_safetensors_are_told_apart_by_their_bytes(tmp_path: Path) -> None:
    assert same(read_state_dict(saved(tmp_path, TENSORS, _use_new_zipfile_serialization=False)).tensors)
    path = tmp_path / "named-wrongly.pt"
    safetensors.torch.save_file(TENSORS, path)
    assert same(read_state_dict(path).tensors)
    wrong = saved(tmp_path, TENSORS).rename(tmp_path / "a.safetensors")
    with pytest.raises(CheckpointError, match=r"one of torch\.save: let its name end in \.pth"):
        read_state_dict(wrong)


def test_what_scripts_store_beside_the_weights_is_ignored(tmp_path: Path) -> None:
    """torchvision's and timm's scripts store an `argparse.Namespace`, many others NumPy scalars and paths."""
    beside = {
        "args": argparse.Namespace(lr=0.1, data="/data"),
        "best": np.float64(93.5),
        "losses": np.ones(3),
        "folder": PurePosixPath("/runs"),
        "config": types.SimpleNamespace(depth=18),
        "torch": torch.__version__,
    }
    for how in (True, False):
        found = read_state_dict(saved(tmp_path, {"model": TENSORS, **beside}, _use_new_zipfile_serialization=how))
        assert same(found.tensors)


class Config:
    """Hyperparameters of a class of the user's own, as Lightning's `save_hyperparameters` stores them."""

    def __init__(self) -> None:
        self.width = 2


class Touch:
    """What it is made from runs a command where it is unpickled."""

    def __init__(self, path: Path, how: str) -> None:
        self.path, self.how = path, how

    def __reduce__(self) -> tuple[Any, ...]:
        if self.how == "exec":
            return exec, (f"open({str(self.path)!r}, 'w')",)
        return os.system, (f"touch {self.path}",)


def test_a_lightning_checkpoint_with_objects_is_explained(tmp_path: Path) -> None:
    path = saved(tmp_path, {"state_dict": TENSORS, "hyper_parameters": {"config": Config()}, "epoch": 1})
    with pytest.raises(CheckpointError) as raised:
        read_state_dict(path)
    message = str(raised.value)
    assert f"{path}: holds objects beside its tensors" in message
    assert f"{Config.__module__}.Config" in message
    assert "torch.save(torch.load('weights.pth', weights_only=False)['state_dict'], 'weights.pth')" in message
    assert "add_safe_globals" not in message


@pytest.mark.parametrize("is_zip", [True, False])
@pytest.mark.parametrize("how", ["exec", "system"])
def test_nothing_that_a_pickle_asks_for_is_run(how: str, is_zip: bool, tmp_path: Path) -> None:
    touched = tmp_path / "touched"
    content = {"state_dict": TENSORS, "epoch": Touch(touched, how)}
    path = saved(tmp_path, content, _use_new_zipfile_serialization=is_zip)
    with pytest.raises(CheckpointError, match=r"would run code that the file names.* not done: .*(exec|system)"):
        read_state_dict(path)
    assert not touched.exists()
    torch.load(path, weights_only=False)  # the file does what is said of it
    assert touched.exists()


def test_a_whole_network_is_explained(tmp_path: Path) -> None:
    path = saved(tmp_path, nn.Sequential(nn.Linear(2, 2)))
    with pytest.raises(CheckpointError, match=r"holds a whole network.*torch.nn.modules.*\.state_dict\(\)"):
        read_state_dict(path)


def test_a_program_of_torchscript_is_explained(tmp_path: Path) -> None:
    path = tmp_path / "script.pt"
    torch.jit.trace(nn.Linear(2, 2), torch.zeros(1, 2)).save(path)  # type: ignore[no-untyped-call]
    with pytest.raises(CheckpointError, match=r"a program of TorchScript.*torch.jit.load\('script.pt'"):
        read_state_dict(path)


def _npz() -> bytes:
    file = io.BytesIO()
    np.savez(file, weight=np.ones(3))
    return file.getvalue()


def _tar() -> bytes:
    import tarfile

    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("weights.pth"))
    return file.getvalue()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "got an empty file"),
        (b"<!doctype html><title>Sign in</title>", "a web page or XML: download the file itself"),
        (b"\n<html>404</html>", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00", "a pointer of Git LFS"),
        (b"\x89HDF\r\n\x1a\n0000", r"Keras \(HDF5\).*import-onnx"),
        (b"\x93NUMPY\x01\x00", "an array of NumPy"),
        (_npz(), "arrays of NumPy"),
        (b"\x1f\x8b\x08\x00", "compressed by gzip: unpack it first"),
        (_tar(), "an archive of tar: unpack it first"),
        (pickle.dumps({"weight": np.ones(3)}), "not a file of torch.save"),
        (pickle.dumps([1, 2], protocol=2), "not a file of torch.save"),
        (b"\x00\x01\x02 nothing known", "something else, or a damaged file"),
        (b"\xff" * 8 + b"{", "truncated or not a safetensors file"),
    ],
)
def test_files_of_other_kinds_are_named(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=f"^{path}: .*{message}"):
        read_state_dict(path)


def test_what_is_no_file_is_named(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path, kind in ((tmp_path, "a folder"), (tmp_path / "nothing", "no such file"), (tmp_path / "pipe", "no file")):
        with pytest.raises(CheckpointError, match=f"{path}: expected .* got {kind}"):
            read_state_dict(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"tensor", "bytes|str"), (TENSORS["conv.bias"], "Tensor"), ({}, "a dictionary of nothing"), ([TENSORS], "list")],
)
def test_a_file_without_named_tensors_says_what_it_holds(content: object, message: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=f"expected tensors under names, got ({message})"):
        read_state_dict(saved(tmp_path, content))


def test_truncated_files_are_named(tmp_path: Path) -> None:
    for is_zip in (True, False):
        whole = saved(tmp_path, TENSORS, _use_new_zipfile_serialization=is_zip).read_bytes()
        for length in range(16, len(whole), 97):
            path = tmp_path / "cut.pth"
            path.write_bytes(whole[:length])
            with pytest.raises(CheckpointError, match=f"^{path}: (truncated|holds|expected)"):
                read_state_dict(path)


def test_an_archive_that_would_grow_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path, {"weight": torch.zeros(1_000_000)})
    assert read_state_dict(path).tensors["weight"].numel() == 1_000_000
    rewritten(path, lambda data: data, compression=zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 10_000
    with pytest.raises(CheckpointError, match=r"would be unpacked to 4,0.* torch.save compresses nothing"):
        read_state_dict(path)


def test_a_tensor_that_claims_more_than_the_file_holds_is_refused(tmp_path: Path) -> None:
    """One number that is repeated in 4 TB needs no room in the file; its sum would."""
    path = saved(tmp_path, {"fc.weight": torch.zeros(1).expand(1_000_000, 1_000_000), **TENSORS})
    with pytest.raises(CheckpointError, match=r"claim tensors of 4,000,000,000,0.* 'fc.weight', \[1000000, 1000000\]"):
        read_state_dict(path)
    tied = torch.zeros(100_000)
    many = saved(tmp_path, {f"layer{i}": tied for i in range(1000)})
    with pytest.raises(CheckpointError, match="claim tensors of 400,000,000"):
        read_state_dict(many)


def test_a_pickle_that_claims_a_larger_record_is_refused(tmp_path: Path) -> None:
    """Its tensor would lie behind the end of the file."""
    path = saved(tmp_path, {"weight": torch.zeros(4)})
    rewritten(path, lambda data: data.replace(b"K\x04", b"J" + struct.pack("<i", 100_000_000)))
    with pytest.raises(CheckpointError, match=f"^{path}: truncated, damaged"):
        read_state_dict(path)
    old = saved(tmp_path, {"weight": torch.zeros(4)}, _use_new_zipfile_serialization=False)
    old.write_bytes(old.read_bytes().replace(b"K\x04", b"J" + struct.pack("<i", 2_000_000_000)))
    with pytest.raises(CheckpointError, match=f"^{old}: truncated, damaged"):
        read_state_dict(old)


def test_a_file_with_endlessly_many_places_is_read_at_once(tmp_path: Path) -> None:
    nested: dict[str, Any] = dict(TENSORS)
    for _ in range(4):
        nested = {f"part{i}": nested for i in range(300)}
    assert same(read_state_dict(saved(tmp_path, nested)).tensors)


@pytest.mark.parametrize(
    "changed",
    [
        {"shape": [1_000_000, 1_000_000]},
        {"data_offsets": [0, 4_000_000_000_000]},
        {"data_offsets": [-8, 0]},
        {"dtype": "F99"},
        {"shape": [2**62, 2**62]},
    ],
)
def test_a_header_of_safetensors_that_lies_is_refused(changed: dict[str, object], tmp_path: Path) -> None:
    entry = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8], **changed}
    header = json.dumps({"weight": entry}).encode()
    path = tmp_path / "a.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(8))
    with pytest.raises(CheckpointError, match=f"^{path}: truncated or not a safetensors file"):
        read_state_dict(path)


def test_a_length_of_the_header_that_no_file_has_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(struct.pack("<Q", 2**63) + b"{}" + bytes(100))
    with pytest.raises(CheckpointError, match=f"^{path}: truncated or not a safetensors file"):
        read_state_dict(path)


def test_room_that_a_pickle_asks_for_is_not_given(tmp_path: Path) -> None:
    """`bytearray(40 GB)` is among the few calls that torch allows, and fills its memory with zeros."""
    for is_zip in (True, False):
        path = saved(tmp_path, {"model": TENSORS, "room": bytearray(3)}, _use_new_zipfile_serialization=is_zip)
        with pytest.raises(CheckpointError, match="asks for a bytearray"):
            read_state_dict(path)


@pytest.mark.parametrize("name", ["archive/data.pkl", "archive/DATA.PKL"])
def test_an_archive_of_two_records_of_one_name_is_refused(name: str, tmp_path: Path) -> None:
    """torch reads the one, whatever their capitals, and Python the other: what was looked at would not be what runs."""
    path, harmless = tmp_path / "two.pth", saved(tmp_path, TENSORS)
    room = b"\x80\x02cbuiltins\nbytearray\nJ\xff\xff\xff\x7f\x85R."  # bytearray(2 GB)
    with zipfile.ZipFile(harmless) as source, zipfile.ZipFile(path, "w") as archive:
        for record in source.namelist():
            archive.writestr(f"archive/{record.split('/', 1)[1]}", source.read(record))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of Python, about the name
            archive.writestr(name, room)
    with pytest.raises(CheckpointError, match="holds records of one name"):
        read_state_dict(path)


def test_reading_changes_nothing_for_other_users_of_torch_load(tmp_path: Path) -> None:
    path = saved(tmp_path, {"args": argparse.Namespace(a=1), "model": TENSORS})
    read_state_dict(path)
    with pytest.raises(pickle.UnpicklingError, match=r"argparse\.Namespace"):
        torch.load(path, weights_only=True)


def test_tensors_are_those_of_the_file(tmp_path: Path) -> None:
    tensors: dict[str, Tensor] = dict(read_state_dict(saved(tmp_path, TENSORS)).tensors)
    tensors["conv.bias"].zero_()
    assert same(read_state_dict(tmp_path / "weights.pth").tensors)
