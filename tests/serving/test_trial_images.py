"""What an engine may answer to the images of a trial, and what those images are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tiny_model import random_images, write_tiny_model

from heatserve.export.contract import Outputs, Reason
from heatserve.export.repository.layout import ModelVersion, open_model
from heatserve.export.runtime.served import open_served
from heatserve.serving.switching.comparing import PROBABILITY_TOLERANCE, disagreement, trial_images


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> ModelVersion:
    repository = tmp_path_factory.mktemp("trial")
    write_tiny_model(repository)
    return open_model(repository, "tiny")


@pytest.fixture(scope="module")
def answer(model: ModelVersion) -> Outputs:
    """To an image with a positive certified radius."""
    answered = open_served(model)(random_images(50))
    (index, *_) = np.flatnonzero(answered["certified_radius"] > 0)
    return {name: value[index : index + 1] for name, value in answered.items()}


def test_the_same_answer_agrees(model: ModelVersion, answer: Outputs) -> None:
    assert disagreement(model.card, answer, answer) == ""


@pytest.mark.parametrize("name", ["label", "certified_radius", "nominal_radius", "l_bound", "reason"])
def test_another_answer_of_the_same_probabilities_is_named(model: ModelVersion, answer: Outputs, name: str) -> None:
    other = {**answer, name: answer[name] + answer[name].dtype.type(1)}
    assert disagreement(model.card, answer, other).startswith(f"{name}: expected ")


def test_probabilities_may_be_off_by_what_engines_differ_in(model: ModelVersion, answer: Outputs) -> None:
    label = int(answer["label"][0])
    for off, agrees in ((PROBABILITY_TOLERANCE / 2, True), (2 * PROBABILITY_TOLERANCE, False), (np.nan, False)):
        probabilities = answer["probabilities"].copy()
        probabilities[0, label] -= off
        other = {**answer, "probabilities": probabilities, "certified_radius": np.zeros(1, np.float32)}
        found = disagreement(model.card, answer, other)
        assert (found == "") is agrees
        assert agrees or found.startswith("probabilities: expected those of the graph within 1e-05")


def test_a_radius_above_what_its_probabilities_support_is_named(model: ModelVersion, answer: Outputs) -> None:
    largest = max(model.card.calibration.radius_map.radii) if model.card.calibration else 0
    probabilities = answer["probabilities"].copy()
    probabilities[0, int(answer["label"][0])] -= PROBABILITY_TOLERANCE / 2
    other = {**answer, "probabilities": probabilities, "certified_radius": np.array([2 * largest], np.float32)}
    assert disagreement(model.card, answer, other).startswith("certified_radius: expected at most ")


@pytest.mark.parametrize("dtype", [np.float32, np.uint8])
def test_images_of_a_trial_are_valid_and_others_may_be_kept(model: ModelVersion, tmp_path: Path, dtype: type) -> None:
    warm_up = random_images(1) if dtype is np.float32 else np.rint(255 * random_images(1)).astype(np.uint8)
    (tmp_path / "kept").mkdir()
    np.save(tmp_path / "kept" / "two.npy", random_images(2, seed=1))
    images = list(trial_images(tmp_path, model.card, warm_up))
    assert [image.shape for image in images] == [(1, 1, 8, 8)] * 12
    assert {image.dtype for image in images[:10]} == {np.dtype(dtype)}
    assert all(image.min() >= 0 and image.max() <= (255 if dtype is np.uint8 else 1) for image in images)
    assert len({image.tobytes() for image in images}) == 12
    np.testing.assert_array_equal(np.concatenate(images[10:]), random_images(2, seed=1))


@pytest.fixture(scope="module")
def proven(proven_repository: Path) -> tuple[ModelVersion, Outputs]:
    """A model with a deterministic certificate, and its answer to an image."""
    model = open_model(proven_repository, "proven")
    return model, open_served(model)(random_images(1))


def test_a_proven_radius_may_differ_by_what_float64_rounds(proven: tuple[ModelVersion, Outputs]) -> None:
    model, answer = proven
    assert disagreement(model.card, answer, answer) == ""
    for name in ("certified_radius", "nominal_radius", "l_bound"):
        next_to = {**answer, name: np.nextafter(answer[name], np.float32(9))}
        assert disagreement(model.card, answer, next_to) == ""
        for factor in (1 + 1e-5, 1 - 1e-5, np.nan):
            other = {**answer, name: answer[name] * np.float32(factor)}
            assert disagreement(model.card, answer, other).startswith(f"{name}: expected ")


def test_a_proven_radius_has_the_reason_of_one(proven: tuple[ModelVersion, Outputs]) -> None:
    model, answer = proven
    for reason in (Reason.CALIBRATED, Reason.UNSURE):
        other = {**answer, "reason": np.array([reason])}
        assert disagreement(model.card, answer, other).startswith("reason: expected 6 with a positive radius")


def test_images_of_a_trial_are_noisy_where_the_card_has_no_sigma(proven: tuple[ModelVersion, Outputs]) -> None:
    model, _ = proven
    images = [*trial_images(model.path.parent, model.card, np.full((1, 1, 8, 8), 0.5, np.float32))]
    assert len({image.tobytes() for image in images}) > 6
    assert images[1].std() > 0.1
