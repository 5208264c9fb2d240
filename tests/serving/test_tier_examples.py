"""What `heatserve serve` prints of a model's tiers can be copied and run."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from heatserve import TritonServer
from heatserve.commands.serve import confirm_examples
from heatserve.serving.triton.endpoints import FREE_PORTS

COMMITTED = Path(__file__).parents[2] / "model_repository"


@pytest.mark.slow
def test_the_examples_of_confirm_can_be_copied_and_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine votes may take longer than the deadline; the answer is undecided then."""
    monkeypatch.chdir(tmp_path)
    Image.fromarray(np.full((8, 8), 128, np.uint8)).save("a picture.png")
    with TritonServer(COMMITTED, models=["digits"], endpoints=FREE_PORTS) as server:
        shell, anywhere = confirm_examples(server.models[0], server.endpoints, Path("a picture.png")).split("\n\n")
        shown = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, timeout=90, check=False)
        assert shown.returncode == 0, shown.stderr
        assert any(outcome in shown.stdout.split() for outcome in ("yes", "no", "undecided"))
        if not shutil.which("curl"):
            pytest.skip("there is no curl on this machine")
        done = subprocess.run(["bash", "-c", anywhere], capture_output=True, text=True, timeout=90, check=False)
    found = {output["name"]: output["data"] for output in json.loads(done.stdout)["outputs"]}
    assert found["tier"] == ["confirm"]
    assert found["outcome"][0] in ("yes", "no", "undecided")
    assert found["alpha"] == [1e-6]
