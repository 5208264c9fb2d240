"""A card says what its graph and its own numbers say, and is refused once anything in its file was changed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from tiny_model import SIGMA, edit_card, random_images, with_sigma, write_tiny_model

from heatserve.certification.binomial import upper_bound
from heatserve.certification.guard import Guard, fit_guard
from heatserve.certification.provenance import sha256_of
from heatserve.export.card import (
    BASE_NAME,
    CARD_NAME,
    GRAPH_NAME,
    PLAN_NAME,
    Card,
    CardError,
    Plan,
    read_card,
)
from heatserve.export.card_parts import Attack, Evaluation, OverclaimRate, Spoofed
from heatserve.export.digest import DIGEST, digest_of
from heatserve.export.graph.build import certified_graph, uint8_input
from heatserve.export.graph.certificate import served_sigma
from heatserve.export.repository.layout import TENSORRT_BATCHES, open_model, version_dirs
from heatserve.export.repository.publishing import publish, record_attack, republish

COMMITTED = Path(__file__).parents[2] / "model_repository"
MODELS = ["digits", "cifar10"]
Leaf = tuple[str | int, ...]
Change = Callable[[dict[str, Any]], object]


def leaves(content: Any, at: Leaf = ()) -> Iterator[tuple[Leaf, Any]]:
    """Every value of a JSON document that holds no others, and where it is."""
    if isinstance(content, dict | list):
        for key, value in content.items() if isinstance(content, dict) else enumerate(content):
            yield from leaves(value, (*at, key))
    else:
        yield at, content


def other_value(value: Any) -> st.SearchStrategy[Any]:
    """Values of the type of a leaf, and not equal to it; null may become anything."""
    drawn: dict[type, st.SearchStrategy[Any]] = {
        bool: st.booleans(),
        int: st.integers(),
        float: st.floats(allow_nan=False, allow_infinity=False) | st.floats(0, 1),
        str: st.text(),
        type(None): st.integers() | st.text(),
    }
    return drawn[type(value)].filter(lambda other: other != value)


@pytest.fixture(scope="module")
def copies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The committed models, to be changed, with an attack on the card of `digits`."""
    repository = Path(shutil.copytree(COMMITTED, tmp_path_factory.mktemp("copies") / "models"))
    model = open_model(repository, "digits")
    assert model.card.evaluation is not None
    record_attack(model, an_attack(model.card.evaluation))
    return repository


def an_attack(on: Evaluation) -> Attack:
    """What an attack on a hundred images might find."""

    def spoofed(epsilon: float, *, positive: int, overclaims: int) -> Spoofed:
        in_all = float(upper_bound(overclaims, 100, alpha=0.05))
        of_positive = float(upper_bound(overclaims, positive, alpha=0.05))
        seen = OverclaimRate(images=100, positive=positive, overclaims=overclaims, upper_bound=of_positive)
        return Spoofed(epsilon=epsilon, overclaim=seen, upper_bound_of_all=in_all)

    return Attack(
        data=on.data.model_copy(update={"images": 100}),
        monte_carlo=on.monte_carlo,
        confidence=0.95,
        served_positive=90,
        changed_within_served=2,
        proven_tested=150,
        changed_within_proven=0,
        spoofed=(spoofed(0.1, positive=90, overclaims=3), spoofed(0.25, positive=88, overclaims=12)),
        date="2026-01-01",
    )


@pytest.mark.parametrize("name", MODELS)
def test_a_committed_model_is_served_and_its_card_has_the_digest_of_its_content(name: str) -> None:
    content = json.loads((version_dirs(COMMITTED / name)[-1] / CARD_NAME).read_bytes())
    assert content[DIGEST] == digest_of(content)
    assert open_model(COMMITTED, name).card.sigma == content["sigma"]


@pytest.mark.parametrize(("name", "field"), [(GRAPH_NAME, "graph_sha256"), (BASE_NAME, "base_sha256")])
def test_a_graph_with_numbers_in_another_file_is_refused(name: str, field: str, tmp_path: Path) -> None:
    """The card has the hash of the graph's file only: whatever lies in the other one would be served."""
    version_dir = write_tiny_model(tmp_path)
    graph = onnx.load(version_dir / name)
    onnx.save(graph, version_dir / name, save_as_external_data=True, location="numbers.bin", size_threshold=2000)
    sha256 = sha256_of(version_dir / name)
    edit_card(version_dir, lambda card: card.update({field: sha256}))
    with pytest.raises(CardError, match=f"{name}: expected all numbers in this file, .* tensor '.*weights'"):
        open_model(tmp_path, "tiny")


