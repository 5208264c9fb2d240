"""Which process listens on a port, as Linux tells: `/proc/net/tcp`, `tcp6` and the open files of processes."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

_LISTEN = "0A"  # TCP_LISTEN, from <net/tcp_states.h>
_PROC = Path("/proc")
_TABLES = ("tcp", "tcp6")  # gRPC listens on ::ffff:127.0.0.1 for 127.0.0.1


def listens(pid: int, port: int) -> bool:
    """Whether a process listens on a TCP port; True where this system does not tell."""
    try:
        return not _sockets(port).isdisjoint(_open_files(pid))
    except OSError:
        return True


def listener(port: int) -> str | None:
    """The process that listens on a TCP port, as "tritonserver, process 123"; None where this user cannot know."""
    with suppress(OSError):
        sockets = _sockets(port)
        for process in _PROC.iterdir():
            with suppress(OSError):  # another user's, or ended
                if process.name.isdecimal() and not sockets.isdisjoint(_open_files(int(process.name))):
                    return f"{(process / 'comm').read_text().strip()}, process {process.name},"
    return None


def _sockets(port: int) -> set[str]:
    """The sockets that listen on a port, as `/proc/PID/fd` names them.

    Raises:
        OSError: this system does not tell.
    """
    tables = [(_PROC / "net" / name).read_text() for name in _TABLES if (_PROC / "net" / name).exists()]
    if not tables:
        raise FileNotFoundError(f"{_PROC}/net: no table of TCP sockets")
    rows = (line.split() for table in tables for line in table.splitlines()[1:])
    # number, local address as HEX:PORT, remote address, state, queues, timer, retransmits, user, timeout, inode
    return {f"socket:[{row[9]}]" for row in rows if row[3] == _LISTEN and int(row[1].rpartition(":")[2], 16) == port}


def _open_files(pid: int) -> set[str]:
    found = set()
    with os.scandir(_PROC / str(pid) / "fd") as descriptors:
        for descriptor in descriptors:
            with suppress(OSError):  # closed meanwhile
                found.add(os.readlink(descriptor.path))
    return found
