"""The audit of a deterministic certificate proves it again, refuses what is no proof, and attacks."""

from __future__ import annotations

import base64
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from lipschitz_models import change_constant, rewrite, write_lipschitz_checkpoint
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from typer.testing import CliRunner

from heatserve.benchmarks.attack import autoattack
from heatserve.benchmarks.attack.autoattack import AutoAttackL2, Effort
from heatserve.certification.audit import AuditError
from heatserve.cli import app
from heatserve.export.audit.audit import audit_model
from heatserve.export.audit.proven.audit import ProvenAudit, audit_proven
from heatserve.export.audit.proven.bound import prove_again
from heatserve.export.audit.proven.crafted import Found
from heatserve.export.audit.proven.page import proven_page
from heatserve.export.audit.proven.pieces import UnprovenError
from heatserve.export.audit.proven.reading import read_graph
from heatserve.export.calibration.sampling import sample
from heatserve.export.card import GRAPH_NAME
from heatserve.export.exporting import export_checkpoint
from heatserve.export.images import LabelledImages
from heatserve.export.repository.layout import ModelVersion, open_model
from heatserve.export.runtime.session import open_session, run
from heatserve.export.variants import Variant

SHORT = Effort(steps=8, targets=2, queries=30)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_lipschitz_checkpoint(tmp_path_factory.mktemp("audited") / "digits.safetensors")


@pytest.fixture(scope="module")
def model(checkpoint: Path) -> ModelVersion:
    return export_checkpoint(checkpoint, repository=checkpoint.parent / "models", name="digits")


@pytest.fixture(scope="module")
def images() -> LabelledImages:
    drawn = sample("digits", "test", root=None, count=12, seed=0)
    assert isinstance(drawn, LabelledImages)
    return drawn


@pytest.fixture
def copied(model: ModelVersion, tmp_path: Path) -> ModelVersion:
    shutil.copytree(model.path.parents[1], tmp_path / "models")
    return open_model(tmp_path / "models", "digits")


def attacked(model: ModelVersion, images: LabelledImages, **options: Any) -> ProvenAudit:
    return audit_proven(
        model, images, attacker=lambda network: AutoAttackL2.on(network, seed=0, effort=SHORT), starts=2, **options
    )


def test_a_sound_model_passes_and_its_numbers_are_the_cards(model: ModelVersion, images: LabelledImages) -> None:
    audit = attacked(model, images)
    bound, card = audit.bound, model.card.lipschitz
    assert audit.verdict.passed, audit.verdict.reasons
    assert bound is not None
    assert card is not None
    assert bound.logits_error == pytest.approx(card.logits_error, rel=1e-6)
    assert bound.slack_needed < bound.slack == card.slack
    for layer, stated in zip(bound.layers, card.layers, strict=True):
        assert layer.norm_at_least <= stated.norm <= layer.norm_at_most * (1 + 1e-6) <= layer.norm_at_least * 1.001
    assert [search.start for search in audit.searches] == [
        "test images",
        "raised radius",
        "random pixels",
        "random, raised",
        "black and white",
        "inverted",
    ]
    assert sum(search.positive for search in audit.searches) >= 15
    assert all(search.successes == 0 for search in audit.searches)
    nearest = [search.nearest for search in audit.searches if search.nearest is not None]
    assert nearest, "no attack found another class anywhere, so that none can be said to work"
    assert min(nearest) > 1
    raised, test = audit.searches[1], audit.searches[0]
    assert raised.largest_radius > test.largest_radius
    page = proven_page(audit)
    assert "PASS: digits, version 1" in page
    assert "None" not in page


def test_a_network_is_read_from_bytes_whatever_its_values_are_called(model: ModelVersion) -> None:
    graph = onnx.load(model.path / GRAPH_NAME)
    inside = {name for node in graph.graph.node for name in [*node.output, *node.input]}
    kept = {value.name for value in [*graph.graph.input, *graph.graph.output]}
    names = {name: f"v{index}" for index, name in enumerate(sorted(inside - kept))}
    for node in graph.graph.node:
        node.name = ""
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
    for tensor in graph.graph.initializer:
        tensor.name = names.get(tensor.name, tensor.name)
    onnx.checker.check_model(graph)
    renamed, original = (read_graph(content) for content in (graph.SerializeToString(), _bytes(model)))
    assert prove_again(renamed) == prove_again(original)


def _bytes(model: ModelVersion) -> bytes:
    return (model.path / GRAPH_NAME).read_bytes()


