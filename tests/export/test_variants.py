"""UINT8 input, FP16 and INT8: the same certificate, on what the variant's own network answers."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from PIL import Image
from test_graph import SHAPE, SIGMA, checkpoint, network_and_metadata, steady_images
from typer.testing import CliRunner

from heatserve import FREE_PORTS, Client, ServingError, TritonServer
from heatserve.benchmarks.attack.target import open_target
from heatserve.certification.calibration import CalibrationError
from heatserve.certification.errors import HeatserveError
from heatserve.certification.radius import Float32Array, nominal_radius
from heatserve.cli import app
from heatserve.export.calibration.calibrate import calibrate_model
from heatserve.export.calibration.certifier import Certifier
from heatserve.export.calibration.compare import calibrated_parts, check_loss, compare_variant
from heatserve.export.calibration.report import comparison_report
from heatserve.export.card_parts import MonteCarlo
from heatserve.export.exporting import export_checkpoint
from heatserve.export.graph.build import certified_graph, logits_graph, pixels_graph, takes_uint8, uint8_input
from heatserve.export.images import LabelledImages, LabelledPictures, SampledImages
from heatserve.export.repository.layout import ModelVersion, open_model, version_dirs
from heatserve.export.repository.publishing import republish
from heatserve.export.runtime.answers import model_images
from heatserve.export.runtime.session import GraphError, open_session, run
from heatserve.export.variants import Variant
from heatserve.training.data.decoding import to_bytes, to_floats
from heatserve.training.data.resizing import resize_and_crop
from heatserve.training.torchvision_import import import_torchvision

CERTIFY = MonteCarlo(n0=20, n=100, alpha=0.01, seed=0)


@pytest.fixture(scope="module")
def logits() -> onnx.ModelProto:
    return logits_graph(network_and_metadata()[0], input_shape=SHAPE)


def eight_bit_images(count: int) -> Float32Array:
    levels = np.random.default_rng(7).integers(0, 256, (count, *SHAPE)).astype(np.float32)
    return levels / np.float32(255)


def ranges() -> LabelledImages:
    return LabelledImages(eight_bit_images(32), np.zeros(32, np.int64), "noise", "train", 0)


def test_uint8_answers_what_fp32_answers_to_the_same_pixels(logits: onnx.ModelProto) -> None:
    images = eight_bit_images(70)
    expected = run(open_session(certified_graph(logits, sigma=SIGMA).SerializeToString()), images)
    graph = certified_graph(uint8_input(logits), sigma=SIGMA)
    assert takes_uint8(graph)
    found = run(open_session(graph.SerializeToString()), images)
    for name, values in expected.items():
        np.testing.assert_array_equal(found[name], values)


def test_uint8_refuses_images_of_more_than_8_bits(logits: onnx.ModelProto) -> None:
    images = eight_bit_images(2)
    images[1, 0, 3, 3] = np.nextafter(images[1, 0, 3, 3], np.float32(1))
    with pytest.raises(GraphError, match="expected 8-bit images"):
        run(open_session(certified_graph(uint8_input(logits), sigma=SIGMA).SerializeToString()), images)


def test_a_network_that_answers_nan_gets_no_radius_from_a_uint8_graph(logits: onnx.ModelProto) -> None:
    broken = onnx.ModelProto()
    broken.CopyFrom(uint8_input(logits))
    white = next(tensor for tensor in broken.graph.initializer if tensor.name == "white")
    white.CopyFrom(numpy_helper.from_array(np.float32(np.nan).reshape(()), "white"))
    session = open_session(certified_graph(broken, sigma=SIGMA).SerializeToString())
    outputs = session.run(["label", "nominal_radius"], {"image": np.zeros((3, 8, 8, 1), np.uint8)})
    np.testing.assert_array_equal(outputs[0], [-1] * 3)
    np.testing.assert_array_equal(outputs[1], [0] * 3)


@pytest.mark.parametrize(("precision", "tolerance"), [("fp16", 0.01), ("int8", 0.15)])
@pytest.mark.parametrize("input_type", ["FP32", "UINT8"])
def test_the_certificate_stays_fp32_whatever_the_network_is(
    logits: onnx.ModelProto, precision: str, tolerance: float, input_type: str
) -> None:
    variant = Variant(input_type, precision, ranges())  # type: ignore[arg-type]
    graph = onnx.shape_inference.infer_shapes(certified_graph(variant.of(logits), sigma=SIGMA), strict_mode=True)
    types = {value.name: value.type.tensor_type.elem_type for value in graph.graph.value_info}
    names = [node.output[0] for node in graph.graph.node]
    certificate = names[names.index("softmax") :]
    assert {types[name] for name in certificate if name in types} == {1, 7, 9}  # float, int64, bool
    assert types["softmax"] == 1
    used = {node.op_type for node in graph.graph.node[: names.index("softmax")]}
    assert {"fp16": "Cast", "int8": "QuantizeLinear"}[precision] in used
    if precision == "fp16":
        assert 10 in types.values()  # float16
    images = eight_bit_images(64)
    plain = run(open_session(certified_graph(logits, sigma=SIGMA).SerializeToString()), images)["probabilities"]
    found = run(open_session(graph.SerializeToString()), images)
    assert 0 < np.abs(found["probabilities"] - plain).max() < tolerance
    exact = nominal_radius(found["probabilities"].astype(np.float64), sigma=SIGMA)
    assert (found["nominal_radius"] <= exact).all()


def test_int8_needs_images(tmp_path: Path) -> None:
    with pytest.raises(HeatserveError, match=r"precision: int8 needs images .* got none"):
        export_checkpoint(checkpoint(tmp_path), repository=tmp_path, name="x", variant=Variant(precision="int8"))


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A calibrated model `fp32`, and variants of it that are not calibrated yet: `bytes`, `int8`."""
    folder = tmp_path_factory.mktemp("variants")
    path = checkpoint(folder)
    model = export_checkpoint(path, repository=folder, name="fp32")
    export_checkpoint(path, repository=folder, name="bytes", variant=Variant("UINT8"))
    export_checkpoint(path, repository=folder, name="int8", variant=Variant("UINT8", "int8", ranges()))
    calibrated(model, rounded(steady_images(300, 1)))
    return folder