@given(data=st.data())
@settings(deadline=None)
def test_a_committed_model_is_refused_with_any_other_value_on_its_card(copies: Path, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(MODELS))
    path = version_dirs(copies / name)[-1] / CARD_NAME
    written = path.read_bytes()
    content = json.loads(written)
    at, value = data.draw(st.sampled_from(list(leaves(content))))
    part = content
    for key in at[:-1]:
        part = part[key]
    part[at[-1]] = data.draw(other_value(value))
    path.write_text(json.dumps(content))
    try:
        with pytest.raises(CardError, match="the card was changed after it was written: expected digest"):
            open_model(copies, name)
    finally:
        path.write_bytes(written)


def test_a_flipped_bit_is_refused_wherever_it_changes_what_the_card_says(copies: Path) -> None:
    """Of 17 digits the last may change and the float64 does not: that says the same."""
    path = version_dirs(copies / "digits")[-1] / CARD_NAME
    written = path.read_bytes()
    positions, same = range(0, len(written), 7), 0
    try:
        for at in positions:
            flipped = bytearray(written)
            flipped[at] ^= 1 << at % 8
            path.write_bytes(flipped)
            try:
                read_card(path.parent)
            except CardError:
                continue
            assert json.loads(flipped) == json.loads(written), (at, bytes(flipped[at - 20 : at + 20]))
            same += 1
    finally:
        path.write_bytes(written)
    assert same < 0.02 * len(positions)


def test_a_card_without_a_digest_is_refused_with_the_commands_that_make_one(tmp_path: Path) -> None:
    path = write_tiny_model(tmp_path) / CARD_NAME
    content = json.loads(path.read_bytes())
    del content[DIGEST]
    path.write_text(json.dumps(content))
    with pytest.raises(
        CardError, match=r"digest: expected one, got none.* `heatserve export` and `heatserve calibrate`"
    ):
        open_model(tmp_path, "tiny")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"sigma": 1.0, "sigma": 0.25}', "expected each field once, got sigma, sigma"),
        ("[1]", "expected fields, got list"),
        ("[" * 100_000, "not a valid certificate card"),
        ("\udcff", "not a valid certificate card"),
    ],
)
def test_a_file_that_says_nothing_or_two_things_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / CARD_NAME).write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(CardError, match=message):
        read_card(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (with_sigma(1.0), rf"sigma: expected {SIGMA}\d*, which the graph's constants are made for, got 1\.0"),
        (with_sigma(SIGMA * (1 + 1e-5)), "sigma: expected"),
        ({"class_names": list("012345678")}, "class_names: expected 10, one for each class of the graph, got 9"),
        ({"class_names": list("0123456789A")}, "class_names: expected 10, one for each class of the graph, got 11"),
        ({"input_shape": [1, 8, 9]}, r"input_shape: expected \(1, 8, 8\), which the graph takes, got \(1, 8, 9\)"),
        ({"input_type": "UINT8"}, "input_type: expected FP32, which the graph takes, got UINT8"),
        ({"resize": 12}, "resize: expected None, which the graph takes, got 12"),
        ({"calibration": None}, "radius_map: expected the thresholds and radii of the graph, got others"),
    ],
)
def test_what_a_card_says_is_compared_with_its_graph_though_its_digest_is_right(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    version_dir = write_tiny_model(tmp_path)
    edit_card(version_dir, lambda card: card.update(change))
    with pytest.raises(CardError, match=f"the card belongs to another graph: {message}"):
        open_model(tmp_path, "tiny")


@pytest.mark.parametrize("guard", [None, fit_guard(random_images(100, seed=1))])
def test_the_guard_of_a_card_is_compared_with_its_graph(tmp_path: Path, guard: Guard | None) -> None:
    version_dir = write_tiny_model(tmp_path, guard=guard)
    card = open_model(tmp_path, "tiny").card
    assert card.calibration is not None
    assert card.calibration.guard == guard
    other = fit_guard(random_images(100, seed=2)) if guard is None else replace(guard, threshold=guard.threshold * 1.01)
    part = card.calibration.model_copy(update={"guard": other}).model_dump(mode="json")
    edit_card(version_dir, lambda content: content.update(calibration=part))
    with pytest.raises(CardError, match="guard: expected the center, whitening and threshold of the graph, got others"):
        open_model(tmp_path, "tiny")


@pytest.mark.parametrize("resize", [None, 12])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"input_shape": [8, 8, 1]}, r"input_shape: expected \(1, 8, 8\)"),
        ({"resize": 13}, "resize: expected (None|12), which the graph takes, got 13"),
        ({"input_type": "FP32"}, "input_type: expected UINT8, which the graph takes, got FP32"),
    ],
)
def test_the_image_of_a_graph_on_bytes_is_read_from_it(
    tmp_path: Path, resize: int | None, change: dict[str, Any], message: str
) -> None:
    version_dir = write_tiny_model(tmp_path, calibrated=False)
    graph = certified_graph(uint8_input(onnx.load(version_dir / BASE_NAME), resize=resize), sigma=SIGMA)
    onnx.save(graph, version_dir / GRAPH_NAME)
    right = {"graph_sha256": sha256_of(version_dir / GRAPH_NAME), "input_type": "UINT8", "resize": resize}
    edit_card(version_dir, lambda card: card.update(right))
    assert open_model(tmp_path, "tiny").card.resize == resize
    edit_card(version_dir, lambda card: card.update(change))
    with pytest.raises(CardError, match=message):
        open_model(tmp_path, "tiny")


