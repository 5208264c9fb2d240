"""How a client gets in: TLS with the certificates that it trusts and shows, and the headers of its requests."""

from __future__ import annotations

import re
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from heatserve.serving.client.address import ServerAddress, parse_address
from heatserve.serving.errors import ServingError

Token = str | Callable[[], str]
"""A token, or what gives the one that is valid now; it is asked for each request."""

_OURS = ("connection", "content-length", "content-type", "inference-header-content-length", "te", "transfer-encoding")


@dataclass(frozen=True)
class Tls:
    """Files in PEM of an encrypted connection.

    Attributes:
        ca: the certificates to trust; None: those that this machine trusts.
        certificate: what the client shows of itself, where the server asks for it, with the certificates above it.
        key: the private key of `certificate`, without a password; None: it is in the same file.
    """

    ca: str | Path | None = None
    certificate: str | Path | None = None
    key: str | Path | None = None

    def context(self) -> ssl.SSLContext:
        """What Python's TLS takes.

        Raises:
            ServingError: a file cannot be read, or is not what it should be. Names it.
        """
        try:
            context = ssl.create_default_context(cafile=self.ca)
        except OSError as error:
            raise ServingError(f"ca: expected a file of certificates in PEM, got {self.ca}: {_said(error)}") from None
        if self.key is not None and self.certificate is None:
            raise ServingError("key: expected a certificate with it, whose key it is, got none")
        if self.certificate is not None:
            files = f"{self.certificate}{'' if self.key is None else f' and {self.key}'}"
            try:
                context.load_cert_chain(self.certificate, self.key, password=_no_password)
            except (OSError, ValueError) as error:
                raise ServingError(
                    f"certificate: expected a certificate and its private key in PEM, got {files}: {_said(error)}"
                ) from None
        return context

    def grpc_files(self) -> dict[str, bytes | None]:
        """What gRPC takes: the contents of the files. Where there is no `ca`, what this machine trusts.

        Raises:
            ServingError: see `context`.
        """
        trusted = self.context().get_ca_certs(binary_form=True)
        key = self.certificate if self.key is None else self.key
        return {
            "root_certificates": "".join(map(ssl.DER_cert_to_PEM_cert, trusted)).encode() or None,
            "private_key": None if key is None else Path(key).read_bytes(),
            "certificate_chain": None if self.certificate is None else Path(self.certificate).read_bytes(),
        }


@dataclass(frozen=True)
class Access:
    """A server, and what a client shows to be let in. What it shows is in no `repr`."""

    address: ServerAddress
    tls: Tls
    headers: Mapping[str, str] = field(repr=False)
    token: Token | None = field(repr=False)
    server_name: str | None = None
    """The name on the server's certificate, where that is not the host (gRPC only)."""

    def request_headers(self) -> dict[str, str]:
        """The headers of the next request, their names in small letters.

        Raises:
            ServingError: the token is not one that a header can hold.
        """
        if self.token is None:
            return dict(self.headers)
        token = self.token if isinstance(self.token, str) else self.token()
        if not isinstance(token, str) or not re.fullmatch(r"[!-~]+", token):
            raise ServingError(
                "token: expected visible ASCII characters without spaces, got something else (it is not shown here); "
                "a file may end with a line break, which `.strip()` removes"
            )
        return {**self.headers, "authorization": f"Bearer {token}"}


def access_to(
    url: str, *, tls: Tls | None = None, headers: Mapping[str, str] | None = None, token: Token | None = None
) -> Access:
    """What a client was told of its server, checked.

    Raises:
        ServingError: an argument of another type, a malformed URL, `tls` without encryption, a token that anybody on
            the way could read, or a header that no request can have.
    """
    check_type("url", url, str, "text")
    check_type("tls", tls, Tls | None, "an object of heatserve's Tls")
    check_type("headers", headers, Mapping | None, "a dict of names and values")
    check_type("token", token, str | Callable | None, "text, or a function that returns it", shown=False)
    address = parse_address(url)
    if tls is not None and not address.is_encrypted:
        raise ServingError(f"tls: expected with a URL grpcs:// or https://, got {address.url}")
    if token is not None and not (address.is_encrypted or address.is_loopback):
        raise ServingError(
            f"token: expected with a URL grpcs:// or https://, got {address.url}, where whoever is on the way can read "
            "it; in a network that you trust, pass it as a header, Authorization: Bearer …"
        )
    found = {name.lower(): value for name, value in _checked_headers(headers or {})}
    if token is not None and "authorization" in found:
        raise ServingError("token: expected one of a token and the header Authorization, got both")
    access = Access(address, tls or Tls(), found, token)
    if isinstance(token, str):
        access.request_headers()
    return access


def check_type(name: str, value: object, kinds: Any, expected: str, *, shown: bool = True) -> None:
    """Refuse an argument of another type.

    Raises:
        ServingError: names it.
    """
    if not isinstance(value, kinds):
        found = f"{value!r:.80}" if shown else f"an object of {type(value).__name__}"
        raise ServingError(f"{name}: expected {expected}, got {found}")


def _checked_headers(headers: Mapping[str, str]) -> list[tuple[str, str]]:
    pairs: list[tuple[Any, Any]] = list(headers.items())
    names = set[str]()
    for name, value in pairs:
        if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+", name):
            raise ServingError(f"headers: expected a name of letters, digits and dashes, got {name!r:.80}")
        lower = name.lower()
        if lower in _OURS or lower.startswith("grpc-") or lower.endswith("-bin"):
            raise ServingError(f"headers: expected none that belong to the protocol, got {name!r:.80}")
        if lower in names:
            raise ServingError(f"headers: expected each name once, got {name!r:.80} twice")
        if not isinstance(value, str) or not re.fullmatch(r"[ -~]*", value) or value != value.strip():
            raise ServingError(
                f"headers: expected the value of {name!r:.80} in visible ASCII, without spaces at its ends or line "
                "breaks (it is not shown here)"
            )
        names.add(lower)
    return pairs


def _said(error: Exception) -> str:
    reason = getattr(error, "strerror", None) or str(error)
    return reason or "it cannot be read"


def _no_password() -> str:
    raise ValueError("the private key is encrypted; give one without a password")
