"""What other inputs are answered, and figures without overclaims, on a classifier whose radii are known by hand."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper, parser
from rich.console import Console
from tiny_model import CALIBRATION, write_tiny_model

from heatserve.certification.calibration import CalibrationError
from heatserve.certification.provenance import sha256_of
from heatserve.certification.radius import PLAIN_WEIGHTS, RadiusMap
from heatserve.export.audit.audit import audit_model
from heatserve.export.audit.page import audit_page
from heatserve.export.audit.report import audit_report
from heatserve.export.calibration.certifier import Certifier, certify_here
from heatserve.export.calibration.compare import Comparison, check_loss
from heatserve.export.calibration.evaluate import BIN_WIDTH, evaluate
from heatserve.export.calibration.ledger import LedgerEntry
from heatserve.export.calibration.other_inputs import changed_images, image_changes, measure_other_inputs
from heatserve.export.calibration.report import (
    ACCURACY_CAPTION,
    _attempt_line,
    _other_table,
    _radius_table,
    card_report,
    comparison_report,
)
from heatserve.export.card import BASE_NAME, GRAPH_NAME, Card, InputType
from heatserve.export.card_parts import Evaluation, MonteCarlo
from heatserve.export.contract import Outputs
from heatserve.export.graph.build import certified_graph, uint8_input, with_map
from heatserve.export.images import LabelledImages, LabelledPictures
from heatserve.export.repository.layout import ModelVersion, open_model
from heatserve.export.runtime.answers import ModelImages, model_images
from heatserve.export.runtime.session import Runner, open_session, run

SIGMA, SIDE = 0.25, 6
SERVED = float(np.float32(0.3))
"""The only positive radius that the model serves, whatever the image is."""
CERTIFY = MonteCarlo(n0=50, n=1000, alpha=0.001, seed=0)
RANDOM = np.random.default_rng(0)

_LOGITS = f"""
<ir_version: 9, opset_import: ["" : 18]>
reddish (float[N,3,{SIDE},{SIDE}] image) => (float[N,2] logits) {{
    flat = Flatten<axis = 1>(image)
    logits = MatMul(flat, weights)
}}
"""


def distance(images: NDArray[Any]) -> NDArray[Any]:
    """Signed L2 distance of images [N, 3, 6, 6] to the decision boundary: red against blue, Σ(r − b)/√72."""
    return np.asarray((images[:, 0] - images[:, 2]).sum((1, 2)) / np.sqrt(2 * SIDE * SIDE))


def model_of(folder: Path, input_type: InputType = "FP32", *, resize: int | None = None) -> tuple[ModelVersion, Runner]:
    """Class 0 is red, class 1 is blue, with certainty, and the radius is always `SERVED`."""
    logits = parser.parse_model(_LOGITS)
    row = np.zeros((3, SIDE, SIDE), np.float32)
    row[0], row[2] = 1000, -1000
    logits.graph.initializer.append(numpy_helper.from_array(np.stack([row.ravel(), -row.ravel()], 1), "weights"))
    onnx.save(logits, folder / BASE_NAME)
    served = logits if input_type == "FP32" else uint8_input(logits, resize=resize)
    weights = tuple(map(tuple, PLAIN_WEIGHTS.tolist()))
    graph = with_map(certified_graph(served, sigma=SIGMA), RadiusMap(weights, (2.0,), (SERVED,)))
    onnx.save(graph, folder / GRAPH_NAME)
    card = Card(
        model="reddish",
        graph_sha256=sha256_of(folder / GRAPH_NAME),
        base_sha256=sha256_of(folder / BASE_NAME),
        sigma=SIGMA,
        class_names=("red", "blue"),
        input_shape=(3, SIDE, SIDE),
        input_type=input_type,
        resize=resize,
        training={},
        calibration=None,
        evaluation=None,
        versions={},
        date="2026-01-01",
    )
    return ModelVersion("reddish", 1, folder, card), partial(run, open_session(folder / GRAPH_NAME))


def plain(*colours: tuple[int, int, int]) -> NDArray[np.uint8]:
    """Pictures [N, 6, 6, 3] of one colour each."""
    return np.tile(np.array(colours, np.uint8)[:, None, None], (1, SIDE, SIDE, 1))


RED, BLUE, GREY = (128, 102, 77), (77, 102, 128), (104, 90, 100)
"""0.849 from the boundary, as far on the other side of it, and 0.067."""
PICTURES = plain(RED, BLUE, RED, GREY)
LABELS = np.array([0, 1, 1, 0])


def images_for(model: ModelVersion) -> ModelImages:
    """`PICTURES` as the model takes them."""
    if model.card.resize:
        return model_images(model, LabelledPictures(tuple(PICTURES), LABELS, "colours", "test", 5))
    images = (PICTURES / np.float32(255)).astype(np.float32).transpose(0, 3, 1, 2)
    return model_images(model, LabelledImages(np.ascontiguousarray(images), LABELS, "colours", "test", 5))


@pytest.fixture
def reddish(tmp_path: Path) -> tuple[ModelVersion, Runner]:
    return model_of(tmp_path)


def test_the_table_is_what_the_known_distances_give(reddish: tuple[ModelVersion, Runner]) -> None:
    model, runner = reddish
    data = images_for(model)
    assert distance(data.images) == pytest.approx([0.849, -0.849, 0.849, 0.067], abs=0.001)
    rows = {row.kind: row for row in measure_other_inputs(model, runner, data, Certifier(CERTIFY))}
    assert set(rows) == set(image_changes(model.card))
    assert {row.images for row in rows.values()} == {4}
    assert {row.refused for row in rows.values()} == {0}
    kept = ("inverted", "half contrast", "half brightness", "transposed", "upside down", "blurred", "channels reversed")
    for kind in kept:  # half of 0.849 is proven beyond 0.3, and 0.067 never is
        assert (rows[kind].positive, rows[kind].overclaims) == (4, 1), kind
    assert (rows["shifted by a quarter"].positive, rows["shifted by a quarter"].overclaims) == (4, 1)
    assert rows["HWC read as CHW"].positive == 0, "a third of each plane has each number of one colour: on the boundary"
    noise = changed_images(model, data, "uniform noise", image_changes(model.card)["uniform noise"])
    assert noise is not None
    far = np.abs(distance(noise.images))
    assert (far > 0.5).sum() <= rows["uniform noise"].positive - rows["uniform noise"].overclaims <= (far >= 0.3).sum()


def test_the_changes_are_those_that_their_names_say(reddish: tuple[ModelVersion, Runner]) -> None:
    model, _ = reddish
    image = np.arange(3 * 2 * 4, dtype=np.float32).reshape(3, 2, 4) / 32
    found = {kind: change(image, RANDOM) for kind, change in image_changes(model.card).items()}
    np.testing.assert_array_equal(found["inverted"], 1 - image)
    np.testing.assert_array_equal(found["half contrast"], image / 2 + 0.25)
    np.testing.assert_array_equal(found["half brightness"], image / 2)
    np.testing.assert_array_equal(found["transposed"], np.swapaxes(image, 1, 2))
    np.testing.assert_array_equal(found["upside down"][:, 0], image[:, 1])
    np.testing.assert_array_equal(found["shifted by a quarter"][:, :, 0], np.zeros((3, 2)))
    np.testing.assert_array_equal(found["shifted by a quarter"][:, :, 1:], image[:, :, :3])
    np.testing.assert_array_equal(found["channels reversed"], image[[2, 1, 0]])
    corner = (4 * image[0, 0, 0] + 2 * image[0, 0, 1] + 2 * image[0, 1, 0] + image[0, 1, 1]) / 9
    assert found["blurred"][0, 0, 0] == pytest.approx(corner)
    assert found["blurred"].shape == image.shape


def test_hwc_is_read_as_chw_as_a_client_would_send_it(reddish: tuple[ModelVersion, Runner]) -> None:
    """The bytes of a picture in [H, W, C], divided by 255, in a request that says [C, H, W]."""
    model, _ = reddish
    picture = RANDOM.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    image = np.ascontiguousarray((picture / np.float32(255)).astype(np.float32).transpose(2, 0, 1))
    sent = np.frombuffer((picture / np.float32(255)).astype(np.float32).tobytes(), np.float32).reshape(3, SIDE, SIDE)
    np.testing.assert_array_equal(image_changes(model.card)["HWC read as CHW"](image, RANDOM), sent)
    assert not np.array_equal(image, sent)


@pytest.mark.parametrize("resize", [None, SIDE])
def test_a_model_of_uint8_is_sent_chw_as_hwc(tmp_path: Path, resize: int | None) -> None:
    model, runner = model_of(tmp_path, "UINT8", resize=resize)
    data = images_for(model)
    changes = image_changes(model.card)
    assert "HWC read as CHW" not in changes
    changed = changed_images(model, data, "CHW read as HWC", changes["CHW read as HWC"])
    assert changed is not None
    mistaken = [np.frombuffer(picture.transpose(2, 0, 1).tobytes(), np.uint8) for picture in PICTURES]
    np.testing.assert_array_equal(np.stack(list(changed.sent)), np.reshape(mistaken, PICTURES.shape))
    rows = {row.kind: row for row in measure_other_inputs(model, runner, data, Certifier(CERTIFY))}
    assert (rows["inverted"].positive, rows["inverted"].overclaims) == (4, 1)
    assert (rows["channels reversed"].positive, rows["channels reversed"].overclaims) == (4, 1)


def test_a_change_that_does_not_apply_is_absent(reddish: tuple[ModelVersion, Runner]) -> None:
    model, runner = reddish
    grey = model.card.model_copy(update={"input_shape": (1, SIDE, SIDE)})
    assert {"channels reversed", "HWC read as CHW", "CHW read as HWC"}.isdisjoint(image_changes(grey))
    wide = model.card.model_copy(update={"input_shape": (3, SIDE, 2 * SIDE)})
    images = np.zeros((1, 3, SIDE, 2 * SIDE), np.float32)
    data = ModelImages(images, images, np.zeros(1, np.int64), "colours", "test", 0)
    transposed = image_changes(wide)["transposed"]
    other = ModelVersion(model.name, 1, model.path, wide)
    assert changed_images(other, data, "transposed", transposed) is None
    assert measure_other_inputs(model, runner, images_for(model)[:0], Certifier(CERTIFY)) == ()


def test_interrupted_work_goes_on_and_other_radii_need_only_what_is_new(
    reddish: tuple[ModelVersion, Runner], tmp_path: Path
) -> None:
    model, runner = reddish
    asked: list[int] = []

    def certify(*work: Any) -> Iterable[LedgerEntry]:

        asked.extend(work[2])
        return certify_here(*work)

    def of_the_first(images: NDArray[Any]) -> Outputs:
        outputs = dict(runner(images))
        outputs["certified_radius"] = outputs["certified_radius"] * (np.arange(len(images)) < 1)
        return outputs

    certifier = Certifier(CERTIFY, folder=tmp_path / "kept", executor=certify)
    first = measure_other_inputs(model, of_the_first, images_for(model), certifier)
    assert asked == [0] * sum(row.positive for row in first)
    assert len(asked) >= 9
    expected = measure_other_inputs(model, runner, images_for(model), Certifier(CERTIFY))
    assert measure_other_inputs(model, runner, images_for(model), certifier) == expected
    assert len(asked) == sum(row.positive for row in expected), "certified twice"
    measure_other_inputs(model, runner, images_for(model), certifier)
    assert len(asked) == sum(row.positive for row in expected)


def test_refused_is_counted_where_the_graph_gives_reasons(reddish: tuple[ModelVersion, Runner]) -> None:
    model, runner = reddish

    def guarded(images: NDArray[Any]) -> Outputs:
        dark = images.mean((1, 2, 3)) < 0.3
        outputs = dict(runner(images))
        outputs["certified_radius"] = np.where(dark, np.float32(0), outputs["certified_radius"])
        return outputs | {"reason": np.where(dark, 4, 0)}

    rows = {row.kind: row for row in measure_other_inputs(model, guarded, images_for(model), Certifier(CERTIFY))}
    assert (rows["half brightness"].positive, rows["half brightness"].refused) == (0, 4)
    assert (rows["inverted"].positive, rows["inverted"].refused) == (4, 0)


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory) -> Evaluation:
    model, runner = model_of(tmp_path_factory.mktemp("reddish"))
    return evaluate(model, runner, images_for(model), delta=0.1, certifier=Certifier(CERTIFY), other_images=2)


def test_what_is_backed_counts_no_overclaim(evaluated: Evaluation) -> None:
    """Red, blue and grey are named rightly, the second red is labelled blue, and grey's radius is not proven."""
    accuracy = evaluated.certified_accuracy
    assert accuracy.backed is not None
    within = [radius <= SERVED for radius in accuracy.radii]
    assert accuracy.single_pass == tuple(0.75 * inside for inside in within)
    assert accuracy.backed == tuple(0.5 * inside for inside in within)
    assert all(low <= high for low, high in zip(accuracy.backed, accuracy.monte_carlo, strict=True))
    (only,) = evaluated.by_radius
    assert (only.above, only.up_to) == (2 * BIN_WIDTH * SIGMA, 3 * BIN_WIDTH * SIGMA)
    assert (
        (only.positive, only.overclaims) == (evaluated.calibrated.positive, evaluated.calibrated.overclaims) == (4, 1)
    )
    assert {row.images for row in evaluated.other_inputs} == {2}


