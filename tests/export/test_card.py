"""Certificate cards: those of earlier versions are read, and what cannot be meant is refused by name."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from functools import reduce
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from rich.console import Console
from tiny_model import edit_card, write_tiny_model

from heatserve.certification.noise import GRID, SOURCES
from heatserve.export.calibration.report import card_report
from heatserve.export.card import CARD_NAME, CardError, read_card
from heatserve.export.card_parts import MonteCarlo
from heatserve.export.digest import with_digest
from heatserve.export.repository.layout import triton_config

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


ODD: list[Any] = [
    None,
    True,
    -1,
    0,
    2**70,
    1e308,
    float("nan"),
    float("inf"),
    5e-324,
    "",
    "\x1b[31m",
    [],
    [[]],
    {"a": 1},
    "9" * 5000,
]
"""What no field, or hardly any, can mean."""


def _places(content: Any, at: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """Of all fields and of the first of each list."""
    if at:
        yield at
    inside = (
        content.items() if isinstance(content, dict) else enumerate(content[:1]) if isinstance(content, list) else ()
    )
    for name, value in inside:
        yield from _places(value, (*at, name))


@pytest.mark.parametrize("name", ["digits", "digits_lipschitz"])
def test_whatever_a_card_says_it_is_read_or_refused_with_a_sentence(name: str, tmp_path: Path) -> None:
    content = json.loads((max((COMMITTED / name).glob("[0-9]*")) / CARD_NAME).read_bytes())
    read = refused = 0
    for at in _places(content):
        for odd in ODD:
            changed = copy.deepcopy(content)
            *outer, last = at
            reduce(lambda inside, key: inside[key], outer, changed)[last] = odd
            (tmp_path / CARD_NAME).write_bytes(with_digest(changed))
            try:
                card = read_card(tmp_path)
                triton_config(card).SerializeToString()
                Console(file=StringIO()).print(card.promise if card.is_deterministic else card_report(card))
                read += 1
            except CardError:
                refused += 1
    assert read > 100  # of fields that are free text, and of numbers that may be any
    assert refused > 500
