"""Audits of the digits model, calibrated anew and doctored: the verdict, the exit code, and the page."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from html import unescape
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import onnx
import pytest
from tiny_model import random_images, shifted_map, write_tiny_model
from typer.testing import CliRunner, Result

from heatserve.certification.audit import AuditError
from heatserve.certification.errors import HeatserveError
from heatserve.cli import app
from heatserve.export.audit.audit import audit_model, unused_seed
from heatserve.export.audit.page import audit_page
from heatserve.export.calibration.sampling import check_classes, sample
from heatserve.export.card import BASE_NAME, GRAPH_NAME, Card, CardError
from heatserve.export.card_parts import Calibration, Split
from heatserve.export.graph.build import with_map
from heatserve.export.images import LabelledImages
from heatserve.export.repository.layout import ModelVersion, open_model
from heatserve.export.repository.publishing import publish, republish

pytestmark = pytest.mark.slow

COMMITTED = Path(__file__).parents[2] / "model_repository"
IMAGES = 120
"""Enough for 90 positive radii, the fewest that α = 0.05 at confidence 0.99 can be judged on."""


def run_audit(repository: Path, name: str, *arguments: str) -> Result:
    options = ["--repository", str(repository), "--data", "digits", "--images", str(IMAGES), *arguments]
    return CliRunner().invoke(app, ["audit", name, *options], catch_exceptions=False)


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory: pytest.TempPathFactory) -> ModelVersion:
    """The committed network in a repository of its own, calibrated with a quick Certify; half of the test is unused."""
    repository = tmp_path_factory.mktemp("calibrated")
    republish(open_model(COMMITTED, "digits"), repository, "digits")
    options = ["--repository", str(repository), "--certificates", str(repository / "kept"), "--test-images", "150"]
    options += ["--alpha", "0.05", "--delta", "0.01", "--n0", "20", "--n", "300"]
    assert CliRunner().invoke(app, ["calibrate", "digits", *options], catch_exceptions=False).exit_code == 0
    return open_model(repository, "digits")


@pytest.fixture(scope="module")
def passed(calibrated: ModelVersion) -> tuple[Result, Path]:
    """An audit of that, as JSON on stdout and as a page."""
    repository = calibrated.path.parents[1]
    page = repository / "audit.html"
    return run_audit(repository, "digits", "--out", str(page), "--json"), page


@pytest.fixture(scope="module")
def doctored(calibrated: ModelVersion, tmp_path_factory: pytest.TempPathFactory) -> ModelVersion:
    """That model with a bolder map than was calibrated, in graph and card, so that their hashes agree.

    Its Certify is a third of that model's: as quick to refute as it is wrong.
    """
    model = calibrated
    assert model.card.calibration is not None
    quick = model.card.calibration.monte_carlo.model_copy(update={"n0": 10, "n": 100})
    calibration = model.card.calibration.model_copy(update={"radius_map": shifted_map(0.0, 2.4), "monte_carlo": quick})
    calibration = calibration.model_copy(update={"promise": calibration.promised(model.card.sigma)})
    served = onnx.load(model.path / GRAPH_NAME)
    graph = with_map(served, calibration.radius_map, calibration.guard).SerializeToString()
    card = model.card.model_copy(update={"graph_sha256": hashlib.sha256(graph).hexdigest(), "calibration": calibration})
    repository = tmp_path_factory.mktemp("doctored")
    return publish(repository, card, graph=graph, base=(model.path / BASE_NAME).read_bytes())


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> ModelVersion:
    """A calibrated model whose card names the split `test` of `digits`."""
    repository = tmp_path_factory.mktemp("tiny")
    write_tiny_model(repository)
    return open_model(repository, "tiny")


def test_an_honest_model_passes(calibrated: ModelVersion, passed: tuple[Result, Path]) -> None:
    result, _ = passed
    assert result.exit_code == 0
    found = json.loads(result.stdout)
    card = calibrated.card
    assert card.calibration is not None
    assert card.evaluation is not None
    assert card.evaluation.monte_carlo.seed == 1
    assert Card.model_validate(found["card"]) == card
    assert found["verdict"]["passed"]
    assert found["verdict"]["positive_needed"] == 90
    assert found["verdict"]["detectable"] > card.calibration.alpha
    measured = found["measured"]
    assert measured["monte_carlo"] == {**card.calibration.monte_carlo.model_dump(), "seed": 2}
    committed = open_model(COMMITTED, "digits").card.evaluation
    assert committed is not None, "its attempts, and the images of its figures, came with the network"
    expected = Split(dataset="digits", split="test", images=IMAGES, seed=0, first=committed.data.end)
    assert measured["data"] == expected.model_dump()
    assert {"command", "machine", "versions", "date"} <= set(found["provenance"])


def test_what_is_counted_can_be_counted_again_from_the_answers(passed: tuple[Result, Path]) -> None:
    measured = json.loads(passed[0].stdout)["measured"]
    answers = {name: np.array(column) for name, column in measured["answers"].items()}
    positive = answers["certified_radius"] > 0
    expected = positive & (
        (answers["label"] != answers["proven_label"]) | (answers["certified_radius"] > answers["proven_radius"])
    )
    np.testing.assert_array_equal(answers["overclaims"], expected)
    found = measured["overclaims"]
    assert (found["count"], found["total"]) == (expected.sum(), positive.sum())
    assert found["lower_bound"] <= found["count"] / found["total"] <= found["upper_bound"]
    assert (measured["overclaims_of_all"]["count"], measured["overclaims_of_all"]["total"]) == (expected.sum(), IMAGES)
    assert measured["clean_accuracy"]["count"] == (answers["label"] == answers["truth"]).sum()
    for by in ("answered class", "true class", "radius"):
        groups = [group["overclaims"] for group in measured["groups"] if group["by"] == by]
        assert sum(group["count"] for group in groups) == found["count"]
        assert sum(group["total"] for group in groups) == found["total"]
    accuracy = measured["certified_accuracy"]
    assert accuracy["radii"][:3] == [0, 0.01, 0.02]
    assert len({len(column) for column in accuracy.values()}) == 1
    assert accuracy["single_pass"][0] == ((answers["label"] == answers["truth"]) & positive).mean()
    assert all(low <= high for low, high in zip(accuracy["l_bound"], accuracy["single_pass"], strict=True))


def test_a_doctored_model_fails_with_its_exit_code(doctored: ModelVersion, tmp_path: Path) -> None:
    out = tmp_path / "audit.json"
    result = run_audit(doctored.path.parents[1], "digits", "--out", str(out))
    assert result.exit_code == 3
    assert "FAIL: digits, version 1" in result.stdout
    assert "positive radii overclaim: with confidence 0.99 the rate is above" in " ".join(result.stdout.split())
    assert "FLAGGED" in result.stdout
    found = json.loads(out.read_text())
    assert not found["verdict"]["passed"]
    assert found["measured"]["overclaims"]["lower_bound"] > 0.05
    assert found["measured"]["monte_carlo"]["n"] == 100


def test_too_few_images_fail(doctored: ModelVersion) -> None:
    audited = audit_model(doctored, sample("digits", "test", count=5, first=150), seed=5)
    assert not audited.verdict.passed
    assert "Too few positive radii to mean anything: expected at least 90" in audited.verdict.reasons[0]
    assert well_formed(audit_page(audited)).find("head/title") is not None


def test_a_model_without_calibration_fails(tmp_path: Path) -> None:
    write_tiny_model(tmp_path, calibrated=False)
    model = open_model(tmp_path, "tiny")
    audited = audit_model(model, LabelledImages(random_images(1), np.zeros(1, np.int64), "any", "test", 0), seed=0)
    assert not audited.verdict.passed
    assert audited.measured is None
    assert "serves radius 0 and promises nothing" in audited.verdict.reasons[0]
    page = audit_page(audited)
    assert "FAIL: tiny, version 1" in page
    assert not list(well_formed(page).iter("img"))
    assert json.loads(audited.to_json())["measured"] is None


def test_a_model_without_calibration_fails_where_no_image_is_left_or_there(tmp_path: Path) -> None:
    """Its verdict needs none: not of a data set that others used up, nor of one that cannot be read."""
    write_tiny_model(tmp_path, calibrated=False)
    for data in ("digits", "imagefolder:nowhere"):
        command = ["audit", "tiny", "--repository", str(tmp_path), "--data", data]
        result = CliRunner().invoke(app, command, catch_exceptions=False)
        assert result.exit_code == 3
        assert "FAIL: tiny, version 1" in result.stdout
        assert "Not calibrated" in result.stdout


@pytest.mark.parametrize("split", ["train", "calibration"])
def test_images_that_training_or_calibration_used_are_refused(split: str) -> None:
    model = open_model(COMMITTED, "digits")
    with pytest.raises(AuditError, match=f"expected images that neither .* saw, .* got split '{split}' of digits"):
        audit_model(model, sample("digits", split, count=3, seed=1), seed=1)


def test_the_split_that_the_card_was_calibrated_on_is_refused_whatever_its_name(tiny: ModelVersion) -> None:
    with pytest.raises(
        AuditError, match="got split 'test' of digits; the card was calibrated on split 'test' of digit"
    ):
        audit_model(tiny, sample("digits", "test", count=3), seed=1)


def test_noise_of_the_card_is_refused_and_not_chosen(tiny: ModelVersion) -> None:
    data = LabelledImages(random_images(3), np.zeros(3, np.int64), "noise", "test", 0)
    assert unused_seed(tiny.card) == 1
    with pytest.raises(AuditError, match="seed: expected noise that the card was not made with, got its seed 0"):
        audit_model(tiny, data, seed=0)


def test_images_and_classes_that_are_not_the_models_are_refused(tiny: ModelVersion) -> None:
    wrong = LabelledImages(np.zeros((3, 1, 9, 9), np.float32), np.zeros(3, np.int64), "other", "test", 0)
    with pytest.raises(HeatserveError, match=r"other: expected images of shape \[1, 8, 8\]"):
        audit_model(tiny, wrong, seed=1)
    with pytest.raises(
        HeatserveError, match="digits: expected the 10 classes of model tiny, got 10; class 0 is 'zero'"
    ):
        check_classes(tiny.card, "digits")
    shorter = tiny.card.model_copy(update={"class_names": tuple(map(str, range(9)))})
    with pytest.raises(HeatserveError, match="9 classes of model tiny, got 10; class 9 is 'none' there, '9' here"):
        check_classes(shorter, "digits")


def test_calibrate_refuses_images_of_other_classes(tiny: ModelVersion) -> None:
    arguments = ["calibrate", "tiny", "--repository", str(tiny.path.parents[1]), "--data", "digits"]
    with pytest.raises(HeatserveError, match="class 0 is 'zero' there, '0' here"):
        CliRunner().invoke(app, arguments, catch_exceptions=False)


def test_a_graph_that_was_changed_after_it_was_verified_is_refused(tmp_path: Path) -> None:
    version_dir = write_tiny_model(tmp_path)
    model = open_model(tmp_path, "tiny")
    (version_dir / GRAPH_NAME).write_bytes((version_dir / BASE_NAME).read_bytes())
    data = LabelledImages(random_images(3), np.zeros(3, np.int64), "noise", "test", 0)
    with pytest.raises(CardError, match=r"model\.onnx: expected sha256 .* found another file"):
        audit_model(model, data, seed=1)


def test_a_promise_that_says_nothing_is_refused(tiny: ModelVersion) -> None:
    data = LabelledImages(random_images(3), np.zeros(3, np.int64), "noise", "test", 0)
    assert isinstance(tiny.card.calibration, Calibration)
    empty = tiny.card.calibration.model_copy(update={"alpha": 1.0})
    model = ModelVersion(tiny.name, 1, tiny.path, tiny.card.model_copy(update={"calibration": empty}))
    with pytest.raises(AuditError, match=r"alpha: expected a promise with a number between 0 and 1, got 1\.0"):
        audit_model(model, data, seed=1)


def test_a_file_of_an_unknown_kind_is_refused_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(HeatserveError, match=r"out: expected a file that ends in \.html or \.json, got .*audit\.pdf"):
        run_audit(tmp_path, "missing", "--out", str(tmp_path / "audit.pdf"))


def well_formed(page: str) -> ElementTree.Element:
    """The page, read by an XML parser, which takes no unclosed or wrongly nested element."""
    return ElementTree.fromstring(page)


def test_the_page_is_well_formed_and_loads_nothing(passed: tuple[Result, Path]) -> None:
    root = well_formed(passed[1].read_text())
    assert root.get("lang") == "en"
    policy = root.find("head/meta[@http-equiv]")
    assert policy is not None
    assert "default-src 'none'" in str(policy.attrib)
    loaded = [value for element in root.iter() for name, value in element.items() if name in ("src", "href", "action")]
    assert loaded
    assert all(value.startswith("data:") for value in loaded)
    assert not re.search(r"url\(|@import", root.findtext("head/style", ""))
    assert not list(root.iter("script"))
    assert not list(root.iter("link"))


def test_the_page_shows_figures_beside_tables_and_says_what_was_audited(
    calibrated: ModelVersion, passed: tuple[Result, Path]
) -> None:
    page = passed[1].read_text()
    root = well_formed(page)
    figures = list(root.iter("img"))
    assert len(figures) == 2
    for figure in figures:
        assert len(figure.get("alt", "")) > 40
        svg = base64.b64decode(figure.get("src", "").removeprefix("data:image/svg+xml;base64,"))
        assert ElementTree.fromstring(svg).tag == "{http://www.w3.org/2000/svg}svg"
    assert all(table.find("caption") is not None for table in root.iter("table"))
    assert [heading.tag for heading in root.iter() if heading.tag in ("h1", "h2")] == ["h1", *["h2"] * 7]
    card = calibrated.card
    assert card.calibration is not None
    for said in (card.graph_sha256, card.calibration.promise, "PASS: digits", "Bonferroni", "split “test” of digits"):
        assert said in unescape(page)


def test_the_page_escapes_what_a_card_says(tiny: ModelVersion) -> None:
    assert tiny.card.calibration is not None
    sly = tiny.card.calibration.model_copy(update={"promise": "<script>alert(1)</script> & more"})
    model = ModelVersion(tiny.name, 1, tiny.path, tiny.card.model_copy(update={"calibration": sly}))
    data = LabelledImages(random_images(3), np.zeros(3, np.int64), "<b>noise", "test", 0)
    page = audit_page(audit_model(model, data, seed=1))
    assert not list(well_formed(page).iter("script"))
    assert "&lt;script&gt;alert(1)&lt;/script&gt; &amp; more" in page
