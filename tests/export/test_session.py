"""ONNX Runtime in a process: untouched until a session is opened, then one pool of threads for all."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest

COUNTED = """
import json, os
before = dict(os.environ)
import sys
from heatserve.export.runtime.session import open_session
imported = {"onnxruntime": "onnxruntime" in sys.modules, "changed": before != dict(os.environ)}
from onnx import parser
graph = parser.parse_model(
    '<ir_version: 9, opset_import: ["" : 18]> g (float[N,3] image) => (float[N,3] y) { y = Relu(image) }'
).SerializeToString()
threads = []
for _ in range(3):
    session = open_session(graph)
    threads.append(len(os.listdir("/proc/self/task")))
print(json.dumps({**imported, "threads": threads, "telemetry": os.environ["ORT_DISABLE_TELEMETRY"]}))
"""


def counted(**environment: str) -> Any:
    """What a process of its own saw that opened three sessions."""
    without = {name: value for name, value in os.environ.items() if name not in ("ORT_DISABLE_TELEMETRY",)}
    done = subprocess.run(
        [sys.executable, "-c", COUNTED],
        env={**without, "OPENBLAS_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout)


def test_importing_the_module_leaves_the_environment_and_onnx_runtime_alone() -> None:
    found = counted()
    assert not found["onnxruntime"]
    assert not found["changed"]


def test_telemetry_is_off_unless_somebody_chose_otherwise() -> None:
    assert counted()["telemetry"] == "1"
    assert counted(ORT_DISABLE_TELEMETRY="0")["telemetry"] == "0"


@pytest.mark.skipif(sys.platform != "linux", reason="threads are counted in /proc")
def test_all_sessions_share_a_pool_of_as_many_threads_as_omp_num_threads_says() -> None:
    few, many = (counted(OMP_NUM_THREADS=count)["threads"] for count in ("2", "6"))
    assert len(set(few)) == len(set(many)) == 1, "a session brought threads of its own"
    assert many[0] - few[0] == 4
    assert counted(OMP_NUM_THREADS="6,2")["threads"] == many
    assert counted(OMP_NUM_THREADS="all")["threads"] == counted(OMP_NUM_THREADS="")["threads"]
