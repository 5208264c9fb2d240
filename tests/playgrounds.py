"""A playground for tests: the real command, on a page of its own, before a real Triton with the committed digits."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from known_tiers import hurry
from playwright.sync_api import Page, expect
from relays import Relay, host_and_port
from tiny_model import take_uint8, write_tiny_model

from heatserve import FREE_PORTS, TritonServer
from heatserve.export.card import read_card
from heatserve.export.repository.layout import open_model
from heatserve.export.repository.publishing import republish

ROOT = Path(__file__).parents[1]
PATIENCE = 180_000.0
"""Milliseconds after which a test gives up what a busy machine does late."""
MARKUP = "<img src=x onerror=alert(1)>"
"""A class of the model `named`."""
expect.set_options(timeout=PATIENCE)
_DIGITS = ("digits", "digits_confirm", "digits_certify", "digits_certify_stream", "digits_lipschitz")


@dataclass(frozen=True)
class RunningPlayground:
    """A playground, and what it is about."""

    address: str
    """Of the page, with a slash at its end."""
    port: int
    relay: Relay
    """Between it and Triton: closed, Triton is gone."""
    errors: Path
    """What it wrote to its terminal."""
    process: subprocess.Popen[bytes]
    server: TritonServer


def write_digits(repository: Path) -> None:
    """The committed models of digits, and two tiny ones.

    `named`: classes called like markup, pictures of any size, no calibration; and `switched`, whose version 1 is
    calibrated, and whose version 2 has other weights and no calibration.
    """
    for name in _DIGITS:
        shutil.copytree(ROOT / "model_repository" / name, repository / name)
    version_dir = write_tiny_model(repository, "named", calibrated=False)
    card = read_card(version_dir)
    card = card.model_copy(update={"class_names": tuple(f"{MARKUP}{label}" for label in range(10))})
    card.write(version_dir)
    take_uint8(version_dir, resize=8)
    weights = np.random.default_rng(0).normal(scale=2, size=(64, 10)).astype(np.float32)
    write_tiny_model(repository, "switched", weights=weights)
    with tempfile.TemporaryDirectory() as other:
        write_tiny_model(Path(other), "switched", calibrated=False, weights=np.eye(64, 10, dtype=np.float32))
        republish(open_model(Path(other), "switched"), repository, "switched")


@contextmanager
def running_playground(folder: Path, *, start_seconds: float) -> Iterator[RunningPlayground]:
    """Run it in an empty folder, before a Triton of its own."""
    repository, errors = folder / "models", folder / "errors"
    write_digits(repository)
    versions = {"switched": 1}
    with TritonServer(repository, versions=versions, endpoints=FREE_PORTS, startup_timeout=start_seconds) as server:
        hurry(server, "digits")
        with Relay(host_and_port(server.endpoints.grpc_url)) as relay, errors.open("wb") as log:
            command = [sys.executable, "-m", "heatserve", "playground", "--no-open", "--port", "0"]
            command += ["--url", f"grpc://{relay.address}", "--repository", str(repository)]
            process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log)
            try:
                assert process.stdout is not None
                found = re.search(rb"(http://127\.0\.0\.1:(\d+)/)", process.stdout.readline())
                assert found, errors.read_text()
                yield RunningPlayground(found[1].decode(), int(found[2]), relay, errors, process, server)
            finally:
                process.terminate()
                process.wait(PATIENCE / 1000)
                process.stdout.close()  # type: ignore[union-attr]


def opened(page: Page, playground: RunningPlayground, *, model: str = "digits", example: int = 0) -> Page:
    """The page with a model and one of the examples, once it is answered."""
    page.set_default_timeout(PATIENCE)
    page.goto(playground.address)
    page.locator("#model option").first.wait_for(state="attached")
    page.select_option("#model", model)
    page.locator("#examples button").nth(example).click()
    page.locator("#answer .claim").first.wait_for()
    page.locator("#size-result .claim").wait_for()
    page.locator("#noise-result .claim").wait_for()
    return page
