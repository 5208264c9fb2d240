"""Programs of others that tests run for real: nginx, prometheus, promtool, prometheus-alertmanager, curl."""

import os
import shutil
import sys
from pathlib import Path

import pytest


def program(name: str) -> str:
    """The path of a program on PATH or among those that `make tools` unpacked; without it the test is skipped."""
    tools = Path(sys.prefix, "tools", "usr")
    folders = [os.environ.get("PATH", os.defpath), str(tools / "sbin"), str(tools / "bin")]
    found = shutil.which(name, path=os.pathsep.join(folders))
    if found is None:
        pytest.skip(f"{name}: not on PATH, and `make tools` did not unpack it")
    return found