def _node(graph: onnx.ModelProto, kind: str, place: int = 0) -> onnx.NodeProto:
    found: list[onnx.NodeProto] = [node for node in graph.graph.node if node.op_type == kind]
    return found[place]


def _last(graph: onnx.ModelProto, kind: str) -> onnx.NodeProto:
    return _node(graph, kind, -1)


def _replace_input(graph: onnx.ModelProto, node: onnx.NodeProto, place: int, value: NDArray[Any]) -> None:
    name = f"{node.output[0]}.replaced"
    graph.graph.initializer.append(numpy_helper.from_array(value, name))
    node.input[place] = name


def _kernel(graph: onnx.ModelProto) -> NDArray[Any]:
    """The first one, [k², C, C]."""
    return numpy_helper.to_array(next(tensor for tensor in graph.graph.initializer if tensor.name.endswith(".kernel")))


def _mix_batch(graph: onnx.ModelProto) -> None:
    next(item for item in _node(graph, "Transpose").attribute if item.name == "perm").ints[:] = [1, 0, 2, 3]


def _overlapping_pairs(graph: onnx.ModelProto) -> None:
    """The maximum and the minimum of a half and itself, which is twice as long."""
    for kind in ("Max", "Min"):
        node = _node(graph, kind)
        node.input[1] = node.input[0]


def _add_a_layer(graph: onnx.ModelProto) -> None:
    """Twice the logits: every radius is twice as large."""
    reshape = next(node for node in graph.graph.node if node.output[0] == "logits")
    reshape.output[0] = "half"
    place = [node.output[0] for node in graph.graph.node].index("half")
    graph.graph.node.insert(place + 1, helper.make_node("Add", ["half", "half"], ["logits"]))


def _attribute(node: onnx.NodeProto, name: str, value: Any) -> None:
    kept = [item for item in node.attribute if item.name != name]
    del node.attribute[:]
    node.attribute.extend([*kept, helper.make_attribute(name, value)])


def _take_a_row_twice(graph: onnx.ModelProto) -> None:
    """The first row before all others, the last one left out: a slice from before the first row, backward, has one."""
    rows = _node(graph, "Transpose")
    out, rows.output[0] = rows.output[0], "rows"
    ints = {"before": -100, "to_first": np.iinfo(np.int64).min, "back": -1, "top": 0, "height": 8, "down": 1, "side": 1}
    for name, value in ints.items():
        graph.graph.initializer.append(numpy_helper.from_array(np.array([value], np.int64), name))
    added = [
        helper.make_node("Slice", ["rows", "before", "to_first", "side", "back"], ["one"]),
        helper.make_node("Concat", ["one", "rows"], ["all"], axis=1),
        helper.make_node("Slice", ["all", "top", "height", "side", "down"], [out]),
    ]
    for node in reversed(added):
        graph.graph.node.insert(1, node)


def _swap(node: onnx.NodeProto) -> None:
    node.input[:] = [node.input[1], node.input[0], *node.input[2:]]


