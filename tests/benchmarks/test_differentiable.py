"""The torch form of a graph gives what ONNX Runtime gives, and gradients; what it does not know it refuses by name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import helper
from tiny_model import random_images, shifted_map, write_tiny_model

from heatserve.benchmarks.attack.differentiable import Logits, TorchGraph
from heatserve.certification.guard import fit_guard
from heatserve.export.card import GRAPH_NAME
from heatserve.export.contract import Reason
from heatserve.export.graph.build import certified_graph, logits_graph, with_map
from heatserve.export.runtime.session import GraphError, open_session, run
from heatserve.training.architectures import build_network

OUTPUTS = ("label", "probabilities", "top_k", "l_bound", "certified_radius", "nominal_radius", "reason")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("architecture", "shape"),
    [
        ("digits_cnn", (1, 8, 8)),
        ("cifar_resnet20", (3, 32, 32)),
        ("resnet18", (3, 32, 32)),
        ("timm:test_vit?depth=1&embed_dim=16&img_size=32&num_heads=2", (3, 32, 32)),
    ],
)
def test_it_computes_what_onnx_runtime_serves(architecture: str, shape: tuple[int, int, int]) -> None:
    torch.manual_seed(0)
    channels = shape[0]
    network = build_network(
        architecture, num_classes=10, input_shape=shape, mean=(0.5,) * channels, std=(0.2,) * channels
    )
    logits = logits_graph(network, input_shape=shape)
    guard = fit_guard(torch.rand(200, *shape).numpy())
    graph = with_map(certified_graph(logits, sigma=0.25), shifted_map(0.01, 2.0), guard)
    images = torch.rand(4, *shape)
    images[2, 0, 0, 0] = 1.5  # not an image
    images[3] = 0  # unlike the others
    expected = run(open_session(graph.SerializeToString()), images.numpy())
    assert expected["reason"].tolist()[2:] == [Reason.INVALID, Reason.UNLIKE]
    for name, found in zip(OUTPUTS, TorchGraph(graph, OUTPUTS)(images), strict=True):
        np.testing.assert_allclose(found.numpy(), expected[name], rtol=1e-4, atol=1e-5, err_msg=name)
    with torch.no_grad():
        torch.testing.assert_close(Logits(logits)(images), network.eval()(images), rtol=1e-3, atol=1e-4)


def test_its_gradient_is_that_of_the_graph(tmp_path: Path) -> None:
    graph = onnx.load(write_tiny_model(tmp_path) / GRAPH_NAME)
    images = random_images(20)
    point = torch.from_numpy(images).requires_grad_()
    (radius,) = TorchGraph(graph, ["nominal_radius"])(point)
    (gradient,) = torch.autograd.grad(radius.sum(), point)
    inside = (radius > 0.02) & (radius < 0.7)
    assert inside.any()
    step = 1e-2 * gradient / gradient.flatten(1).norm(dim=1).clamp_min(1e-9).view(-1, 1, 1, 1)
    session = open_session(graph.SerializeToString())
    moved = [run(session, (point + sign * step).detach().clamp(0, 1).numpy())["nominal_radius"] for sign in (1, -1)]
    assert (moved[0] > moved[1])[inside.numpy()].all()


def test_an_operator_without_a_gradient_is_named(tmp_path: Path) -> None:
    graph = onnx.load(write_tiny_model(tmp_path) / GRAPH_NAME)
    with pytest.raises(GraphError, match="expected a graph that computes nothing_like_it"):
        TorchGraph(graph, ["nothing_like_it"])
    graph.graph.node.append(helper.make_node("Hardmax", ["logits"], ["hard"]))
    TorchGraph(graph, ["logits"])
    with pytest.raises(GraphError, match="no gradient for the operator Hardmax"):
        TorchGraph(graph, ["hard"])
