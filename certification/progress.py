"""How long work is followed: every long function takes a `Progress` and prints nothing itself."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol, TypeVar

T = TypeVar("T")


class Progress(Protocol):
    """Gives back the same items in the same order, and may show how far the work on them has come."""

    def __call__(self, items: Iterable[T], total: int, description: str, /) -> Iterable[T]:
        """The items; `total` of them are expected, and `description` says in a few words what is done with each."""
        ...


def unseen(items: Iterable[T], total: int, description: str) -> Iterable[T]:  # noqa: ARG001
    """No progress is shown."""
    return items
