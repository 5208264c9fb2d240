"""What a Triton that looks at its models loads again: what was switched to, and nothing else."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest
from known_tiers import write_known_model
from test_limits import regions
from test_switching import publish_other

from heatserve import FREE_PORTS, TritonServer
from heatserve.export.tiers import TierModel

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="Triton runs on Linux only"),
]

_LOOKS_SECONDS = 2.5  # two looks of Triton and more


def loads(server: TritonServer) -> int:
    return server.log.read_text().count('"loading: ')


def test_only_what_is_switched_to_is_loaded_and_its_memory_is_for_its_user_only(tmp_path: Path) -> None:
    """Another server of the repository, a backup or `chmod` change the date that Linux keeps of a file's entry."""
    version = write_known_model(tmp_path, tiers=[TierModel.CONFIRM])
    publish_other(tmp_path)
    with TritonServer(tmp_path, models=["known"], versions={"known": 1}, endpoints=FREE_PORTS) as server:
        assert loads(server) == 2
        for path in [path for path in version.parent.rglob("*") if path.is_file()]:
            path.chmod(0o640)
            os.link(path, tmp_path / f"backup-{path.parent.name}-{path.name}")
        time.sleep(_LOOKS_SECONDS)
        assert loads(server) == 2
        folder = server.log.with_suffix("").name
        before = set(regions(folder))
        server.versions.replace(server.versions.open("known", 2))
        found = regions(folder)
        assert len(found.keys() - before) == 2
        assert {region.st_mode & 0o777 for region in found.values()} == {0o600}
