"""The errors of serving."""

from __future__ import annotations

from heatserve.certification.errors import HeatserveError

EXPLAINED = 78
"""The exit code of a process that cannot work, has said why, and would say it again (EX_CONFIG in <sysexits.h>)."""


class ServingError(HeatserveError):
    """The server cannot be started or reached, or it refused a request; holds its message.

    Attributes:
        request_id: that of the request that failed, under which the server and what is in front of it may have noted
            more; None: it was none, or it was never sent.
    """

    request_id: str | None = None


class CrashedError(ServingError):
    """A process of a server crashed while it started, as Triton does on a busy machine: started again, it may not."""


class UnavailableError(ServingError):
    """No server answers there, or it is ending: the same request may succeed elsewhere, or there once it is back.

    Attributes:
        is_said: the server said so, or what is in front of it; False: nobody was there to say anything.
    """

    is_said: bool = True


class TooLateError(ServingError):
    """The server did not answer within the client's timeout."""


class UnknownModelError(ServingError):
    """The server has no model of that name."""


class OverloadedError(ServingError):
    """The server's queue was full, or the request waited in it for too long: the same request may succeed later.

    Attributes:
        retry_after: seconds after which the server suggests to ask again; None: it does not say.
    """

    def __init__(self, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after
