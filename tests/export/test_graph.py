"""From a network to the bytes that are served: the same answers, the whole contract, published whole or not at all."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from google.protobuf import text_format
from tiny_model import edit_card, shifted_map
from tritonclient.grpc import model_config_pb2

import heatserve.export.calibration.calibrate as calibrating
from heatserve.certification.calibration import CalibrationError, servable
from heatserve.certification.errors import HeatserveError
from heatserve.certification.guard import fit_guard
from heatserve.certification.noise import GRID, NoiseError
from heatserve.certification.provenance import sha256_of
from heatserve.export.calibration.calibrate import calibrate_model
from heatserve.export.calibration.certifier import Certifier
from heatserve.export.card import BASE_NAME, CARD_NAME, GRAPH_NAME, CardError, read_card
from heatserve.export.card_parts import MonteCarlo
from heatserve.export.contract import Reason
from heatserve.export.exporting import export_checkpoint
from heatserve.export.graph.build import certified_graph, logits_graph, plain_graph, with_map
from heatserve.export.images import LabelledImages
from heatserve.export.repository.layout import CONFIG_NAME, ModelVersion, model_names, open_model, version_dirs
from heatserve.export.repository.publishing import publish, republish
from heatserve.export.repository.settings import WARM_UP_PATH
from heatserve.export.runtime.session import GraphError, open_session, run
from heatserve.training.architectures import build_network
from heatserve.training.checkpoint import CheckpointError, CheckpointMetadata, save_checkpoint

SHAPE = (1, 8, 8)
SIGMA = 0.25


def network_and_metadata(
    sigma: float | None = SIGMA, classes: int = 10, seed: int = 0
) -> tuple[torch.nn.Module, CheckpointMetadata]:
    torch.manual_seed(seed)
    network = build_network("digits_cnn", num_classes=classes, input_shape=SHAPE, mean=(0.5,), std=(0.5,))
    with torch.no_grad():  # away from the near-uniform answers of fresh weights
        for parameter in network.parameters():
            parameter.mul_(2)
    metadata = CheckpointMetadata(
        architecture="digits_cnn",
        num_classes=classes,
        class_names=tuple(map(str, range(classes))),
        input_shape=SHAPE,
        mean=(0.5,),
        std=(0.5,),
        method="heat",
        sigma=sigma,
        dataset="digits",
        seed=seed,
        epochs=1,
        hyperparameters={"kappa": 10},
        parent_sha256=None,
        ancestors=(),
        versions={},
        date="2020-01-01",
    )
    return network.eval(), metadata


def checkpoint(folder: Path, sigma: float | None = SIGMA, classes: int = 10, seed: int = 0) -> Path:
    network, metadata = network_and_metadata(sigma, classes, seed)
    path = folder / f"{classes}-{seed}.safetensors"
    save_checkpoint(path, network, metadata)  # type: ignore[arg-type]
    return path


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported")
    export_checkpoint(checkpoint(folder), repository=folder / "models", name="digits")
    return folder / "models"


@pytest.fixture
def model(exported: Path, tmp_path: Path) -> ModelVersion:
    shutil.copytree(exported, tmp_path / "models")
    return open_model(tmp_path / "models", "digits")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("architecture", "shape", "classes"),
    [("digits_cnn", (1, 8, 8), 10), ("cifar_resnet20", (3, 32, 32), 10), ("resnet18", (3, 64, 64), 1000)],
)
def test_onnx_runtime_answers_as_torch_does(architecture: str, shape: tuple[int, int, int], classes: int) -> None:
    torch.manual_seed(1)
    channels = shape[0]
    network = build_network(
        architecture, num_classes=classes, input_shape=shape, mean=(0.4,) * channels, std=(0.2,) * channels
    ).eval()
    logits = logits_graph(network, input_shape=shape)
    radius_map = shifted_map(0.1, 3.0)
    certified = with_map(certified_graph(logits, sigma=SIGMA), radius_map)
    session = open_session(certified.SerializeToString())
    for count in (1, 5):  # the batch is dynamic
        images = np.random.default_rng(count).random((count, *shape), dtype=np.float32)
        with torch.no_grad():
            expected = network(torch.from_numpy(images)).double().softmax(1).numpy()
        out = run(session, images)
        assert np.abs(out["probabilities"] - expected).max() < 1e-5
        np.testing.assert_array_equal(out["label"], expected.argmax(1))
        bound = radius_map(expected)
        assert (out["certified_radius"] <= bound + 1e-4).all()
        assert out["top_k"].shape == (count, 5)
        plain = run(open_session(plain_graph(logits).SerializeToString()), images)["probabilities"]
        np.testing.assert_array_equal(plain, out["probabilities"])


def test_the_graph_holds_the_contract_and_nothing_of_the_exporting_machine(model: ModelVersion) -> None:
    graph = onnx.load(model.path / GRAPH_NAME)
    kinds = {
        value.name: (
            onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type).name,
            [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim],
        )
        for value in (*graph.graph.input, *graph.graph.output)
    }
    batch = kinds["image"][1][0]
    assert kinds == {
        "image": ("float32", [batch, 1, 8, 8]),
        "label": ("int64", [batch]),
        "probabilities": ("float32", [batch, 10]),
        "top_k": ("int64", [batch, 5]),
        "l_bound": ("float32", [batch]),
        "certified_radius": ("float32", [batch]),
        "nominal_radius": ("float32", [batch]),
        "reason": ("int64", [batch]),
    }
    assert isinstance(batch, str)
    assert str(Path(__file__).parents[2]).encode() not in graph.SerializeToString()


def test_the_repository_is_what_triton_reads(model: ModelVersion, tmp_path: Path) -> None:
    folder = tmp_path / "models" / "digits"
    config = text_format.Parse((folder / "config.pbtxt").read_text(), model_config_pb2.ModelConfig())
    assert (config.name, config.backend) == ("digits", "onnxruntime")
    assert list(config.input[0].dims) == [1, 8, 8]
    assert [output.name for output in config.output] == [
        "label",
        "probabilities",
        "top_k",
        "l_bound",
        "certified_radius",
        "nominal_radius",
        "reason",
    ]
    assert (folder / "labels.txt").read_text().split() == list("0123456789")
    assert sorted(path.name for path in model.path.iterdir()) == ["base.onnx", "certificate.json", "model.onnx"]
    assert model_names(tmp_path / "models") == ["digits"]


def test_an_export_is_not_calibrated_and_serves_radius_0(model: ModelVersion) -> None:
    assert model.card.calibration is None
    out = run(open_session(model.path / GRAPH_NAME), np.random.default_rng(0).random((50, *SHAPE), dtype=np.float32))
    assert (out["certified_radius"] == 0).all()
    assert (out["l_bound"] == 0).all()
    assert (out["nominal_radius"] > 0).any()


@pytest.mark.parametrize(
    "other", [{"input_shape": (1, 9, 9)}, {"class_names": tuple("abcdefghij")}, {"class_names": ("0", "1")}]
)
def test_callers_of_a_model_can_go_on_to_ask_its_next_version(
    model: ModelVersion, tmp_path: Path, other: dict[str, Any]
) -> None:
    repository = tmp_path / "models"
    before = {path: path.read_bytes() for path in repository.rglob("*") if path.is_file()}
    graph, base = ((model.path / name).read_bytes() for name in (GRAPH_NAME, BASE_NAME))
    (field,) = other
    with pytest.raises(CardError, match=f"digits: {field}: expected .*, as version 1 has, .* got .*another --name"):
        publish(repository, model.card.model_copy(update=other), graph=graph, base=base)
    assert {path: path.read_bytes() for path in repository.rglob("*") if path.is_file()} == before


def test_versions_count_up_and_the_newest_is_opened(model: ModelVersion, tmp_path: Path) -> None:
    graph, base = ((model.path / name).read_bytes() for name in (GRAPH_NAME, BASE_NAME))
    again = publish(tmp_path / "models", model.card.model_copy(update={"date": "later"}), graph=graph, base=base)
    assert [path.name for path in version_dirs(tmp_path / "models" / "digits")] == ["1", "2"]
    assert again.version == 2
    assert open_model(tmp_path / "models", "digits").card.date == "later"


def test_a_card_that_is_no_card_is_refused(model: ModelVersion, tmp_path: Path) -> None:
    edit_card(model.path, lambda card: card.update(sigma=-1))
    with pytest.raises(
        CardError, match="not a valid certificate card: sigma: Input should be greater than or equal to 0"
    ):
        open_model(tmp_path / "models", "digits")
    (model.path / CARD_NAME).unlink()
    with pytest.raises(CardError, match="no certificate card"):
        open_model(tmp_path / "models", "digits")
    with pytest.raises(CardError, match=r"no model version here; models in .*: digits"):
        open_model(tmp_path / "models", "digit")


def test_a_radius_that_the_card_did_not_calibrate_is_refused(model: ModelVersion, tmp_path: Path) -> None:
    graph = with_map(onnx.load(model.path / GRAPH_NAME), shifted_map(0.0, 2.0)).SerializeToString()
    (model.path / GRAPH_NAME).write_bytes(graph)
    model.card.model_copy(update={"graph_sha256": hashlib.sha256(graph).hexdigest()}).write(model.path)
    with pytest.raises(CardError, match="radius_map: expected the thresholds and radii of the graph"):
        open_model(tmp_path / "models", "digits")


def test_a_graph_of_a_former_version_can_be_opened_and_is_not_published(model: ModelVersion, tmp_path: Path) -> None:
    graph = onnx.load(model.path / GRAPH_NAME)
    (last,) = (node for node in graph.graph.node if "reason" in node.output)
    graph.graph.node.remove(last)
    del graph.graph.output[-1]
    onnx.save(graph, model.path / GRAPH_NAME)
    edit_card(model.path, lambda card: card.update(graph_sha256=sha256_of(model.path / GRAPH_NAME)))
    former = open_model(tmp_path / "models", "digits")  # so that it can be calibrated again
    with pytest.raises(
        CardError, match=r"again: expected a graph with the outputs label, .* calibrate the model again"
    ):
        republish(former, tmp_path / "models", "again")
    assert not version_dirs(tmp_path / "models" / "again")


def test_publishing_is_all_or_nothing(model: ModelVersion, tmp_path: Path) -> None:
    with pytest.raises(CardError, match="another graph"):
        publish(tmp_path / "models", model.card, graph=b"not the bytes of the card", base=b"neither")
    assert [path.name for path in version_dirs(tmp_path / "models" / "digits")] == ["1"]
    assert not list((tmp_path / "models" / "digits").glob(".new-*"))


@pytest.mark.slow
def test_a_base_of_its_own_is_what_certify_will_run(tmp_path: Path) -> None:
    single_pass, base = checkpoint(tmp_path), checkpoint(tmp_path, seed=1)
    model = export_checkpoint(single_pass, repository=tmp_path / "models", name="pair", base=base)
    images = np.random.default_rng(0).random((3, *SHAPE), dtype=np.float32)
    network, _ = network_and_metadata(seed=1)
    with torch.no_grad():
        expected = network(torch.from_numpy(images)).numpy()
    found = run(open_session(model.path / BASE_NAME), images)["logits"]
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)


def test_export_explains_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="--sigma"):
        export_checkpoint(checkpoint(tmp_path, sigma=None), repository=tmp_path, name="x")
    with pytest.raises(CheckpointError, match="expected the class_names of"):
        export_checkpoint(checkpoint(tmp_path), repository=tmp_path, name="x", base=checkpoint(tmp_path, classes=3))
    for name in ("../outside", "", ".hidden", "a b"):
        with pytest.raises(HeatserveError, match="name: expected up to 200 letters"):
            export_checkpoint(checkpoint(tmp_path), repository=tmp_path, name=name)
    with pytest.raises(HeatserveError, match=r"sigma: expected a number above 0, got -0\.1"):
        export_checkpoint(checkpoint(tmp_path), repository=tmp_path, name="x", sigma=-0.1)
    (tmp_path / "broken.onnx").write_bytes(b"not a graph")
    with pytest.raises(GraphError, match=r"broken\.onnx: ONNX Runtime cannot load it"):
        open_session(tmp_path / "broken.onnx")


def steady_images(count: int, seed: int) -> LabelledImages:
    """Images that the random network answers in one way even under noise, so that there is something to certify."""
    images = np.random.default_rng(seed).random((count, *SHAPE), dtype=np.float32)
    return LabelledImages(images, np.zeros(count, np.int64), "noise", f"split {seed}", seed)


def test_calibration_publishes_a_graph_whose_radii_certify_backs(model: ModelVersion) -> None:
    config = model.path.parent / CONFIG_NAME
    config.write_text(config.read_text().replace("count: 1", "count: 7"))
    monte_carlo = MonteCarlo(n0=20, n=200, alpha=0.01, seed=0)
    calibrated = calibrate_model(
        model, steady_images(300, 1), steady_images(100, 2), alpha=0.1, delta=0.1, certifier=Certifier(monte_carlo)
    )
    card = calibrated.card
    assert card.calibration is not None
    assert card.evaluation is not None
    assert calibrated.version == 2
    assert card.graph_sha256 == hashlib.sha256((calibrated.path / GRAPH_NAME).read_bytes()).hexdigest()
    assert card.base_sha256 == model.card.base_sha256
    assert (card.calibration.fit.images, card.calibration.check.images) == (100, 200)
    assert card.evaluation.data.split == "split 2"
    seen = card.evaluation.calibrated
    assert seen.positive > 0
    assert seen.overclaims <= 0.25 * seen.positive
    accuracy = card.evaluation.certified_accuracy
    assert all(low <= high for low, high in zip(accuracy.l_bound, accuracy.single_pass, strict=True))
    assert "At most a share 0.1 of the answers" in card.calibration.promise
    guard = card.calibration.guard
    assert guard is not None
    assert (guard.images, guard.level) == (67, 1 / 68)
    assert guard == fit_guard(steady_images(300, 1).images[:100])
    black = run(open_session(calibrated.path / GRAPH_NAME), np.zeros((1, *SHAPE), np.float32))
    assert (black["certified_radius"].item(), black["reason"].item()) == (0, Reason.UNLIKE)
    radii = run(open_session(calibrated.path / GRAPH_NAME), steady_images(100, 2).images)
    assert (radii["certified_radius"] > 0).sum() == seen.positive
    assert radii["certified_radius"].max() <= max(card.calibration.radius_map.radii)
    assert read_card(calibrated.path) == card
    assert "count: 7" in config.read_text(), "expected the settings of the version before"
    warm_up = np.frombuffer((config.parent / WARM_UP_PATH).read_bytes(), np.float32)
    np.testing.assert_array_equal(warm_up.reshape(SHAPE), steady_images(300, 1).images[0])


@pytest.mark.slow
def test_one_radius_alone_is_served_or_nothing(model: ModelVersion) -> None:
    radius = float(servable(0.1))
    deciding = MonteCarlo(n0=20, n=3000, alpha=0.01, seed=0, decides=radius)
    calibrated = calibrate_model(
        model,
        steady_images(300, 1),
        steady_images(100, 2),
        alpha=0.1,
        delta=0.1,
        certifier=Certifier(deciding),
        target=0.1,
    )
    card = calibrated.card
    assert card.calibration is not None
    assert card.evaluation is not None
    assert card.calibration.radius_map.radii == (radius,)
    assert "a sequential test of the radius 0.1 (n0 = 20, n <= 3000, alpha = 0.01) proves" in card.calibration.promise
    accuracy = card.evaluation.certified_accuracy
    assert len({*accuracy.single_pass[:3]}) == 1
    served = run(open_session(calibrated.path / GRAPH_NAME), steady_images(100, 2).images)["certified_radius"]
    assert set(served.tolist()) == {0.0, radius}
    assert card.evaluation.calibrated.positive == (served == radius).sum()
    assert max(accuracy.single_pass[3:] + accuracy.monte_carlo[3:]) == 0
    nominal = run(open_session(model.path / GRAPH_NAME), steady_images(100, 2).images)["nominal_radius"]
    assert card.evaluation.nominal.positive == (nominal >= radius).sum()


def test_a_radius_that_no_votes_could_prove_is_refused_before_the_work(model: ModelVersion) -> None:
    images = steady_images(3, 1)
    deciding = MonteCarlo(n0=20, n=100, alpha=0.01, seed=0, decides=0.75)
    with pytest.raises(
        HeatserveError, match=r"radius: expected one that n = 100 votes can prove at σ = 0\.25, got 0\.75"
    ):
        calibrate_model(model, images, images, alpha=0.1, delta=0.1, certifier=Certifier(deciding))


def test_calibration_tells_a_broken_configuration_before_the_work(model: ModelVersion) -> None:
    (model.path.parent / CONFIG_NAME).write_text("max_batch_size: many")
    images, settings = steady_images(3, 1), MonteCarlo(n0=20, n=200, alpha=0.01, seed=0)
    with pytest.raises(HeatserveError, match=r"config\.pbtxt: expected a model configuration of Triton: 1:17"):
        calibrate_model(model, images, images, alpha=0.1, delta=0.1, certifier=Certifier(settings))


def test_too_few_images_for_the_promise_are_told_before_the_work(model: ModelVersion, tmp_path: Path) -> None:
    images, settings = steady_images(60, 1), MonteCarlo(n0=20, n=200, alpha=0.01, seed=0)
    with pytest.raises(CalibrationError, match=r"too few .* at level 0\.025 needs at least 72 images .* got 40 images"):
        calibrate_model(
            model, images, images, alpha=0.05, delta=0.05, certifier=Certifier(settings, folder=tmp_path / "kept")
        )
    assert not (tmp_path / "kept").exists()


@pytest.mark.slow
def test_a_graph_that_serves_more_than_was_calibrated_is_not_published(
    model: ModelVersion, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The defect is put where calibration calls with_map, which has no reason to be an argument of calibrate_model."""
    bold = shifted_map(-3.0, 2.0)
    monkeypatch.setattr(calibrating, "with_map", lambda graph, _, guard: with_map(graph, bold, guard))
    images, settings = steady_images(300, 1), MonteCarlo(n0=20, n=200, alpha=0.01, seed=0)
    with pytest.raises(CalibrationError, match=r"served graph: expected overclaims of at most 0\.1, .* got"):
        calibrate_model(model, images, images, alpha=0.1, delta=0.1, certifier=Certifier(settings))
    assert len(version_dirs(model.path.parent)) == 1


