"""`heatserve predict --confirm` and `heatserve certify`: what they print of the answers of a real server."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
from contextlib import suppress
from io import StringIO
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from rich.console import Console, RenderableType
from tiny_model import CLASS_NAMES
from tiny_tiers import PATIENT_SECONDS, RADIUS, grid_images
from typer.testing import CliRunner

from heatserve import Client, Outcome, Tier, TierAnswer, TierReason, TritonServer
from heatserve.cli import app
from heatserve.tables import bound_line, certified_text, confirmed_table

YES = TierAnswer(
    label=1,
    class_name="automobile",
    outcome=Outcome.YES,
    proven_radius=0.125,
    votes=32,
    alpha=1e-6,
    tier=Tier.CONFIRM,
    reason=TierReason.PROVEN,
    sampling="grid",
    certified_radius=0.15,
)
UNDECIDED = TierAnswer(
    label=7,
    class_name=None,
    outcome=Outcome.UNDECIDED,
    proven_radius=0.0,
    votes=100_000,
    alpha=1e-6,
    tier=Tier.CONFIRM,
    reason=TierReason.VOTES,
    sampling="grid",
    certified_radius=0.0,
)
BOUND = TierAnswer(
    label=1,
    class_name="automobile",
    outcome=Outcome.YES,
    proven_radius=0.3125,
    votes=1234,
    alpha=1e-6,
    tier=Tier.CERTIFY,
    reason=TierReason.DEADLINE,
    sampling="grid",
    p_lower=0.9,
    classes=(1,),
)
NO_BOUND = TierAnswer(
    label=-1,
    class_name=None,
    outcome=Outcome.UNDECIDED,
    proven_radius=0.0,
    votes=100,
    alpha=1e-6,
    tier=Tier.CERTIFY,
    reason=TierReason.TIGHTENING,
    sampling="grid",
    p_lower=0.4,
    classes=(1,),
)


def printed(content: RenderableType, *, columns: int) -> list[str]:
    console = Console(width=columns, file=StringIO(), record=True)
    console.print(content)
    return console.export_text().splitlines()


def test_what_is_confirmed_fits_a_terminal_of_80_columns() -> None:
    rows = [("pictures/of/a/car.png", YES, 0.0312), ("b.png", UNDECIDED, 10.01)]
    lines = printed(confirmed_table(rows, radius=0.125), columns=80)
    text = "\n".join(lines)
    assert max(map(len, lines)) <= 80
    assert "…" not in text
    assert re.search(r"automobi.* 0\.1500 +yes +32 +proven +31\b", text)
    assert re.search(r"b\.png +7 +0\.0000 +undecided +100000 +votes +10010\b", text)
    assert "proven in" in text
    assert "0.125?" in text
    assert "proven: the votes prove the answer for every image within the radius." in text
    assert "\nvotes: not decided by as many votes as were allowed." in text
    assert "α = 1e-06 for each image" in text.replace("\n", " ")


@pytest.mark.parametrize(
    ("answer", "is_stopped", "expected"),
    [
        (
            BOUND,
            False,
            "1,234 votes, α = 1e-06, noise grid: the deadline has passed; what was proven until then holds; "
            "--deadline SECONDS gives it more time",
        ),
        (BOUND, True, "1,234 votes, α = 1e-06, noise grid: stopped; what was proven until then holds"),
        (NO_BOUND, True, "100 votes, α = 1e-06, noise grid: stopped; what was proven until then holds"),
    ],
)
def test_what_is_certified_says_why_it_is_not_more(answer: TierAnswer, is_stopped: bool, expected: str) -> None:
    lines = printed(certified_text(answer, is_stopped=is_stopped), columns=140)
    proven = "class automobile proven within 0.3125 (L2, pixels in [0,1])" if answer else "nothing is proven"
    assert [line.rstrip() for line in lines[:3]] == [proven, expected, ""]
    assert "never confirm another class (but for α)" in " ".join(line.strip() for line in lines[3:])


def test_a_bound_is_one_line_of_80_columns() -> None:
    (line,) = printed(bound_line(BOUND, 12.34, votes=100_000), columns=80)
    assert line.rstrip().endswith("1,234 of 100,000 votes  12.3 s  class automobile proven within 0.3125")


@pytest.fixture
def array(tmp_path: Path) -> Path:
    """A file of three images."""
    path = tmp_path / "images.npy"
    np.save(path, grid_images(3))
    return path


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """A file of one image, of which votes prove something."""
    path = tmp_path / "image.npy"
    np.save(path, grid_images(1))
    return path


@pytest.mark.slow
@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_predict_writes_what_is_confirmed_as_json(tiers: TritonServer, array: Path, protocol: str) -> None:
    url = getattr(tiers.endpoints, f"{protocol}_url")
    command = ["predict", str(array), "--url", url, "--model", "tiny", "--confirm", str(RADIUS), "--alpha", "0.001"]
    records = json.loads(CliRunner().invoke(app, [*command, "--json"], catch_exceptions=False).stdout)
    with Client(url, model="tiny") as client:
        labels = [prediction.label for prediction in client.predict(np.load(array))]
    assert [record["label"] for record in records] == labels
    for record in records:
        assert record["image"] == str(array)
        assert record["class_name"] == CLASS_NAMES[record["label"]]
        assert record["outcome"] in ("yes", "no", "undecided")
        assert record["proven_radius"] == (RADIUS if record["outcome"] == "yes" else 0)
        assert record["alpha"] == 0.001
        assert record["radius"] == RADIUS
        assert record["explanation"] == TierReason(record["reason"]).explanation
        assert record["promise"].startswith("The outcome yes says that")
        assert record["certified_radius"] >= 0
        assert not {"p_lower", "classes"} & set(record)  # of which confirm says nothing


@pytest.mark.slow
def test_predict_prints_and_draws_what_is_confirmed(tiers: TritonServer, array: Path, tmp_path: Path) -> None:
    svg = tmp_path / "confirm.svg"
    command = ["predict", str(array), "--url", tiers.endpoints.grpc_url, "--model", "tiny", "--confirm", str(RADIUS)]
    done = CliRunner().invoke(app, [*command, "--svg", str(svg)], catch_exceptions=False, env={"COLUMNS": "80"})
    assert done.exit_code == 0
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert "yes: the smoothed classifier answers this class" in " ".join(done.stdout.split())
    drawn = " ".join(ElementTree.fromstring(svg.read_text()).itertext()).replace("\N{NO-BREAK SPACE}", " ")
    assert f"heatserve predict … --model tiny --confirm {RADIUS:g}" in drawn
    assert "adversary" in drawn


def test_alpha_is_about_confirm() -> None:
    done = CliRunner().invoke(app, ["predict", "a.png", "--model", "tiny", "--alpha", "0.1"])
    assert done.exit_code == 2
    assert "expected --confirm RADIUS with it" in " ".join(re.sub("[│╭╮╰╯]", " ", done.output).split())


def certify_command(server: TritonServer, image: Path, *options: str) -> list[str]:
    """Options may begin with further images."""
    url = ["--url", server.endpoints.grpc_url, "--deadline", str(PATIENT_SECONDS / 2)]
    return ["certify", str(image), *options, "--model", "tiny", *url]


@pytest.mark.slow
def test_certify_prints_bounds_and_what_is_proven_in_the_end(tiers: TritonServer, image: Path) -> None:
    done = CliRunner().invoke(app, certify_command(tiers, image, "--n", "400"), catch_exceptions=False)
    lines = done.stdout.splitlines()
    assert done.exit_code == 0
    assert re.search(r" of 500 votes  \d+\.\d s  ", lines[0])
    assert "500 votes, α = 1e-06, noise grid: the votes prove the answer for every image within the radius" in " ".join(
        done.stdout.split()
    )
    assert re.search(r"^class \w+ proven within 0\.\d{4} \(L2, pixels in \[0,1\]\)$", done.stdout, re.MULTILINE)
    assert "never confirm another class" in " ".join(done.stdout.split())


@pytest.mark.slow
def test_certify_writes_json(tiers: TritonServer, image: Path) -> None:
    missing = image.with_name("missing.npy")
    done = CliRunner().invoke(app, certify_command(tiers, image, str(missing), "--n", "200", "--top-k", "2", "--json"))
    record, other = json.loads(done.stdout)
    assert done.exit_code == 1
    assert other["image"] == str(missing)
    assert "No such file" in other["error"]
    assert record["votes"] == 300
    assert record["tier"] == "certify"
    assert len(record["classes"]) == 2
    assert record["stopped"] is False
    assert "certified_radius" not in record


def run_heatserve(*arguments: str, **options: Any) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-m", "heatserve", *arguments], **options)


@pytest.mark.slow
def test_ctrl_c_keeps_the_bound_that_holds(tiers: TritonServer, image: Path) -> None:
    """In a terminal, where the bound is shown in one place."""
    ours, theirs = pty.openpty()
    command = certify_command(tiers, image, "--n", "100000")
    options = {"COLUMNS": "100", "TERM": "xterm"}
    process = run_heatserve(
        *command, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True, env={**os.environ, **options}
    )
    os.close(theirs)
    shown = b""
    with suppress(OSError):  # the other end is closed
        while part := os.read(ours, 4096):
            shown += part
            if b"proven within" in shown and process.poll() is None and b"stopped" not in shown:
                process.send_signal(signal.SIGINT)
                break
        while part := os.read(ours, 4096):
            shown += part
    os.close(ours)
    assert process.wait(30) == 0
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.decode()).replace("\r", "\n")
    assert "of 100,100 votes" in text
    assert "stopped; what was proven until then holds" in text
    assert re.search(r"class \w+ proven within 0\.\d{4} \(L2, pixels in \[0,1\]\)", text)
    assert "Traceback" not in text
