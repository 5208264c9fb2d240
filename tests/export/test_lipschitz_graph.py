"""The exported graph of a 1-Lipschitz network is the network, no radius is above its proof, and the rest is refused."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from lipschitz_models import METADATA, change_constant, exact_logits, rewrite, with_logits, write_lipschitz_checkpoint
from numpy.typing import NDArray
from scipy.special import softmax
from torch import nn

from heatserve.certification.errors import HeatserveError
from heatserve.export.card import GRAPH_NAME, CardError
from heatserve.export.card_parts import LipschitzBound
from heatserve.export.contract import Outputs, Reason
from heatserve.export.exporting import export_checkpoint
from heatserve.export.graph.tracing import NotExportableError
from heatserve.export.lipschitz import proven_network
from heatserve.export.repository.layout import ModelVersion, open_model
from heatserve.export.repository.publishing import publish
from heatserve.export.runtime.session import open_session, run
from heatserve.export.variants import Variant
from heatserve.training.architectures import build_network
from heatserve.training.checkpoint import load_checkpoint
from heatserve.training.data import load_data


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_lipschitz_checkpoint(tmp_path_factory.mktemp("lipschitz") / "digits.safetensors")


@pytest.fixture(scope="module")
def model(checkpoint: Path) -> ModelVersion:
    return export_checkpoint(checkpoint, repository=checkpoint.parent / "models", name="digits")


@pytest.fixture
def copied(model: ModelVersion, tmp_path: Path) -> ModelVersion:
    shutil.copytree(model.path.parents[1], tmp_path / "models")
    return open_model(tmp_path / "models", "digits")


@pytest.fixture(scope="module")
def images() -> NDArray[np.float32]:
    """Digits, noise, black and white, and digits with noise of every size."""
    draw = np.random.default_rng(0)
    digits = load_data("digits", "test").arrays()[0][:120]
    noisy = digits + np.exp(draw.uniform(-9, 0, (120, 1, 1, 1))) * draw.standard_normal(digits.shape)
    found = [digits, draw.random(digits.shape), draw.random(digits.shape).round(), noisy.clip(0, 1), 0 * digits[:1]]
    return np.concatenate([part.astype(np.float32) for part in found])


@pytest.fixture(scope="module")
def served(model: ModelVersion, images: NDArray[np.float32]) -> Outputs:
    """As it is served, with all that ONNX Runtime makes of operators, and the logits beside."""
    return run(open_session(with_logits((model.path / GRAPH_NAME).read_bytes())), images)


@pytest.fixture(scope="module")
def exact(checkpoint: Path, model: ModelVersion, images: NDArray[np.float32]) -> NDArray[np.float64]:
    assert model.card.lipschitz is not None
    return exact_logits(load_checkpoint(checkpoint).network.backbone, model.card.lipschitz, images)


def bound_of(model: ModelVersion) -> LipschitzBound:
    assert model.card.lipschitz is not None
    return model.card.lipschitz


def radii_of(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    first, second = -np.sort(-logits, axis=1)[:, :2].T
    return np.asarray((first - second) / np.sqrt(2))


def test_served_logits_are_within_the_stated_error_of_float64(
    model: ModelVersion, served: Outputs, exact: NDArray[np.float64]
) -> None:
    off = np.linalg.norm(served["logits"] - exact, axis=1)
    assert served["logits"].dtype == np.float64
    assert off.max() <= bound_of(model).logits_error


def test_steps_are_numbers_that_a_factor_in_float32_holds(model: ModelVersion) -> None:
    for layer in bound_of(model).layers:
        assert float(np.float32(layer.step)) == layer.step <= 2 / layer.norm**2


def test_no_radius_is_above_its_exact_value_and_none_is_uselessly_low(
    model: ModelVersion, served: Outputs, exact: NDArray[np.float64]
) -> None:
    radius, slack = radii_of(exact), bound_of(model).slack
    certified = served["certified_radius"].astype(np.float64)
    assert (served["nominal_radius"] <= radius + 1e-10).all()
    assert (certified <= np.maximum(radius - slack + 1e-10, 0)).all()
    assert (certified >= (radius - slack) * (1 - 1e-6) - 1e-10).all()
    assert (certified > 0).mean() > 0.9
    assert (served["l_bound"] == served["certified_radius"]).all()
    assert (served["label"] == exact.argmax(1))[certified > 0].all()
    expected = np.where(certified > 0, Reason.PROVEN, Reason.UNSURE)
    assert (served["reason"] == expected).all()


def test_probabilities_are_those_of_the_loss_that_trained_the_network(
    model: ModelVersion, served: Outputs, exact: NDArray[np.float64]
) -> None:
    assert bound_of(model).temperature == METADATA.hyperparameters["temperature"] == 0.25
    assert np.abs(served["probabilities"] - softmax(exact / 0.25, axis=1)).max() < 1e-6


def test_a_temperature_that_brings_logits_together_is_not_served(tmp_path: Path) -> None:
    path = write_lipschitz_checkpoint(tmp_path / "warm.safetensors", steps=1, hyperparameters={"temperature": 3.0})
    assert bound_of(export_checkpoint(path, repository=tmp_path / "models", name="warm")).temperature == 1


def test_logits_of_two_images_are_no_further_apart_than_the_images(
    images: NDArray[np.float32], served: Outputs, model: ModelVersion
) -> None:
    draw, count = np.random.default_rng(1), len(images)
    first, second = draw.integers(0, count, (2, 20_000))
    apart = np.linalg.norm((images[first].astype(np.float64) - images[second]).reshape(20_000, -1), axis=1)
    moved = np.linalg.norm(served["logits"][first] - served["logits"][second], axis=1)
    assert (moved <= apart + 2 * bound_of(model).logits_error).all()
    assert (moved[apart > 0] / apart[apart > 0]).max() > 0.3  # it is a constant of this network, not of all


def test_no_other_class_is_within_a_radius_on_the_way_to_one(
    model: ModelVersion, images: NDArray[np.float32], served: Outputs
) -> None:
    digits, labels = images[:60], served["label"][:60]
    for other in range(1, 6):
        target = np.roll(digits, other, axis=0)
        way = target.astype(np.float64) - digits
        length = np.linalg.norm(way.reshape(60, -1), axis=1)
        share = served["certified_radius"][:60] * (1 - 1e-6) / np.maximum(length, 1e-9)
        there = (digits + np.minimum(share, 1)[:, None, None, None] * way).astype(np.float32)
        assert (run(open_session(model.path / GRAPH_NAME), there)["label"] == labels).all()


def test_a_mean_other_than_one_half_widens_the_bound_on_rounding(checkpoint: Path) -> None:
    network = load_checkpoint(checkpoint).network
    bounds = []
    for mean in (0.5, 0.1):
        network.mean.fill_(mean)
        bounds.append(proven_network(network, input_shape=(1, 8, 8), num_classes=10)[1].logits_error)
    assert bounds[1] > bounds[0] * 1.2


def _nan(backbone: nn.Module) -> None:
    next(backbone.parameters())[0] = torch.nan


def _too_large(backbone: nn.Module) -> None:
    next(backbone.parameters())[0] = 1e6


@pytest.mark.parametrize(
    ("change", "metadata", "problem"),
    [
        (_nan, {}, "network: expected weights that are finite numbers of float16, got others"),
        (_too_large, {}, "network: expected weights that are finite numbers of float16, got others"),
        (None, {"std": (0.25,)}, "std: expected 1 for each channel"),
    ],
)
def test_networks_without_a_proof_are_refused(
    change: Callable[[nn.Module], None] | None, metadata: dict[str, Any], problem: str, tmp_path: Path
) -> None:
    path = write_lipschitz_checkpoint(tmp_path / "bad.safetensors", steps=0, change=change, **metadata)
    with pytest.raises(NotExportableError, match=problem):
        export_checkpoint(path, repository=tmp_path / "models", name="bad")
    assert not (tmp_path / "models").exists()


def test_a_layer_of_which_no_constant_is_known_is_refused() -> None:
    network = build_network("lipschitz_digits", num_classes=10, input_shape=(1, 8, 8), mean=(0.5,), std=(1.0,))
    network.backbone.add_module("added", nn.ReLU())
    with pytest.raises(NotExportableError, match="expected layers whose constant is known, got ReLU"):
        proven_network(network.eval(), input_shape=(1, 8, 8), num_classes=10)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"variant": Variant(precision="fp16")}, "expected no --precision, got fp16"),
        ({"variant": Variant(precision="int8")}, "int8"),
        ({"backend": "tensorrt"}, "tensorrt"),
        ({"backend": "onnxruntime-tensorrt"}, "onnxruntime-tensorrt"),
        ({"sigma": 0.25}, "expected no --base and no --sigma"),
        ({"base": Path("base.safetensors")}, "expected no --base and no --sigma"),
    ],
)
def test_variants_without_a_bound_are_refused(
    options: dict[str, Any], problem: str, checkpoint: Path, tmp_path: Path
) -> None:
    with pytest.raises(HeatserveError, match=problem):
        export_checkpoint(checkpoint, repository=tmp_path / "models", name="digits", **options)


def _steps(fields: dict[str, Any], factor: float) -> None:
    for layer in fields["lipschitz"]["layers"]:
        layer["step"] = float(np.float32(layer["step"] * factor))


CARDS: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "longer steps": (lambda card: _steps(card, 1.5), "step: expected at most"),
    "shorter steps than the graph's": (lambda card: _steps(card, 0.5), "layers: expected the .* steps of the graph"),
    "less slack": (lambda card: card["lipschitz"].update(slack=1e-9), "slack: expected"),
    "another temperature": (lambda card: card["lipschitz"].update(temperature=0.5), "temperature: expected 0.25"),
    "a temperature above 1": (lambda card: card["lipschitz"].update(temperature=2.0), "temperature"),
    "less slack than rounding needs": (lambda card: card["lipschitz"].update(slack=1e-12), "slack: expected at least"),
    "another kind": (lambda card: card.update(certificate_kind="statistical"), "certificate_kind: expected a bound"),
    "no bound": (lambda card: card.update(lipschitz=None), "certificate_kind: expected a bound"),
    "a smoothed classifier": (lambda card: card.update(sigma=0.25), "certificate_kind: expected a bound"),
    "a constant of ½": (lambda card: card["lipschitz"].update(constant=0.5), "constant"),
}


@pytest.mark.parametrize("what", CARDS)
def test_a_card_that_says_otherwise_is_refused(what: str, copied: ModelVersion) -> None:
    change, problem = CARDS[what]
    rewrite(copied, lambda _: None, change)
    with pytest.raises(CardError, match=problem):
        open_model(copied.path.parents[1], "digits")


GRAPHS: dict[str, Callable[[onnx.ModelProto], object]] = {
    "less slack": lambda graph: change_constant(graph, "slack", lambda value: value / 10),
    "longer steps": lambda graph: change_constant(graph, ".step", lambda value: value * 1.5),
    "larger radii": lambda graph: change_constant(graph, "per_margin", lambda _: np.array(1.0)),
}


@pytest.mark.parametrize("what", GRAPHS)
def test_a_graph_whose_constants_are_not_those_of_its_card_is_refused(what: str, copied: ModelVersion) -> None:
    rewrite(copied, GRAPHS[what])
    with pytest.raises(CardError):
        open_model(copied.path.parents[1], "digits")


def test_a_changed_file_is_refused(copied: ModelVersion) -> None:
    graph = onnx.load(copied.path / GRAPH_NAME)
    change_constant(graph, ".kernel", lambda value: value * 2)
    onnx.save(graph, copied.path / GRAPH_NAME)
    with pytest.raises(CardError, match="sha256"):
        open_model(copied.path.parents[1], "digits")


def test_a_model_keeps_the_kind_of_its_certificate(copied: ModelVersion) -> None:
    statistical = copied.card.model_copy(
        update={"certificate_kind": "statistical", "lipschitz": None, "sigma": 0.25, "precision": "fp32"}
    )
    content = (copied.path / GRAPH_NAME).read_bytes()
    with pytest.raises(CardError, match="expected a deterministic certificate, as the model has, got a statistical"):
        publish(copied.path.parents[1], statistical, graph=content, base=content)
    again = publish(copied.path.parents[1], copied.card, graph=content, base=None)
    assert again.version == copied.version + 1


def test_images_that_are_no_images_and_nan_fail_closed(model: ModelVersion, images: NDArray[np.float32]) -> None:
    bad = np.repeat(images[:1], 6, axis=0)
    bad.reshape(6, -1)[:, 7] = [np.nan, np.inf, -np.inf, -1e-6, 1.001, 0.5]
    found = run(open_session(model.path / GRAPH_NAME), bad)
    assert (found["label"][:5] == -1).all()
    assert (found["reason"][:5] == Reason.INVALID).all()
    assert found["reason"][5] == Reason.PROVEN
    for name in ("certified_radius", "nominal_radius", "l_bound"):
        assert (found[name][:5] == 0).all()
    alone = run(open_session(model.path / GRAPH_NAME), bad[5:])
    assert alone["certified_radius"][0] == pytest.approx(found["certified_radius"][5], rel=1e-6)


def test_a_model_of_bytes_answers_as_one_of_floats(checkpoint: Path, model: ModelVersion, tmp_path: Path) -> None:
    levels = np.rint(load_data("digits", "test").arrays()[0][:20] * 255).astype(np.uint8)
    version = export_checkpoint(
        checkpoint, repository=tmp_path / "models", name="bytes", variant=Variant(input_type="UINT8")
    )
    found = run(open_session(version.path / GRAPH_NAME), levels.transpose(0, 2, 3, 1))
    expected = run(open_session(model.path / GRAPH_NAME), levels / np.float32(255))
    assert (found["label"] == expected["label"]).all()
    assert np.allclose(found["certified_radius"], expected["certified_radius"], rtol=1e-6, atol=1e-7)
    assert replace(version).card.is_deterministic
