"""What a user installs: a wheel, used in a folder that holds packages named as our rooms, which must not be run."""

from __future__ import annotations

import email
import sys
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from wheels import ROOMS, ROOT, built, run

pytestmark = pytest.mark.slow


def test_the_wheel_holds_one_package_and_its_data(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == {"heatserve"}
    assert {f"heatserve/benchmarks/report/report.{kind}" for kind in ("html", "css", "js")} <= set(names)
    assert {"heatserve/export/audit/style.css", "heatserve/export/audit/page.html"} <= set(names)
    assert {"heatserve/py.typed", "heatserve/serving/backend/model.py"} <= set(names)
    static = ROOT / "heatserve" / "playground" / "static"
    assert {f"heatserve/playground/static/{path.name}" for path in static.iterdir()} <= set(names)
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


def test_an_installed_playground_has_its_page(bin_folder: Path, hostile: Path) -> None:
    code = "from heatserve.playground.page import static_files; print(*sorted(static_files()))"
    done = run(str(bin_folder / "python"), "-c", code, folder=hostile)
    names = sorted(path.name for path in (ROOT / "heatserve" / "playground" / "static").iterdir())
    assert done.stdout.split() == names


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