@pytest.mark.slow
def test_an_interrupted_calibration_goes_on_where_it_was(model: ModelVersion, tmp_path: Path) -> None:
    work: dict[str, Any] = {
        "model": model,
        "calibration": steady_images(300, 1),
        "test": steady_images(20, 2),
        "alpha": 0.1,
        "delta": 0.1,
    }
    certify, kept = MonteCarlo(n0=20, n=200, alpha=0.01, seed=0), tmp_path / "kept"
    left = list[int]()

    def interrupted(rows: Iterable[Any], _: int, __: str) -> Iterable[Any]:
        yield from islice(rows, 120)
        raise KeyboardInterrupt

    def watched(rows: Iterable[Any], total: int, _: str) -> Iterable[Any]:
        left.append(total)
        return rows

    with pytest.raises(KeyboardInterrupt):
        calibrate_model(**work, certifier=Certifier(certify, folder=kept, progress=interrupted))
    assert len(version_dirs(model.path.parent)) == 1
    resumed = calibrate_model(**work, certifier=Certifier(certify, folder=kept, progress=watched)).card
    assert left == [180, 20]
    whole = calibrate_model(**work, certifier=Certifier(certify)).card
    assert (resumed.calibration, resumed.evaluation) == (whole.calibration, whole.evaluation)


