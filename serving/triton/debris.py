"""The temporary folder and the shared memory of a server: its own while one of its processes lives, then removed.

A server holds a lock on a file in its folder, and Triton inherits it: the kernel gives it up with the last of them,
even one that was killed. So the next server can tell what is left of a dead one, also where containers share a folder.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from heatserve.serving.errors import ServingError

_PREFIX = "heatserve-"
FOLDERS = f"{_PREFIX}*"
"""The temporary folders of servers, as a pattern."""
_LOCK_NAME = "alive.lock"
_PLAIN_PATH = re.compile(r"[\w@%+=:,./-]+", re.ASCII)
SHARED_MEMORY = Path("/dev/shm")
"""Where Linux keeps the regions of shared memory, as files."""


@contextmanager
def server_folder() -> Iterator[tuple[Path, int]]:
    """A new temporary folder for one server, and the descriptor of its lock, which Triton is to inherit.

    The folder's name is the prefix of the server's regions of shared memory. Folder and regions are removed at the end,
    and what dead servers of this user left in the same place, at the start.

    Raises:
        ServingError: there is no temporary folder that can be written, or its path is none for Triton.
    """
    with explained_writes():
        _check_path(tempfile.gettempdir())
        remove_debris(Path(tempfile.gettempdir()))
        folder = Path(tempfile.mkdtemp(prefix=_PREFIX))
    try:
        with explained_writes():
            lock = _locked(folder)
            held = os.open(folder, os.O_RDONLY)
            # systemd-tmpfiles leaves a folder alone that is locked. It would remove files that nobody has read for
            # days, and a Triton whose files are gone unloads its models.
            fcntl.flock(held, fcntl.LOCK_EX)
        try:
            yield folder, lock
        finally:
            os.close(held)
            os.close(lock)
    finally:
        _remove(folder)


@contextmanager
def explained_writes() -> Iterator[None]:
    """Turn an `OSError` of what is written into the temporary folder into a `ServingError`."""
    try:
        yield
    except OSError as error:
        why = error.strerror or str(error)
        if isinstance(error, shutil.Error):  # of `copytree`: source, copy and an `OSError` as text, for each file
            why = re.sub(r"^\[Errno \d+\] |: '.*", "", str(error.args[0][0][2]))
        where = f"{tempfile.tempdir}: " if tempfile.tempdir else ""
        raise ServingError(
            f"{where}expected a temporary folder with room to write into, found: {why}; free some, or name another "
            "folder in the environment variable TMPDIR"
        ) from None


def _check_path(folder: str) -> None:
    """Refuse a folder that Triton cannot work in: a shell reads the command of each model's process, unquoted."""
    if not _PLAIN_PATH.fullmatch(folder):
        raise ServingError(
            "TMPDIR: expected a folder whose path has only ASCII letters, digits and _@%+=:,./- in it, since Triton "
            f"takes no others, got {folder!a}; name another one in the environment variable TMPDIR, such as /tmp"
        )


def log_of(folder: Path) -> Path:
    """The log of the server of that folder: beside it, since it outlives the folder where Triton failed."""
    return folder.with_name(f"{folder.name}.log")


def seal_regions(prefix: str) -> None:
    """Close shared memory to other users: Triton makes its regions readable by all (0644), whatever the umask."""
    for region in SHARED_MEMORY.glob(f"{prefix}*"):
        with suppress(OSError):
            region.chmod(0o600)


def remove_debris(temporary: Path) -> None:
    """Remove folders, logs and shared memory of servers of this user in `temporary` of which no process is left."""
    for lock_file in temporary.glob(f"{FOLDERS}/{_LOCK_NAME}"):
        folder = lock_file.parent
        with suppress(OSError):  # somebody else's, or just removed
            if folder.is_symlink() or folder.stat().st_uid != os.geteuid():
                continue
            lock = os.open(lock_file, os.O_RDWR | os.O_NOFOLLOW)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # fails where one of its processes lives
                _remove(folder)
                log_of(folder).unlink(missing_ok=True)
            finally:
                os.close(lock)


def _locked(folder: Path) -> int:
    """Make the lock file under another name first: nobody finds it before it is locked."""
    hidden = folder / f".{_LOCK_NAME}"
    lock = os.open(hidden, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)
    hidden.rename(folder / _LOCK_NAME)
    return lock


def _remove(folder: Path) -> None:
    for region in SHARED_MEMORY.glob(f"{folder.name}*"):
        with suppress(OSError):  # another user's, of the same name
            region.unlink()
    shutil.rmtree(folder, ignore_errors=True)
