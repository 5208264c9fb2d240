"""The certificate inside the graph, run by ONNX Runtime, against float64 on the graph's own probabilities."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from scipy.optimize import nnls
from scipy.special import erf, log_ndtr, ndtri
from tiny_model import shifted_map

from heatserve.certification.quantile import RESIDUES, fractions
from heatserve.certification.radius import RadiusMap, certified_l_bound, nominal_radius, score_fractions
from heatserve.export.graph.build import IR_VERSION, OPSET, with_map
from heatserve.export.graph.certificate import certificate_graph, map_tensors
from heatserve.export.runtime.session import open_session, run

SIGMA = 0.25
MAP = shifted_map(0.4, 2.5)


@lru_cache
def certificate(classes: int, radius_map: RadiusMap | None = MAP) -> onnxruntime.InferenceSession:
    """The certificate without a network, as a graph from `image` and `logits`."""
    model = helper.make_model(
        certificate_graph(num_classes=classes, sigma=SIGMA),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
    )
    onnx.checker.check_model(model, full_check=True)
    if radius_map:
        model = with_map(model, radius_map)
    return open_session(model.SerializeToString())


def certify(
    logits: NDArray[Any], image: NDArray[Any] | None = None, radius_map: RadiusMap | None = MAP
) -> dict[str, Any]:
    logits = logits.astype(np.float32)
    if image is None:
        image = np.full((len(logits), 1, 2, 2), 0.5, np.float32)
    session = certificate(logits.shape[1], radius_map)
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, {"image": image, "logits": logits}), strict=True))


def adversarial_logits(count: int, classes: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Random at every temperature, ties, one dominant class up to ±120, nearly uniform, only two classes."""
    logits = rng.standard_normal((count, classes)) * np.exp(rng.uniform(-7, 4, (count, 1)))
    kind = rng.integers(0, 5, count)
    logits[kind == 1, 0] = logits[kind == 1, 1]
    logits[kind == 2, 0] += rng.uniform(0, 120, (kind == 2).sum())
    logits[kind == 3] = rng.uniform(-1e-6, 1e-6, ((kind == 3).sum(), classes))
    logits[kind == 4] = np.where(np.arange(classes) < 2, rng.uniform(-1e-3, 1e-3, ((kind == 4).sum(), classes)), -80)
    return np.asarray(logits)


@pytest.mark.parametrize("classes", [2, 3, 10, 100, pytest.param(1000, marks=pytest.mark.slow)])
def test_no_radius_is_above_its_float64_value(classes: int) -> None:
    out = certify(adversarial_logits(20_000, classes, np.random.default_rng(classes)))
    p = out["probabilities"].astype(np.float64)
    exact = {
        "certified_radius": MAP(p),
        "l_bound": certified_l_bound(p, sigma=SIGMA, radius_map=MAP),
        "nominal_radius": nominal_radius(p, sigma=SIGMA),
    }
    slack = SIGMA * (1e-5 + 1e-7 * classes)  # the sum of the tail, in any order, is off by classes · 2⁻²⁴
    for name, value in exact.items():
        assert (out[name] <= value).all(), name
        step = SIGMA / 100 if name != "nominal_radius" else 0.0
        assert (out[name] >= value * (1 - 1e-5) - slack - step).all(), name
        assert (value > 0.01 * SIGMA).mean() > 0.1, name
    assert (out["l_bound"] <= out["certified_radius"]).all()
    assert (out["certified_radius"] == exact["certified_radius"]).mean() > 0.95


def test_the_tail_is_large_enough_in_the_worst_order_of_summation() -> None:
    """998 probabilities below half a unit in the last place of the 999th are all lost when they are added to it."""
    graph = certificate_graph(num_classes=1000, sigma=SIGMA)
    (pick,) = (numpy_helper.to_array(tensor)[0, 0] for tensor in graph.initializer if tensor.name == "pick_tails")
    p = np.array([0.7, 0.25, *[0.99 * 2.0**-26] * 998], np.float32)
    exact = 2 * p[1:].astype(np.float64).sum()
    assert np.cumsum(2 * p[1:], dtype=np.float32)[-1] < exact * (1 - 2e-5)
    assert np.cumsum((pick * p)[1:], dtype=np.float32)[-1] >= exact


