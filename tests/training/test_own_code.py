"""Networks that the user's own code makes: they run where they are named, and no file decides that they do."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from small_training import DisturbedImages, few_digits, raise_signal
from typer.testing import CliRunner

from heatserve.certification.errors import HeatserveError
from heatserve.cli import app
from heatserve.export.repository.layout import open_model
from heatserve.export.runtime.served import open_served
from heatserve.training import (
    ArchitectureError,
    Checkpoint,
    CheckpointError,
    CheckpointMetadata,
    HeatParameters,
    Optimisation,
    build_network,
    load_checkpoint,
    save_checkpoint,
    train_baseline,
    train_from,
    trust_code,
)
from heatserve.training.architectures import own_code
from heatserve.training.loop import Interrupted, Run

QUICK = Optimisation(epochs=1, batch_size=32, lr=0.05, cpu_threads=1)
SOURCE = """
from __future__ import annotations
from dataclasses import dataclass
import torch
from torch import nn
from own_layers import activation

@dataclass
class Shape:
    width: int

class Tied(nn.Module):
    def __init__(self, num_classes, width, dropout=0.0):
        super().__init__()
        self.shape = Shape(width)
        self.first = nn.Conv2d(1, width, 3, padding=1)
        self.again = nn.Conv2d(width, width, 3, padding=1)
        self.once_more = nn.Conv2d(width, width, 3, padding=1)
        self.once_more.weight = self.again.weight
        self.dropout = nn.Dropout(dropout)
        self.last = nn.Linear(64 * width, num_classes)

    def forward(self, x):
        x = self.once_more(activation(self.again(activation(self.first(x)))))
        return self.last(self.dropout(x.view(x.size(0), -1)))

def build(num_classes, width=2, dropout=0.0):
    print("built")
    return Tied(num_classes, width, dropout)

class Two(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.linear = nn.Linear(64, num_classes)

    def forward(self, x):
        return self.linear(x.flatten(1)), x

class Stateless(Two):
    def forward(self, x):
        return self.linear(x.flatten(1))

class Stateful(Stateless):
    def get_extra_state(self):
        return {"not": "a tensor"}

    def set_extra_state(self, state):
        pass

class Branches(Two):
    def forward(self, x):
        x = x.flatten(1)
        return self.linear(x if x.sum() > 0 else -x)

class Draws(Two):
    def forward(self, x):
        return nn.functional.dropout(self.linear(x.flatten(1)) + 1, 0.5)

def other_classes(num_classes):
    return build(num_classes + 1)

def doubles(num_classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, num_classes)).double()

def nothing(num_classes):
    return None

def fails(num_classes):
    raise ValueError("of no use")

def leaves(num_classes):
    raise SystemExit(3)

number = 3
"""


@pytest.fixture
def nets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file of the user's own, which imports another one beside it; nothing is trusted yet."""
    monkeypatch.setattr(own_code, "_TRUSTED", {})
    monkeypatch.delitem(sys.modules, "own_layers", raising=False)
    folder = tmp_path / "code"
    folder.mkdir()
    (folder / "own_layers.py").write_text("from torch.nn.functional import relu as activation\n")
    (folder / "nets.py").write_text(SOURCE)
    return folder / "nets.py"


def forget() -> None:
    """As in a new process."""
    own_code._TRUSTED.clear()


def built(reference: str) -> torch.nn.Module:
    return build_network(reference, num_classes=10, input_shape=(1, 8, 8), mean=(0.5,), std=(0.5,))


def claiming(path: Path, like: Checkpoint, **fields: object) -> Path:
    """A checkpoint with the tensors of another one that says something else of itself."""
    values = vars(like.metadata) | fields
    save_checkpoint(path, like.network, CheckpointMetadata(**values))
    return path


