"""Networks by reference: of timm and torchvision, built in for people's weights; what is no classifier."""

from __future__ import annotations

import pytest
import torch

from heatserve.training import ArchitectureError, ImageClassifier, build_network
from heatserve.training.architectures import architecture_names, tensor_shapes
from heatserve.training.data import ImageShape


def built(architecture: str, shape: ImageShape = (3, 32, 32)) -> ImageClassifier:
    channels = shape[0]
    return build_network(architecture, num_classes=7, input_shape=shape, mean=(0.5,) * channels, std=(0.2,) * channels)


@pytest.mark.parametrize(
    ("architecture", "shape"),
    [
        ("timm:resnet10t", (3, 32, 32)),
        ("timm:resnet10t", (1, 28, 28)),
        ("timm:test_vit.r160_in1k?img_size=32", (3, 32, 32)),
        ("timm:test_vit?depth=1&embed_dim=16&img_size=32&num_heads=2", (3, 32, 32)),
        ("torchvision:squeezenet1_1", (3, 32, 32)),
        ("torchvision:googlenet", (3, 64, 64)),
        ("cifar_resnet18", (1, 28, 28)),
    ],
)
def test_a_network_of_a_library_has_the_classes_and_channels_of_the_images(
    architecture: str, shape: ImageShape
) -> None:
    network = built(architecture, shape).eval()
    with torch.no_grad():
        assert network(torch.rand(3, *shape)).shape == (3, 7)


@pytest.mark.parametrize(
    ("architecture", "message"),
    [
        ("timm:resnet10", "expected timm:NAME, .* got 'timm:resnet10'; near it are .*resnet10t"),
        ("timm:hf-hub:timm/resnet10t", "expected timm:NAME, NAME one of timm's own"),
        ("timm:resnet10t.hf-hub:timm/resnet10t", "expected timm:NAME, NAME one of timm's own"),
        ("timm:local-dir:/tmp", "expected timm:NAME, NAME one of timm's own"),
        ("torchvision:ResNet18", "expected torchvision:NAME, .*; near it are resnet18"),
        ("torchvision:fcn_resnet50", "expected torchvision:NAME, NAME one of torchvision's own"),
        ("timm:resnet10t?pretrained=true", "pretrained would read weights or download them; .*import-weights"),
        ("timm:resnet10t?checkpoint_path=a.pth", "checkpoint_path would read weights"),
        ("torchvision:resnet18?weights=DEFAULT", "weights would read weights"),
        ("timm:resnet10t?num_classes=3", "num_classes follows from the images and their classes"),
        ("timm:resnet10t?features_only=true", "features_only gives a network of several outputs"),
        ("timm:resnet10t?height=3", "timm cannot build it: TypeError: .*unexpected keyword argument 'height'"),
        ("torchvision:resnet18?height=3", "torchvision cannot build it: TypeError: .*unexpected keyword argument"),
        (
            "timm:vit_tiny_patch16_224?depth=1",
            r"AssertionError: Input height \(32\) doesn't match model \(224\).*img_size=",
        ),
        ("cifar_resnet18?width=2", "cifar_resnet18: expected no options, got 'cifar_resnet18.width=2'"),
        ("hf-hub:timm/resnet10t", "expected one of digits_cnn, .* or timm:NAME, torchvision:NAME, file.py:function"),
        ("resnet34", "expected one of digits_cnn, .*, got 'resnet34'"),
    ],
)
def test_what_is_no_classifier_of_these_images_is_explained(architecture: str, message: str) -> None:
    with pytest.raises(ArchitectureError, match=message):
        built(architecture)


def test_networks_of_torchvision_take_colour_images_only() -> None:
    with pytest.raises(ArchitectureError, match="torchvision:resnet18: expected images of 3 channels, got 1"):
        built("torchvision:resnet18", (1, 28, 28))


@pytest.mark.parametrize(
    ("architecture", "names"),
    [
        ("cifar_resnet18", ("conv1.weight", "layer2.0.shortcut.0.weight", "layer4.1.bn2.bias", "linear.weight")),
        ("cohen_resnet110", ("conv1.weight", "layer2.0.downsample.1.bias", "layer3.17.bn2.bias", "fc.weight")),
        ("cifar_wrn28_10", ("block1.layer.0.convShortcut.weight", "block3.layer.3.bn2.bias", "bn1.weight", "fc.bias")),
    ],
)
def test_tensors_are_named_as_in_the_weights_that_people_have(architecture: str, names: tuple[str, ...]) -> None:
    """Of kuangliu/pytorch-cifar, of Cohen et al. (2019), and of TRADES and RobustBench."""
    shapes = tensor_shapes(architecture, num_classes=10, channels=3)
    assert set(names) <= set(shapes)


def test_shapes_are_those_of_the_network_and_need_no_weights() -> None:
    names = architecture_names()
    assert {"cifar_wrn28_10", "torchvision:vit_h_14"} <= set(names)
    found = tensor_shapes("timm:resnet10t", num_classes=7, channels=3)
    assert found == {name: tensor.shape for name, tensor in built("timm:resnet10t").backbone.state_dict().items()}
    huge = tensor_shapes("torchvision:vit_h_14", num_classes=10, channels=3)
    assert sum(shape.numel() for shape in huge.values()) > 600_000_000


def test_building_draws_from_torchs_generator_and_leaves_the_network_to_be_trained() -> None:
    networks = []
    for _ in range(2):
        torch.manual_seed(4)
        networks.append(built("timm:resnet10t"))
    assert all(network.training for network in networks)
    first, second = (network.backbone.state_dict() for network in networks)
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())