def test_a_score_may_have_weights_of_any_sign_and_size() -> None:
    rng = np.random.default_rng(7)
    p = certify(adversarial_logits(5000, 10, rng), radius_map=None)["probabilities"].astype(np.float64)
    for scale in (1.0, 30.0, 1000.0):
        weights = rng.standard_normal((3, 8)) * scale
        scores = np.sort((score_fractions(p) * weights).sum((1, 2)))
        thresholds = tuple(scores[[500, 2000, 3000, 4000]])
        radius_map = RadiusMap(tuple(map(tuple, weights.tolist())), thresholds, (0.125, 0.25, 0.5, 0.75))
        out = certify(np.log(np.maximum(p, 1e-30)), radius_map=radius_map)
        exact = radius_map(out["probabilities"].astype(np.float64))
        assert (out["certified_radius"] <= exact).all()
        assert (out["certified_radius"] == exact).mean() > 0.9
        assert {0, 0.125} < set(np.unique(exact)) <= {0, 0.125, 0.25, 0.5, 0.75}
        uncertain = p.max(1) <= 0.5
        assert uncertain.any()
        assert (out["certified_radius"][uncertain] == 0).all()


@pytest.mark.parametrize(
    "change",
    [
        {"thresholds": (1.0, 0.5)},
        {"radii": (0.2, 0.1)},
        {"radii": (0.0, 0.1)},
        {"weights": ((1.0,) * 8,)},
        {"radii": (1.0,)},
        {"radii": (0.1, float("inf"))},
        {"thresholds": (0.5, float("nan"))},
    ],
)
def test_a_map_that_is_none_is_refused(change: dict[str, Any]) -> None:
    good = RadiusMap(MAP.weights, (0.5, 1.0), (0.1, 0.2))
    map_tensors(good, num_classes=10)
    with pytest.raises(ValueError, match="radius_map: expected"):
        map_tensors(replace(good, **change), num_classes=10)


def test_the_quantile_formula_is_as_accurate_as_it_says() -> None:
    m = np.concatenate([np.geomspace(1.2e-38, 0.5, 20_000)[:-1], 0.5 - np.geomspace(1e-9, 0.4, 20_000)])
    quantile = fractions(m) @ RESIDUES
    assert np.abs(quantile / -ndtri(m) - 1).max() < 2e-8
    middle = m < 0.499  # closer to ½, ndtri itself loses digits
    assert np.abs(quantile[middle] / -ndtri(m[middle]) - 1).max() < 6e-9


def test_the_quantile_is_a_positive_sum_to_the_last_digits() -> None:
    """The reason for eight poles: −Φ⁻¹(m) is a non-negative combination of w/(w + a), w = −log 2m."""
    z = np.concatenate([np.geomspace(1e-4, 0.3, 100), np.linspace(0.3, 13.1, 300)])
    w = np.where(z < 1, -np.log1p(-erf(np.minimum(z, 1) / np.sqrt(2))), -(np.log(2) + log_ndtr(-z)))
    poles = np.geomspace(0.5, 3e4, 100)
    basis = w[:, None] / (w[:, None] + poles) / z[:, None]
    residues, _ = nnls(basis, np.ones_like(z))
    assert np.abs(basis @ residues - 1).max() < 1e-13


def test_labels_and_top_k() -> None:
    logits = np.random.default_rng(0).standard_normal((500, 10))
    out = certify(logits)
    np.testing.assert_array_equal(out["label"], logits.argmax(1))
    np.testing.assert_array_equal(out["top_k"], np.argsort(-logits, axis=1)[:, :5])
    assert out["label"].dtype == out["top_k"].dtype == np.int64
    assert out["probabilities"].sum(1) == pytest.approx(1, abs=1e-6)
    assert certify(np.array([[1.0, 2.0]]))["top_k"].tolist() == [[1, 0]]


def test_a_certain_class_has_a_large_finite_radius() -> None:
    out = certify(np.array([[200.0, 0, 0], [0, -300, 0]]), radius_map=shifted_map(0.0, 20.0))
    assert 12 * SIGMA < out["certified_radius"][0] < 14 * SIGMA
    assert 12 * SIGMA < out["nominal_radius"][0] < 14 * SIGMA
    assert out["certified_radius"][1] == out["nominal_radius"][1] == 0  # a tie


def test_without_calibration_nothing_is_certified() -> None:
    out = certify(np.array([[200.0, 0, 0], [1.0, 0, 0]]), radius_map=None)
    assert out["certified_radius"].tolist() == out["l_bound"].tolist() == [0, 0]
    assert (out["nominal_radius"] > 0).all()


BELOW_0, ABOVE_1 = np.nextafter(np.float32(0), np.float32(-1)), np.nextafter(np.float32(1), np.float32(2))


