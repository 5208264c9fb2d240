"""Checkpoints rebuild the same network, and say what is wrong with a file that is none."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
import torch

from heatserve.certification.provenance import now, versions
from heatserve.training.architectures import (
    ARCHITECTURES,
    ArchitectureError,
    ImageClassifier,
    build_network,
    tensor_shapes,
)
from heatserve.training.checkpoint import (
    CheckpointError,
    CheckpointMetadata,
    load_checkpoint,
    network_of,
    save_checkpoint,
)
from heatserve.training.weights import import_weights


def _metadata(architecture: str = "digits_cnn", channels: int = 1, size: int = 8) -> CheckpointMetadata:
    return CheckpointMetadata(
        architecture=architecture,
        num_classes=10,
        class_names=tuple("0123456789"),
        input_shape=(channels, size, size),
        mean=(0.4,) * channels,
        std=(0.3,) * channels,
        method="heat",
        sigma=0.25,
        dataset="digits",
        seed=3,
        epochs=1,
        hyperparameters={"kappa": 10, "lr": 0.1, "distance": "probabilities", "clip": None},
        parent_sha256="0" * 64,
        versions=versions("torch", "numpy"),
        date=now(),
    )


def _saved(path: Path, architecture: str = "digits_cnn", channels: int = 1, size: int = 8) -> ImageClassifier:
    metadata = _metadata(architecture, channels, size)
    network = network_of(metadata)
    network(torch.rand(4, channels, size, size))  # moves the running statistics away from 0 and 1
    save_checkpoint(path, network, metadata)
    return network.eval()


@pytest.mark.parametrize(
    ("architecture", "channels", "size"),
    [("digits_cnn", 1, 8), ("cifar_resnet20", 3, 32), pytest.param("resnet18", 3, 64, marks=pytest.mark.slow)],
)
def test_a_checkpoint_rebuilds_the_network_and_its_metadata(
    tmp_path: Path, architecture: str, channels: int, size: int
) -> None:
    path = tmp_path / "new" / "network.safetensors"
    network = _saved(path, architecture, channels, size)
    found = load_checkpoint(path)
    images = torch.rand(2, channels, size, size)
    with torch.no_grad():
        assert torch.equal(found.network(images), network(images))
    assert not found.network.training
    assert replace(found.metadata, date="") == replace(_metadata(architecture, channels, size), date="")
    assert found.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert os.listdir(path.parent) == [path.name]


def test_missing_truncated_and_foreign_files_are_explained(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    with pytest.raises(CheckpointError, match=rf"{path}: .*No such file"):
        load_checkpoint(path)
    _saved(path)
    content = path.read_bytes()
    for damaged in (content[:-10], content[:5], b"", b"\x80\x02pickle", content[:8] + b"x" * 200):
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError, match=f"{path}: truncated or not a safetensors file"):
            load_checkpoint(path)
    safetensors.torch.save_file({"weight": torch.zeros(2)}, path)
    with pytest.raises(CheckpointError, match=f"{path}: not a heatserve checkpoint .*heatserve import-weights"):
        load_checkpoint(path)


@pytest.mark.parametrize("as_zip", [True, False])
def test_who_gives_what_torch_saved_learns_which_command_takes_it(as_zip: bool, tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    torch.save({"weight": torch.zeros(2)}, path, _use_new_zipfile_serialization=as_zip)
    with pytest.raises(CheckpointError, match=f"{path}: .*not a safetensors file.*`heatserve import-weights`"):
        load_checkpoint(path)


def test_a_header_that_begins_like_a_pickle_is_only_truncated(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(b"\x80\x02\0\0\0\0\0\0{")  # of 640 bytes
    with pytest.raises(CheckpointError, match="truncated") as error:
        load_checkpoint(path)
    assert "import-weights" not in str(error.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("linear.bias"), r"tensor 'linear.bias' is missing \(1 missing, 0 unexpected\)"),
        (lambda t: t.update(extra=torch.zeros(1)), r"tensor 'extra' is unexpected \(0 missing, 1 unexpected\)"),
        (lambda t: t.update({"linear.bias": torch.zeros(7)}), r"'linear.bias' of shape \[10\], got \[7\]"),
    ],
)
def test_tensors_of_another_architecture_are_named(
    tmp_path: Path, change: Callable[[dict[str, torch.Tensor]], object], message: str
) -> None:
    path = tmp_path / "a.safetensors"
    metadata = _metadata()
    tensors = dict(network_of(metadata).backbone.state_dict())
    change(tensors)
    safetensors.torch.save_file(tensors, path, {"heatserve": metadata.to_json()})
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(path)


@pytest.mark.parametrize("header", ["{}", "not json", '{"architecture": 3}'])
def test_a_header_that_describes_no_network_is_explained(tmp_path: Path, header: str) -> None:
    path = tmp_path / "a.safetensors"
    safetensors.torch.save_file({"weight": torch.zeros(2)}, path, {"heatserve": header})
    with pytest.raises(CheckpointError, match="its header does not describe a network"):
        load_checkpoint(path)


def test_imported_weights_give_the_same_network_and_remember_their_file(tmp_path: Path) -> None:
    metadata = _metadata("cifar_resnet20", 3, 32)
    network = network_of(metadata)
    network(torch.rand(4, 3, 32, 32))
    # As published: without the counters that older versions of torch did not keep.
    bare = {name: t for name, t in network.backbone.state_dict().items() if not name.endswith("num_batches_tracked")}
    safetensors.torch.save_file(bare, tmp_path / "bare.safetensors")
    out = import_weights(
        tmp_path / "bare.safetensors",
        "cifar_resnet20",
        dataset="cifar10",
        class_names=metadata.class_names,
        input_shape=(3, 32, 32),
        mean=metadata.mean,
        std=metadata.std,
        out=tmp_path / "out.safetensors",
    )
    found, images = load_checkpoint(out), torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(found.network(images), network.eval()(images))
    assert found.metadata.parent_sha256 == hashlib.sha256((tmp_path / "bare.safetensors").read_bytes()).hexdigest()
    with pytest.raises(CheckpointError, match=r"tensor 'layer1.3.conv1.weight' is missing"):
        import_weights(
            tmp_path / "bare.safetensors",
            "cifar_resnet32",
            dataset="cifar10",
            class_names=metadata.class_names,
            input_shape=(3, 32, 32),
            mean=metadata.mean,
            std=metadata.std,
            out=tmp_path / "other.safetensors",
        )


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_architecture_maps_images_to_logits(architecture: str) -> None:
    shape = (1, 8, 8) if "digits" in architecture else (3, 32, 32)
    network = build_network(
        architecture, num_classes=7, input_shape=shape, mean=(0.5,) * shape[0], std=(0.2,) * shape[0]
    ).eval()
    with torch.no_grad():
        assert network(torch.rand(2, *shape)).shape == (2, 7)


def test_the_networks_have_the_sizes_that_the_papers_report() -> None:
    """He et al. (2016), table 6: 0.27 and 0.85 million parameters; torchvision's ResNet-34 without its stem: 21.28.

    The last three are those of the code that their weights come from.
    """
    sizes = {}
    for name, channels in (
        ("digits_cnn", 1),
        ("cifar_resnet20", 3),
        ("cifar_resnet56", 3),
        ("cifar_resnet34", 3),
        ("cifar_resnet18", 3),
        ("cifar_wrn28_10", 3),
        ("cohen_resnet110", 3),
    ):
        shapes = tensor_shapes(name, num_classes=10, channels=channels)
        counted = [shape.numel() for key, shape in shapes.items() if "running_" not in key and "num_batches" not in key]
        sizes[name] = sum(counted)
    assert sizes["cifar_resnet20"] == 269_722
    assert sizes["cifar_resnet56"] == 853_018
    assert sizes["cifar_resnet34"] == 21_282_122
    assert sizes["cifar_resnet18"] == 11_173_962
    assert sizes["cifar_wrn28_10"] == 36_479_194
    assert sizes["cohen_resnet110"] == 1_730_714
    assert 20_000 < sizes["digits_cnn"] < 50_000


def test_normalisation_is_inside() -> None:
    arguments = {"num_classes": 10, "input_shape": (1, 8, 8)}
    plain = build_network("digits_cnn", mean=(0.0,), std=(1.0,), **arguments).eval()  # type: ignore[arg-type]
    shifted = build_network("digits_cnn", mean=(0.5,), std=(0.2,), **arguments).eval()  # type: ignore[arg-type]
    shifted.load_state_dict(plain.state_dict())
    images = torch.rand(2, 1, 8, 8)
    with torch.no_grad():
        assert torch.allclose(shifted(images), plain((images - 0.5) / 0.2), atol=1e-6)


@pytest.mark.parametrize(
    ("architecture", "channels", "std", "message"),
    [
        ("vgg", 1, (1.0,), "expected one of digits_cnn, .*, got 'vgg'"),
        ("resnet18", 1, (1.0,), "resnet18: expected images of 3 channels, got 1"),
        ("digits_cnn", 1, (1.0, 1.0), r"expected one number a channel \(1\) each"),
        ("digits_cnn", 1, (0.0,), "std > 0"),
        ("digits_cnn", 1, (float("nan"),), "std > 0"),
        ("digits_cnn", 0, (), r"expected numbers of at least 1, got \[0, 8, 8\]"),
    ],
)
def test_what_does_not_fit_is_named(architecture: str, channels: int, std: tuple[float, ...], message: str) -> None:
    with pytest.raises(ArchitectureError, match=message):
        build_network(architecture, num_classes=10, input_shape=(channels, 8, 8), mean=(0,) * channels, std=std)