def test_a_file_is_trained_smoothed_and_loaded_again_from_any_folder(
    nets: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its feature maps are views, its weights are tied, it prints, and it drops out: none of that is in the way."""
    monkeypatch.chdir(nets.parent)
    few, out = few_digits(), nets.parent.parent / "baseline.safetensors"
    train_baseline(few, "nets.py:build?width=3&dropout=0.2", out=out, optimisation=QUICK)
    assert capsys.readouterr().out == ""
    metadata = load_checkpoint(out).metadata
    assert metadata.architecture == "nets.py:build?dropout=0.2&width=3"
    assert metadata.code_sha256 == hashlib.sha256(nets.read_bytes()).hexdigest()
    forget()
    monkeypatch.chdir(nets.parent.parent)
    with pytest.raises(CheckpointError, match=r"add `--architecture 'FOLDER/nets.py:build\?dropout=0.2&width=3'`"):
        load_checkpoint(out)
    parent = load_checkpoint(out, architecture="code/nets.py:build?width=3&dropout=0.2")
    heat = train_from(parent, few, HeatParameters(sigma=0.25, kappa=1), out=out.with_name("heat"), optimisation=QUICK)
    found = load_checkpoint(heat).metadata
    assert (found.architecture, found.code_sha256) == (metadata.architecture, metadata.code_sha256)


def test_dropout_is_drawn_by_the_seed_also_where_a_training_goes_on(nets: Path, tmp_path: Path) -> None:
    few, reference = few_digits(), f"{nets}:build?dropout=0.5"
    whole = train_baseline(few, reference, out=tmp_path / "whole.safetensors", optimisation=QUICK)
    stopped, stopping = tmp_path / "stopped.safetensors", DisturbedImages(few.images, 2, raise_signal(signal.SIGTERM))
    with pytest.raises(Interrupted):
        train_baseline(replace(few, images=stopping), reference, out=stopped, optimisation=QUICK)
    torch.rand(7)
    train_baseline(few, reference, out=stopped, optimisation=QUICK, run=Run(resume=True))
    found, expected = (load_checkpoint(path).network.state_dict() for path in (stopped, whole))
    assert all(torch.equal(tensor, expected[name]) for name, tensor in found.items())


def test_a_module_is_found_in_the_current_folder_and_its_class_makes_the_network(
    nets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = nets.parent / "own_package"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "small.py").write_text(
        "from torch import nn\ndef net(k): return nn.Sequential(nn.Flatten(), nn.Linear(64, k))\n"
    )
    monkeypatch.chdir(nets.parent)
    before = list(sys.path)
    trust_code("own_package.small:net")
    assert sys.path == before
    images = torch.zeros(3, 1, 8, 8)
    assert built("own_package.small:net")(images).shape == (3, 10)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("Two", "expected one tensor of logits, got 2 outputs"),
        ("Stateful", "expected a state of tensors only, got '_extra_state'"),
        ("other_classes", r"expected float32 logits \[2, 10\] of two images, got torch.float32 \[2, 11\]"),
        ("doubles", r"expected a network of images \[1, 8, 8\], but it raises RuntimeError"),
        ("nothing", "expected it to return a torch.nn.Module, got NoneType"),
        ("fails", r"expected it to build a network, but it raises ValueError: of no use \(nets.py, line \d+\)"),
        ("leaves", "expected it to build a network, but it exits: SystemExit: 3"),
        ("build?height=3", "it raises TypeError: build.. got an unexpected keyword argument 'height'"),
        ("number", "expected a function number of the number of classes there; got .*build"),
        ("missing", "expected a function missing of the number of classes there; got .*build"),
    ],
)
def test_what_is_no_classifier_is_explained(nets: Path, function: str, message: str) -> None:
    def make() -> None:
        trust_code(f"{nets}:{function}")
        built(f"{nets}:{function}")

    with pytest.raises(ArchitectureError, match=message):
        make()


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("def build(k:\n", r"raises SyntaxError: .* \(bad.py, line 1\)"),
        ("x = 1\nimport nothing_of_this_name\n", r"raises ModuleNotFoundError: No module named .* \(bad.py, line 2\)"),
        ("import sys\nsys.exit('no')\n", "be imported, but it exits: SystemExit: no"),
    ],
)
def test_a_file_that_cannot_be_imported_is_explained(tmp_path: Path, source: str, message: str) -> None:
    (tmp_path / "bad.py").write_text(source)
    with pytest.raises(ArchitectureError, match=message):
        trust_code(f"{tmp_path}/bad.py:build")
    with pytest.raises(
        ArchitectureError, match=r"expected the Python file .*none.py, which cannot be read: No such file"
    ):
        trust_code(f"{tmp_path}/none.py:build")
    with pytest.raises(ArchitectureError, match="expected a module that Python finds here, got none named no_module"):
        trust_code("no_module:build")
    with pytest.raises(ArchitectureError, match="expected a module with Python source, got built-in"):
        trust_code("sys:exit")


@pytest.mark.parametrize("reference", ["cifar_resnet18", "timm:resnet18", "torchvision:resnet18", "nets.py", "a b:c"])
def test_only_code_is_to_be_trusted(reference: str) -> None:
    with pytest.raises(
        ArchitectureError, match=r"expected code of your own, file.py:function or package.module:function"
    ):
        trust_code(reference)


@pytest.fixture
def baseline(nets: Path) -> Checkpoint:
    out = nets.parent.parent / "own.safetensors"
    trained = load_checkpoint(train_baseline(few_digits(), f"{nets}:build", out=out, optimisation=QUICK))
    forget()
    return trained


@pytest.mark.parametrize(
    "claim",
    [
        lambda folder: f"{folder}/evil.py:build",
        lambda _: "code/../evil.py:build",
        lambda _: "evil.py:build",
        lambda _: "evil:build",
        lambda _: "os:mkdir",
        lambda folder: f"os:mkdir?mode={folder}",
        lambda _: "os.path:exists",
        lambda folder: f"timm:local-dir:{folder}",
        lambda folder: f"timm:resnet18.local-dir:{folder}",
        lambda _: "timm:hf-hub:timm/resnet18",
        lambda _: "timm:resnet18?pretrained=true",
        lambda folder: f"timm:resnet18?checkpoint_path={folder}/evil.pth",
        lambda folder: f"timm:resnet18?pretrained_cfg={folder}/evil.json",
        lambda _: "torchvision:resnet18?weights=DEFAULT",
        lambda _: "nets.py:build\x1b[2J",
        lambda _: "\x1b[2J.py:build",
    ],
)
def test_a_checkpoint_runs_no_code_whatever_it_names(
    baseline: Checkpoint, claim: Callable[[Path], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    ran = tmp_path / "ran"
    evil = f"open({str(ran)!r}, 'w').close()\ndef build(k): raise SystemExit\n"
    (tmp_path / "evil.py").write_text(evil)
    sha256 = hashlib.sha256(evil.encode()).hexdigest()
    path = claiming(tmp_path / "a.safetensors", baseline, architecture=claim(tmp_path), code_sha256=sha256)
    with pytest.raises(CheckpointError, match=r"a.safetensors: ") as raised:
        load_checkpoint(path)
    assert str(raised.value).isprintable()
    assert not ran.exists()
    trust_code("code/nets.py:build")  # which says nothing of other code
    with pytest.raises(CheckpointError):
        load_checkpoint(path)
    assert not ran.exists()


def test_code_is_run_as_it_was_typed_and_only_if_it_is_the_same(baseline: Checkpoint, nets: Path) -> None:
    path, typed = baseline.path, f"{nets}:build"
    for other in (f"{nets}:Tied", f"{nets}:build?width=3", "timm:resnet18", "digits_cnn"):
        with pytest.raises(CheckpointError, match=f"architecture: expected nets.py:build, got {other[:9]}"):
            load_checkpoint(path, architecture=other)
    wider = claiming(path.with_name("wider"), baseline, architecture="nets.py:build?width=9")
    trust_code(typed)
    with pytest.raises(CheckpointError, match="runs only where you name it"):  # its options are not those typed
        load_checkpoint(wider)
    unsigned = claiming(path.with_name("unsigned"), baseline, code_sha256=None)
    with pytest.raises(CheckpointError, match="expected the SHA-256 of that code beside it, got none"):
        load_checkpoint(unsigned)
    forget()
    marker = nets.with_name("ran")  # written by the file that has taken the place of the first one
    nets.write_text(f"{SOURCE}\nopen({str(marker)!r}, 'w').close()\n")
    with pytest.raises(
        CheckpointError, match=r"expected the code that made this network, .* `heatserve import-weights`"
    ):
        load_checkpoint(path, architecture=typed)
    assert not marker.exists()
    trust_code(typed)
    with pytest.raises(CheckpointError, match="expected the code that made this network"):
        load_checkpoint(path)


def test_a_network_of_a_name_may_be_named_as_well(tmp_path: Path) -> None:
    path = train_baseline(few_digits(), "digits_cnn", out=tmp_path / "a.safetensors", optimisation=QUICK)
    assert load_checkpoint(path, architecture="digits_cnn").metadata.code_sha256 is None
    assert b"code_sha256" not in path.read_bytes()  # as before: older versions refuse fields that they do not know
    with pytest.raises(CheckpointError, match="architecture: expected digits_cnn, got cifar_resnet20"):
        load_checkpoint(path, architecture="cifar_resnet20")


def test_names_of_classes_must_be_as_many_as_there_are_classes(baseline: Checkpoint, tmp_path: Path) -> None:
    path = claiming(tmp_path / "a.safetensors", baseline, architecture="digits_cnn", num_classes=10**12)
    with pytest.raises(CheckpointError, match="expected 1000000000000 names of classes, got 10"):
        load_checkpoint(path)


@pytest.mark.slow
@pytest.mark.parametrize("command", ["heat", "noise", "smoothadv", "madry", "average"])
def test_every_training_takes_the_reference(command: str, baseline: Checkpoint, nets: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.safetensors"
    sigma = [] if command == "madry" else ["--sigma", "0.25"]
    arguments = ["train", command, "--from", str(baseline.path), "--out", str(out), *sigma, "--device", "cpu"]
    with pytest.raises(CheckpointError, match="runs only where you name it"):
        CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert not out.exists()
    arguments += ["--architecture", f"{nets}:build", "--epochs", "1", "--batch-size", "300"]
    arguments += ["--kappa", "1"] if command == "heat" else []
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == 0
    assert "test accuracy" in result.stdout
    assert load_checkpoint(out).metadata.architecture == "nets.py:build"


@pytest.mark.slow
def test_from_another_folder_and_process_it_is_exported_and_then_the_code_is_not_needed(
    baseline: Checkpoint, nets: Path, tmp_path: Path
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    root = str(Path(__file__).parents[2])
    environment = {**os.environ, "PYTHONPATH": root}

    def heatserve(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "heatserve", *arguments]
        return subprocess.run(command, capture_output=True, text=True, cwd=elsewhere, env=environment, check=False)

    export = ["export", str(baseline.path), "--name", "own", "--sigma", "0.25"]
    refused = heatserve(*export)
    assert refused.returncode == 1
    assert "add `--architecture FOLDER/nets.py:build`, FOLDER being where you have that file" in refused.stderr
    done = heatserve(*export, "--architecture", "../code/nets.py:build")
    assert done.returncode == 0, done.stderr
    nets.unlink()
    model = open_model(elsewhere / "model_repository", "own")
    assert model.card.training["architecture"] == "nets.py:build"
    assert open_served(model)(np.zeros((2, 1, 8, 8), np.float32))["label"].shape == (2,)


@pytest.mark.slow
def test_what_cannot_be_exported_says_so_before_it_is_trained(nets: Path, tmp_path: Path) -> None:
    weights, out = tmp_path / "theirs.safetensors", tmp_path / "out.safetensors"
    safetensors.torch.save_file({"linear.weight": torch.zeros(10, 64), "linear.bias": torch.zeros(10)}, weights)
    branches = ["--architecture", f"{nets}:Branches", "--data", "digits", "--out", str(out)]
    with pytest.raises(HeatserveError, match=r"Branches: it could be trained, and not be exported afterwards: \S"):
        CliRunner().invoke(app, ["train", "baseline", *branches], catch_exceptions=False)
    assert not out.exists()
    as_it_is = ["--mean", "0", "--std", "1", "--test-images", "0"]
    imported = CliRunner().invoke(app, ["import-weights", str(weights), *branches, *as_it_is])
    assert imported.exit_code == 0
    assert "it can be trained, and not be exported afterwards: network: " in imported.stderr
    draws = [argument.replace("Branches", "Draws") for argument in branches]
    imported = CliRunner().invoke(app, ["import-weights", str(weights), *draws, *as_it_is])
    assert "exported afterwards: network: it answers an image otherwise in a batch of " in imported.stderr
    plain = [argument.replace("Branches", "Stateless") for argument in branches]
    imported = CliRunner().invoke(app, ["import-weights", str(weights), *plain, *as_it_is])
    assert imported.exit_code == 0
    assert "not be exported" not in imported.stderr
