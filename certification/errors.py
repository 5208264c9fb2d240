"""The one base class of the errors that heatserve explains to its user, and a list of names in such a message."""

from __future__ import annotations

from collections.abc import Sequence


class HeatserveError(ValueError):
    """Something that the user can mend; the message names it, and says what was expected and what came.

    The command line prints its message without a traceback and exits with 1.
    """


def first_of(names: Sequence[str], most: int = 5) -> str:
    """The first `most` of some names, with commas between, and how many more there are, for a sentence."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