def rounded(data: LabelledImages) -> LabelledImages:
    """The images as a model of UINT8 gets them."""
    return replace(data, images=np.rint(data.images * np.float32(255)) / np.float32(255))


def calibrated(model: ModelVersion, images: SampledImages, folder: Path | None = None) -> ModelVersion:
    return calibrate_model(model, images, images, alpha=0.1, delta=0.1, certifier=Certifier(CERTIFY, folder=folder))


@pytest.mark.slow
def test_a_uint8_model_is_calibrated_on_the_pixels_that_it_is_given(repository: Path, tmp_path: Path) -> None:
    model = republish(open_model(repository, "bytes"), tmp_path, "bytes")  # elsewhere, where it is the first attempt
    assert (model.card.input_type, model.card.precision) == ("UINT8", "fp32")
    images = steady_images(300, 1)  # of more than 8 bits: rounded
    card = calibrated(model, images).card
    expected = open_model(repository, "fp32").card
    assert card.calibration == expected.calibration
    assert card.evaluation == expected.evaluation
    assert card.graph_sha256 != expected.graph_sha256


@pytest.mark.slow
def test_a_variant_is_compared_with_its_model_and_refused_if_it_is_useless(repository: Path) -> None:
    fp32, int8 = open_model(repository, "fp32"), open_model(repository, "int8")
    assert "32 images of noise, split train" in str(int8.card.training["int8_ranges"])
    calibration, evaluation = calibrated_parts(fp32, int8)
    with pytest.raises(HeatserveError, match="int8: expected a calibrated model"):
        calibrated_parts(int8, fp32)
    other = export_checkpoint(checkpoint(repository, seed=1), repository=repository, name="other")
    with pytest.raises(HeatserveError, match="other: expected a variant of fp32, with its base"):
        calibrated_parts(fp32, other)

    variant = calibrated(int8, rounded(steady_images(300, 1)))
    found = compare_variant(variant, fp32)
    assert found.evaluations == (variant.card.evaluation, evaluation)
    assert min(found.milliseconds) > 0
    written = json.loads(found.to_json())
    assert written["names"] == ["int8", "fp32"]
    assert {"command", "versions", "date"} <= set(written["provenance"])
    assert "times as fast" in "".join(str(cell) for column in comparison_report(found).columns for cell in column.cells)

    zeros = evaluation.certified_accuracy.model_copy(update={"single_pass": (0.0,) * 8})
    useless = evaluation.model_copy(update={"certified_accuracy": zeros})
    best = evaluation.certified_accuracy.single_pass[0]
    for target, radius in ((None, "0"), (0.07, "0.05")):
        with pytest.raises(
            CalibrationError, match=rf"at most 5\.0% .* at radius {radius}, got .*nothing was published"
        ):
            check_loss(useless, evaluation, target=target, max_loss=0.05)
    check_loss(useless, evaluation, target=None, max_loss=best)
    check_loss(evaluation, useless, target=None, max_loss=0.0)

    def refuse(_: object) -> None:
        raise CalibrationError("useless")

    before = len(version_dirs(int8.path.parent))
    images = steady_images(300, 1)
    with pytest.raises(CalibrationError, match="useless"):
        calibrate_model(fp32, images, images, alpha=0.1, delta=0.1, certifier=Certifier(CERTIFY), accept=refuse)
    assert len(version_dirs(int8.path.parent)) == before
    assert calibration.alpha == 0.1


