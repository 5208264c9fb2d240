"""How a command hands over what it found: a table or JSON on stdout, and JSON in a file."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from rich.table import Table

from heatserve.certification.errors import HeatserveError
from heatserve.cli import app
from heatserve.commands.options import deliver, kept_when_interrupted, known_names, line

RESULTS = {"radius": 0.25, "classes": ["a", "b"]}


def table() -> Table:
    made = Table("radius")
    made.add_row("0.25")
    return made


def test_a_person_gets_the_table_and_the_file_gets_the_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    deliver(RESULTS, table, as_json=False, out=tmp_path / "made" / "results.json")
    assert "radius" in capsys.readouterr().out
    written = (tmp_path / "made" / "results.json").read_text()
    assert json.loads(written) == RESULTS
    assert written.endswith("}\n")


def test_a_program_gets_json_alone_and_the_table_is_not_made(capsys: pytest.CaptureFixture[str]) -> None:
    def refuse() -> Table:
        raise AssertionError("the table was made")

    deliver(RESULTS, refuse, as_json=True)
    assert json.loads(capsys.readouterr().out) == RESULTS


def test_a_number_that_is_none_is_null(capsys: pytest.CaptureFixture[str]) -> None:
    deliver({"found": [0.5, math.nan, (math.inf,)]}, table, as_json=True)
    assert json.loads(capsys.readouterr().out, parse_constant=pytest.fail) == {"found": [0.5, None, [None]]}


def test_text_that_is_json_already_is_handed_over_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    deliver('{"radius":0.5}', table, as_json=True)
    assert capsys.readouterr().out == '{"radius":0.5}\n'


def test_a_long_path_stays_on_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    path = "/folder" * 40
    deliver({}, lambda: line("wrote", path), as_json=False, width=60)
    assert capsys.readouterr().out == f"wrote   {path}\n"


def _commands(group: Any, *names: str) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command below a group of them, with the words that call it."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from _commands(command, *names, name)
        else:
            yield (*names, name), command


def test_a_seed_is_one_whose_noise_no_other_has() -> None:
    seeds = {
        " ".join(names): (option.min, option.max)
        for names, command in _commands(typer.main.get_command(app))
        for option in command.params
        if option.name == "seed"
    }
    assert len(seeds) > 20
    assert set(seeds.values()) == {(0, 2**32 - 1)}


def test_names_are_those_that_are_known_or_all_of_them() -> None:
    known = {"fp32": 1, "int8": 2}
    assert known_names("variant", None, known) == ["fp32", "int8"]
    assert known_names("variant", ["int8"], known) == ["int8"]
    with pytest.raises(HeatserveError, match=r"^variant: expected one of fp32, int8, got fp8$"):
        known_names("variant", ["int8", "fp8"], known)


def test_an_interruption_says_where_the_work_of_certify_is_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for folder, said in ((tmp_path, f"kept in {tmp_path}: the same command goes on"), (tmp_path / "none", "")):
        with pytest.raises(KeyboardInterrupt), kept_when_interrupted(folder):
            raise KeyboardInterrupt
        error = capsys.readouterr().err
        assert said in error if said else not error