UNPROVEN: dict[str, tuple[Callable[[onnx.ModelProto], object], str]] = {
    "a longer step": (
        lambda g: change_constant(g, ".step", lambda step: np.array(float(np.float32(step * 1.01)))),
        "layer 1: expected a norm of at most .* for its step",
    ),
    "a step that float32 rounds": (
        lambda g: change_constant(g, ".step", lambda step: step * (1 - 1e-9)),
        "step: expected a number that float32 holds",
    ),
    "a larger kernel": (
        lambda g: change_constant(g, ".kernel", lambda kernel: kernel * np.float16(1.25)),
        "layer 1: expected a norm of at most",
    ),
    "a second matrix that is another": (
        lambda g: _replace_input(g, _node(g, "MatMul", 1), 1, np.eye(len(_kernel(g)[0]))),
        "layer 1: expected the second matrix to be the first one transposed",
    ),
    "less slack than rounding needs": (
        lambda g: change_constant(g, "slack", lambda _: np.array(1e-8)),
        "slack: expected at least",
    ),
    "larger radii": (
        lambda g: change_constant(g, "per_margin", lambda _: np.array(0.5**0.5 * (1 + 1e-12))),
        r"expected margins times at most \(1 - 2\^-50\)/√2",
    ),
    "radii that float32 rounds up": (
        lambda g: change_constant(g, "rounds", lambda _: np.array(1.0)),
        r"expected radii times at most 1 - 2\^-23",
    ),
    "a softmax that two logits are equal in": (
        lambda g: change_constant(g, "per_temperature", lambda _: np.array(0.999)),
        r"expected logits times 1 to 2\^20 before softmax",
    ),
    "a softmax that overflows for an image and not for the next": (
        lambda g: change_constant(g, "per_temperature", lambda _: np.array(np.finfo(np.float64).max)),
        r"expected logits times 1 to 2\^20 before softmax",
    ),
    "a radius of another class": (
        lambda g: change_constant(g, "best_two", lambda _: np.array([3])),
        "certificate: expected best_two to be",
    ),
    "the margin the other way round": (
        lambda g: _swap(next(node for node in g.graph.node if node.output[0] == "margin")),
        "certificate: expected",
    ),
    "a radius without a check of pixels": (
        lambda g: _replace_input(
            g, next(n for n in g.graph.node if n.output[0] == "not_above"), 1, np.array(2, np.float32)
        ),
        "certificate: expected a constant as one|certificate: expected one to be",
    ),
    "a batch that mixes": (_mix_batch, "Transpose that writes"),
    "pairs that share numbers": (_overlapping_pairs, "expected two halves|expected pairs without"),
    "twice the logits": (_add_a_layer, "Add that writes .*: expected a product with weights, and a bias"),
    "an operator that is not known": (
        lambda g: setattr(_node(g, "Relu"), "op_type", "Softplus"),
        "Softplus that writes .*: expected one of Add, Cast",
    ),
    "padding with ones": (
        lambda g: _node(g, "Pad").input.append(_constant(g, np.array(1.0))),
        "Pad that writes .*: expected zeros around every axis",
    ),
    "padding that reflects": (lambda g: _attribute(_node(g, "Pad", 1), "mode", "reflect"), "expected zeros around"),
    "a slice that numpy reads otherwise": (_take_a_row_twice, "expected steps forward, or a whole axis backward"),
    "padding without an end": (
        lambda g: _replace_input(g, _node(g, "Pad", 1), 1, np.array([0, 0, 0, 0, 0, 10**5, 10**5, 0])),
        "expected at most 268,435,456 numbers of an image",
    ),
    "a network in float32": (lambda g: _attribute(_node(g, "Cast"), "to", 1), "expected a cast to float64"),
    "a softmax of less": (lambda g: _attribute(_last(g, "Softmax"), "axis", 0), "certificate: expected p64 to be made"),
    "another opset": (lambda g: setattr(g.opset_import[0], "version", 19), "expected operators of ONNX's opset 18"),
}


def _constant(graph: onnx.ModelProto, value: NDArray[Any]) -> str:
    graph.graph.initializer.append(numpy_helper.from_array(value, "added"))
    return "added"


@pytest.mark.parametrize("what", UNPROVEN)
def test_what_is_no_proof_is_refused_with_a_sentence(what: str, model: ModelVersion) -> None:
    change, problem = UNPROVEN[what]
    graph = onnx.load(model.path / GRAPH_NAME)
    change(graph)
    with pytest.raises(UnprovenError, match=problem):
        prove_again(read_graph(graph.SerializeToString()))


def test_a_forged_kernel_fails_and_the_attack_finds_an_image(copied: ModelVersion, images: LabelledImages) -> None:
    """Kernels that are three times as large, with the steps of the others: only the audit does not believe the card."""

    def enlarge(graph: onnx.ModelProto) -> None:
        for tensor in graph.graph.initializer:
            if tensor.name.endswith(".kernel"):
                tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float16(3), tensor.name))

    rewrite(copied, enlarge)
    forged = open_model(copied.path.parents[1], "digits")
    audit = attacked(forged, images)
    assert not audit.verdict.passed
    assert audit.bound is None
    assert audit.verdict.reasons[0].startswith("Not proven: layer 1: expected a norm of at most")
    assert any("within their served radius" in reason for reason in audit.verdict.reasons)
    assert audit.counterexamples
    session = open_session(forged.path / GRAPH_NAME)
    for found in json.loads(audit.to_json())["counterexamples"]:
        image, other = (
            np.frombuffer(base64.b64decode(found[name]), "<f4").reshape(1, *found["shape"])
            for name in ("image", "other_image")
        )
        served = run(session, np.concatenate([image, other]))
        distance = np.linalg.norm(image.astype(np.float64) - other)
        assert distance == pytest.approx(found["distance"])
        assert distance <= served["certified_radius"][0]
        assert served["label"].tolist() == [found["label"], found["other_label"]]
        assert found["label"] != found["other_label"]
    assert "FAIL: digits" in proven_page(audit)


