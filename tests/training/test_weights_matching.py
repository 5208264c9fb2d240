"""Names of tensors: what wrappers add is taken off, what lies beside the network is left out, the rest is named."""

from __future__ import annotations

import pytest

from heatserve.training.architectures import ARCHITECTURES, tensor_shapes
from heatserve.training.torchvision_import import import_torchvision
from heatserve.training.weights.matching import Misfit, Shapes, match_tensors
from heatserve.training.weights.nearest import nearest_architectures

DIGITS = {name: tuple(shape) for name, shape in tensor_shapes("digits_cnn", num_classes=10, channels=1).items()}
RESNET = {name: tuple(shape) for name, shape in tensor_shapes("cifar_resnet20", num_classes=10, channels=3).items()}


@pytest.mark.parametrize(
    "prefix",
    ["", "module.", "_orig_mod.", "1.", "1.module.", "module.1.", "model.", "_orig_mod.module.", "module._orig_mod.1."],
)
def test_prefixes_of_wrappers_are_taken_off(prefix: str) -> None:
    found = match_tensors({prefix + name: shape for name, shape in RESNET.items()}, RESNET)
    assert found.complete
    assert found.sources == {name: prefix + name for name in RESNET}
    assert (found.prefix, found.left_out, found.fitting) == (prefix, (), len(RESNET))


def test_a_wrapper_within_the_names_is_taken_off() -> None:
    """Old scripts wrap a part: `model.features = DataParallel(model.features)`."""
    names = {name: name.replace("features.", "features.module.") for name in DIGITS}
    found = match_tensors({names[name]: shape for name, shape in DIGITS.items()}, DIGITS)
    assert found.complete
    assert found.sources == names


def test_what_is_no_part_of_the_network_is_left_out_and_named() -> None:
    beside: Shapes = {
        "0.mean": (3,),
        "n_averaged": (),
        "1.layer1.0.total_ops": (1,),
        "criterion.weight": (10,),
        "ema_model.1.conv1.weight": (16, 3, 3, 3),
    }
    found = match_tensors({**beside, **{f"1.{name}": shape for name, shape in RESNET.items()}}, RESNET)
    assert found.complete
    assert found.left_out == tuple(sorted(beside))


def test_counters_of_batches_may_be_missing_and_nothing_else() -> None:
    found = match_tensors({name: s for name, s in RESNET.items() if "num_batches" not in name}, RESNET)
    assert found.complete
    found = match_tensors({name: s for name, s in RESNET.items() if "running_var" not in name}, RESNET)
    assert {misfit.name.rpartition(".")[2] for misfit in found.misfits} == {"running_var"}


def test_parts_of_names_that_mean_the_same_are_exchanged() -> None:
    theirs = tensor_shapes("cifar_resnet18", num_classes=10, channels=3)
    named = {name.replace("shortcut", "downsample").replace("linear", "fc"): shape for name, shape in theirs.items()}
    found = match_tensors(named, theirs)
    assert found.complete
    assert found.renamed == {"fc": "linear", "downsample": "shortcut"}


def test_each_tensor_that_does_not_fit_is_named_with_both_shapes() -> None:
    changed = {name: shape for name, shape in RESNET.items() if name != "bn1.bias"}
    changed |= {"linear.weight": (100, 64), "layer9.weight": (2,)}
    found = match_tensors(changed, RESNET)
    assert found.misfits == (
        Misfit("linear.weight", (10, 64), (100, 64)),
        Misfit("bn1.bias", (16,), None),
        Misfit("layer9.weight", None, (2,)),
    )
    assert found.fitting == len(RESNET) - 2


def test_published_names_of_densenet_are_read() -> None:
    """Its files are older than the rule that names have no dots: `norm.1`, which torchvision renames."""
    shapes = tensor_shapes("torchvision:densenet121", num_classes=1000, channels=3)
    published = {
        name.replace("norm1.", "norm.1.").replace("norm2.", "norm.2.").replace("conv1.", "conv.1."): shape
        for name, shape in shapes.items()
    }
    assert match_tensors(published, shapes).complete


def test_auxiliary_heads_are_left_out() -> None:
    theirs = import_torchvision("models").googlenet(num_classes=10, init_weights=False).state_dict()
    found = match_tensors(
        {name: tensor.shape for name, tensor in theirs.items()},
        tensor_shapes("torchvision:googlenet", num_classes=10, channels=3),
    )
    assert found.complete
    assert {name.split(".")[0] for name in found.left_out} == {"aux1", "aux2"}


@pytest.mark.parametrize("architecture", ["digits_cnn", "cifar_resnet56", "cohen_resnet110", "cifar_wrn28_10"])
def test_the_nearest_architecture_is_named(architecture: str) -> None:
    channels = 1 if architecture == "digits_cnn" else 3
    assert architecture in ARCHITECTURES
    shapes = tensor_shapes(architecture, num_classes=10, channels=channels)
    found = nearest_architectures({f"module.{n}": s for n, s in shapes.items()}, classes=10, channels=channels)
    assert found == (f"they are those of {architecture}",)


def test_the_nearest_architecture_is_named_where_only_the_classes_differ() -> None:
    shapes = tensor_shapes("cifar_resnet20", num_classes=100, channels=3)
    assert nearest_architectures(shapes, classes=10, channels=3) == (
        "they are those of cifar_resnet20 with 100 classes, where the images have 10",
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("architecture", "named"),
    [
        ("torchvision:wide_resnet50_2", None),
        ("timm:vit_tiny_patch16_224", None),
        ("timm:regnetz_040", "regnetz_040"),
    ],
)
def test_the_nearest_of_other_libraries_is_named(architecture: str, named: str | None) -> None:
    shapes = tensor_shapes(architecture, num_classes=1000, channels=3)
    found = nearest_architectures(shapes, classes=1000, channels=3, named=named)
    assert found[0] == f"they are those of {architecture}"
