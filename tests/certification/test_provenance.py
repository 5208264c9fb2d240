"""What a result says about how it was made."""

from __future__ import annotations

import platform
from datetime import datetime, timezone
from importlib.metadata import version

from heatserve.certification.provenance import now, provenance, versions


def test_versions_are_those_installed_and_what_is_absent_is_left_out() -> None:
    assert versions("numpy", "no-such-package") == {"heatserve": version("heatserve"), "numpy": version("numpy")}
    assert versions("python")["python"] == platform.python_version()


def test_now_is_in_utc_to_the_second() -> None:
    before = datetime.now(timezone.utc).replace(microsecond=0)
    found = datetime.fromisoformat(now())
    assert before <= found <= datetime.now(timezone.utc)
    assert found.microsecond == 0


def test_provenance_says_command_machine_versions_and_date() -> None:
    found = provenance("numpy")
    assert found["command"].startswith("heatserve")
    assert found["machine"]["cores"] >= 1
    assert set(found["versions"]) == {"heatserve", "python", "numpy"}
