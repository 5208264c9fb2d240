"""What `heatserve fuzz` counts: mutated requests, cancellations, hostile connections; what became of the server."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from heatserve.benchmarks.records.record import Record


@dataclass(frozen=True, kw_only=True)
class MutationCounts:
    """Mutated requests of one protocol. After each, a valid request of the same protocol was sent."""

    sent: int
    answered: int
    """With outputs: the mutation left the request valid, or was not looked at."""
    refused: int
    """With an error."""
    closed: int
    """The connection was closed without an answer."""
    silent: int
    """Nothing came within a second, and the connection was given up: most wait for the rest of a body."""
    statuses: Mapping[str, int]
    """Of the answers, by status."""
    positive: int
    """Answers with a positive radius: each was compared with the graph's for the image that the request holds."""
    seconds: float


@dataclass(frozen=True, kw_only=True)
class CancelCounts:
    """Requests that were given up by their caller, of one protocol and kind."""

    sent: int
    answered: int
    """Before they could be given up."""
    seconds: float


@dataclass(frozen=True, kw_only=True)
class HostileCase:
    """One hostile connection, or many of a kind, and what became of them."""

    name: str
    outcome: str
    seconds: float


@dataclass(frozen=True, kw_only=True)
class RoleUse:
    """Processes of one role, before everything and at the end."""

    role: str
    processes: int
    megabytes_before: float
    """Memory of their own, 10⁶ bytes."""
    megabytes_after: float
    files_before: int
    """Open descriptors."""
    files_after: int


@dataclass(frozen=True, kw_only=True)
class FuzzRecord(Record):
    """What became of a server."""

    model: str
    server: str
    """What was asked."""
    mutations: Mapping[str, MutationCounts]
    cancellations: Mapping[str, CancelCounts]
    cases: tuple[HostileCase, ...]
    valid: int
    """Valid requests that were sent between the others, over all protocols."""
    processes: tuple[RoleUse, ...]
    """Of a server that was started here."""
    faults: Mapping[str, int]
    """What should not have been, by kind."""
    examples: tuple[str, ...]
    """Some of them, so that they can be seen again."""
