"""A file that a command cannot write is refused before the work, and nothing is made for it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from heatserve.cli import app
from heatserve.commands.new_files import new_file, new_file_and_figure

ASKED = {
    "train": ["train", "baseline", "--data", "digits", "--architecture", "digits_cnn", "--out"],
    "bench": ["bench", "front", "--out"],
    "attack": ["attack", "digits", "--out"],
    "audit": ["audit", "digits", "--out"],
    "certify-dataset": ["certify-dataset", "digits", "--results"],
    "report": ["report", "--out"],
    "predict": ["predict", "image.png", "--model", "digits", "--svg"],
    "import-weights": ["import-weights", "weights.pth", "--data", "digits", "--out"],
}


@pytest.mark.parametrize("command", ASKED)
def test_a_folder_in_the_place_of_a_file_is_wrong_usage(command: str, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, [*ASKED[command], str(tmp_path)], env={"COLUMNS": "400"})
    assert result.exit_code == 2
    assert f"{ASKED[command][-1]}': expected a file, got the folder {tmp_path}" in result.output
    assert list(tmp_path.iterdir()) == []


def test_a_place_where_no_file_can_be_made_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("kept")
    with pytest.raises(typer.BadParameter, match=r"expected a file in a folder, got .*, where .*/file is a file"):
        new_file(tmp_path / "file" / "deeper" / "results.json")
    with pytest.raises(typer.BadParameter, match=r"expected a file, got the pipe or device /dev/null"):
        new_file(Path("/dev/null"))
    monkeypatch.setattr(os, "access", lambda *_: False)  # whoever runs the tests may write everywhere
    with pytest.raises(typer.BadParameter, match=rf"in a folder that can be written, got .*, in {tmp_path}$"):
        new_file(tmp_path / "made" / "results.json")


def test_a_file_that_is_there_or_will_be_is_taken(tmp_path: Path) -> None:
    there, later = tmp_path / "there.json", tmp_path / "made" / "later.json"
    there.write_text("{}")
    assert [new_file(path) for path in (there, later, None)] == [there, later, None]
    assert [path.name for path in tmp_path.iterdir()] == ["there.json"]


def test_results_do_not_have_the_name_of_their_figure(tmp_path: Path) -> None:
    with pytest.raises(typer.BadParameter, match=r"another suffix than \.svg, which the figure beside it gets"):
        new_file_and_figure(tmp_path / "attack.svg")
    assert new_file_and_figure(tmp_path / "attack.json") == tmp_path / "attack.json"
