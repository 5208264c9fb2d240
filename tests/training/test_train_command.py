"""`heatserve train`: every parameter has its option, every option is heard, and the result is reported."""

from __future__ import annotations

import re
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
from safetensors.torch import save_file
from small_training import few_digits
from typer.core import TyperGroup, TyperOption
from typer.testing import CliRunner

from heatserve.certification.errors import HeatserveError
from heatserve.cli import app
from heatserve.commands.train import train
from heatserve.commands.train.run import run_on
from heatserve.training import accuracy, base_path, build_network, load_checkpoint, train_baseline, train_from
from heatserve.training.architectures import own_code
from heatserve.training.data import ImageData, load_data
from heatserve.training.loop import Optimisation, TrainingError
from heatserve.training.methods import METHODS, HeatParameters, NoiseParameters, heat_preset
from heatserve.training.weights import MismatchError

QUICK = Optimisation(epochs=1, batch_size=32, lr=0.05, cpu_threads=1)


RUN = {"out", "data", "root", "seed", "device", "resume", "tensorboard", "architecture"}


WITHOUT_OPTION = {"momentum", "cpu_threads"}
"""0.9 in every paper, and a matter of the machine that the recipes know."""


@pytest.fixture(scope="module")
def few() -> ImageData:
    return few_digits()


