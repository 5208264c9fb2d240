"""The log of JSON lines: what may stand in it, its bounds, and that it holds nobody up."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from heatserve.certification.errors import HeatserveError
from heatserve.serving.observed import logs
from heatserve.serving.observed.families import LOG_DROPPED
from heatserve.serving.observed.logs import LINE_BYTES, EventLog, json_line, log_destination
from heatserve.serving.observed.page import value_of
from heatserve.serving.observed.recorder import Recorder


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_lines_of_several_processes_and_threads_are_whole(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with log_destination(str(path)) as file:
        logs_ = [EventLog(file, process=name) for name in ("front", "supervisor")]

        def write(log: EventLog) -> None:
            for turn in range(500):
                log.event("request", request_id=f"{turn}", note="x" * (turn % 400), ms=0.5, ok=True, tier=None)

        threads = [threading.Thread(target=write, args=(log,)) for log in logs_ * 2]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for log in logs_:
            log.close()
    found = lines_of(path)
    assert len(found) == 2000
    assert {line["process"] for line in found} == {"front", "supervisor"}
    assert {line["ms"] for line in found} == {0.5}
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("pixels", [np.zeros(3), b"pixels", [0.1, 0.2], np.float32(0.5), {"a": 1}])
def test_what_could_be_pixels_is_refused(pixels: Any) -> None:
    with pytest.raises(TypeError, match="image: expected a number, a truth value or text in a log, got"):
        json_line("request", process="front", image=pixels)


@pytest.mark.parametrize("text", ["x" * 10**6, "\x00\x1b[31m\n" * 10**5, "\ud800" * 1000, "é" * 10**5])
def test_a_line_is_one_line_and_bounded_whatever_a_caller_sent(text: str) -> None:
    fields: dict[str, Any] = {f"field{i}": text for i in range(30)}
    line = json_line("request", process="front", **fields)
    assert len(line) <= LINE_BYTES
    assert line.count(b"\n") == 1
    assert line.isascii()
    assert json.loads(line)["event"] == "request"


@pytest.mark.parametrize("number", [float("nan"), float("-inf"), 2**63, -(2**80)])
def test_numbers_that_json_or_its_readers_lack_are_text(number: float) -> None:
    assert json.loads(json_line("x", process="front", a=number))["a"] == str(number)
    assert json.loads(json_line("x", process="front", a=2**63 - 1, b=0.1, c=True, d=None))["a"] == 2**63 - 1


def test_text_of_a_caller_does_nothing_to_a_terminal() -> None:
    line = json_line("x", process="front", model="\x1b[2J\x9b2Jé\ud800")
    assert json.loads(line)["model"] == "\x1b[2J\\x9b2J\\xe9\\ud800"
    assert line.decode("ascii").strip().isprintable()


def test_nobody_waits_for_a_log_that_nobody_reads(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    log = EventLog(writing, process="front", recorder=Recorder(tmp_path))
    for _ in range(40_000):  # far more than the pipe and the queue hold
        log.event("request", text="x" * 400)
    dropped = value_of(tmp_path, LOG_DROPPED, process="front")
    assert 25_000 < dropped < 30_000
    os.close(reading)
    log.close()
    os.close(writing)


def test_a_file_is_set_aside_when_it_has_grown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "LOG_FILE_BYTES", 70_000)
    path = tmp_path / "log"
    with log_destination(str(path)) as file:
        log = EventLog(file, process="front")
        for turn in range(4000):
            log.event("request", turn=turn)
        log.close()
    found = [line["turn"] for name in ("log.1", "log") for line in lines_of(tmp_path / name)]
    assert found == [*range(found[0], 4000)]
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) <= 140_000
    assert len([*tmp_path.iterdir()]) == 2


def test_a_file_that_cannot_be_set_aside_has_the_newest_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "LOG_FILE_BYTES", 70_000)
    (tmp_path / "log.1" / "something else").mkdir(parents=True)
    path = tmp_path / "log"
    with log_destination(str(path)) as file:
        log = EventLog(file, process="front")
        for turn in range(4000):
            log.event("request", turn=turn)
        log.close()
    found = [line["turn"] for line in lines_of(path)]
    assert found == [*range(found[0], 4000)]
    assert path.stat().st_size <= 70_000


def test_lines_for_a_full_disk_are_counted_once_no_more_can_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "_SETTLE_SECONDS", 0.1)
    with log_destination("/dev/full") as file:
        log = EventLog(file, process="front", recorder=Recorder(tmp_path))
        for _ in range(40_000):
            log.event("request", text="x" * 400)
        log.close()
    assert 25_000 < value_of(tmp_path, LOG_DROPPED, process="front") < 30_000


def test_the_standard_output_takes_the_log() -> None:
    code = (
        "from heatserve.serving.observed.logs import EventLog, log_destination\n"
        "with log_destination('-') as file:\n"
        "    log = EventLog(file, process='supervisor'); log.event('ready', models=2); log.close()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    line = json.loads(done.stdout)
    assert (line["process"], line["event"], line["models"]) == ("supervisor", "ready", 2)


def test_a_file_that_cannot_be_written_is_explained(tmp_path: Path) -> None:
    problem = r"--log .*: expected a file to write to, or -, found: Is a directory"
    with pytest.raises(HeatserveError, match=problem), log_destination(str(tmp_path)):
        pass
