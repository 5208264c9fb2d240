"""What several test files share: real servers, each started once, and a wheel where a user has it."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import pytest
from browsers import open_browser, open_page
from known_tiers import hurry
from playwright.sync_api import Browser, Page
from tiny_model import delay_batches, random_images, write_tiny_model
from tiny_tiers import write_tiny_tiers
from wheels import ROOMS, ROOT, built, run

from heatserve import FREE_PORTS, TritonServer
from heatserve.certification.guard import fit_guard

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell that starts the tests in the background has them, and all that they start, ignore Ctrl-C, which they send.
    signal.signal(signal.SIGINT, signal.default_int_handler)

START_SECONDS = 300.0
"""For the servers that many tests share: a machine with other work takes minutes for their processes."""


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
def proven_repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The models `proven` and `proven8`, whose certificates are deterministic; copy it to change it."""
    from tiny_lipschitz import export_tiny_lipschitz, train_tiny_lipschitz

    folder = tmp_path_factory.mktemp("proven")
    export_tiny_lipschitz(train_tiny_lipschitz(folder / "proven.safetensors"), folder / "models")
    return folder / "models"


@pytest.fixture(scope="session")
def triton(tiny_repository: Path) -> Iterator[TritonServer]:
    """A Triton that serves `tiny_repository`."""
    if sys.platform != "linux":
        pytest.skip("Triton runs on Linux only")
    with TritonServer(tiny_repository, endpoints=FREE_PORTS, startup_timeout=START_SECONDS) as server:
        yield server


@pytest.fixture(scope="session")
def tiers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonServer]:
    """A server of the models of `write_tiny_tiers`."""
    if sys.platform != "linux":
        pytest.skip("Triton runs on Linux only")
    repository = tmp_path_factory.mktemp("tiers")
    write_tiny_tiers(repository)
    with TritonServer(repository, endpoints=FREE_PORTS, startup_timeout=START_SECONDS) as server:
        for model in server.models:
            hurry(server, model.name)
        yield server


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of the repository, links kept: a build beside the originals would leave files there."""
    copy = tmp_path_factory.mktemp("source") / "heatserve"
    listed = subprocess.run(["git", "-C", str(ROOT), "ls-files", "-z"], capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip(f"a wheel is built from the tracked files, and {ROOT} is no git checkout")
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_symlink() or (ROOT / name).exists():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, copy / name, follow_symlinks=False)
    return copy


@pytest.fixture(scope="session")
def wheel(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built(source, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="session")
def bin_folder(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new environment with the wheel in it, which sees the libraries of this one but not its heatserve."""
    environment = tmp_path_factory.mktemp("environment")
    run(sys.executable, "-m", "venv", str(environment), folder=environment)
    python = environment / "bin" / "python"
    where = run(str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", folder=environment)
    libraries = Path(where.stdout.strip())
    (libraries / "libraries.pth").write_text(sysconfig.get_path("purelib") + "\n")
    install = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "--force-reinstall"]
    run(str(python), *install, str(wheel), folder=environment)
    return python.parent


@pytest.fixture(scope="session")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's folder, whose packages have the names of our rooms and say so when they are imported."""
    folder = tmp_path_factory.mktemp("user")
    for room in ROOMS:
        (folder / room).mkdir()
        for name in ("__init__.py", "commands.py"):
            (folder / room / name).write_text(f"raise SystemExit('{room}/{name} of the user was run')\n")
    return folder


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium, for the tests of one file."""
    with open_browser() as opened:
        yield opened


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A page as wide as a desktop's."""
    with open_page(browser) as opened:
        yield opened
