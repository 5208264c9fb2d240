"""The names of classes: at least two, each one line of text."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_model import edit_card, write_tiny_model

from heatserve.certification.class_names import class_names_problem
from heatserve.certification.errors import HeatserveError
from heatserve.export.card import CardError, read_card
from heatserve.export.repository.layout import check_model_name
from heatserve.training.data import DataError, load_data

LATIN_1 = os.fsdecode(b"caf\xe9")
"""A folder's name that is no UTF-8, as Python has it."""


@pytest.mark.parametrize("name", ["a\nb", "a\r", "a\x00b", "\x1b[2J", "a\u2028b", LATIN_1, "", "  "])
def test_a_name_is_one_line_of_text(name: str) -> None:
    problem = class_names_problem(("fine", name))
    assert problem.startswith("expected names of classes in one line of text (UTF-8), got ")
    assert problem.isprintable()
    assert problem.isascii()
    assert "of class 1" in problem


def test_names_of_any_language_and_length_are_names_and_two_classes_may_have_one() -> None:
    assert class_names_problem(("crane", "crane")) == ""
    assert class_names_problem(("n" * 300, "Straßenbahn", "猫", "tabby, tabby cat", "🙂", "e\u0301", "a:b")) == ""
    assert class_names_problem(("only",)) == "expected at least two classes to choose from, got 1"


@pytest.mark.parametrize(
    ("classes", "expected"),
    [(("only",), "at least two classes"), (("a\nb", "c"), "one line of text"), ((LATIN_1, "z"), "UTF-8")],
    ids=["one", "line break", "Latin-1"],
)
def test_a_folder_of_such_classes_is_refused_before_any_training(
    tmp_path: Path, classes: tuple[str, ...], expected: str
) -> None:
    random = np.random.default_rng(0)
    for part in ("train", "test"):
        for name in classes:
            folder = tmp_path / part / name
            folder.mkdir(parents=True)
            for index in range(4):
                pixels = random.integers(0, 256, (8, 8, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{index}.png")
    for split in ("train", "calibration", "test"):
        with pytest.raises(DataError, match=f"expected .*{expected}"):
            load_data(f"imagefolder:{tmp_path}", split)


@pytest.mark.parametrize("names", [["only"], ["a\nb", *"bcdefghij"]])
def test_a_card_of_such_classes_is_refused(tmp_path: Path, names: list[str]) -> None:
    version_dir = write_tiny_model(tmp_path)
    edit_card(version_dir, lambda card: card.update(class_names=names))
    with pytest.raises(CardError, match="class_names: expected "):
        read_card(version_dir)


def test_a_model_name_leaves_room_for_those_of_its_tiers() -> None:
    check_model_name("n" * 200)
    assert len("n" * 200 + "_certify_stream") < 255
    with pytest.raises(HeatserveError, match="name: expected up to 200 letters, digits"):
        check_model_name("n" * 201)
