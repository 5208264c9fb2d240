"""The commands and what they print."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from io import StringIO
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image
from rich.console import Console
from tiny_model import CALIBRATION, CLASS_NAMES, random_images
from typer.testing import CliRunner

from heatserve import Client, Prediction, ServingError, TritonServer
from heatserve.cli import app
from heatserve.commands.asking import Answered, Unanswered, ask_each
from heatserve.commands.serve import address_lines, callers_need, examples
from heatserve.export.contract import Reason
from heatserve.pictures import terminal_svg
from heatserve.serving.client.answers import ModelSpec
from heatserve.serving.client.image_files import read_images
from heatserve.serving.errors import UnavailableError
from heatserve.serving.pixels import Pixels
from heatserve.serving.triton.endpoints import Endpoints
from heatserve.tables import models_table, predictions_table, text_art


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "picture.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 8), dtype=np.uint8)).save(path)
    return path


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_predict_writes_json(triton: TritonServer, picture: Path, protocol: str) -> None:
    array = picture.with_suffix(".npy")
    np.save(array, random_images(2))
    url = getattr(triton.endpoints, f"{protocol}_url")
    command = ["predict", str(picture), str(array), "--url", url, "--model", "tiny", "--json"]
    result = CliRunner().invoke(app, command, catch_exceptions=False)
    records = json.loads(result.stdout)
    assert [record["image"] for record in records] == [str(picture), str(array), str(array)]
    with Client(url, model="tiny") as client:
        expected = client.predict(np.asarray(Image.open(picture))[:, :, None])[0]
    assert records[0]["label"] == expected.label
    assert records[0]["class_name"] == CLASS_NAMES[expected.label]
    assert records[0]["certified_radius"] == expected.certified_radius
    assert records[0]["reason"] == expected.reason
    assert records[0]["explanation"] == expected.reason.explanation
    assert {record["promise"] for record in records} == {CALIBRATION.promise}
    assert records[0]["probabilities"] == expected.probabilities.tolist()


def test_predict_prints_a_table(triton: TritonServer, picture: Path) -> None:
    command = ["predict", str(picture), "--url", triton.endpoints.grpc_url, "--model", "tiny"]
    result = CliRunner().invoke(app, command, catch_exceptions=False, env={"COLUMNS": "200"})
    assert re.search(r"certified +nominal", result.stdout)
    assert "picture.png" in result.stdout
    assert " ".join(result.stdout.split()).count(f"Promise of the card: {CALIBRATION.promise}") == 1
    assert "radius 0:" not in result.stdout
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(picture)
    command[-1] = "guarded"
    result = CliRunner().invoke(app, command, catch_exceptions=False, env={"COLUMNS": "200"})
    assert "0.0000 (4)" in result.stdout
    assert "(4) radius 0: the image is unlike those that the model was calibrated on." in result.stdout


@pytest.mark.parametrize(("columns", "widest"), [(70, 70), (200, 100)])
def test_notes_below_a_narrow_table_are_as_wide_as_the_terminal(columns: int, widest: int) -> None:
    prediction = Prediction(1, "cat", 0.75, np.ones(2, np.float32), np.array([1, 0]), 0.0, 0.0, 0.5, Reason.UNSURE)
    console = Console(width=columns, file=StringIO(), record=True)
    console.print(predictions_table([("cat.png", prediction, 0.002)], CALIBRATION.promise))
    lines = console.export_text().splitlines()
    assert max(map(len, lines[:3])) < 66, "the table has become wider than this test needs it"
    assert widest - 10 < max(len(line.rstrip()) for line in lines) <= widest


def test_predict_draws_what_it_prints(triton: TritonServer, picture: Path, tmp_path: Path) -> None:
    svg = tmp_path / "pictures" / "answer.svg"
    command = ["predict", str(picture), "--url", triton.endpoints.grpc_url, "--model", "tiny", "--svg", str(svg)]
    printed = CliRunner().invoke(app, command, catch_exceptions=False, env={"COLUMNS": "200"}).stdout
    drawn = " ".join(ElementTree.fromstring(svg.read_text()).itertext()).replace("\N{NO-BREAK SPACE}", " ").split()
    assert "heatserve predict … --model tiny" in " ".join(drawn)
    assert str(picture) in drawn
    assert set(printed.split()) <= {*drawn}
    assert [path.name for path in svg.parent.iterdir()] == ["answer.svg"]


def test_a_picture_is_the_same_for_the_same_answer_and_loads_nothing() -> None:
    def draw() -> str:
        probabilities = np.array([0.25, 0.75], np.float32)
        prediction = Prediction(1, "cat", 0.75, probabilities, np.array([1, 0]), 0.125, 0.25, 0.5, Reason.CALIBRATED)
        return terminal_svg(predictions_table([("cat.png", prediction, 0.002)]), title="an answer")

    assert draw() == draw()
    assert "0.2500" in draw()
    assert "@font-face" not in draw()
    assert "url(http" not in draw()
    addresses = re.findall(r'(?:href|src|xmlns)\S*="([^"#]+)"', draw())
    assert addresses == ["http://www.w3.org/2000/svg"]


def test_predict_answers_the_good_ones_and_names_the_others(triton: TritonServer, picture: Path) -> None:
    """In JSON in their order, in a table behind it; a name of any bytes prints, and the exit code is 1."""
    odd = picture.with_name(os.fsdecode(b"caf\xe9\n.png"))
    odd.write_bytes(picture.read_bytes())
    page, missing = picture.with_name("page.png"), picture.with_name("missing.png")
    page.write_text("<html></html>")
    options = ["--model", "tiny", "--url", triton.endpoints.grpc_url]
    files = [str(path) for path in (missing, picture, page, odd)]
    done = CliRunner().invoke(app, ["predict", *files, *options, "--json"])
    records = json.loads(done.stdout)
    assert [record["image"] for record in records] == files
    assert ["error" in record for record in records] == [True, False, True, False]
    assert records[1]["probabilities"] == records[3]["probabilities"]
    command = [sys.executable, "-m", "heatserve", "predict", *files, *options]
    shown = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "COLUMNS": "200"})
    assert shown.returncode == done.exit_code == 1
    assert str(picture) in shown.stdout
    assert r"caf\xe9\n.png" in shown.stdout
    assert "missing.png" not in shown.stdout
    assert shown.stderr.splitlines() == [
        f"error: {missing}: expected an image file, but it cannot be read: No such file or directory",
        f"       {page}: expected an image file, found an HTML page",
    ]


def test_predict_of_files_none_of_which_can_be_read_only_says_so(triton: TritonServer, tmp_path: Path) -> None:
    command = ["predict", str(tmp_path / "a.png"), "--model", "tiny", "--url", triton.endpoints.grpc_url]
    done = CliRunner().invoke(app, command)
    assert (done.exit_code, done.stdout) == (1, "")
    assert isinstance(done.exception, ServingError)
    (record,) = json.loads(CliRunner().invoke(app, [*command, "--json"]).stdout)
    assert record["error"] == str(done.exception)


def test_a_server_that_is_gone_is_not_asked_again(tmp_path: Path, picture: Path) -> None:
    """The files before are answered; each that was not is named."""
    asked = []

    def ask(pixels: Pixels) -> list[int]:
        asked.append(pixels)
        if len(asked) == 2:
            raise UnavailableError("no server answers")
        return [len(asked)]

    files = [picture, picture, tmp_path / "none.png", picture]
    answered, *others = ask_each(files, ModelSpec((1, 8, 8), "UINT8", 10, 8), ask)
    assert isinstance(answered, Answered)
    assert answered.answer == 1
    gone = f"{picture}: no server answers"
    errors = [other.error for other in others if isinstance(other, Unanswered)]
    assert [error.split(":")[1] for error in errors] == [
        " no server answers",
        " expected an image file, but it cannot be read",
        " no server answers",
    ]
    assert errors[0] == errors[2] == gone
    assert len(asked) == 2


def test_a_picture_of_another_size_is_refused(picture: Path) -> None:
    with pytest.raises(ServingError, match=r"picture.png: expected 9×8 pixels .* found 8×8"):
        read_images(picture, (1, 8, 9))
    assert read_images(picture, (1, -1, -1), "UINT8").shape == (1, 8, 8, 1)
    with pytest.raises(ServingError, match=r"picture.png: the model takes 2 channels; expected an .npy array"):
        read_images(picture, (2, 8, 8))


def test_colour_and_grey_become_each_other(picture: Path) -> None:
    assert read_images(picture, (3, 8, 8)).shape == (1, 3, 8, 8)
    Image.open(picture).convert("RGB").save(picture)
    assert read_images(picture, (1, 8, 8)).shape == (1, 1, 8, 8)


def test_an_array_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    np.save(tmp_path / "nan.npy", np.full((1, 8, 8), np.nan, np.float32))
    with pytest.raises(ServingError, match=r"nan\.npy: image: expected finite values .* 64 NaN"):
        read_images(tmp_path / "nan.npy", (1, 8, 8))
    np.save(tmp_path / "good.npy", np.zeros((1, 8, 8), np.float32))
    content = (tmp_path / "good.npy").read_bytes()
    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000000,), }\n"
    huge = b"\x93NUMPY\1\0" + len(header).to_bytes(2, "little") + header
    for damaged in (b"", b"no array", content[:50], content[:-1], huge):
        (tmp_path / "damaged.npy").write_bytes(damaged)
        with pytest.raises(ServingError, match=r"damaged\.npy: expected an \.npy array, but it cannot be read"):
            read_images(tmp_path / "damaged.npy", (1, 8, 8))
    with pytest.raises(ServingError, match=r"none\.npy: expected an \.npy array, but it cannot be read: No such file"):
        read_images(tmp_path / "none.npy", (1, 8, 8))


@pytest.mark.slow
def test_the_examples_that_serve_prints_can_be_copied_and_run(
    triton: TritonServer, picture: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(picture.parent)
    picture = picture.rename(picture.with_name("a picture.png"))
    shell, python, anywhere = examples(triton.models[0], triton.endpoints, picture).split("\n\n")
    for command in (["bash", "-c", shell], [sys.executable, "-c", python]):
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
        assert any(name in done.stdout for name in CLASS_NAMES)
    if not shutil.which("curl"):
        pytest.skip("there is no curl on this machine")
    done = subprocess.run(["bash", "-c", anywhere], capture_output=True, text=True, timeout=60, check=False)
    assert [output["name"] for output in json.loads(done.stdout)["outputs"] if output["name"] == "certified_radius"]


def test_serve_says_for_whom_each_address_is() -> None:
    everywhere = Endpoints("0.0.0.0", local=frozenset({"grpc"}), encrypted=frozenset({"http", "metrics"}))
    assert address_lines(everywhere).splitlines() == [
        "HTTP     https://127.0.0.1:8000          for all who reach this machine under any address",
        "gRPC     grpc://127.0.0.1:8001           for this machine only",
        "metrics  https://127.0.0.1:8002/metrics  for all who reach this machine under any address",
    ]
    assert all(line.endswith("for this machine only") for line in address_lines(Endpoints()).splitlines())
    assert callers_need(Endpoints(), has_tokens=False) == []
    (text,) = callers_need(everywhere, has_tokens=True)
    assert "--cacert" in text
    assert "Bearer TOKEN" in text


def test_models_table_says_what_is_not_calibrated(triton: TritonServer) -> None:
    promises = dict(
        zip(*(column.cells for column in (models_table(triton.models).columns[i] for i in (0, 5))), strict=True)
    )
    assert str(promises["uncalibrated"]) == "radius 0: not calibrated"
    assert str(promises["tiny"]).startswith("at most 1% of positive radii overclaim (confidence 99%)")


def test_text_art_has_ink_where_the_image_is_bright() -> None:
    assert text_art(np.array([[0.0, 1.0, 0.0, 0.8], [0.2, 0.3, 0.9, 1.0]], np.float32)) == " ▀▄█"
    assert text_art(np.ones((3, 3, 2), np.float32)) == "██\n▀▀"
