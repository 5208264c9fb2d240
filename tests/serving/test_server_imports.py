"""What each process of a server imports: a server of two models has twelve, and each would hold what none needs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from tiny_model import write_tiny_model

NOT_NEEDED = ("onnx", "google.protobuf", "tritonclient", "scipy.stats", "scipy.optimize", "torch")
PROCESSES = {
    "the voter": "from heatserve.serving.tiers.voter import open_base; open_base(folder, threads=1)",
    "a tier": (
        "from heatserve.serving.tiers import questions, waiting; "
        "from heatserve.serving.tiers.single_pass import SinglePass; "
        "from heatserve.serving.votable import votable_pixels; "
        "from heatserve.export.card import read_card; card = read_card(folder); "
        "SinglePass(folder, card); votable_pixels(folder, card)"
    ),
    "a model": "from heatserve.export.card import verify_card; import onnxruntime; verify_card(folder)",
}


@pytest.mark.parametrize("process", PROCESSES)
def test_a_process_of_a_server_imports_no_more_than_it_needs(process: str, tmp_path: Path) -> None:
    code = (
        f"import pathlib, sys; folder = pathlib.Path({str(write_tiny_model(tmp_path))!r}); {PROCESSES[process]}; "
        f"print(*(name for name in {NOT_NEEDED} if name in sys.modules), 'onnxruntime' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "True\n"