def test_sigma_of_a_plan_is_that_of_the_graph_beside_it(tmp_path: Path) -> None:
    version_dir = write_tiny_model(tmp_path)
    (version_dir / PLAN_NAME).write_bytes(b"what TensorRT made of the graph")
    sha256 = sha256_of(version_dir / PLAN_NAME)
    plan = Plan(sha256=sha256, tensorrt="10.8.0", gpu="NVIDIA Some GPU", tf32=False, batches=TENSORRT_BATCHES)
    edit_card(version_dir, lambda card: card.update(plan=plan.model_dump(mode="json")))
    assert open_model(tmp_path, "tiny").card.plan == plan
    edit_card(version_dir, lambda card: card.update(with_sigma(1.0)))
    with pytest.raises(CardError, match=r"sigma: expected 0\.25\d*, which the graph's constants are made for, got 1"):
        open_model(tmp_path, "tiny")


@pytest.mark.parametrize("sigma", [1e-3, 0.12, 0.25, 0.5, 1.0, 7.3])
def test_sigma_is_read_back_from_the_constants(tmp_path: Path, sigma: float) -> None:
    logits = onnx.load(write_tiny_model(tmp_path) / BASE_NAME)
    graph = certified_graph(logits, sigma=sigma).graph
    assert served_sigma(graph) == pytest.approx(sigma, rel=2e-7)
    others = {tensor.name: tensor for tensor in certified_graph(logits, sigma=2 * sigma).graph.initializer}
    for tensor in graph.initializer:
        if tensor.name == "to_z":
            tensor.CopyFrom(others["to_z"])
    with pytest.raises(ValueError, match="nominal_weights, to_z, from_erf of one σ, got constants of several"):
        served_sigma(graph)
    with pytest.raises(ValueError, match="expected an initializer 'from_erf': not a certified graph"):
        served_sigma(logits.graph)


def changed(part: str, **fields: object) -> Change:
    """A change of the part of a card at a dotted path; a function makes a value of that part as it was."""

    def change(card: dict[str, Any]) -> None:
        at: Any = card
        for key in part.split("."):
            at = at[int(key) if key.isdigit() else key]
        at.update({name: value(at) if callable(value) else value for name, value in fields.items()})

    return change