def test_a_card_of_another_graph_fails(copied: ModelVersion, images: LabelledImages) -> None:
    def smaller_norms(fields: dict[str, Any]) -> None:
        for layer in fields["lipschitz"]["layers"]:
            layer["norm"] *= 0.9

    rewrite(copied, lambda _: None, smaller_norms)
    audit = attacked(open_model(copied.path.parents[1], "digits"), images)
    assert not audit.verdict.passed
    assert "Layer 1: the card has a norm of at most" in audit.verdict.reasons[0]
    assert audit.bound is not None


class _Teleporter:
    """Claims that another image of another class is near, and one that is too far away, and one that is no image."""

    name = "teleporter"
    batch = 5
    processes = 1

    def __init__(self) -> None:
        self.asked = 0

    def attack(
        self, images: NDArray[np.float32], labels: NDArray[np.int64], radii: NDArray[np.float64]
    ) -> Iterator[Found]:
        self.asked += len(images)
        rows = np.arange(len(images))
        yield Found("far", rows, np.roll(images, 1, axis=0))
        yield Found("nothing", rows, np.full_like(images, np.nan))
        yield Found("outside", rows, images + 2)
        yield Found("itself", rows, images)
        assert (radii > 0).all()
        assert (labels >= 0).all()

    def raise_radius(self, images: NDArray[np.float32], labels: NDArray[np.int64]) -> NDArray[np.float32]:
        assert len(labels) == len(images)
        return images


def test_the_word_of_an_attack_is_not_taken_and_what_was_attacked_is_kept(
    model: ModelVersion, images: LabelledImages, tmp_path: Path
) -> None:
    def audited() -> tuple[int, ProvenAudit]:
        attacker = _Teleporter()
        audit = audit_proven(model, images, attacker=lambda _: attacker, starts=0, folder=tmp_path / "kept")
        return attacker.asked, audit

    asked, first = audited()
    assert asked == first.searches[0].positive > 5
    assert first.verdict.passed
    assert first.searches[0].nearest is not None
    assert first.searches[0].nearest > 1
    again, second = audited()
    assert again == 0
    assert second.searches == first.searches
    (file,) = (tmp_path / "kept").iterdir()
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join(lines[:6]) + lines[6][:20])  # killed in its second batch
    left, third = audited()
    assert 0 < left < asked
    assert third.searches == first.searches


def test_images_of_another_split_and_the_audit_of_the_other_kind_are_refused(
    model: ModelVersion, images: LabelledImages
) -> None:
    with pytest.raises(AuditError, match="expected a statistical certificate, got a deterministic one"):
        audit_model(model, images, seed=1)
    with pytest.raises(AuditError, match="expected images that training did not see, a split 'test', got 'train'"):
        attacked(model, replace(images, split="train"))


def test_a_model_of_bytes_is_attacked_with_bytes(checkpoint: Path, images: LabelledImages, tmp_path: Path) -> None:
    version = export_checkpoint(
        checkpoint, repository=tmp_path / "models", name="bytes", variant=Variant(input_type="UINT8")
    )
    levels = (np.rint(images.images * 255) / np.float32(255)).astype(np.float32)
    audit = attacked(version, replace(images, images=levels))
    assert audit.verdict.passed, audit.verdict.reasons
    assert audit.searches[0].positive > 5


def test_the_command_gives_its_exit_code_and_a_page(
    copied: ModelVersion, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(autoattack, "Effort", lambda: SHORT)
    used = Path(__file__).parents[2] / "model_repository" / "digits" / "attempts.jsonl"
    shutil.copy(used, copied.path.parent)  # what calibrations of a repository used is not kept from this audit

    def audited(*options: str) -> Any:
        arguments = ["audit", "digits", "--repository", str(copied.path.parents[1]), "--images", "6", "--starts", "1"]
        return CliRunner().invoke(app, [*arguments, "--certificates", str(tmp_path / "kept"), *options])

    result = audited("--out", str(tmp_path / "audit.html"))
    assert result.exit_code == 0, result.output
    assert "PASS: digits, version 1" in result.stdout
    assert "No probability is in it" in " ".join(result.stdout.split())
    assert "nearest / r" in (tmp_path / "audit.html").read_text()
    rewrite(copied, lambda graph: change_constant(graph, ".kernel", lambda kernel: kernel * np.float16(3)))
    result = audited("--json")
    assert result.exit_code == 3
    audit = json.loads(result.stdout)
    assert audit["verdict"]["passed"] is False
    assert audit["answers"]["data"]["first"] == 0
