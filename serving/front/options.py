"""What an operator may choose of the front."""

from __future__ import annotations

import json
import os
import ssl
from dataclasses import asdict, dataclass
from pathlib import Path

from heatserve.serving.errors import ServingError
from heatserve.serving.triton.tls import ServerTls, tls_problem

MOST_CONNECTIONS = 1024


@dataclass(frozen=True)
class FrontOptions:
    """TLS, tokens and limits of the front.

    Attributes:
        tls_cert: the server's certificate, and those between it and its CA (PEM); None: no TLS.
        tls_key: its key.
        client_ca: the CA whose clients are let in, and no others (mutual TLS).
        token_file: one token a line, one of which a request must bring; read again when it changes.
        rate: requests a second of one client: one token, or one address; None: any number.
        max_connections: open at one time, from one address half as many.
    """

    tls_cert: Path | None = None
    tls_key: Path | None = None
    client_ca: Path | None = None
    token_file: Path | None = None
    rate: float | None = None
    max_connections: int = MOST_CONNECTIONS

    def check(self) -> None:
        """Refuse what cannot be.

        Raises:
            ServingError: names the option, what was expected and what came.
        """
        from heatserve.serving.front.tokens import Tokens

        if (self.tls_cert is None) != (self.tls_key is None):
            missing, given = ("--tls-key", "--tls-cert") if self.tls_key is None else ("--tls-cert", "--tls-key")
            raise ServingError(f"{missing}: expected a file beside {given}, got none")
        if self.client_ca is not None and self.tls_cert is None:
            raise ServingError("--tls-cert: expected a file beside --client-ca, got none")
        if self.rate is not None and not 0 < self.rate < float("inf"):
            raise ServingError(f"--rate: expected requests a second above 0, got {self.rate:g}")
        if self.max_connections < 1:
            raise ServingError(f"--max-connections: expected at least 1, got {self.max_connections}")
        self.tls_context()
        if self.token_file is not None:
            Tokens(self.token_file)

    def tls_context(self) -> ssl.SSLContext | None:
        """TLS 1.2 and above by these files; None: no TLS.

        Raises:
            ServingError: a file cannot be read, or does not fit the others.
        """
        if self.tls_cert is None:
            return None
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["http/1.1"])
        try:
            context.load_cert_chain(self.tls_cert, self.tls_key, password=lambda: b"")  # never asks at the terminal
        except (OSError, ssl.SSLError) as error:
            raise ServingError(
                f"--tls-cert {self.tls_cert}: expected a certificate and, in --tls-key {self.tls_key}, its key without "
                f"a password (PEM), found: {tls_problem(error)}"
            ) from None
        if self.client_ca is not None:
            try:
                context.load_verify_locations(self.client_ca)
            except (OSError, ssl.SSLError) as error:
                raise ServingError(
                    f"--client-ca {self.client_ca}: expected certificates (PEM), found: {tls_problem(error)}"
                ) from None
            context.verify_mode = ssl.CERT_REQUIRED
        return context

    def server_tls(self) -> ServerTls | None:
        """The same files for Triton's gRPC; None: no TLS."""
        if self.tls_cert is None or self.tls_key is None:
            return None
        return ServerTls(self.tls_cert, self.tls_key, self.client_ca)

    def as_json(self) -> str:
        """As one text, for the process of the front, which has another current folder: names of files are absolute."""
        return json.dumps(asdict(self), default=os.path.abspath)


def options_of(text: str) -> FrontOptions:
    """The options in such a text."""
    said = json.loads(text)
    for name in ("tls_cert", "tls_key", "client_ca", "token_file"):
        said[name] = None if said[name] is None else Path(said[name])
    return FrontOptions(**said)
