"""The first minute of a stranger: one command, from nothing to certified answers; a second start at once.

The first start is of the wheel, in a folder that holds packages named as our rooms.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console
from wheels import run

from heatserve import FREE_PORTS, TritonServer, quickstart
from heatserve.export.calibration.attempts import read_attempts
from heatserve.export.card import CARD_NAME, CardError, verify_card
from heatserve.export.exporting import export_checkpoint
from heatserve.export.repository.layout import ATTEMPTS_NAME, version_dirs
from heatserve.training import load_checkpoint
from heatserve.training.checkpoint import save_checkpoint

pytestmark = pytest.mark.slow

COMMITTED = Path(__file__).parents[2] / "model_repository"
FREE = ("--http-port", "0", "--grpc-port", "0", "--metrics-port", "0")


def heatserve(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).parent / "heatserve"), *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300, check=False)


@pytest.fixture(scope="module")
def first_start(bin_folder: Path, hostile: Path) -> tuple[Path, str]:
    done = run(str(bin_folder / "heatserve"), "quickstart", "--once", *FREE, folder=hostile)
    return hostile, done.stdout


def test_prints_certified_answers_over_both_protocols(first_start: tuple[Path, str]) -> None:
    _, printed = first_start
    for expected in ("train", "smooth", "export", "certify", "promise", "over gRPC, grpc://", "over HTTP, http://"):
        assert expected in printed
    rows = re.findall(r" (\d) +([01]\.\d{3}) +(\d\.\d{4})(?: \(\d\))? +(\d\.\d{4}) +(\d\.\d{4}) ", printed)
    assert len(rows) == 8
    assert rows[:4] == rows[4:]  # gRPC and HTTP give one answer
    for _, _, certified, l_bound, nominal in rows:
        assert float(l_bound) <= float(certified) <= float(nominal)
    assert any(float(row[2]) > 0 for row in rows)


def test_leaves_pictures_to_predict(first_start: tuple[Path, str]) -> None:
    folder, _ = first_start
    pictures = sorted((folder / "runs" / "quickstart").glob("image_*.png"))
    assert len(pictures) == 4
    with TritonServer(folder / "model_repository", endpoints=FREE_PORTS) as server:
        url = server.endpoints.http_url
        done = heatserve(
            "predict", *map(str, pictures), "--url", url, "--model", "quickstart_digits", "--json", folder=folder
        )
    assert done.returncode == 0, done.stderr
    answers = json.loads(done.stdout)
    assert [Path(answer["image"]) for answer in answers] == pictures
    assert all(0 <= answer["l_bound"] <= answer["certified_radius"] <= answer["nominal_radius"] for answer in answers)


def test_the_card_carries_the_promise_and_what_it_was_measured_on(first_start: tuple[Path, str]) -> None:
    folder, _ = first_start
    versions = sorted((folder / "model_repository" / "quickstart_digits").glob("[0-9]*"))
    card = verify_card(versions[-1])
    assert card.calibration is not None
    assert card.evaluation is not None
    assert card.calibration.check.split == "calibration"
    assert card.evaluation.data.split == "test"
    assert card.evaluation.clean_accuracy > 0.93
    assert card.evaluation.calibrated.positive > 50
    rate = card.evaluation.calibrated.overclaims / card.evaluation.calibrated.positive
    assert rate < 2 * card.calibration.alpha  # the promise has its confidence, and these are 400 images
    assert card.evaluation.nominal.overclaims > card.evaluation.calibrated.overclaims


def test_a_second_start_finds_the_model(first_start: tuple[Path, str]) -> None:
    folder, _ = first_start
    done = heatserve("quickstart", "--once", *FREE, folder=folder)
    assert done.returncode == 0, done.stderr
    assert "found" in done.stdout
    assert "train " not in done.stdout


def test_another_network_of_the_quickstart_is_a_later_look_that_passes_once(
    first_start: tuple[Path, str], tmp_path: Path
) -> None:
    """As one that another machine trained, in another order of additions, beside the committed model's attempts."""
    repository = shutil.copytree(first_start[0] / "model_repository", tmp_path / "models")
    (repository / "digits").mkdir()
    shutil.copy(COMMITTED / "digits" / ATTEMPTS_NAME, repository / "digits")
    earlier = read_attempts(repository).made.values()
    for version in version_dirs(repository / quickstart.NAME):
        shutil.rmtree(version)
    trained = load_checkpoint(first_start[0] / "runs" / "quickstart" / "digits_heat.safetensors")
    for parameter in trained.network.backbone.parameters():
        parameter.data *= 1 + 1e-6
    save_checkpoint(tmp_path / "elsewhere.safetensors", trained.network, trained.metadata)
    model = export_checkpoint(tmp_path / "elsewhere.safetensors", repository=repository, name=quickstart.NAME)
    for _ in range(2):  # the same attempt again is no new look
        part = quickstart._calibrate(model, Console(quiet=True)).card.calibration
        assert part is not None
        assert part.looks == len(earlier) + 1 == len(read_attempts(repository).made)
        assert part.spent == pytest.approx(sum(attempt.level for attempt in earlier))
        assert part.level == pytest.approx((quickstart.DELTA - part.spent) / 2)


def test_a_tampered_model_is_not_served(first_start: tuple[Path, str]) -> None:
    folder, _ = first_start
    version = sorted((folder / "model_repository" / "quickstart_digits").glob("[0-9]*"))[-1]
    content = (version / CARD_NAME).read_text()
    card = json.loads(content)
    card["graph_sha256"] = "0" * 64
    (version / CARD_NAME).write_text(json.dumps(card))
    try:
        with pytest.raises(CardError):
            verify_card(version)
        for command in (("quickstart", "--once"), ("serve",)):
            done = heatserve(*command, *FREE, folder=folder)
            assert done.returncode == 1
            assert "the card was changed after it was written" in done.stderr
            assert "Traceback" not in done.stderr
    finally:
        (version / CARD_NAME).write_text(content)
