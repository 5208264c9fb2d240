"""`heatserve tiers`, and what a terminal shows of the tiers that are served."""

from __future__ import annotations

import json
import shutil
import subprocess
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console
from tiny_model import take_uint8, write_tiny_model
from typer.testing import CliRunner

from heatserve.cli import app
from heatserve.commands.serve import confirm_examples
from heatserve.export.repository.layout import CONFIG_NAME, open_model
from heatserve.export.repository.settings import read_config, write_config
from heatserve.export.repository.tiers import served_tiers
from heatserve.export.tiers import TierLimits, TierModel, limit_names
from heatserve.serving.triton.endpoints import Endpoints
from heatserve.tables import tiers_table


def tiers(repository: Path, *options: str) -> str:
    command = ["tiers", "tiny", "--repository", str(repository), *options]
    return CliRunner().invoke(app, command, catch_exceptions=False, env={"COLUMNS": "80"}).stdout


def test_a_model_of_before_gets_its_tiers_and_keeps_what_is_there(tmp_path: Path) -> None:
    write_tiny_model(tmp_path)
    assert tiers(tmp_path).count("wrote   ") == len(TierModel)
    path = tmp_path / "tiny_confirm" / CONFIG_NAME
    config = read_config(path)
    config.parameters["n"].string_value = "77"
    write_config(path, config)
    shutil.rmtree(tmp_path / "tiny_certify")
    printed = tiers(tmp_path)
    assert printed.startswith(f"wrote   {tmp_path / 'tiny_certify'}\n")
    assert printed.count("wrote   ") == 1
    assert "≤ 77" in printed
    limits = {kind: {name: getattr(TierLimits(), name) for name in limit_names(kind)} for kind in TierModel}
    limits[TierModel.CONFIRM]["n"] = 77
    assert json.loads(tiers(tmp_path, "--json")) == {kind.beside("tiny"): found for kind, found in limits.items()}
    assert set(served_tiers(open_model(tmp_path, "tiny"))) == set(TierModel)


def test_the_table_of_tiers_fits_a_terminal() -> None:
    console = Console(width=80, file=StringIO(), record=True)
    console.print(tiers_table({"quickstart_digits": dict.fromkeys(TierModel, TierLimits(n=100_000, alpha=1e-9))}))
    text = console.export_text()
    lines = [line.rstrip() for line in text.splitlines()]
    rows = [line for line in lines if line.startswith("quickstart_digits_")]
    assert [row.split()[0] for row in rows] == [kind.beside("quickstart_digits") for kind in TierModel]
    assert [row.split()[-2:] for row in rows] == [
        [votes, "1e-09"] for votes in ("100,000", "100,100", "100,100", "100,000")
    ]
    assert "The radius of one pass of a model with tiers does not hold against an adversary" in " ".join(text.split())


@pytest.mark.parametrize(("resize", "shape"), [(None, (1, 8, 8)), (8, (8, 8, 1))])
def test_the_request_that_serve_prints_is_what_the_tier_takes(
    tmp_path: Path, resize: int | None, shape: tuple[int, ...]
) -> None:
    version_dir = write_tiny_model(tmp_path, calibrated=False)
    if resize:
        take_uint8(version_dir, resize=resize)
    model = open_model(tmp_path, "tiny")
    shell, anywhere = confirm_examples(model, Endpoints(), Path("a picture.png")).split("\n\n")
    assert shell.endswith("predict 'a picture.png' --url grpc://127.0.0.1:8001 --model tiny \\\n    --confirm 0.125")
    command, address = anywhere.split(" |\n    curl -s ")
    assert address == "http://127.0.0.1:8000/v2/models/tiny_confirm/infer -d @-"
    request = json.loads(subprocess.run(["bash", "-c", command], capture_output=True, check=True).stdout)
    (image,) = request["inputs"]
    assert request["parameters"] == {"radius": model.card.sigma / 2}
    assert (image["name"], image["datatype"], tuple(image["shape"])) == ("image", model.card.input_type, (1, *shape))
    assert len(image["data"]) == 64
