"""From a file of weights to a checkpoint: whatever type, wrapper or order the tensors come in, or why not."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from heatserve.certification.errors import HeatserveError
from heatserve.training.architectures import ArchitectureError, build_network
from heatserve.training.checkpoint import Checkpoint, CheckpointError, load_checkpoint
from heatserve.training.weights import MismatchError, import_weights

NAMES = tuple("abcde")
SHAPE = (1, 8, 8)
MEAN, STD = (0.25,), (0.5,)


@pytest.fixture(scope="module")
def network() -> nn.Module:
    torch.manual_seed(0)
    made = build_network("digits_cnn", num_classes=5, input_shape=SHAPE, mean=MEAN, std=STD)
    made(torch.rand(16, *SHAPE))  # so that the statistics of BatchNorm are none of a new network
    return made.eval()


@pytest.fixture
def tensors(network: nn.Module) -> dict[str, Tensor]:
    backbone = network.get_submodule("backbone")
    return {name: tensor.clone() for name, tensor in backbone.state_dict().items()}


def saved(tmp_path: Path, content: object) -> Path:
    torch.save(content, tmp_path / "theirs.pth")
    return tmp_path / "theirs.pth"


def imported(path: Path, **changed: Any) -> Checkpoint:
    how: dict[str, Any] = {"architecture": "digits_cnn", "class_names": NAMES, "mean": MEAN, "std": STD, **changed}
    out = path.with_name("imported.safetensors")
    return load_checkpoint(import_weights(path, dataset="digits", input_shape=SHAPE, out=out, **how))


def logits(checkpoint: Checkpoint | nn.Module) -> Tensor:
    made = checkpoint.network if isinstance(checkpoint, Checkpoint) else checkpoint
    with torch.no_grad():
        answered: Tensor = made(torch.rand(3, *SHAPE, generator=torch.Generator().manual_seed(1)))
    return answered


@pytest.mark.parametrize(
    ("dtype", "error"), [(torch.float64, 1e-6), (torch.float32, 0), (torch.float16, 0.01), (torch.bfloat16, 0.1)]
)
def test_floats_of_any_size_become_float32(
    dtype: torch.dtype, error: float, tensors: dict[str, Tensor], network: nn.Module, tmp_path: Path
) -> None:
    cast = {name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}
    found = imported(saved(tmp_path, {"state_dict": cast}))
    assert {tensor.dtype for tensor in found.network.parameters()} == {torch.float32}
    assert (logits(found) - logits(network)).abs().max() <= error


def test_the_checkpoint_records_where_its_tensors_come_from(tensors: dict[str, Tensor], tmp_path: Path) -> None:
    wrapped = {f"module.1.{name}": tensor.half() for name, tensor in tensors.items() if "batches" not in name}
    path = saved(tmp_path, {"net": {**wrapped, "n_averaged": torch.tensor(7)}, "epoch": 3})
    known = imported(path).metadata
    assert known.hyperparameters == {
        "file": "theirs.pth",
        "entry": "net",
        "prefix": "module.1.",
        "types": "float16",
        "left_out": "n_averaged",
    }
    assert (known.method, known.parent_sha256) == ("imported", hashlib.sha256(path.read_bytes()).hexdigest())


def test_what_parallel_and_averaged_networks_store_is_read(
    network: nn.Module, tensors: dict[str, Tensor], tmp_path: Path
) -> None:
    backbone = network.get_submodule("backbone")
    wrapped: Mapping[str, nn.Module] = {
        "parallel": nn.DataParallel(backbone),
        "averaged": torch.optim.swa_utils.AveragedModel(backbone),
        "normalised": nn.Sequential(nn.Identity(), nn.DataParallel(backbone)),
    }
    for module in wrapped.values():
        assert not tensors.keys() & module.state_dict().keys()
        assert torch.equal(logits(imported(saved(tmp_path, module.state_dict()))), logits(network))


def test_mean_and_std_of_a_layer_in_the_file_are_taken(tensors: dict[str, Tensor], tmp_path: Path) -> None:
    layers = {"0.mean": torch.tensor([0.4]).view(1, 1, 1, 1), "0.std": torch.tensor([0.3]).view(1, 1, 1, 1)}
    path = saved(tmp_path, {**layers, **{f"1.{name}": tensor for name, tensor in tensors.items()}})
    assert imported(path, mean=None, std=None).metadata.mean == pytest.approx((0.4,))
    assert imported(path, mean=None, std=None).metadata.std == pytest.approx((0.3,))
    assert imported(path).metadata.mean == MEAN


@pytest.mark.parametrize("mean", [None, (0.5,)])
def test_statistics_that_nobody_gave_are_asked_for(
    mean: tuple[float, ...] | None, tensors: dict[str, Tensor], tmp_path: Path
) -> None:
    """ImageNet's are of three channels, and these images are grey."""
    with pytest.raises(ArchitectureError, match=r"ImageNet's, where none is given\); .* --mean 0 --std 1 if it took"):
        imported(saved(tmp_path, tensors), mean=mean, std=None)