@settings(max_examples=300, deadline=None)
@given(
    value=st.sampled_from([np.nan, np.inf, -np.inf, BELOW_0, ABOVE_1, -0.1, 255.0, 3e38, -3e38]),
    row=st.integers(0, 3),
    pixel=st.integers(0, 11),
    strength=st.floats(0, 100),
)
def test_only_invalid_images_fail_closed(value: float, row: int, pixel: int, strength: float) -> None:
    image = np.random.default_rng(0).random((4, 3, 2, 2), dtype=np.float32)
    image[0, 0, 0, 0], image[1, 0, 0, 0] = 0.0, 1.0  # the edges are valid
    image.reshape(4, -1)[row, pixel] = value
    out = certify(np.tile([strength, 0.0, 0.0], (4, 1)), image, shifted_map(0.0, 9.0))
    invalid = np.arange(4) == row
    assert (out["label"] == np.where(invalid, -1, 0)).all()
    for name in ("certified_radius", "l_bound", "nominal_radius"):
        assert (out[name][invalid] == 0).all()
    assert np.isfinite(out["probabilities"]).all()
    if strength > 1:
        assert (out["certified_radius"][~invalid] > 0).all()


@pytest.mark.parametrize("size", [1, 7, 32, 225])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, BELOW_0, ABOVE_1])
def test_one_invalid_pixel_is_found_wherever_it_is(value: float, size: int) -> None:
    """Engines take several pixels at a time, and may lose a NaN in a minimum or a maximum."""
    random = np.random.default_rng(size)
    image = random.random((8, 3, size, size), dtype=np.float32)
    for row, pixel in enumerate([0, -1, *random.integers(0, 3 * size * size, 5)]):
        image[row].flat[pixel] = value
    image[0].flat[1] = np.nan if size > 1 else value
    out = certify(np.tile([9.0, 0.0, 0.0], (8, 1)), image, shifted_map(0.0, 9.0))
    assert out["label"].tolist() == [-1] * 7 + [0]
    assert (out["certified_radius"][:7] == 0).all()
    assert out["certified_radius"][7] > 0


@pytest.mark.parametrize("logits", [[np.nan, 1, 2], [np.inf, 1, 2], [np.nan] * 3, [-np.inf] * 3])
def test_a_network_that_answers_nonsense_fails_closed(logits: list[float]) -> None:
    out = certify(np.array([logits, [9.0, 0, 0]]), radius_map=shifted_map(0.0, 9.0))
    assert out["label"].tolist() == [-1, 0]
    assert out["certified_radius"][0] == out["nominal_radius"][0] == out["l_bound"][0] == 0
    assert out["certified_radius"][1] > 0


@pytest.mark.parametrize("check_image", [True, False])
def test_an_engine_that_loses_nan_and_takes_x_minus_x_for_0_still_fails_closed(
    check_image: bool,
) -> None:
    """TensorRT may do both: here every minimum, maximum, clip and difference answers 0 in place of NaN."""
    graph = certificate_graph(num_classes=3, sigma=SIGMA, check_image=check_image)
    nodes = list(graph.node)
    del graph.node[:]
    for node in nodes:
        graph.node.append(node)
        if node.op_type in ("ReduceMin", "ReduceMax", "Clip", "Relu", "Sub", "TopK"):
            name, kept = node.output[0], f"{node.output[0]}_with_nan"
            graph.node[-1].output[0] = kept
            graph.node.append(helper.make_node("IsNaN", [kept], [f"{name}_is_nan"]))
            graph.node.append(helper.make_node("Where", [f"{name}_is_nan", "no_number", kept], [name]))
    graph.initializer.append(numpy_helper.from_array(np.float32(0).reshape(()), "no_number"))
    opset = [helper.make_opsetid("", OPSET)]
    session = open_session(helper.make_model(graph, opset_imports=opset, ir_version=IR_VERSION).SerializeToString())
    wanted = ["label", "nominal_radius", "certified_radius", "l_bound"]

    def answers(image: NDArray[Any], logits: list[float]) -> list[Any]:
        return session.run(wanted, {"image": image, "logits": np.array([logits], np.float32)})  # type: ignore[no-any-return]

    grey = np.full((1, 1, 2, 2), 0.5, np.float32) if check_image else np.full((1, 2, 2, 1), 128, np.uint8)
    label, radius, *_ = answers(grey, [8.0, 0.0, 0.0])
    assert label == 0
    assert radius > 0
    for bad in (np.nan, np.inf):
        assert [value.item() for value in answers(grey, [8.0, bad, 0.0])] == [-1, 0, 0, 0]
    for pixel in (np.nan, np.inf, -np.inf) if check_image else ():
        image = grey.copy()
        image[0, 0, 1, 0] = pixel
        assert [value.item() for value in answers(image, [8.0, 0.0, 0.0])] == [-1, 0, 0, 0]


def test_session_helper_names_the_outputs() -> None:
    graph = helper.make_graph(
        [helper.make_node("Identity", ["image"], ["copy"])],
        "identity",
        [helper.make_tensor_value_info("image", 1, ["N", 2])],
        [helper.make_tensor_value_info("copy", 1, ["N", 2])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    x = np.ones((3, 2), np.float32)
    np.testing.assert_array_equal(run(open_session(model.SerializeToString()), x)["copy"], x)