def test_nothing_else_is_measured_where_nothing_is_asked_for(reddish: tuple[ModelVersion, Runner]) -> None:
    model, runner = reddish
    found = evaluate(model, runner, images_for(model), delta=0.1, certifier=Certifier(CERTIFY))
    assert found.other_inputs == ()
    assert not list(_other_table(found))


def test_the_card_prints_other_inputs_without_a_promise(evaluated: Evaluation) -> None:
    console = Console(width=200, record=True)
    console.print(*_radius_table(evaluated), *_other_table(evaluated))
    text = console.export_text()
    assert "No promise is about these inputs" in text
    assert "(0.25, 0.375]" in text
    assert "25.0%" in text
    for row in evaluated.other_inputs:
        assert row.kind in text


def test_a_card_says_which_attempt_it_is_and_bounds_nothing_on_the_images_that_chose(
    evaluated: Evaluation, tmp_path: Path
) -> None:
    write_tiny_model(tmp_path)
    card = open_model(tmp_path, "tiny").card
    assert card.calibration is not None
    epochs = {"epochs": 8, "epochs_in_all": 29}
    shown = card.calibrated(card.calibration, evaluated).model_copy(update={"training": epochs})
    console = Console(width=1000, record=True)
    console.print(card_report(shown))
    lines = {line.split()[0]: line for line in console.export_text(clear=False).splitlines() if line.strip()}
    assert lines["attempt"].rstrip() == (
        "attempt the first on record for these images and this network: a model that breaks the promise passes its "
        "test with probability at most 0.01"
    )
    assert "bound" not in lines["map"]
    assert "8 in the last training, in all that led to this network: 29" in lines["trained"]
    assert "which chose no map, with exact bounds" in console.export_text(clear=False)
    console.print(card_report(shown.model_copy(update={"training": {"epochs": 8}})))
    assert "in all that led to this network: not known" in console.export_text()


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        (
            {"level": 0.005},
            "attempt the first on record for these images and this network: a model that breaks the promise passes its "
            "test with probability at most 0.005; later attempts have the other 0.005 of δ = 0.01",
        ),
        (
            {"level": 0.0025, "looks": 2, "spent": 0.005},
            "attempt 2 of those on record in this model repository that used these images, or failed for this network: "
            "a model that breaks the promise passes its test with probability at most 0.0025, those of the earlier "
            "ones with 0.005; confidence 0.99 holds for all of them together",
        ),
    ],
)
def test_an_attempt_says_in_words_what_may_go_wrong(fields: dict[str, Any], line: str) -> None:
    assert _attempt_line(CALIBRATION.model_copy(update=fields)).plain == line


