"""What a user installs: a wheel, used in a folder that holds packages named as our rooms, which must not be run."""

from __future__ import annotations

import email
import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

ROOT = Path(__file__).parents[2]
ROOMS = ("certification", "training", "export", "serving", "benchmarks")
FREE = ("--http-port", "0", "--grpc-port", "0", "--metrics-port", "0")

pytestmark = pytest.mark.slow


def run(*command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def built(source: Path, out: Path) -> Path:
    """The wheel of a source folder or archive."""
    pip = (sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check")
    run(*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(out), str(source), folder=out)
    (path,) = out.glob("heatserve-*.whl")
    return path


@pytest.fixture(scope="module")
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


@pytest.fixture(scope="module")
def wheel(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built(source, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
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


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's folder, whose packages have the names of our rooms and say so when they are imported."""
    folder = tmp_path_factory.mktemp("user")
    for room in ROOMS:
        (folder / room).mkdir()
        for name in ("__init__.py", "commands.py"):
            (folder / room / name).write_text(f"raise SystemExit('{room}/{name} of the user was run')\n")
    return folder


def test_the_wheel_holds_one_package_and_its_data(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == {"heatserve"}
    assert {"heatserve/py.typed", "heatserve/export/audit/page.html", "heatserve/serving/backend/model.py"} <= set(
        names
    )
    packages = {f"heatserve/{path.relative_to(ROOT)}" for room in ROOMS for path in (ROOT / room).rglob("*.py")}
    assert packages <= set(names)


@pytest.mark.parametrize(
    ("system", "python", "extra", "numpy", "has_triton"),
    [
        ("Linux", "3.10", "client", "2.2.6", False),
        ("Linux", "3.14", "client", "2.4.0", False),
        ("Darwin", "3.13", "client", "1.26.4", False),
        ("Linux", "3.12", "serve", "1.26.4", True),
        ("Linux", "3.13", "serve", "2.4.0", False),
        ("Darwin", "3.12", "serve", "2.2.6", False),
    ],
)
def test_only_the_wheel_of_triton_bounds_numpy_and_python(
    wheel: Path, system: str, python: str, extra: str, numpy: str, has_triton: bool
) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        metadata = email.message_from_bytes(archive.read(name))
    assert SpecifierSet(metadata["Requires-Python"]).contains(f"{python}.0")
    environment = {"platform_system": system, "python_version": python, "extra": extra}
    wanted = [Requirement(text) for text in metadata.get_all("Requires-Dist", [])]
    wanted = [found for found in wanted if found.marker is None or found.marker.evaluate(environment)]
    assert all(found.specifier.contains(numpy) for found in wanted if found.name == "numpy")
    assert ("nvidia-pytriton" in {found.name for found in wanted}) == has_triton
    if has_triton:
        assert not all(found.specifier.contains("2.0.0") for found in wanted if found.name == "numpy")


def test_the_source_distribution_gives_the_same_wheel(source: Path, wheel: Path, tmp_path: Path) -> None:
    code = "import sys; from setuptools.build_meta import build_sdist; print(build_sdist(sys.argv[1]))"
    run(sys.executable, "-c", code, str(tmp_path), folder=source)
    (archive,) = tmp_path.glob("heatserve-*.tar.gz")
    with zipfile.ZipFile(wheel) as first, zipfile.ZipFile(built(archive, tmp_path)) as second:
        for name in first.namelist():
            if not name.endswith("RECORD"):
                assert first.read(name) == second.read(name), name


def test_the_quickstart_answers_beside_hostile_packages(bin_folder: Path, hostile: Path) -> None:
    done = run(str(bin_folder / "heatserve"), "quickstart", "--once", *FREE, folder=hostile)
    assert "over gRPC, grpc://" in done.stdout
    assert "over HTTP, http://" in done.stdout


@pytest.mark.parametrize(
    "command",
    [
        ("python", "-m", "heatserve", "--help"),
        ("torchrun", "--nproc-per-node", "1", "-m", "heatserve", "--help"),
        ("python", "-m", "heatserve", "bench", "--help"),
    ],
    ids=" ".join,
)
def test_every_way_to_start_runs_ours(command: tuple[str, ...], bin_folder: Path, hostile: Path) -> None:
    program, *rest = command
    if program == "torchrun":
        program, rest = "python", ["-m", "torch.distributed.run", *rest]
    done = run(str(bin_folder / program), *rest, folder=hostile)
    assert "heatserve" in done.stdout


def test_a_users_program_beside_hostile_packages_gets_answers(
    bin_folder: Path, hostile: Path, tiny_repository: Path
) -> None:
    """The program asks a server that runs from the wheel too: it starts in the same folder."""
    (hostile / "ask.py").write_text(
        "import numpy as np\n"
        "from heatserve import FREE_PORTS, Client, TritonServer\n"
        f"with TritonServer({str(tiny_repository)!r}, endpoints=FREE_PORTS) as server:\n"
        "    with Client(server.endpoints.grpc_url, model='tiny') as client:\n"
        "        print(len(client.predict(np.zeros((2, 1, 8, 8), np.float32))), client.__module__)\n"
    )
    done = run(str(bin_folder / "python"), "ask.py", folder=hostile)
    assert done.stdout.startswith("2 heatserve.")
