"""What the operator asks of the shadow audit, what it has seen so far, and whether it has withdrawn a promise.

All of it lies in one folder, for this user only, that outlives the processes of a server: a voter that is started again
goes on where the last one was, and what is withdrawn stays so until the server is stopped, or serves another graph.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from heatserve.certification.files import write_atomically
from heatserve.serving.errors import ServingError

if TYPE_CHECKING:
    from heatserve.export.card import Card

AUDIT_VARIABLE = "HEATSERVE_AUDIT"
"""The environment variable that names the folder to the processes of a server."""

_SETTINGS_NAME = "settings.json"
_ALARM_SUFFIX = ".alarm"


@dataclass(frozen=True)
class Alarm:
    """What the operator has to know: live answers speak against a promise, or inputs are not what it is about."""

    model: str
    about: Literal["promise", "inputs"]
    problem: str
    """What was expected and found."""

    @property
    def described(self) -> str:
        """In words for the operator."""
        return f"ALARM: {self.model}: {self.problem}"


@dataclass(frozen=True)
class AuditSettings:
    """What the operator asks for."""

    share: float
    """Of the images that are answered, chosen by chance: from above 0 to 1."""
    withdraws: bool = False
    """Whether a model answers radius 0 from the moment at which its promise is spoken against."""
    folder: Path | None = None
    """That outlives one Triton; None: one that ends with it."""

    def __post_init__(self) -> None:
        """Refuse a share that is none.

        Raises:
            ServingError: says what is expected.
        """
        if not 0 < self.share <= 1:
            raise ServingError(f"audit share: expected a number above 0 and at most 1, got {self.share:g}")


class AuditFolder:
    """The folder, as each process of a server sees it."""

    def __init__(self, path: Path, settings: AuditSettings) -> None:
        """Name a folder that `created` made.

        Args:
            path: the folder.
            settings: what was written there.
        """
        self._path = path
        self.settings = settings

    @classmethod
    def created(cls, path: Path, settings: AuditSettings) -> AuditFolder:
        """Make the folder, or go on with what is there, under these settings."""
        path.mkdir(mode=0o700, exist_ok=True)
        content = {"share": settings.share, "withdraws": settings.withdraws}
        write_atomically(path / _SETTINGS_NAME, json.dumps(content).encode())
        return cls(path, settings)

    @classmethod
    def of_environment(cls) -> AuditFolder | None:
        """That of the server that started this process; None: nothing is audited."""
        named = os.environ.get(AUDIT_VARIABLE)
        if not named:
            return None
        path = Path(named)
        return cls(path, AuditSettings(**json.loads((path / _SETTINGS_NAME).read_bytes())))

    def withdrawal(self, card: Card) -> Path:
        """The file whose presence says that the promise of a card is withdrawn."""
        return self._path / f"{card.model}-{card.graph_sha256}.withdrawn"

    def read_state(self, card: Card) -> dict[str, Any] | None:
        """What `write_state` wrote last of this graph; None: nothing."""
        try:
            state: dict[str, Any] = json.loads(self._state(card).read_bytes())
        except FileNotFoundError:
            return None
        return state

    def write_state(self, card: Card, state: dict[str, Any]) -> None:
        """Keep what was seen of a graph, for a process that is started in place of this one."""
        write_atomically(self._state(card), json.dumps(state).encode())

    def write_alarm(self, card: Card, alarm: Alarm) -> None:
        """Have the server tell of an alarm (`alarms_in`), once in its life."""
        name = f"{alarm.model}-{card.graph_sha256}-{alarm.about}{_ALARM_SUFFIX}"
        write_atomically(self._path / name, json.dumps(asdict(alarm)).encode())

    def _state(self, card: Card) -> Path:
        return self._path / f"{card.model}-{card.graph_sha256}.json"


def alarms_in(path: Path) -> dict[str, Alarm]:
    """The alarms that were raised, by what tells one of them from the others; none where there is no such folder."""
    return {file.name: Alarm(**json.loads(file.read_bytes())) for file in sorted(path.glob(f"*{_ALARM_SUFFIX}"))}


def audit_environment(settings: AuditSettings | None, folder: Path) -> dict[str, str]:
    """What the processes of a server need to know of the audit, as environment variables.

    Args:
        settings: what the operator asks for; None: nothing.
        folder: of the server, where the audit has a folder in it, unless the settings name another one.
    """
    if settings is None:
        return {AUDIT_VARIABLE: ""}
    path = settings.folder or folder / "audit"
    AuditFolder.created(path, settings)
    return {AUDIT_VARIABLE: str(path)}


def withdrawn(card: Card) -> Callable[[], bool]:
    """Whether the promise of a card is withdrawn, as a function that takes about a microsecond."""
    folder = AuditFolder.of_environment()
    if folder is None or not folder.settings.withdraws:
        return lambda: False
    path = str(folder.withdrawal(card))
    return lambda: os.path.exists(path)
