"""The numbers of a promise, in words and in `config.pbtxt`: none promises more than the card does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tiny_model import CALIBRATION, write_tiny_model

from heatserve.certification.calibration import CalibrationError
from heatserve.export.calibration.calibrate import servable_radii
from heatserve.export.card_parts import MonteCarlo, OverclaimCount
from heatserve.export.promise import radius_text, stated
from heatserve.export.repository.layout import open_model, promise_parameters


@pytest.mark.parametrize(
    ("radius", "digits", "shown"),
    [
        (0.98995, 3, "0.989"),
        (float(np.float32(0.425)), 3, "0.425"),
        (0.57, 3, "0.570"),
        (0.24999, 4, "0.2499"),
        (0, 4, "0.0000"),
    ],
)
def test_a_radius_is_shown_as_no_more_than_it_is(radius: float, digits: int, shown: str) -> None:
    assert radius_text(radius, digits) == shown


@pytest.mark.parametrize(
    ("share", "up", "down"),
    [
        (0.95, "0.95", "0.95"),
        (1 - 0.9, "0.1", "0.1"),
        (0.9999996, "1", "0.999999"),
        (1 - 1e-13, "1", "0.999999"),
        (0.2000001, "0.200001", "0.2"),
        (1e-9, "1e-09", "1e-09"),
        (0.0, "0", "0"),
        (1.0, "1", "1"),
    ],
)
def test_a_share_is_rounded_to_the_side_that_promises_less(share: float, up: str, down: str) -> None:
    assert (stated(share, up=True), stated(share, up=False)) == (up, down)


def test_a_confidence_just_below_1_is_not_stated_as_1(tmp_path: Path) -> None:
    write_tiny_model(tmp_path)
    card = open_model(tmp_path, "tiny").card
    sure = CALIBRATION.model_copy(
        update={
            "alpha": 0.2000001,
            "confidence": 0.9999996,
            "level": 2e-7,
            "overclaim": OverclaimCount(images=CALIBRATION.check.images, positive=0, overclaims=0),
        }
    )
    promise = sure.promised(card.sigma)
    assert "At most a share 0.200001 of" in promise
    assert "This holds with confidence 0.999999 over" in promise
    parameters = promise_parameters(card.model_copy(update={"calibration": sure}))
    assert (parameters["alpha"], parameters["confidence"]) == ("0.200001", "0.999999")


@pytest.mark.parametrize("alpha", [0.0, 1.0])
@pytest.mark.parametrize("decides", [None, 0.1])
def test_a_certify_that_proves_nothing_or_all_is_refused(alpha: float, decides: float | None) -> None:
    monte_carlo = MonteCarlo(n0=10, n=100, alpha=alpha, seed=0, decides=decides)
    with pytest.raises(CalibrationError, match="certify_alpha: expected a number between 0 and 1"):
        servable_radii(0.25, monte_carlo, None)