@pytest.mark.parametrize(
    ("mean", "std", "message"),
    [
        ((123.675,), (58.395,), r"mean: expected .*divided by 255: --mean 0.485 --std 0.229"),
        ((-0.1,), (0.5,), "mean: expected numbers from 0 to 1"),
        ((float("nan"),), (0.5,), "mean: expected numbers from 0 to 1"),
        ((0.5,), (58.4,), r"std: expected numbers above 0, at most 1.*divided by 255"),
        ((0.5,), (0.0,), "std: expected numbers above 0"),
        ((0.5,), (float("inf"),), "std: expected numbers above 0"),
        ((0.5, 0.5), (0.5,), r"mean, std: expected one number a channel \(1\) each"),
    ],
)
def test_statistics_of_other_pixels_are_refused(
    mean: tuple[float, ...], std: tuple[float, ...], message: str, tensors: dict[str, Tensor], tmp_path: Path
) -> None:
    with pytest.raises(ArchitectureError, match=message):
        imported(saved(tmp_path, tensors), mean=mean, std=std)
    assert not (tmp_path / "imported.safetensors").exists()


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (
            torch.full((5, 256), torch.nan),
            "linear.weight: expected finite float32 numbers, got NaN .* in 1,280",
        ),
        (torch.full((5, 256), 1e300, dtype=torch.float64), "linear.weight: expected finite float32 numbers"),
        (torch.zeros(5, 256, dtype=torch.int8), "linear.weight: expected floats .*got int8: quantised"),
        (torch.zeros(5, 256).to(torch.float8_e4m3fn), "linear.weight: expected floats .*got float8_e4m3fn: quantised"),
        (torch.zeros(5, 256, dtype=torch.complex64), "linear.weight: expected floats .*got complex64"),
        (torch.zeros(5, 256).to_sparse(), "linear.weight: expected a dense tensor"),
        (torch.nested.nested_tensor([torch.zeros(2), torch.zeros(3)]), "linear.weight: .*dense tensor .*is nested"),
        (torch.empty(5, 256, device="meta"), "linear.weight: expected a dense tensor of floats, .*device meta"),
        (
            torch.quantize_per_tensor(torch.zeros(5, 256), 0.1, 0, torch.qint8),
            "linear.weight: expected a dense tensor of floats, got one that is quantised",
        ),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_weights_that_are_no_finite_floats_are_refused(
    tensor: Tensor, message: str, tensors: dict[str, Tensor], tmp_path: Path
) -> None:
    path = saved(tmp_path, tensors | {"linear.weight": tensor})
    with pytest.raises(CheckpointError, match=f"{path}: {message}"):
        imported(path)


def test_a_network_that_answers_nan_is_refused(tensors: dict[str, Tensor], tmp_path: Path) -> None:
    path = saved(tmp_path, tensors | {"features.1.running_var": -tensors["features.1.running_var"]})
    with pytest.raises(CheckpointError, match="answers NaN or infinity to a grey image"):
        imported(path)


