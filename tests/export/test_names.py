"""Names of the network are apart from the certificate's in every served graph, whatever a network calls its values."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper, parser
from tiny_model import random_images, shifted_map

from heatserve.certification.guard import fit_guard
from heatserve.export.graph.build import certified_graph, plain_graph, uint8_input, with_map
from heatserve.export.graph.certificate import certificate_graph, served_sigma, serves_map
from heatserve.export.graph.guard import serves_guard
from heatserve.export.graph.names import NETWORK_PREFIX, subgraphs, with_network_prefix
from heatserve.export.runtime.session import as_levels, open_session, run

SIGMA = 0.25
GUARD = fit_guard(random_images(100, seed=3))
ROUNDOFF = 2.0**-24

_BRANCHING = """
<ir_version: 9, opset_import: ["" : 18]>
network (float[N,1,8,8] image) => (float[N,10] logits) <float one = {1}> {
    flat = Flatten<axis = 1>(image)
    softmax = MatMul(flat, WEIGHTS)
    total = ReduceSum<keepdims = 0>(softmax)
    like = Greater(total, one)
    logits = If(like) <
        then_branch = positive () => (float[N,10] probabilities) { probabilities = Mul(softmax, one) },
        else_branch = negative () => (float[N,10] label) {
            brightness = ReduceMin<keepdims = 0>(image)
            label = Add(softmax, brightness)
        }
    >
}
"""
"""A network whose values, constants and subgraphs are named as those of the certificate, the guard and UINT8 input."""


def branching(weights_name: str) -> onnx.ModelProto:
    model = parser.parse_model(_BRANCHING)
    model.graph.node[1].input[1] = weights_name
    weights = np.random.default_rng(0).normal(scale=0.3, size=(64, 10)).astype(np.float32)
    model.graph.initializer.append(numpy_helper.from_array(weights, weights_name))
    onnx.checker.check_model(model, full_check=True)
    return model


def names_of(model: onnx.ModelProto) -> set[str]:
    names = {tensor.name for tensor in model.graph.initializer}
    for graph in subgraphs(model.graph):
        names |= {name for node in graph.node for name in (*node.input, *node.output, node.name)}
    return names - {""}


def softmax_of(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    powers = np.exp(logits.astype(np.float64) - logits.max(1, keepdims=True))
    shares: NDArray[np.float64] = powers / powers.sum(1, keepdims=True)
    return shares


@pytest.mark.parametrize("weights_name", ["from_erf", "guard_center", "pixels"])
@pytest.mark.parametrize("takes", ["FP32", "UINT8"])
def test_a_network_may_use_every_name_of_the_certificate(weights_name: str, takes: str) -> None:
    logits = branching(weights_name)
    images = np.rint(random_images(20) * 255).astype(np.float32) / np.float32(255)
    images[:10] *= 0  # the other branch, for batches of these alone
    certified = certified_graph(uint8_input(logits) if takes == "UINT8" else logits, sigma=SIGMA)
    calibrated = with_map(certified, shifted_map(0.05, 3.0), GUARD)
    session = open_session(calibrated.SerializeToString())
    for part in (images[:10], images[10:]):
        expected = open_session(logits.SerializeToString()).run(["logits"], {"image": part})[0]
        answers = run(session, part)
        np.testing.assert_allclose(answers["probabilities"], softmax_of(expected), atol=1e-6)
        plain = open_session(plain_graph(logits).SerializeToString()).run(["probabilities"], {"image": part})[0]
        np.testing.assert_array_equal(plain, answers["probabilities"])
    assert served_sigma(calibrated.graph) == pytest.approx(SIGMA)
    assert serves_map(calibrated.graph, shifted_map(0.05, 3.0), num_classes=10)
    assert serves_guard(calibrated.graph, GUARD, roundoff=ROUNDOFF)


def test_every_name_of_the_network_has_the_prefix_once() -> None:
    logits = branching("weights")
    once = with_network_prefix(logits)
    inside = names_of(once) - {"image", "logits"}
    assert inside == {NETWORK_PREFIX + name for name in names_of(logits) - {"image", "logits"}}
    assert with_network_prefix(once).SerializeToString() == once.SerializeToString()
    assert names_of(logits) & names_of(certified_graph(logits, sigma=SIGMA)) == {
        *(names_of(logits) & {node.output[0] for node in certificate_graph(num_classes=10, sigma=SIGMA).node}),
        *(names_of(logits) & {tensor.name for tensor in certificate_graph(num_classes=10, sigma=SIGMA).initializer}),
        "image",
        "logits",
    }


def test_a_network_with_some_names_that_begin_with_the_prefix_keeps_all_apart() -> None:
    logits = branching(f"{NETWORK_PREFIX}one")  # beside the constant `one`
    served = open_session(certified_graph(logits, sigma=SIGMA).SerializeToString())
    images = random_images(5)
    expected = open_session(logits.SerializeToString()).run(["logits"], {"image": images})[0]
    np.testing.assert_allclose(run(served, images)["probabilities"], softmax_of(expected), atol=1e-6)


def test_the_input_of_a_uint8_graph_keeps_its_names() -> None:
    served = certified_graph(uint8_input(branching("pixels"), resize=8), sigma=SIGMA)
    assert {"pixels", "window", "shorter", f"{NETWORK_PREFIX}pixels"} <= names_of(served)
    pictures = as_levels(np.rint(random_images(3) * 255).astype(np.float32) / np.float32(255))
    answers = run(open_session(served.SerializeToString()), pictures)
    assert (answers["label"] >= 0).all()