@pytest.mark.slow
def test_triton_serves_uint8(repository: Path) -> None:
    images = eight_bit_images(5)
    pixels = np.rint(images * 255).astype(np.uint8).transpose(0, 2, 3, 1)
    with TritonServer(repository, models=["bytes", "fp32"], endpoints=FREE_PORTS) as server:
        for url in (server.endpoints.grpc_url, server.endpoints.http_url):
            with Client(url, model="bytes") as ours, Client(url, model="fp32") as other:
                assert ours.spec().input_shape == SHAPE
                for found, expected in zip(ours.predict(pixels), other.predict(pixels), strict=True):
                    np.testing.assert_array_equal(found.probabilities, expected.probabilities)
                    assert found.nominal_radius == expected.nominal_radius
                    assert found.class_name == expected.class_name
                with pytest.raises(ServingError, match=r"image: expected dtype uint8 \[N,H,W,C\], .* found float32"):
                    ours.predict(images)


def pictures(count: int) -> LabelledPictures:
    """Pictures of several sizes."""
    sizes, random = ((10, 13), (16, 9), (31, 24)), np.random.default_rng(3)
    stored = [random.integers(0, 256, (*sizes[i % 3], 1)).astype(np.uint8) for i in range(count)]
    return LabelledPictures(stored, np.zeros(count, np.int64), "pictures", "any", 0)


