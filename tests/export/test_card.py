"""Certificate cards: those of earlier versions are read, and what cannot be meant is refused by name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pydantic import ValidationError
from tiny_model import edit_card, write_tiny_model

from heatserve.certification.noise import GRID, SOURCES
from heatserve.export.card import CARD_NAME, CardError, read_card
from heatserve.export.card_parts import MonteCarlo

COMMITTED = Path(__file__).parents[2] / "model_repository"


def test_every_sentence_of_an_earlier_card_has_its_key() -> None:
    """The sentences are written out: how a source is described today may change, and files must still be read."""
    for sentence, key in (
        ("float32 Gaussian noise; the attack of Voráček and Hein (2023) is not excluded", "float32"),
        ("8-bit grid, integer noise with exact probabilities (Voráček and Hein 2023): sound in floating point", "grid"),
    ):
        assert MonteCarlo(n0=1, n=1, alpha=0.1, seed=0, sampling=sentence).sampling == key


def test_a_card_says_the_key_and_reads_back(tmp_path: Path) -> None:
    version_dir = write_tiny_model(tmp_path)
    assert json.loads((version_dir / CARD_NAME).read_bytes())["calibration"]["monte_carlo"]["sampling"] == "float32"
    settings = MonteCarlo(n0=1, n=2, alpha=0.1, seed=0, sampling=GRID.key)
    assert MonteCarlo.model_validate_json(settings.model_dump_json()) == settings
    assert {key: source.key for key, source in SOURCES.items()} == {"float32": "float32", "grid": "grid"}


def test_noise_that_nobody_knows_is_refused_by_name(tmp_path: Path) -> None:
    version_dir = write_tiny_model(tmp_path)
    edit_card(version_dir, lambda card: card["calibration"]["monte_carlo"].update(sampling="dice"))
    with pytest.raises(
        CardError, match=r"calibration\.monte_carlo\.sampling: .*sampling: expected one of float32, grid, got dice"
    ):
        read_card(version_dir)


@pytest.mark.parametrize("extra", [{"classifier": "logits"}, {"votes": 3}])
def test_a_field_that_means_nothing_is_refused(extra: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match=f"{next(iter(extra))}\n  Extra inputs are not permitted"):
        MonteCarlo.model_validate({"n0": 1, "n": 1, "alpha": 0.1, "seed": 0, **extra})