def more_than(name: str) -> Callable[[dict[str, Any]], object]:
    """One more than a number of the part."""
    return lambda part: part[name] + 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (changed("calibration.overclaim", upper_bound=0.01), "overclaim.upper_bound: Extra inputs are not permitted"),
        (changed("calibration.overclaim", overclaims=100), "overclaim: expected counts whose exact p-value for a rate"),
        (
            changed("calibration.overclaim", overclaims=more_than("positive")),
            r"overclaims: expected at most the \d+ answers with a pos",
        ),
        (changed("calibration.overclaim", positive=more_than("images")), r"positive: expected at most the \d+ images"),
        (changed("calibration.check", images=4000), "overclaim.images: expected the 4000 of its split 'calibration'"),
        (changed("calibration", confidence=0.999), r"confidence: expected at most 1 - spent - level, .* got 0\.999"),
        (changed("calibration", confidence=0.9), r"calibration\.promise: expected the text that its numbers make"),
        (changed("calibration", promise="No radius overclaims."), r"promise: expected the text .* got 'No radius over"),
        (changed("calibration", looks=3, spent=0.0), "spent: expected 0 for the first look only, got 0 and looks 3"),
        (changed("calibration", looks=1, spent=0.001), "spent: expected 0 for the first look only, got 0.001 and"),
        (changed("calibration", looks=100, spent=0.001), "confidence|promise: expected"),
        (changed("calibration", level=1e-9), "overclaim: expected counts whose exact p-value .* at most level, 1e-09"),
        (changed("calibration", alpha=0.01), r"expected counts whose exact p-value for a rate above alpha = 0\.01"),
        (changed("calibration", alpha=0), "alpha: Input should be greater than 0"),
        (changed("calibration.radius_map", radii=[0.2, 0.1] * 8), "expected .* rising thresholds and radii"),
        (changed("evaluation.calibrated", overclaims=0), "evaluation: .*calibrated.upper_bound: expected"),
        (changed("evaluation.nominal", upper_bound=0.5), r"evaluation: .*nominal.upper_bound: expected 0\.\d+"),
        (changed("evaluation", confidence=0.9), "evaluation: .*calibrated.upper_bound: expected"),
        (
            changed("evaluation.data", images=more_than("images")),
            r"calibrated.images: expected the \d+ of its split 'test', got \d+",
        ),
        (changed("evaluation.certified_accuracy", radii=[0.1] * 8), "radii: expected increasing numbers"),
        (changed("evaluation.certified_accuracy", nominal=[0.1, 0.2] * 4), "nominal: expected 8 shares that do not"),
        (changed("evaluation.certified_accuracy", l_bound=[1.0]), "l_bound: expected 8 shares"),
        (changed("attack", served_positive=101), "served_positive: expected at most the 100 images"),
        (changed("attack", changed_within_served=91), "changed_within_served: expected at most the 90 images"),
        (changed("attack", changed_within_proven=151), "changed_within_proven: expected at most the 150 attacks"),
        (changed("attack", confidence=0.5), "spoofed.0.overclaim.upper_bound: expected"),
        (changed("attack.spoofed.1", upper_bound_of_all=0.1), r"spoofed.1.upper_bound_of_all: expected 0\.\d+"),
        (changed("attack.spoofed.0.overclaim", images=99), "spoofed.0.overclaim.images: expected the 100"),
    ],
)
def test_numbers_that_contradict_each_other_are_refused_though_the_digest_is_right(
    copies: Path, change: Change, message: str
) -> None:
    version_dir = version_dirs(copies / "digits")[-1]
    written = (version_dir / CARD_NAME).read_bytes()
    edit_card(version_dir, change)
    try:
        with pytest.raises(CardError, match=message):
            open_model(copies, "digits")
    finally:
        (version_dir / CARD_NAME).write_bytes(written)


def test_a_card_of_another_sigma_is_not_published(tmp_path: Path) -> None:
    model = open_model(write_tiny_model(tmp_path).parents[1], "tiny")
    graph, base = ((model.path / name).read_bytes() for name in (GRAPH_NAME, BASE_NAME))
    with pytest.raises(CardError, match="sigma: expected"):
        publish(tmp_path, Card.model_validate({**dict(model.card), **with_sigma(1.0)}), graph=graph, base=base)
    assert version_dirs(tmp_path / "tiny") == [model.path]


def test_what_is_recorded_and_published_again_is_validated(copies: Path, tmp_path: Path) -> None:
    model = open_model(copies, "digits")
    again = republish(model, tmp_path, "again")
    assert again.card == model.card.renamed("again")
    assert again.card.model_dump(exclude={"model"}) == model.card.model_dump(exclude={"model"})
    assert again.card.attack is not None
    impossible = again.card.attack.model_copy(update={"changed_within_served": 1000})
    with pytest.raises(ValidationError, match="changed_within_served: expected at most the 90 images"):
        record_attack(again, impossible)
    assert open_model(tmp_path, "again").card == again.card, "expected the card to be as it was"