@pytest.fixture(scope="module")
def baseline(few: ImageData, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "baseline.safetensors"
    return train_baseline(few, "digits_cnn", out=out, optimisation=QUICK)


@pytest.fixture(scope="module")
def noise(few: ImageData, baseline: Path) -> Path:
    """A base that `average --frozen-base` can keep."""
    out = baseline.with_name("noise.safetensors")
    return train_from(baseline, few, NoiseParameters(sigma=0.25), out=out, optimisation=QUICK)


def _names(kind: type[Any]) -> set[str]:
    return {field.name for field in fields(kind)}


def _options(command: str) -> dict[str, TyperOption]:
    group = typer.main.get_command(train)
    assert isinstance(group, TyperGroup)
    options = {option.name: option for option in group.commands[command].params if isinstance(option, TyperOption)}
    return {name: option for name, option in options.items() if name is not None}


@pytest.mark.parametrize("kind", [*METHODS.values(), Optimisation])
def test_every_field_is_documented_and_nothing_else_is(kind: type[Any]) -> None:
    documented = re.findall(r"^        (\w+): ", kind.__doc__ or "", re.MULTILINE)
    assert sorted(documented) == sorted(_names(kind))


@pytest.mark.parametrize("method", METHODS)
def test_a_method_has_an_option_for_every_parameter_and_no_other(method: str) -> None:
    options, parameters = _options(method), _names(METHODS[method])
    more = {"checkpoint", "preset"} if method == "heat" else {"checkpoint"}
    assert set(options) == parameters | (_names(Optimisation) - WITHOUT_OPTION) | RUN | more
    for name, option in options.items():
        assert option.help, name
        assert option.opts == ["--from" if name == "checkpoint" else f"--{name.replace('_', '-')}"]
    for field in fields(METHODS[method]):
        option = options[field.name]
        if option.required:
            assert field.name == "sigma"
        elif method == "heat":  # a preset may decide it
            assert option.default is None
            assert field.default in (None, False) or f"[by default {field.default}]" in str(option.help)
        else:
            assert option.default == field.default


def test_the_baseline_has_an_option_for_everything_that_decides_it() -> None:
    options = _options("baseline")
    folders = {"resize", "crop", "classes", "skip_unreadable"}
    assert set(options) == (_names(Optimisation) - WITHOUT_OPTION) | RUN | folders
    assert all(option.help for option in options.values())


def test_lipschitz_has_an_option_for_everything_that_decides_it() -> None:
    options = _options("lipschitz")
    folders = {"resize", "crop", "classes", "skip_unreadable"}
    own = {"checkpoint", "teacher_architecture", "start", "epsilon", "temperature"}
    assert set(options) == (_names(Optimisation) - WITHOUT_OPTION) | RUN | folders | own
    assert all(option.help for option in options.values())


RECIPE = {
    "epochs": 1,
    "batch_size": 128,
    "lr": 0.002,
    "decay": "constant",
    "weight_decay": 0.001,
    "clip": 0.5,
    "precision": "bfloat16",
    "augment": False,
}
CHOSEN: dict[str, dict[str, str | float | bool]] = {
    "heat": {
        "sigma": 0.25,
        "kappa": 2,
        "delta": 0.2,
        "estimator": "displacements",
        "distance": "logits",
        "penalty": "probabilities",
        "noisy_share": 0.25,
        "normalisation": "paper",
        "coefficient": 0.01,
        "time_steps": 2,
        "reinitialise": True,
        "draws_at_once": 2,
    },
    "noise": {"sigma": 0.25, "label_free": True, "samples": 2, "consistency": 1.5},
    "smoothadv": {"sigma": 0.25, "epsilon": 0.25, "steps": 1, "samples": 2},
    "madry": {"epsilon": 0.1, "steps": 1},
    "average": {
        "sigma": 0.25,
        "samples": 3,
        "target": "probabilities",
        "distance": "squared",
        "consistency": 2.0,
        "frozen_base": True,
    },
}
"""A value for every parameter of every method that is not its default."""


def _arguments(values: dict[str, Any]) -> list[str]:
    arguments: list[str] = []
    for name, value in values.items():
        option = name.replace("_", "-")
        if isinstance(value, bool):
            arguments.append(f"--{option}" if value else f"--no-{option}")
        else:
            arguments += [f"--{option}", str(value)]
    return arguments


def _invoke(*arguments: str) -> str:
    result = CliRunner().invoke(app, ["train", *arguments, "--device", "cpu"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.mark.parametrize("method", METHODS)
def test_every_option_reaches_the_training(method: str, baseline: Path, noise: Path, tmp_path: Path) -> None:
    chosen, out = CHOSEN[method], tmp_path / "out.safetensors"
    defaults = {field.name: field.default for field in fields(METHODS[method])}
    assert set(chosen) == set(defaults)
    assert all(chosen[name] != default for name, default in defaults.items())
    start = noise if method == "average" else baseline
    stdout = _invoke(method, "--from", str(start), "--out", str(out), "--seed", "7", *_arguments(chosen | RECIPE))
    found = load_checkpoint(out).metadata
    assert {name: found.hyperparameters[name] for name in chosen | RECIPE} == chosen | RECIPE
    assert (found.method, found.seed, found.sigma) == (method, 7, chosen.get("sigma"))
    assert "of 400 images" in stdout
    assert ("under noise N(0, 0.25²)" in stdout) == (method != "madry")
    assert (str(base_path(out)) in stdout) == base_path(out).exists() == (method == "average")


def test_options_that_are_given_win_over_the_preset(baseline: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.safetensors"
    preset = ["--preset", "paper-imagenet", "--sigma", "0.5", "--kappa", "1"]
    _invoke("heat", "--from", str(baseline), "--out", str(out), *preset, "--epochs", "1", "--batch-size", "128")
    found, expected = load_checkpoint(out), replace(heat_preset("paper-imagenet", 0.5), kappa=1)
    assert found.metadata.parent_sha256 == load_checkpoint(baseline).sha256
    assert found.metadata.hyperparameters.items() >= expected.hyperparameters.items()
    assert expected != HeatParameters(sigma=0.5, kappa=1)


def test_the_baseline_is_trained_by_the_recipe_that_was_given_and_reported(tmp_path: Path) -> None:
    out = tmp_path / "out.safetensors"
    what = ["--data", "digits", "--architecture", "digits_cnn", "--out", str(out), "--seed", "7"]
    stdout = _invoke("baseline", *what, *_arguments(RECIPE))
    metadata = load_checkpoint(out).metadata
    assert {name: metadata.hyperparameters[name] for name in RECIPE} == RECIPE
    assert (metadata.method, metadata.seed, metadata.sigma) == ("baseline", 7, None)
    assert "of 400 images" in stdout
    assert "under noise" not in stdout


def test_a_network_that_no_graph_can_be_is_refused_before_it_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = """
from torch import nn

class Net(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.last = nn.Linear(64, num_classes)

    def forward(self, x):
        return self.last(x.reshape(len(x), 64))
"""
    (tmp_path / "nets.py").write_text(source)
    arguments = ["train", "baseline", "--data", "digits", "--epochs", "1", "--out", "out.safetensors"]
    monkeypatch.chdir(tmp_path)
    with pytest.raises(HeatserveError, match=r"nets.py:Net: it could be trained, and not be .*for the batch of its"):
        CliRunner().invoke(app, [*arguments, "--architecture", "nets.py:Net"], catch_exceptions=False)
    assert not (tmp_path / "out.safetensors").exists()
    (tmp_path / "nets.py").write_text(source.replace("len(x)", "x.shape[0]"))
    monkeypatch.setattr(own_code, "_TRUSTED", {})
    CliRunner().invoke(app, [*arguments, "--architecture", "nets.py:Net"], catch_exceptions=False)
    assert (tmp_path / "out.safetensors").exists()


@pytest.mark.parametrize("device", ["gpu", "meta"])
def test_an_unknown_device_is_explained(device: str) -> None:
    arguments = ["train", "baseline", "--data", "digits", "--architecture", "digits_cnn", "--out", "a"]
    with pytest.raises(TrainingError, match="device: expected cpu or a CUDA device"):
        CliRunner().invoke(app, [*arguments, "--device", device], catch_exceptions=False)


@pytest.mark.parametrize(
    ("asked", "said"), [("cuda:1", "each process of torchrun takes its own"), ("cuda", "machine, got 'cuda:5'")]
)
def test_each_process_of_torchrun_takes_a_gpu_of_its_own(
    asked: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "8")
    monkeypatch.setenv("LOCAL_RANK", "5")
    with pytest.raises(TrainingError, match=said):
        run_on(asked, resume=False, tensorboard=None)


def test_a_checkpoint_is_not_called_what_no_checkpoint_is_read_from(tmp_path: Path) -> None:
    arguments = ["train", "baseline", "--data", "digits", "--architecture", "digits_cnn"]
    done = CliRunner().invoke(app, [*arguments, "--out", str(tmp_path / "x.onnx")])
    assert done.exit_code == 2
    assert "another suffix than .onnx" in done.stderr


@pytest.mark.parametrize(
    "command", [*(["train", name] for name in ("baseline", "lipschitz", *METHODS)), ["import-weights"]]
)
def test_help_shows_an_example(command: list[str]) -> None:
    result = CliRunner().invoke(app, [*command, "--help"], env={"COLUMNS": "200"})
    assert result.exit_code == 0
    assert f"Example: heatserve {' '.join(command)}" in result.stdout


def test_weights_of_grey_images_are_imported_and_tried(baseline: Path, tmp_path: Path) -> None:
    known = load_checkpoint(baseline)
    bare, out = tmp_path / "bare.safetensors", tmp_path / "imported.safetensors"
    save_file(known.network.backbone.state_dict(), bare)
    arguments = ["import-weights", str(bare), "--architecture", "digits_cnn", "--data", "digits", "--out", str(out)]
    with pytest.raises(HeatserveError, match=r"mean, std: expected one number a channel \(1\) each"):
        CliRunner().invoke(app, arguments, catch_exceptions=False)
    with pytest.raises(HeatserveError, match="std: expected numbers with commas between them, got '1;2'"):
        CliRunner().invoke(app, [*arguments, "--mean", "0.25", "--std", "1;2"], catch_exceptions=False)
    mean, std = (str(numbers[0]) for numbers in (known.metadata.mean, known.metadata.std))
    result = CliRunner().invoke(app, [*arguments, "--mean", mean, "--std", std], catch_exceptions=False)
    assert result.exit_code == 0
    expected = accuracy(known.network, load_data("digits", "test"))
    assert result.stdout == f"accuracy  {expected:.2%} of 400 test images\n"
    metadata = load_checkpoint(out).metadata
    assert (metadata.mean, metadata.std, metadata.method) == (known.metadata.mean, known.metadata.std, "imported")


def test_the_import_of_weights_shows_what_does_not_fit(baseline: Path, tmp_path: Path) -> None:
    tensors = load_checkpoint(baseline).network.backbone.state_dict()
    tensors["linear.weight"] = torch.zeros(7, 256)
    tensors["\x1b[31mlinear.more"] = torch.zeros(1)
    theirs = tmp_path / "theirs.pth"
    torch.save(tensors, theirs)
    arguments = ["import-weights", str(theirs), "--architecture", "digits_cnn", "--data", "digits", "--mean", "0"]
    result = CliRunner().invoke(app, [*arguments, "--std", "1", "--out", str(tmp_path / "nothing")])
    assert isinstance(result.exception, MismatchError)
    assert re.search(r"linear.weight +\[10, 256\] +\[7, 256\]", result.stderr)
    assert r"\x1b[31mlinear.more" in result.stderr
    assert "\x1b" not in result.stderr
    assert not (tmp_path / "nothing").exists()


def test_weights_that_cannot_be_tried_are_not_imported_unless_asked(tmp_path: Path) -> None:
    """Only the test images would show a wrong mean or order of the classes."""
    theirs, out = tmp_path / "theirs.pth", tmp_path / "imported.safetensors"
    torch.manual_seed(0)
    network = build_network("cifar_resnet20", num_classes=10, input_shape=(3, 32, 32), mean=(0,) * 3, std=(1,) * 3)
    torch.save(network.backbone.state_dict(), theirs)
    arguments = ["import-weights", str(theirs), "--architecture", "cifar_resnet20", "--data", "cifar10"]
    with pytest.raises(HeatserveError, match=r"root: cifar10 needs the folder .*`--test-images 0` imports without"):
        CliRunner().invoke(app, [*arguments, "--out", str(out)], catch_exceptions=False)
    result = CliRunner().invoke(app, [*arguments, "--out", str(out), "--test-images", "0"], catch_exceptions=False)
    assert (result.exit_code, result.stdout) == (0, "")
    assert "not tried on test images" in result.stderr
    assert load_checkpoint(out).metadata.mean == (0.485, 0.456, 0.406)