def test_calibration_needs_images_of_the_models_shape(model: ModelVersion) -> None:
    wrong = LabelledImages(np.zeros((3, 1, 9, 9), np.float32), np.zeros(3, np.int64), "other", "calibration", 0)
    with pytest.raises(HeatserveError, match=r"other: expected images of shape \[1, 8, 8\] .* got \[1, 9, 9\]"):
        calibrate_model(
            model, wrong, wrong, alpha=0.1, delta=0.1, certifier=Certifier(MonteCarlo(n0=1, n=1, alpha=0.1, seed=0))
        )
    assert model.version == 1


@pytest.mark.parametrize("target", [0.0, -0.1, 0.6, float("nan")])
def test_a_radius_that_certify_cannot_prove_is_refused_before_the_work(model: ModelVersion, target: float) -> None:
    images, settings = steady_images(3, 1), MonteCarlo(n0=20, n=200, alpha=0.01, seed=0)
    with pytest.raises(HeatserveError, match=r"radius: expected one above 0 .* at most 0\.4999, got"):
        calibrate_model(model, images, images, alpha=0.1, delta=0.1, certifier=Certifier(settings), target=target)


def test_calibration_samples_as_it_is_told(model: ModelVersion) -> None:
    images, settings = steady_images(300, 1), MonteCarlo(n0=1, n=1, alpha=0.1, seed=0, sampling=GRID.key)
    with pytest.raises(NoiseError, match="image 0: expected an 8-bit image"):
        calibrate_model(model, images, images, alpha=0.1, delta=0.1, certifier=Certifier(settings))
    by_hand = settings.model_copy(update={"sampling": "by hand"})
    with pytest.raises(NoiseError, match=r"sampling: expected one of float32, grid, got by hand"):
        calibrate_model(model, images, images, alpha=0.1, delta=0.1, certifier=Certifier(by_hand))
