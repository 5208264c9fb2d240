"""Unix sockets in folders that are for one user only, by which processes of this machine reach each other."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_VOTES = "votes"


def listening(folder: Path, name: str = _VOTES) -> socket.socket:
    """A socket that listens in a folder, under this name; whoever may enter the folder may connect."""
    with _address(folder, name) as address:
        (folder / name).unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind(address)
    listener.listen(64)
    return listener


def connected(folder: Path, name: str = _VOTES) -> socket.socket:
    """A connection to who listens in a folder, under this name.

    Raises:
        OSError: nothing listens there.
    """
    with _address(folder, name) as address:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.connect(address)
        except OSError:
            connection.close()
            raise
    return connection


@contextmanager
def _address(folder: Path, name: str) -> Iterator[str]:
    """The socket's address through an open descriptor: one of a socket has at most 107 bytes, whatever the folder's."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{descriptor}/{name}"
    finally:
        os.close(descriptor)
