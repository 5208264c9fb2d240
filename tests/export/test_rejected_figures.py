"""A calibration whose own test images speak against its promise publishes nothing, and is on record as failed."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from scipy.stats import binom
from tiny_model import SHAPE, write_tiny_card, write_tiny_model
from typer.testing import CliRunner

from heatserve.certification.audit import judge_promise, speaks_against
from heatserve.certification.calibration import CalibrationError
from heatserve.certification.errors import HeatserveError
from heatserve.cli import app
from heatserve.export.calibration.attempts import AttemptOutcome, Attempts, AttemptsError, read_attempts
from heatserve.export.calibration.calibrate import MOST_REJECTION_LEVEL, calibrate_model
from heatserve.export.calibration.certifier import Certifier
from heatserve.export.card import BASE_NAME
from heatserve.export.card_parts import Evaluation, MonteCarlo
from heatserve.export.images import LabelledImages
from heatserve.export.repository.layout import ModelVersion, open_model, version_dirs

ALPHA, DELTA = 0.2, 0.2
OTHER_CLASSES = "digits: expected the 10 classes of model tiny, got 10; class 0 is 'zero'"
PATTERN = np.where(np.arange(32) % 2, 1, -1).astype(np.float32)
"""In the lower half of an image, a checkerboard; the base network sees its sign, the single pass does not."""


def images(count: int, *, sign: int, split: str, seed: int, first: int = 0) -> LabelledImages:
    """Noise over a checkerboard of that sign. Brightness, contrast and edges of both kinds are the same."""
    pixels = np.random.default_rng(seed).random((first + count, 64), dtype=np.float32)[first:]
    pixels[:, 32:] = 0.5 + 0.25 * sign * PATTERN + 0.01 * (pixels[:, 32:] - 0.5)
    return LabelledImages(pixels.reshape(-1, *SHAPE), np.zeros(count, np.int64), "digits", split, seed, first, 1000)


@pytest.fixture
def model(tmp_path: Path) -> ModelVersion:
    """Its base answers as the single pass does where the sign is −1, and class 9 where it is 1."""
    weights = np.random.default_rng(0).normal(scale=0.7, size=(64, 10)).astype(np.float32)
    weights[32:], weights[:, 9] = 0, 0
    version_dir = write_tiny_model(tmp_path, calibrated=False, weights=weights)
    weights[32:, 9] = 2 * PATTERN
    base = onnx.load(version_dir / BASE_NAME)
    base.graph.initializer[0].CopyFrom(numpy_helper.from_array(weights, "weights"))
    onnx.save(base, version_dir / BASE_NAME)
    write_tiny_card(version_dir, calibration=None)
    return open_model(tmp_path, "tiny")


def calibrated(model: ModelVersion, sign: int, *, count: int = 200, **options: object) -> ModelVersion:
    """Calibrated on boards of sign −1, with figures on boards of the sign `sign`."""
    return calibrate_model(
        model,
        images(count, sign=-1, split="calibration", seed=1),
        images(60, sign=sign, split="test", seed=2),
        alpha=ALPHA,
        delta=DELTA,
        certifier=Certifier(MonteCarlo(n0=10, n=100, alpha=0.01, seed=0)),
        **options,  # type: ignore[arg-type]
    )


def records(model: ModelVersion) -> Attempts:
    return read_attempts(model.path.parents[1])


def outcomes(model: ModelVersion) -> list[AttemptOutcome]:
    return [line for line in records(model).lines if isinstance(line, AttemptOutcome)]


def test_the_test_is_exact() -> None:
    """It is that of an audit: 0.05 bounds how often a rate of exactly α is rejected, and one more would be too many."""
    for positive, alpha, delta in ((182, 0.1, 0.05), (40, 0.2, 0.01), (7, 0.5, 0.2)):
        counts = np.arange(positive + 1)
        rejected = [speaks_against(int(k), positive, alpha=alpha, delta=delta) for k in counts]
        fewest = rejected.index(True)
        assert binom.sf(fewest - 1, positive, alpha) <= delta < binom.sf(fewest - 2, positive, alpha)
        assert rejected == list(counts >= fewest)
        assert judge_promise(0, positive, alpha=alpha, delta=delta).fails_from == fewest
    assert speaks_against(109, 182, alpha=0.1, delta=0.05)
    assert not speaks_against(0, 0, alpha=0.1, delta=0.05), "no positive radius says nothing"


@pytest.mark.slow
def test_figures_that_reject_alpha_are_not_published(model: ModelVersion) -> None:
    with pytest.raises(CalibrationError, match="nothing was published") as error:
        calibrated(model, 1)
    (outcome,) = outcomes(model)
    seen = outcome.rejected
    assert not outcome.passed
    assert seen is not None
    assert seen.images == 60
    assert speaks_against(seen.overclaims, seen.positive, alpha=ALPHA, delta=MOST_REJECTION_LEVEL)
    for said in (
        f"expected overclaims of at most {ALPHA:g} of the positive radii",
        f"got {seen.overclaims} of {seen.positive}: with confidence {1 - MOST_REJECTION_LEVEL:g} the rate is above",
        "0.1 of δ = 0.2 is spent",
        "is tested at level 0.05",
    ):
        assert said in str(error.value)
    assert len(version_dirs(model.path.parent)) == 1
    with pytest.raises(AttemptsError, match=rf"rejected, got one of which {seen.overclaims} of {seen.positive} posit"):
        calibrated(model, -1)
    assert len(records(model).made) == 1, "other test images are no way round it"
    again = calibrated(model, -1, count=300).card.calibration
    assert again is not None
    assert (again.looks, again.level) == (2, DELTA / 4), "what was rejected counts as failed"


@pytest.mark.slow
def test_figures_that_do_not_reject_alpha_are_published(model: ModelVersion) -> None:
    card = calibrated(model, -1).card
    assert card.evaluation is not None
    seen = card.evaluation.calibrated
    assert seen.positive > 10
    assert not speaks_against(seen.overclaims, seen.positive, alpha=ALPHA, delta=MOST_REJECTION_LEVEL)
    assert [(line.passed, line.rejected) for line in outcomes(model)] == [(True, None)]


@pytest.mark.slow
def test_what_its_caller_does_not_accept_has_failed_and_may_be_accepted_later(model: ModelVersion) -> None:
    """As `calibrate-variant --max-loss` refuses a variant."""

    def refuse(_: Evaluation) -> None:
        raise CalibrationError("no")

    with pytest.raises(CalibrationError, match="no"):
        calibrated(model, -1, accept=refuse)
    (made,) = records(model).made
    assert records(model).passed == frozenset()
    part = calibrated(model, -1).card.calibration
    assert part is not None
    assert part.looks == 1, "it is the same attempt"
    assert records(model).passed == {made}


def test_a_rejected_attempt_has_not_passed_whatever_came_before() -> None:
    key: dict[str, object] = {"key": "0" * 16, "date": "2026-01-01"}
    seen = {"images": 60, "positive": 50, "overclaims": 50}
    lines = [
        AttemptOutcome.model_validate({**key, "passed": True}),
        AttemptOutcome.model_validate({**key, "passed": False, "rejected": seen}),
    ]
    assert Attempts(tuple(lines[:1])).passed == {"0" * 16}
    assert Attempts(tuple(lines)).passed == frozenset()
    assert lines[0].model_dump_json(exclude_none=True) == '{"key":"0000000000000000","date":"2026-01-01","passed":true}'


@pytest.mark.parametrize(
    "command",
    [
        ("certify-dataset", "tiny", "--data", "digits"),
        ("attack", "tiny", "--data", "digits"),
        ("attack-tiers", "tiny", "--data", "digits"),
        ("calibrate", "tiny", "--data", "digits"),
        ("calibrate", "tiny", "--calibration-data", "digits"),
    ],
    ids=lambda command: " ".join(command),
)
def test_a_data_set_of_other_classes_is_refused(tmp_path: Path, command: tuple[str, ...]) -> None:
    write_tiny_model(tmp_path)
    arguments = [*command, "--repository", str(tmp_path)]
    with pytest.raises(HeatserveError, match=OTHER_CLASSES):
        CliRunner().invoke(app, arguments, catch_exceptions=False)


@pytest.mark.slow
def test_a_variant_is_not_calibrated_on_a_data_set_whose_classes_are_others_now(model: ModelVersion) -> None:
    repository = model.path.parents[1]
    other = Path(shutil.copytree(repository / "tiny", repository / "other"))
    config = other / "config.pbtxt"
    config.write_text(config.read_text().replace('"tiny"', '"other"'))
    write_tiny_card(other / "1", calibration=None)
    calibrated(model, -1)
    arguments = ["calibrate-variant", "other", "tiny", "--repository", str(repository)]
    with pytest.raises(HeatserveError, match=OTHER_CLASSES.replace("tiny", "other")):
        CliRunner().invoke(app, arguments, catch_exceptions=False)