def test_tensors_of_another_architecture_are_named_one_by_one(tensors: dict[str, Tensor], tmp_path: Path) -> None:
    del tensors["features.0.weight"]
    path = saved(tmp_path, {**tensors, "linear.weight": torch.zeros(5, 7), "more": torch.zeros(2)})
    with pytest.raises(MismatchError) as raised:
        imported(path)
    assert [misfit.name for misfit in raised.value.match.misfits] == ["linear.weight", "features.0.weight", "more"]
    message = str(raised.value)
    assert "tensor 'features.0.weight' is missing, tensor 'more' is unexpected" in message
    assert "expected tensor 'linear.weight' of shape [5, 256], got [5, 7]" in message
    assert "nearest is digits_cnn: " in message


def test_another_number_of_classes_is_said_in_words(tensors: dict[str, Tensor], tmp_path: Path) -> None:
    path = saved(tmp_path, tensors)
    with pytest.raises(MismatchError, match="digits_cnn: it answers 5 classes, and the images have 3"):
        imported(path, class_names=NAMES[:3])


def test_without_an_architecture_those_that_fit_are_named(tensors: dict[str, Tensor], tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"expected --architecture.*they are those of digits_cnn"):
        imported(saved(tmp_path, tensors), architecture=None)


def test_outputs_in_another_order_are_put_into_that_of_the_classes(
    tensors: dict[str, Tensor], network: nn.Module, tmp_path: Path
) -> None:
    theirs = tuple("cadbe")  # output 0 of the file is for class c
    for name in ("linear.weight", "linear.bias"):
        tensors[name] = tensors[name][[NAMES.index(label) for label in theirs]]
    path = saved(tmp_path, tensors)
    assert not torch.allclose(logits(imported(path)), logits(network), atol=1e-3)
    found = imported(path, outputs=theirs)
    assert torch.allclose(logits(found), logits(network), atol=1e-5)
    assert found.metadata.class_names == NAMES


@pytest.mark.parametrize("outputs", [("a", "b", "c", "d"), ("a", "b", "c", "d", "f"), ("a", "a", "b", "c", "d", "e")])
def test_an_order_of_other_classes_is_refused(
    outputs: tuple[str, ...], tensors: dict[str, Tensor], tmp_path: Path
) -> None:
    with pytest.raises(HeatserveError, match="outputs: expected the 5 classes of the images, each once"):
        imported(saved(tmp_path, tensors), outputs=outputs)


def test_a_checkpoint_of_heatserve_is_taken_with_its_lineage(tensors: dict[str, Tensor], tmp_path: Path) -> None:
    first = imported(saved(tmp_path, tensors))
    path = first.path.rename(tmp_path / "first.safetensors")
    again = imported(path, mean=None, std=None)
    assert (again.metadata.mean, again.metadata.std) == (MEAN, STD)
    assert torch.equal(logits(again), logits(first))
    assert again.lineage[:-1] == first.lineage
    assert again.metadata.parent_sha256 == first.sha256


def test_a_users_own_code_is_named_and_recorded(tensors: dict[str, Tensor], network: nn.Module, tmp_path: Path) -> None:
    code = tmp_path / "nets.py"
    code.write_text(
        "from heatserve.training.architectures import ARCHITECTURES\n\n\n"
        "def build(num_classes):\n    return ARCHITECTURES['digits_cnn'](num_classes, 1)\n"
    )
    path = tmp_path / "theirs.safetensors"
    safetensors.torch.save_file(tensors, path)
    found = imported(path, architecture=f"{code}:build")
    assert torch.equal(logits(found), logits(network))
    assert found.metadata.code_sha256 == hashlib.sha256(code.read_bytes()).hexdigest()


def test_somebodys_file_is_not_replaced_by_the_checkpoint(tmp_path: Path, tensors: dict[str, Tensor]) -> None:
    path = saved(tmp_path, tensors)
    before = path.read_bytes()
    with pytest.raises(CheckpointError, match=r"^out: expected another file than .*, which it would replace$"):
        import_weights(path, "digits_cnn", dataset="digits", class_names=NAMES, input_shape=SHAPE, out=path)
    assert path.read_bytes() == before