def test_an_audit_shows_both_accuracies(reddish: tuple[ModelVersion, Runner], tmp_path: Path) -> None:
    write_tiny_model(tmp_path / "models")
    calibration = open_model(tmp_path / "models", "tiny").card.calibration
    model = replace(reddish[0], card=reddish[0].card.model_copy(update={"calibration": calibration}))
    images = images_for(model)
    audited = audit_model(model, LabelledImages(images.images, LABELS, "colours", "test", 5), seed=7)
    assert audited.measured is not None
    found = audited.measured.certified_accuracy
    assert found.backed is not None
    assert (found.single_pass[0], found.backed[0]) == (0.75, 0.5), "grey is right, and its radius is not proven"
    assert all(backed <= served for backed, served in zip(found.backed, found.single_pass, strict=True))
    console = Console(width=300, record=True)
    console.print(audit_report(audited))
    for text in (console.export_text(), audit_page(audited)):
        assert "backed" in text
        assert ACCURACY_CAPTION in " ".join(text.split())


def test_a_variant_that_keeps_its_radii_by_overclaims_is_refused(evaluated: Evaluation) -> None:
    accuracy = evaluated.certified_accuracy
    bold = accuracy.model_copy(update={"backed": (0.0,) * len(accuracy.radii)})
    useless = evaluated.model_copy(update={"certified_accuracy": bold})
    with pytest.raises(CalibrationError, match=r"at radius 0, got 50\.0% \(50\.0% before, 0\.0% now\)"):
        check_loss(useless, evaluated, target=None, max_loss=0.4)
    former = evaluated.model_copy(update={"certified_accuracy": accuracy.model_copy(update={"backed": None})})
    check_loss(former, evaluated, target=0.2, max_loss=0.0)
    before, now = (replace_shares(evaluated, share) for share in (0.555, 0.505))
    check_loss(now, before, target=None, max_loss=0.05)
    with pytest.raises(CalibrationError, match=r"at most 4\.9%"):
        check_loss(now, before, target=None, max_loss=0.049)
    compared = Comparison(("new", "old"), (former, evaluated), (1.0, 2.0), {})
    assert {name for name, *_ in compared.accuracies} == {"single_pass"}
    table = comparison_report(replace(compared, evaluations=(useless, evaluated)))
    assert any("backed" in str(cell) for cell in table.columns[0].cells)


def replace_shares(evaluation: Evaluation, share: float) -> Evaluation:
    """The same with one certified accuracy at all radii."""
    accuracy = evaluation.certified_accuracy
    same = {name: (share,) * len(accuracy.radii) for name in ("single_pass", "backed")}
    return evaluation.model_copy(update={"certified_accuracy": accuracy.model_copy(update=same)})


def test_images_of_8_bits_stay_so(reddish: tuple[ModelVersion, Runner]) -> None:
    """Sound noise takes no others."""
    model, runner = reddish
    rows = measure_other_inputs(
        model, runner, images_for(model), Certifier(CERTIFY.model_copy(update={"sampling": "grid"}))
    )
    assert [row.kind for row in rows] == [*image_changes(model.card)]
    assert {row.images for row in rows} == {len(PICTURES)}
