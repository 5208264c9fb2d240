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
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from heatserve.serving.errors import ServingError
from heatserve.serving.triton.processes import process_of

_PREFIX = "heatserve-"
FOLDERS = f"{_PREFIX}*"
"""The temporary folders of servers, as a pattern."""
_LOCK_NAME = "alive.lock"
_PLAIN_PATH = re.compile(r"[\w@%+=:,./-]+", re.ASCII)
SHARED_MEMORY = Path("/dev/shm")
"""Where Linux keeps the regions of shared memory, as files."""
KEPT_LOGS = 5
"""Logs of Tritons that failed, in one temporary folder, the newest; older ones are removed."""
# Of each python backend of a Triton, wherever TMPDIR is: empty, but where a model brings a Python of its own.
_ENVIRONMENTS = Path("/tmp"), "python_env_??????"
_TRITON_NAME = "tritonserver"
_START_SLACK = 2.0  # seconds
_LEAST_AGE = 60.0  # a Triton may start while others are looked for


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
    with ExitStack() as descriptors:  # open until the folder is gone: unlocked it would be that of a dead server
        try:
            with explained_writes():
                lock = _locked(folder)
                descriptors.callback(os.close, lock)
                held = os.open(folder, os.O_RDONLY)
                descriptors.callback(os.close, held)
                # systemd-tmpfiles leaves a folder alone that is locked. It would remove files that nobody has read for
                # days, and a Triton whose files are gone unloads its models.
                fcntl.flock(held, fcntl.LOCK_EX)
            yield folder, lock
        finally:
            _remove(folder)


@contextmanager
def explained_writes() -> Iterator[None]:
    """Turn an `OSError` of what is written into the temporary folder, or read for it, into a `ServingError`."""
    try:
        yield
    except OSError as error:
        why, read = error.strerror or str(error), error.filename if error.filename2 is None else None
        if isinstance(error, shutil.Error):  # of `copytree`: source, copy and an `OSError` as text, for each file
            source, copy, text = map(str, error.args[0][0])
            why, read = re.sub(r"^\[Errno \d+\] |: '.*", "", text), None if copy in text else source
        if read is not None and not str(read).startswith(os.path.join(tempfile.gettempdir(), _PREFIX)):
            raise ServingError(f"{read}: expected a file that can be read, found: {why}") from None
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
    """Remove folders, logs and shared memory of servers of this user in `temporary` of which no process is left.

    Of the logs that outlive their folders, since a Triton failed, the newest are left.
    """
    for lock_file in temporary.glob(f"{FOLDERS}/{_LOCK_NAME}"):
        folder = lock_file.parent
        with suppress(OSError):  # somebody else's, or just removed
            if folder.is_symlink() or folder.stat().st_uid != os.geteuid():
                continue
            lock = os.open(lock_file, os.O_RDWR | os.O_NOFOLLOW)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # fails where one of its processes lives
                if os.fstat(lock).st_nlink:  # else its server removed it just now, and left its log where it failed
                    _remove(folder)
                    log_of(folder).unlink(missing_ok=True)
            finally:
                os.close(lock)
    _remove_old_logs(temporary)
    _remove_environments()


def _remove_old_logs(temporary: Path) -> None:
    found = list[tuple[float, Path]]()
    for path in temporary.glob(f"{FOLDERS}.log"):
        with suppress(OSError):  # just removed
            look = path.lstat()
            if look.st_uid == os.geteuid() and not path.with_suffix("").exists():
                found.append((look.st_mtime, path))
    for _, path in sorted(found, reverse=True)[KEPT_LOGS:]:
        path.unlink(missing_ok=True)


def _remove_environments() -> None:
    """Remove the empty folders that Tritons of this user left which were killed, as ours are once they have drained.

    A folder is one's that runs where that started before it was made.
    """
    first = _first_triton() - _START_SLACK
    folder, names = _ENVIRONMENTS
    for path in folder.glob(names):
        with suppress(OSError):  # one that is not empty, or was just removed
            look = path.lstat()
            if look.st_uid == os.geteuid() and look.st_mtime < first:
                path.rmdir()


def _first_triton() -> float:
    """When the Triton started that has run for longest, in seconds since 1970; a minute ago where none is older."""
    booted = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
    started = time.time() - _LEAST_AGE
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has ended
            if (folder / "comm").read_text().strip() == _TRITON_NAME:
                process = process_of(int(folder.name))
                started = min(started, booted + process.started / os.sysconf("SC_CLK_TCK"))
    return started


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