def test_pictures_of_any_size_are_cut_out_as_torchvision_does(logits: onnx.ModelProto) -> None:
    transforms = import_torchvision("transforms")
    session = open_session(pixels_graph(uint8_input(logits, resize=12)).SerializeToString())
    for height, width in ((40, 30), (12, 57), (12, 59), (15, 12), (9, 11), (12, 12)):
        coarse = np.random.default_rng(height).integers(0, 256, (height // 6 + 1, width // 6 + 1)).astype(np.uint8)
        picture = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
        expected = np.asarray(transforms.CenterCrop(8)(transforms.Resize(12)(picture))).astype(np.float32)
        (pixels,) = session.run(None, {"image": np.asarray(picture)[None, :, :, None]})
        assert np.abs(np.rint(pixels[0, 0] * 255) - expected).max() <= 1
        np.testing.assert_array_equal(np.rint(pixels * 255) / np.float32(255), pixels)  # 8 bits: what Certify is given


def test_the_graph_resizes_pictures_as_training_does_to_one_grey_level(logits: onnx.ModelProto) -> None:
    """Also at the borders, which are not cut off here, and pictures of more than 8 bits, which are rounded before."""
    random = np.random.default_rng(5)
    session = open_session(pixels_graph(uint8_input(logits, resize=8)).SerializeToString())
    for height, width in random.integers(9, 200, (30, 2)):
        floats = random.random((height, width, 1), np.float32)
        for picture in (floats, to_bytes(floats)):
            trained = to_floats(resize_and_crop(picture, resize=8, crop=8))
            (pixels,) = session.run(None, {"image": to_bytes(picture)[None]})
            assert np.abs(pixels[0].transpose(1, 2, 0) - trained).max() < 1.01 / 255, (height, width)


@pytest.mark.slow
def test_a_model_of_pictures_is_calibrated_and_served_on_pictures(tmp_path: Path) -> None:
    variant = Variant("UINT8", resize=12)
    model = export_checkpoint(checkpoint(tmp_path), repository=tmp_path, name="any-size", variant=variant)
    data = pictures(300)
    taken = model_images(model, data)
    assert taken.images.shape == (300, *SHAPE)
    assert taken.images.std() > 0.1
    card = calibrated(model, data, tmp_path / "kept").card
    assert card.resize == 12
    kept = [*(tmp_path / "kept").iterdir()]
    assert [len(ledger.read_text().splitlines()) for ledger in kept] == [301, 301], "the map's and the figures'"
    picture, other = data.pictures[:2]
    (expected,) = open_session(model.path / "model.onnx").run(["probabilities"], {"image": picture[None]})
    with TritonServer(tmp_path, models=["any-size"], endpoints=FREE_PORTS) as server:
        for url in (server.endpoints.grpc_url, server.endpoints.http_url):
            with Client(url, model="any-size") as client:
                (found,) = client.predict(picture)
                np.testing.assert_array_equal(found.probabilities, expected[0])
                assert len(client.predict(np.stack([other] * 3))) == 3
                with pytest.raises(ServingError, match=r"expected uint8 \[N,H,W,C\] = \[N,any,any,1\]"):
                    client.predict(np.zeros((8, 8, 3), np.uint8))
    images_only = LabelledImages(taken.images, data.labels, "pictures", "any", 0)
    with pytest.raises(HeatserveError, match="pictures: expected pictures for model any-size, which resizes them"):
        model_images(model, images_only)


@pytest.mark.parametrize("variant", [Variant("FP32", resize=12), Variant("UINT8", resize=7)])
def test_a_resize_that_means_nothing_is_refused(tmp_path: Path, variant: Variant) -> None:
    with pytest.raises(HeatserveError, match="resize: expected UINT8 input and at least 8 pixels"):
        export_checkpoint(checkpoint(tmp_path), repository=tmp_path, name="x", variant=variant)


@pytest.mark.slow
def test_an_attack_needs_an_input_that_moves_continuously(repository: Path) -> None:
    torch.manual_seed(0)
    with pytest.raises(HeatserveError, match="bytes: expected a model of FP32 images"):
        open_target(open_model(repository, "bytes"), steady_images(2, 1), seed=0)


def test_a_model_is_no_variant_of_itself(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["calibrate-variant", "fp32", "fp32", "--repository", str(tmp_path)])
    assert result.exit_code == 2
    assert "expected another model than the calibrated one, got fp32 twice" in " ".join(
        result.output.replace("│", " ").split()
    )
