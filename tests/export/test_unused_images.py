"""Which images the commands take after a calibration: others for a first look again, and for an audit."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tiny_model import write_tiny_model
from typer.testing import CliRunner

from heatserve.certification.audit import AuditError
from heatserve.certification.lineage import Ancestor
from heatserve.certification.pixels import pixel_digest
from heatserve.cli import app
from heatserve.export.audit.audit import audit_model
from heatserve.export.calibration.attempts import (
    read_attempts,
)
from heatserve.export.calibration.held_out import held_out_of_all
from heatserve.export.calibration.sampling import sample
from heatserve.export.card import read_card
from heatserve.export.images import LabelledImages
from heatserve.export.repository.layout import ATTEMPTS_NAME, open_model

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository of the tiny model on digits, calibrated by the command on the first 300 of 497 images."""
    repository = tmp_path_factory.mktemp("digits")
    version_dir = write_tiny_model(repository, calibrated=False)
    card = read_card(version_dir)
    lineage = (Ancestor("baseline", "digits", 1, "1" * 64),)
    card.model_copy(update={"class_names": tuple("0123456789"), "lineage": lineage}).write(version_dir)
    (repository / "tiny" / "labels.txt").write_text("\n".join("0123456789") + "\n")
    result = calibrate(repository)
    assert result.exit_code == 0, result.output
    return repository


def calibrate(repository: Path, *arguments: str) -> Any:
    options = ["--repository", str(repository), "--data", "digits", "--certificates", str(repository / "kept")]
    options += ["--alpha", "0.2", "--delta", "0.2", "--n0", "10", "--n", "50", "--images", "300", *arguments]
    return CliRunner().invoke(app, ["calibrate", "tiny", *options])


def test_the_figures_have_other_noise_and_at_most_half_of_the_test_images(digits: Path) -> None:
    card = open_model(digits, "tiny").card
    assert card.calibration is not None
    assert card.evaluation is not None
    assert card.evaluation.data.images == len(sample("digits", "test")) // 2
    found, expected = card.evaluation.monte_carlo, card.calibration.monte_carlo
    assert found == expected.model_copy(update={"seed": expected.seed + 1})
    assert len(list((digits / "kept").glob("calibration-*"))) == 1


def test_images_that_are_left_out_are_a_first_look_again(digits: Path, tmp_path: Path) -> None:
    repository = shutil.copytree(digits, tmp_path / "copy")
    result = calibrate(repository, "--skip", "300", "--test-skip", "10", "--json")
    card = json.loads(result.stdout)
    size = len(sample("digits", "calibration"))
    fit, check = card["calibration"]["fit"], card["calibration"]["check"]
    assert (card["calibration"]["looks"], fit["first"], card["evaluation"]["data"]["first"]) == (1, 300, 10)
    assert (fit["images"], check["first"]) == (round((size - 300) / 3), 300 + fit["images"])
    assert check["first"] + check["images"] == size
    assert len(list((repository / "kept").glob("calibration-*"))) == 1, "one ledger of one permutation"
    both = calibrate(repository, "--skip", "100")
    assert "delta: expected more than the 0.2 that earlier attempts have spent (2, of tiny)" in str(both.exception)
    refused = calibrate(repository, "--skip", str(size))
    assert refused.exit_code == 1
    assert f"digits, split 'calibration': expected fewer images to leave out than the {size} that it has" in str(
        refused.exception
    )


def test_an_audit_takes_images_that_nothing_used(digits: Path) -> None:
    arguments = ["audit", "tiny", "--repository", str(digits), "--data", "digits", "--json"]
    result = CliRunner().invoke(app, [*arguments, "--certificates", str(digits / "kept")], catch_exceptions=False)
    measured = json.loads(result.stdout)["measured"]
    half = len(sample("digits", "test")) // 2
    assert measured["data"] == {
        "dataset": "digits",
        "split": "test",
        "images": len(sample("digits", "test")) - half,
        "seed": 0,
        "first": half,
        "passed_over": 0,
    }
    assert measured["monte_carlo"]["seed"] == 2


def test_an_audit_takes_no_image_that_trained_calibrated_or_came_before(digits: Path, tmp_path: Path) -> None:
    """The same pixels in other files: those of the training, which fit the network, and each of the others once."""
    folder, used = tmp_path / "copies", read_attempts(digits).pixels
    unused = [image for image in sample("digits", "test").images if pixel_digest(image) not in used][:20]
    parts = {"train": sample("digits", "train", count=40).images, "calibration": sample("digits", "calibration").images}
    for part, images in (*parts.items(), ("test", np.stack(unused)), ("again", np.stack(unused))):
        for index, image in enumerate(images):
            path = folder / "test" / str(index % 10) / f"{part}-{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            (folder / "train" / str(index % 10)).mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.rint(image[0] * 255).astype(np.uint8)).save(path)
    for digit in range(10):
        Image.new("L", (8, 8), digit).save(folder / "train" / str(digit) / "one.png")
    source = held_out_of_all(open_model(digits, "tiny"))
    drawn = source.draw(f"imagefolder:{folder}", "test", 10_000)
    assert len(drawn) == 20 + len(parts["calibration"]) - 300
    assert isinstance(drawn, LabelledImages)
    assert used.isdisjoint(map(pixel_digest, drawn.images))
    (note,) = source.notes
    assert note == f"left out {40 + 300 + 20} images that training or calibration used, or that are there twice"


