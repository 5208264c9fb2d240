"""A network becomes a graph that answers as it does, at every size of batch, or a reason that names what is wrong."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from heatserve.benchmarks.networks.refused import REFUSED, REFUSED_SHAPE
from heatserve.export.exporting import export_checkpoint
from heatserve.export.graph.build import certified_graph, logits_graph, plain_graph
from heatserve.export.graph.tracing import NotExportableError
from heatserve.export.repository.layout import version_dirs
from heatserve.export.runtime.exact import BATCHES, TOLERANCE, Exactness, compare_with_torch
from heatserve.training.architectures import build_network
from heatserve.training.checkpoint import CheckpointMetadata, save_checkpoint

_ONE_TENSOR = (
    r"expected one tensor of logits \[N, K\], got {}: float32 \[2, 10\], .*float32 \[2, 3\]; return the logits"
)
_OTHER_BATCH = r"answers an image otherwise in a batch of \d+ than in one of 64, by \d\.\de-0\d in a probability"
REASONS = {
    "a branch on the pixels": r"by a number that is computed from the pixels.*\(refused\.py, line \d+: if x\.mean\(\)",
    "a loop, as often as the pixels say": r"by a number that is computed from the pixels.*\(refused\.py, line \d+\)",
    "a branch on the size of the batch": "works for the batch of its example only",
    "a loop over the images": "works for the batch of its example only",
    "a constant size of batch": r"works for the batch of its example only: .* write reshape\(x\.shape\[0\], …\)",
    "several outputs": _ONE_TENSOR.format("tuple of 2"),
    "outputs by name": r"got dict with logits: float32 \[2, 10\], features: float32 \[2, 3\]; return the logits alone",
    "complex logits": r"expected logits float32 \[N, K\] .* got complex64 \[2, 10\]",
    "an operator that ONNX lacks": "ONNX has no operator for aten._linalg_svd; compute it in another way",
    "random numbers": _OTHER_BATCH,
    "a maximum over all images of the batch": _OTHER_BATCH,
    "another answer while it is traced": r"expected probabilities within 1e-05, got differences of \d\.\de-0\d in",
}


def exported(network: nn.Module) -> Exactness:
    logits = logits_graph(network, input_shape=REFUSED_SHAPE)
    found = compare_with_torch(network, certified_graph(logits, sigma=0.25))
    found.require()
    return found


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_be_a_graph_is_refused_by_name(what: str, capfd: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    with pytest.raises(NotExportableError, match=REASONS[what]):
        exported(REFUSED[what]().eval())
    assert capfd.readouterr() == ("", ""), "torch's exporter remarks on itself"


class _Linear(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3 * 8 * 8, 10)


class _Attention(_Linear):
    """Names of values as the certificate has them, and a choice by torch.where, which a graph can make."""

    def forward(self, x: Tensor) -> Tensor:
        softmax = torch.softmax(x, -1)
        total = softmax.sum((1, 2, 3), keepdim=True)
        x = torch.where(x.mean((1, 2, 3), keepdim=True) > 0.5, 1 - x, softmax * total)
        logits: Tensor = self.linear(x.flatten(1))
        return logits


def test_a_network_that_names_its_values_as_the_certificate_does_is_exact() -> None:
    torch.manual_seed(0)
    found = exported(_Attention().eval())
    assert tuple(found.errors) == BATCHES == (1, 2, 7, 64)
    assert max(found.errors.values()) <= TOLERANCE == found.allowed


class _Flattened(_Linear):
    """Flattens in the way that an expression about the batch `x` says."""

    def __init__(self, expression: str) -> None:
        super().__init__()
        self.expression = expression

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.linear(eval(self.expression, {"x": x}))
        return logits


def test_what_the_guide_advises_about_the_batch_can_be_a_graph() -> None:
    guide = (Path(__file__).parents[2] / "docs" / "guide" / "export.md").read_text()
    (advice,) = re.findall(r"`its forward works for the batch of its example only` \|(.*)\|", guide)
    expressions = re.findall(r"`(.+?)`", advice)
    assert len(expressions) == 2
    for expression in expressions:
        assert exported(_Flattened(expression.replace("…", "-1")).eval()).errors
    with pytest.raises(NotExportableError, match=REASONS["a constant size of batch"]):
        exported(_Flattened("x.reshape(len(x), -1)").eval())


class _Failing(_Linear):
    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.linear(x[:, :2].flatten(1))
        return logits


class _NotANumber(_Linear):
    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.linear(x.flatten(1)) / 0
        return logits


class _BatchStatistics(_Linear):
    """Batch normalisation without statistics of its own: torch itself fails on one image."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(10, track_running_stats=False)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.norm(self.linear(x.flatten(1)))
        return logits


