"""The guard inside the graph, run by ONNX Runtime, against the guard in float64."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from sklearn.datasets import load_digits
from tiny_model import SHAPE, shifted_map, take_uint8, write_tiny_model

from heatserve.certification.guard import Guard, fit_guard
from heatserve.export.card import GRAPH_NAME
from heatserve.export.contract import OUTPUT_NAMES, Reason
from heatserve.export.graph.build import IR_VERSION, OPSET, pixels_graph, with_map
from heatserve.export.graph.certificate import FLOAT32_MARGINS, certificate_graph, served_sigma
from heatserve.export.graph.guard import guard_margin, serves_guard
from heatserve.export.runtime.session import open_session, run
from heatserve.serving.conformance.cases import around_guard

COMMITTED = Path(__file__).parents[2] / "model_repository"
MAP = shifted_map(0.4, 2.5)
ROUNDOFF = FLOAT32_MARGINS.roundoff
SURE = np.array([9.0, 0.0, 0.0], np.float32)


def images_of(shape: tuple[int, int, int], count: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """Images of one hue and brightness each, with some noise."""
    base = rng.beta(2, 2, (count, shape[0], 1, 1))
    return np.clip(base + 0.05 * rng.standard_normal((count, *shape)), 0, 1).astype(np.float32)


def certify(guard: Guard, images: NDArray[Any], logits: NDArray[Any] = SURE) -> dict[str, NDArray[Any]]:
    """The certificate without a network, asked about images that it is all sure of."""
    graph = certificate_graph(num_classes=3, sigma=0.25, guard=guard)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    session = open_session(with_map(model, MAP, guard).SerializeToString())
    rows = np.broadcast_to(logits, (len(images), 3))
    return dict(zip(OUTPUT_NAMES, session.run([*OUTPUT_NAMES], {"image": images, "logits": rows}), strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 32, 32), (3, 7, 5), (3, 1, 4), (1, 4, 1), (1, 1, 1), (3, 96, 128)])
def test_what_float64_refuses_is_refused_and_hardly_anything_else(shape: tuple[int, int, int]) -> None:
    rng = np.random.default_rng(sum(shape))
    count = 100 if shape[-1] > 100 else 2000
    guard = fit_guard(images_of(shape, 300, rng), level=0.2)
    some = images_of(shape, count, rng)
    images = np.concatenate([some, around_guard(guard, some, rng), rng.random((20, *shape), dtype=np.float32)])
    out, distance = certify(guard, images), guard.distance(images)
    refused = out["reason"] == Reason.UNLIKE
    lost = 2 * guard_margin(guard, roundoff=ROUNDOFF) + 1e-5 * guard.threshold
    assert refused[distance > guard.threshold].all()
    assert not refused[distance <= guard.threshold - lost].any()
    assert 10 < refused.sum() < len(images) - 10
    assert lost < 0.01 * guard.threshold
    assert (np.abs(distance - guard.threshold) < 1e-5 * guard.threshold).sum() > 0.2 * count
    assert (out["certified_radius"][refused] == 0).all()
    assert (out["l_bound"][refused] == 0).all()
    assert (out["certified_radius"][~refused] > 0).all()
    assert (out["reason"][~refused] == Reason.CALIBRATED).all()
    assert (out["label"] == 0).all()
    assert (out["nominal_radius"] > 0).all()


def test_each_image_has_its_reason() -> None:
    rng = np.random.default_rng(0)
    guard = fit_guard(images_of(SHAPE, 300, rng))
    like = images_of(SHAPE, 1, rng)
    invalid, unlike = np.full_like(like, np.nan), rng.integers(0, 2, like.shape).astype(np.float32)
    images = np.concatenate([like, like, unlike, unlike, invalid])
    logits = np.stack([SURE, 0 * SURE, SURE, 0 * SURE, SURE])
    out = certify(guard, images, logits)
    assert out["reason"].tolist() == [0, 3, 4, 4, 2]
    assert (out["certified_radius"] > 0).tolist() == [True, False, False, False, False]
    bare = certificate_graph(num_classes=3, sigma=0.25)
    model = helper.make_model(bare, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    reason = open_session(model.SerializeToString()).run(["reason"], {"image": images, "logits": logits})[0]
    assert reason.tolist() == [1, 1, 1, 1, 2]


def test_a_distance_that_is_no_number_is_refused() -> None:
    guard = fit_guard(images_of(SHAPE, 300, np.random.default_rng(0)))
    model = helper.make_model(
        certificate_graph(num_classes=3, sigma=0.25, guard=guard),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
    )
    model = with_map(model, MAP, guard)
    for tensor in model.graph.initializer:
        if tensor.name == "guard_center":
            tensor.CopyFrom(numpy_helper.from_array(np.full_like(numpy_helper.to_array(tensor), np.nan), tensor.name))
    like = images_of(SHAPE, 5, np.random.default_rng(1))
    rows = np.broadcast_to(SURE, (5, 3))
    radius, reason = open_session(model.SerializeToString()).run(
        ["certified_radius", "reason"], {"image": like, "logits": rows}
    )
    assert radius.tolist() == [0] * 5
    assert reason.tolist() == [Reason.UNLIKE] * 5


@pytest.mark.parametrize("resize", [None, 12])
def test_a_graph_on_bytes_compares_what_its_network_sees(tmp_path: Path, resize: int | None) -> None:
    version_dir = write_tiny_model(tmp_path, calibrated=False)
    take_uint8(version_dir, resize=resize)
    served = onnx.load(version_dir / GRAPH_NAME)
    rng = np.random.default_rng(0)
    size = (30, 16) if resize else (8, 8)
    pictures = rng.integers(0, 256, (400, *size, 1), dtype=np.uint8)
    pixels = open_session(pixels_graph(served).SerializeToString()).run(None, {"image": pictures})[0]
    guard = fit_guard(pixels, level=0.1)
    out = run(open_session(with_map(served, MAP, guard).SerializeToString()), pictures)
    refused = out["reason"] == Reason.UNLIKE
    clear = np.abs(guard.distance(pixels) - guard.threshold) > 1e-3 * guard.threshold
    np.testing.assert_array_equal(refused[clear], guard.refuses(pixels)[clear])
    assert 0 < refused.sum() < 100
    assert clear.mean() > 0.98
    flat = run(open_session(with_map(served, MAP, guard).SerializeToString()), np.zeros((3, *size, 1), np.uint8))
    assert flat["reason"].tolist() == [Reason.UNLIKE] * 3


@pytest.mark.parametrize("name", ["digits", "cifar10"])
def test_a_graph_without_guard_or_reasons_gets_both_and_answers_the_rest_as_before(name: str) -> None:
    """Graphs of former versions have six outputs and no guard; the network and σ stay to the last bit."""
    served = onnx.load(max((COMMITTED / name).glob("[0-9]*")) / GRAPH_NAME)
    shape = tuple(dim.dim_value for dim in served.graph.input[0].type.tensor_type.shape.dim[1:])
    images = images_of(shape, 300, np.random.default_rng(0))  # type: ignore[arg-type]
    guard = fit_guard(images[:200], level=0.1)
    former, again = without_reasons(served), with_map(served, MAP, guard)
    assert [output.name for output in again.graph.output] == [*OUTPUT_NAMES]
    assert serves_guard(again.graph, guard, roundoff=ROUNDOFF)
    assert not serves_guard(again.graph, None, roundoff=ROUNDOFF)
    assert served_sigma(again.graph) == served_sigma(served.graph)
    assert with_map(former, MAP, guard).SerializeToString() == again.SerializeToString()
    assert with_map(again, MAP, guard).SerializeToString() == again.SerializeToString()
    assert not serves_guard(with_map(again, MAP).graph, guard, roundoff=ROUNDOFF)
    before = run(open_session(with_map(served, MAP).SerializeToString()), images[200:])
    after = run(open_session(again.SerializeToString()), images[200:])
    for output in ("label", "probabilities", "top_k", "nominal_radius"):
        np.testing.assert_array_equal(after[output], before[output])
    refused = guard.refuses(images[200:])
    assert 0 < refused.sum() < 100
    np.testing.assert_array_equal(after["certified_radius"], np.where(refused, 0, before["certified_radius"]))


def without_reasons(served: onnx.ModelProto) -> onnx.ModelProto:
    """The graph as former versions wrote it: without the output `reason` and what leads to it alone."""
    model = onnx.ModelProto()
    model.CopyFrom(served)
    for part in (model.graph.output, model.graph.initializer):
        kept = [value for value in part if not value.name.startswith("reason")]
        del part[:]
        part.extend(kept)
    nodes = [node for node in model.graph.node if not {*node.output} & {"reason", "guarded", "usual", "positive"}]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return model


def test_inverted_digits_have_no_radius_any_more() -> None:
    """What the guard is for: the committed model gave a third of them a radius, and most of these overclaimed."""
    served = onnx.load(max((COMMITTED / "digits").glob("[0-9]*")) / GRAPH_NAME)
    digits = np.random.default_rng(0).permutation(load_digits().images.astype(np.float32)[:, None] / 16)
    guard = fit_guard(digits[:400])
    confident = shifted_map(-0.5, 2.0)  # wherever the class has more than half of the probability
    bare, guarded = (open_session(with_map(served, confident, on).SerializeToString()) for on in (None, guard))
    for kind, share in ((1 - digits[400:], 0.0), (0.5 + (digits[400:] - 0.5) / 2, 0.0), (digits[400:] / 2, 0.05)):
        assert (run(bare, kind)["certified_radius"] > 0).mean() > 0.2
        assert (run(guarded, kind)["certified_radius"] > 0).mean() <= share
    honest = [(run(session, digits[400:])["certified_radius"] > 0).sum() for session in (bare, guarded)]
    assert honest[1] >= 0.99 * honest[0] > 0
