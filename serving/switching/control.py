"""The socket over which commands on the same machine, of the same user, talk to a running server.

    <temporary folder>/heatserve-…/control.json   the repository that is served
                                   control        the socket; a request is a line of JSON, and so is each answer

No port of the network is opened: the folder is for one user only, and so who connects is that user.
"""

from __future__ import annotations

import json
import os
import socket
import struct
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from heatserve.certification.errors import HeatserveError
from heatserve.certification.files import write_atomically
from heatserve.serving.errors import ServingError
from heatserve.serving.triton.debris import FOLDERS, server_folder
from heatserve.serving.unix_sockets import connected, listening

_NOTE_NAME, _SOCKET_NAME = "control.json", "control"
_LINE_BYTES = 2**16
_REQUEST_SECONDS = 5.0  # for a request to come; what it asks for may take longer
_ANSWER_SECONDS = 1800.0
_CREDENTIALS = struct.Struct("3i")  # process, user, group

ControlAnswer = dict[str, Any]
Handler = Callable[[dict[str, Any], Callable[[ControlAnswer], None]], None]


class ControlSocket:
    """Where a server takes requests of commands, as a context manager; each is handled by a thread."""

    def __init__(self, repository: Path, handle: Handler) -> None:
        """Describe it.

        Args:
            repository: that is served, by which commands find it.
            handle: given a request, and what sends an answer; called by several threads.
        """
        self._repository = repository
        self._handle = handle
        self._cleanup = ExitStack()

    def __enter__(self) -> ControlSocket:
        """Listen.

        Raises:
            ServingError: there is no temporary folder that can be written.
        """
        with ExitStack() as cleanup:
            folder, _ = cleanup.enter_context(server_folder())
            self._listener = cleanup.enter_context(listening(folder, _SOCKET_NAME))
            cleanup.callback(self._listener.shutdown, socket.SHUT_RDWR)  # `accept` does not end by `close`
            note = {"repository": str(self._repository.resolve())}
            write_atomically(folder / _NOTE_NAME, json.dumps(note).encode())
            threading.Thread(target=self._accept, name="heatserve-control", daemon=True).start()
            self._cleanup = cleanup.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Take no more requests."""
        self._cleanup.close()

    def _accept(self) -> None:
        with suppress(OSError):  # closed
            while True:
                connection, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, suppress(OSError):  # the command is gone; what it asked for goes on
            user = _CREDENTIALS.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[1]
            if user not in (0, os.geteuid()):
                return

            def send(answer: ControlAnswer) -> None:
                with suppress(OSError):
                    connection.sendall(json.dumps(answer).encode() + b"\n")

            try:
                self._handle(_request(connection), send)
            except (HeatserveError, OSError) as error:
                send({"error": str(error)})


def _request(connection: socket.socket) -> dict[str, Any]:
    connection.settimeout(_REQUEST_SECONDS)
    with connection.makefile("rb") as lines, suppress(ValueError, RecursionError):
        request = json.loads(lines.readline(_LINE_BYTES))
        if isinstance(request, dict):
            return request
    raise HeatserveError("expected a request as a line of JSON, got something else")


def servers_of(repository: Path) -> list[Path]:
    """The folders of the running servers of this user, with the same temporary folder, that serve a repository."""
    found, wanted = [], str(repository.resolve())
    for note in sorted(Path(tempfile.gettempdir()).glob(f"{FOLDERS}/{_NOTE_NAME}")):
        with suppress(OSError, ValueError, KeyError, TypeError):
            if note.parent.lstat().st_uid == os.geteuid() and json.loads(note.read_bytes())["repository"] == wanted:
                connected(note.parent, _SOCKET_NAME).close()  # one that was killed left its folder
                found.append(note.parent)
    return found


def ask_server(folder: Path, request: dict[str, Any]) -> Iterator[ControlAnswer]:
    """What a server answers to a request, as it comes.

    Raises:
        ServingError: it ends before it has answered.
    """
    try:
        with connected(folder, _SOCKET_NAME) as connection:
            connection.settimeout(_ANSWER_SECONDS)
            connection.sendall(json.dumps(request).encode() + b"\n")
            with connection.makefile("rb") as lines:
                for line in lines:
                    yield json.loads(line)
    except (OSError, ValueError) as error:
        raise ServingError(f"expected an answer of the server, found that it is gone: {error}") from None


def without_error(answer: ControlAnswer) -> ControlAnswer:
    """An answer that is no error.

    Raises:
        HeatserveError: it is one.
    """
    if "error" in answer:
        raise HeatserveError(str(answer["error"]))
    return answer