class _Large(nn.Module):
    """More weights than a graph can hold, without their memory."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(2**15, 2**15, device="meta")


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (_Failing, r"images of shape \[2, 3, 8, 8\], but its forward fails: RuntimeError: mat1 and mat2"),
        (_NotANumber, "expected numbers for images of noise, got NaN or infinite logits"),
        (_BatchStatistics, r"images of shape \[1, 3, 8, 8\], but its forward fails: ValueError: Expected more than 1"),
        (_Large, r"expected at most 1\.98 GiB of weights, all that one graph can hold, got 4\.00 GiB"),
    ],
)
def test_a_network_that_cannot_answer_is_refused(network: type[nn.Module], message: str) -> None:
    with pytest.raises(NotExportableError, match=message):
        exported(network().eval())


class _Waves(_Linear):
    """Enlarges a change of any image, so that what rounding explains is about alike on all processors."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.sin(1000 * self.linear(x.flatten(1)))


def test_what_rounding_explains_is_allowed_and_no_more() -> None:
    """Of a network that enlarges a change of its pixels, torch's own probabilities move where each moves by a bit."""
    for rounding, allowed in ((1e-7, TOLERANCE), (1e-5, 4e-5), (0.3, 1e-3)):
        Exactness({64: allowed}, rounding).require()
        with pytest.raises(NotExportableError, match="its graph answers otherwise than torch does"):
            Exactness({64: 1.01 * allowed}, rounding).require()
    torch.manual_seed(0)
    found = exported(_Waves().eval())
    assert found.allowed == 4 * found.rounding > TOLERANCE


def test_a_graph_with_other_weights_than_the_network_is_not_exact() -> None:
    torch.manual_seed(0)
    network = _Attention().eval()
    graph = plain_graph(logits_graph(network, input_shape=REFUSED_SHAPE))
    (bias,) = (tensor for tensor in graph.graph.initializer if tensor.name.endswith("bias"))
    moved = numpy_helper.to_array(bias) + np.eye(10, dtype=np.float32)[0] * np.float32(1e-3)
    bias.CopyFrom(numpy_helper.from_array(moved, bias.name))
    with pytest.raises(NotExportableError, match=r"within 1e-05, got differences of .* in a batch of 64"):
        compare_with_torch(network, graph).require()


def test_an_export_that_is_not_exact_publishes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The defect is put where an export calls logits_graph, which has no reason to be an argument of it."""
    network = build_network("digits_cnn", num_classes=10, input_shape=(1, 8, 8), mean=(0.5,), std=(0.5,))
    metadata = CheckpointMetadata(
        architecture="digits_cnn",
        num_classes=10,
        class_names=tuple("0123456789"),
        input_shape=(1, 8, 8),
        mean=(0.5,),
        std=(0.5,),
        method="heat",
        sigma=0.25,
        dataset="digits",
        seed=0,
        epochs=1,
        hyperparameters={},
        parent_sha256=None,
        versions={},
        date="2020-01-01",
    )
    save_checkpoint(tmp_path / "v.safetensors", network, metadata)

    def with_another_scale(network: nn.Module, *, input_shape: tuple[int, int, int]) -> onnx.ModelProto:
        model = logits_graph(network, input_shape=input_shape)
        (scale,) = (tensor for tensor in model.graph.initializer if tensor.name.endswith("linear.weight"))
        scale.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(scale) * np.float32(1.5), scale.name))
        return model

    monkeypatch.setattr("heatserve.export.runtime.exact.logits_graph", with_another_scale)
    with pytest.raises(NotExportableError, match="its graph answers otherwise than torch does"):
        export_checkpoint(tmp_path / "v.safetensors", repository=tmp_path / "models", name="v")
    assert not version_dirs(tmp_path / "models" / "v")