def test_an_audit_passes_over_what_another_permutation_used(digits: Path, tmp_path: Path) -> None:
    repository = shutil.copytree(digits, tmp_path / "copy")
    result = calibrate(repository, "--skip", "300", "--seed", "4", "--delta", "0.9", "--test-images", "50")
    assert result.exit_code == 0, result.output
    arguments = ["audit", "tiny", "--repository", str(repository), "--data", "digits", "--json"]
    result = CliRunner().invoke(app, [*arguments, "--certificates", str(repository / "kept")], catch_exceptions=False)
    unused = len({pixel_digest(image) for image in sample("digits", "test").images} - read_attempts(repository).pixels)
    assert json.loads(result.stdout)["measured"]["data"]["images"] == unused > 0


def test_an_audit_refuses_images_that_a_calibration_used(digits: Path) -> None:
    model = open_model(digits, "tiny")
    half = len(sample("digits", "test")) // 2
    shared = sample("digits", "test", first=half - 3, count=10)
    with pytest.raises(AuditError, match=r"digits, split 'test': expected images that neither .* used, got 3 of 10"):
        audit_model(model, shared, seed=5)
    for split, used in (("test", half), ("calibration", 300)):
        pixels = np.rint(sample("digits", split).images * 255).astype(np.float32) / 255
        files = LabelledImages(pixels, np.zeros(len(pixels), np.int64), "imagefolder:the/same", "test", 0)
        with pytest.raises(AuditError, match=f"the/same, split 'test': .* got {used} of {len(pixels)} that one did"):
            audit_model(model, files, seed=5)
    other_permutation = sample("digits", "test", seed=7, count=100)
    with pytest.raises(AuditError, match=r"got \d\d of 100 that one did"):
        audit_model(model, other_permutation, seed=5)


def test_an_audit_says_so_where_no_image_is_left(digits: Path, tmp_path: Path) -> None:
    repository = shutil.copytree(digits, tmp_path / "copy")
    size = len(sample("digits", "test"))
    calibrate(repository, "--skip", "300", "--test-skip", str(size // 2))
    result = CliRunner().invoke(app, ["audit", "tiny", "--repository", str(repository), "--data", "digits"])
    said = str(result.exception)
    assert f"split 'test': expected images that the figures of the card did not use, got none: it has {size}" in said
    assert "calibrate again" not in said, "no calibration gives images back"
    assert "--data" in said


def test_an_audit_follows_a_calibration_on_vouched_images(digits: Path, tmp_path: Path) -> None:
    repository = tmp_path / "copy"
    shutil.copytree(digits / "tiny" / "1", repository / "tiny" / "1")
    for name in ("config.pbtxt", "labels.txt"):
        shutil.copy(digits / "tiny" / name, repository / "tiny")
    options = ["--repository", str(repository), "--certificates", str(digits / "kept")]
    asked = ["--calibration-data", "digits", "--alpha", "0.2", "--n0", "10", "--n", "50", "--other-images", "0"]
    done = CliRunner().invoke(app, ["calibrate", "tiny", *options, *asked], catch_exceptions=False)
    assert "later ones are for an audit" in done.stderr
    done = CliRunner().invoke(app, ["audit", "tiny", *options, "--data", "digits", "--json"], catch_exceptions=False)
    measured = json.loads(done.stdout)["measured"]["data"]
    assert measured["first"] + measured["images"] == len(sample("digits", "test"))
    assert measured["images"] >= len(sample("digits", "test")) // 6


def test_without_its_attempts_a_card_is_compared_by_its_own_figures(digits: Path, tmp_path: Path) -> None:
    repository = shutil.copytree(digits, tmp_path / "copy")
    (repository / "tiny" / ATTEMPTS_NAME).unlink()
    model = open_model(repository, "tiny")
    half = len(sample("digits", "test")) // 2
    with pytest.raises(AuditError, match="got 3 of 10"):
        audit_model(model, sample("digits", "test", first=half - 3, count=10), seed=5)
    with pytest.raises(AuditError, match="got 5 of 5 that one did, or may have"):
        audit_model(model, sample("digits", "test", seed=7, count=5), seed=5)
    assert audit_model(model, sample("digits", "test", first=half, count=10), seed=5).measured is not None
