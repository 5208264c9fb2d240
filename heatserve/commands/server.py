"""Options of the commands that ask a server: where it is, and how to be let in."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from heatserve.serving.errors import ServingError

if TYPE_CHECKING:
    from heatserve.export.tiers import TierModel
    from heatserve.serving.client.access import Access, Tls
    from heatserve.serving.client.async_client import AsyncClient
    from heatserve.serving.client.client import Client

URL = "grpc://127.0.0.1:8001"
Served = Annotated[str, typer.Option("--model", help="The model's name on the server.")]
Url = Annotated[str, typer.Option(help="grpc://host:port or http://host:port; with TLS grpcs://host or https://host.")]
Ca = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Certificates to trust (PEM), if not those of this machine.")
]
Certificate = Annotated[
    Path | None, typer.Option(metavar="FILE", help="This client's certificate and private key (PEM, one file).")
]
TokenFile = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Holds a token, sent as `Authorization: Bearer TOKEN`.")
]
Headers = Annotated[
    list[str] | None,
    typer.Option("--header", metavar="'NAME: VALUE'", help="Goes with every request; may be repeated."),
]

_USUAL_TIMEOUT = 60.0
_LONGEST_TIMEOUT = 75.0  # above the latest deadline of the default limits
_ANSWER_SECONDS = 10.0  # after the deadline, for the answer to come


@dataclass(frozen=True)
class ServerOptions:
    """What a command was told of the server."""

    url: str
    model: str
    ca: Path | None
    certificate: Path | None
    token_file: Path | None
    headers: list[str] | None

    def client(self, *, timeout: float = _USUAL_TIMEOUT) -> Client:
        """A client of the model.

        Raises:
            ServingError: an option is not what it should be.
        """
        from heatserve.serving.client.client import Client

        return Client(
            self.url, model=self.model, timeout=timeout, tls=self._tls(), headers=self._headers(), token=self._token()
        )

    def async_client(self) -> AsyncClient:
        """A client of the model for a program that shows the server's state itself: it asks once, and waits long.

        Raises:
            ServingError: an option is not what it should be.
        """
        from heatserve.serving.client.async_client import AsyncClient

        return AsyncClient(
            self.url,
            model=self.model,
            timeout=_LONGEST_TIMEOUT,
            retries=0,
            tls=self._tls(),
            headers=self._headers(),
            token=self._token(),
        )

    def access(self) -> Access:
        """How the server is reached.

        Raises:
            ServingError: an option is not what it should be.
        """
        from heatserve.serving.client.access import access_to

        return access_to(self.url, tls=self._tls(), headers=self._headers(), token=self._token())

    def patient_client(self, kind: TierModel, *, deadline: float | None = None) -> Client:
        """A client that waits longer than the server takes for an answer of a tier.

        Args:
            kind: the tier that will be asked.
            deadline: seconds that will be asked for; None: the server's default.

        Raises:
            ServingError: no server, no such model, or no such tier of it.
        """
        if deadline is None:
            with self.client() as client:
                deadline = client.tier(kind).limits.deadline_ms / 1000
        return self.client(timeout=max(_USUAL_TIMEOUT, deadline + _ANSWER_SECONDS))

    def _tls(self) -> Tls | None:
        from heatserve.serving.client.access import Tls

        return Tls(self.ca, self.certificate) if self.ca or self.certificate else None

    def _headers(self) -> dict[str, str]:
        found = dict[str, str]()
        for header in self.headers or ():
            name, colon, value = header.partition(":")
            if not colon or not name.strip():
                raise ServingError("--header: expected 'NAME: VALUE', got one without a name and a colon")
            if name.strip() in found:
                raise ServingError(f"--header: expected each name once, got {name.strip()} twice")
            found[name.strip()] = value.strip()
        return found

    def _token(self) -> str | None:
        if self.token_file is None:
            return None
        try:
            return self.token_file.read_text().strip()
        except (OSError, UnicodeError) as error:
            reason = getattr(error, "strerror", None) or "it is no text"
            raise ServingError(f"--token-file {self.token_file}: expected a file with a token: {reason}") from None
