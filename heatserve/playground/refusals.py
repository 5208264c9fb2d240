"""What the page is told where a request cannot be answered: a status and a sentence, without paths or stacks."""

from __future__ import annotations

from heatserve.certification.errors import HeatserveError
from heatserve.serving.errors import OverloadedError, TooLateError, UnavailableError
from heatserve.training.data.errors import DataError

FAILED = "The playground failed at this request; the terminal that it was started in says more."


class Refused(HeatserveError):
    """A request that is not answered, with a sentence for the person in front of the page."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


def status_of(error: HeatserveError) -> int:
    """The HTTP status of an error that is explained."""
    if isinstance(error, Refused):
        return error.status
    for kind, status in ((UnavailableError, 503), (TooLateError, 504), (OverloadedError, 429), (DataError, 422)):
        if isinstance(error, kind):
            return status
    return 502  # the server's own message


def said_of(error: Exception) -> str:
    """The sentence of an error."""
    if isinstance(error, DataError):
        what = str(error).removeprefix("image: ")
        return f"This picture cannot be used: {what}."
    return str(error) if isinstance(error, HeatserveError) else FAILED
