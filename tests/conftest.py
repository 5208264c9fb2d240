"""What several test files share: real servers, each started once."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tiny_model import delay_batches, random_images, write_tiny_model
from tiny_tiers import write_tiny_tiers

from heatserve import FREE_PORTS, TritonServer
from heatserve.certification.guard import fit_guard


@pytest.fixture(scope="session")
def tiny_repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The models `tiny`, `uncalibrated`, `guarded`, and `patient`, which collects requests for a fifth of a second."""
    repository = tmp_path_factory.mktemp("repository")
    write_tiny_model(repository)
    write_tiny_model(repository, "uncalibrated", calibrated=False)
    write_tiny_model(repository, "guarded", guard=fit_guard(random_images(400, seed=9)))
    delay_batches(write_tiny_model(repository, "patient"), microseconds=200_000)
    return repository


@pytest.fixture(scope="session")
def triton(tiny_repository: Path) -> Iterator[TritonServer]:
    """A Triton that serves `tiny_repository`."""
    if sys.platform != "linux":
        pytest.skip("Triton runs on Linux only")
    with TritonServer(tiny_repository, endpoints=FREE_PORTS) as server:
        yield server


@pytest.fixture(scope="session")
def tiers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonServer]:
    """A server of the models of `write_tiny_tiers`."""
    if sys.platform != "linux":
        pytest.skip("Triton runs on Linux only")
    repository = tmp_path_factory.mktemp("tiers")
    write_tiny_tiers(repository)
    with TritonServer(repository, endpoints=FREE_PORTS) as server:
        yield server
