"""What dead servers left in temporary folders goes, and what living ones have stays."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from heatserve.serving.errors import ServingError
from heatserve.serving.switching.control import ControlSocket, servers_of
from heatserve.serving.triton import debris
from heatserve.serving.triton.debris import KEPT_LOGS, explained_writes, log_of, remove_debris, server_folder
from heatserve.serving.unix_sockets import listening

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="Triton runs on Linux only")


def test_of_the_logs_that_outlive_their_folders_the_newest_are_left(tmp_path: Path) -> None:
    for number in range(KEPT_LOGS + 3):
        log = tmp_path / f"heatserve-{number:08}.log"
        log.touch()
        os.utime(log, (number, number))
    (tmp_path / "heatserve-00000000").mkdir()  # it starts, and writes
    remove_debris(tmp_path)
    left = sorted(int(path.stem.partition("-")[2]) for path in tmp_path.glob("*.log"))
    assert left == [0, *range(3, KEPT_LOGS + 3)]


@pytest.mark.parametrize("looks", ["while it is removed", "before it is locked"])
def test_the_log_of_a_server_that_ends_is_left_by_one_that_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, looks: str
) -> None:
    """The error of a Triton that failed names it."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    ending, remove, lock = server_folder(), debris._remove, fcntl.flock
    folder, _ = ending.__enter__()
    log_of(folder).touch()

    def another_starts_and_remove(folder: Path) -> None:
        remove_debris(tmp_path)
        remove(folder)

    def end_and_lock(descriptor: int, how: int) -> None:
        ending.__exit__(None, None, None)
        lock(descriptor, how)

    if looks == "while it is removed":
        monkeypatch.setattr(debris, "_remove", another_starts_and_remove)
        ending.__exit__(None, None, None)
    else:
        monkeypatch.setattr(fcntl, "flock", end_and_lock)
        remove_debris(tmp_path)
    assert list(tmp_path.iterdir()) == [log_of(folder)]


def test_folders_that_killed_tritons_left_are_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two a start, whatever TMPDIR is: a machine of ours had 3029 of them."""
    monkeypatch.setattr(debris, "_ENVIRONMENTS", (tmp_path, "python_env_??????"))
    old, full, new = (tmp_path / f"python_env_{name}" for name in ("oldone", "fulled", "newest"))
    for folder in (old, full, new):
        folder.mkdir()
    (full / "python").touch()
    for folder in (old, full):
        os.utime(folder, (1, 1))
    triton = tmp_path / "tritonserver"
    triton.symlink_to("/bin/sleep")
    with subprocess.Popen([triton, "60"]) as process:
        name = Path(f"/proc/{process.pid}/comm")
        while name.read_text() != "tritonserver\n":
            time.sleep(0.01)
        remove_debris(tmp_path)
        process.kill()
    remove_debris(tmp_path)  # no Triton runs now, but one may start this very moment
    assert sorted(path.name for path in tmp_path.glob("python_env_*")) == ["python_env_fulled", "python_env_newest"]


@pytest.mark.skipif(os.geteuid() != 0, reason="another user has to own a folder")
def test_a_folder_of_another_user_is_that_of_no_server_of_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its note may be a link to ours: he would answer our commands, or have them wait for half an hour."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    theirs = tmp_path / "heatserve-0"
    theirs.mkdir()
    with ControlSocket(tmp_path, lambda *_: None), listening(theirs, "control"):
        (ours,) = servers_of(tmp_path)
        (theirs / "control.json").symlink_to(ours / "control.json")
        assert servers_of(tmp_path) == [theirs, ours]
        os.chown(theirs, 12345, 12345)
        assert servers_of(tmp_path) == [ours]


def test_a_file_that_cannot_be_read_is_named_and_the_temporary_folder_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    ours, image = tmp_path / "heatserve-x", tmp_path / "models" / "image"
    ours.mkdir()
    image.parent.mkdir()
    image.symlink_to("nowhere")
    unreadable = f"^{image}: expected a file that can be read, found: No such file"
    with pytest.raises(ServingError, match=unreadable), explained_writes():
        shutil.copyfile(image, ours / "image")
    with pytest.raises(ServingError, match=unreadable), explained_writes():
        shutil.copytree(image.parent, ours / "warmup")
    with pytest.raises(ServingError, match="expected a temporary folder with room to write into"), explained_writes():
        (ours / "nowhere" / "image").write_bytes(b"")
