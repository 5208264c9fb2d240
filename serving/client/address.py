"""Where a server is: the URL of a client, and the proxy on the way to it."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import Literal
from urllib.parse import quote, urlsplit
from urllib.request import getproxies, proxy_bypass

from heatserve.serving.errors import ServingError

_STANDARD_PORTS = {"http": 80, "https": 443, "grpcs": 443}
_EXPECTED = "grpc://host:port, grpcs://host:port, http://host:port, https://host:port, or host:port for gRPC"


@dataclass(frozen=True)
class ServerAddress:
    """A server behind a URL such as `grpc://127.0.0.1:8001` or `https://[2001:db8::1]/triton`."""

    scheme: Literal["grpc", "grpcs", "http", "https"]
    host: str
    """A name, an IPv4 address, or an IPv6 address without brackets."""
    port: int
    prefix: str = ""
    """What comes before every path of the protocol: empty, or `/…` without a slash at its end."""

    @property
    def is_http(self) -> bool:
        """Whether it is asked over HTTP, and not gRPC."""
        return self.scheme in ("http", "https")

    @property
    def is_encrypted(self) -> bool:
        """Whether the way to it is encrypted with TLS."""
        return self.scheme in ("grpcs", "https")

    @property
    def host_and_port(self) -> str:
        """`host:port`; an IPv6 address stands in brackets."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def url(self) -> str:
        """The whole address, as errors name it."""
        return f"{self.scheme}://{self.host_and_port}{self.prefix}"

    @property
    def is_loopback(self) -> bool:
        """Whether it is this machine, by its address or by the name `localhost`."""
        try:
            address = ipaddress.ip_address(self.host.partition("%")[0])
        except ValueError:
            # NAME.localhost is not: some resolvers ask others where it is, and a token would go there in the clear.
            return self.host.lower().rstrip(".") == "localhost"
        mapped = getattr(address, "ipv4_mapped", None) or address
        return bool(mapped.is_loopback or mapped.is_unspecified)

    @property
    def proxy(self) -> str | None:
        """The URL of the proxy through which the environment says to go there; None: go straight, as to this machine.

        It is that of `http_proxy` or `https_proxy`, or else of `all_proxy`, unless `no_proxy` names the host. gRPC asks
        any of them for a tunnel, and prefers `grpc_proxy`.

        Raises:
            ServingError: the proxy is not one that speaks HTTP.
        """
        if self.is_loopback or proxy_bypass(self.host_and_port):
            return None
        names = (self.scheme, "all") if self.is_http else ("grpc", "https", "http", "all")
        proxies = getproxies()
        found = next((proxies[name] for name in names if proxies.get(name)), None)
        if found is None:
            return None
        url = found if "://" in found else f"http://{found}"
        if urlsplit(url).scheme not in (("http", "https") if self.is_http else ("http",)):
            raise ServingError(
                f"{self.url}: expected an http:// proxy in the environment, found one of {urlsplit(url).scheme}://; "
                "name this host in no_proxy to go there without one"
            )
        return url


def parse_address(url: str) -> ServerAddress:
    """The address that a URL names. Without a port it is that of the protocol; gRPC without TLS has none.

    Raises:
        ServingError: another protocol, no port, or more than an address.
    """
    scheme, separator, rest = url.partition("://")
    if not separator:
        scheme, rest = "grpc", url
    try:
        parts = urlsplit(f"//{rest}")
        host, port = parts.hostname, parts.port or _STANDARD_PORTS.get(scheme)
    except ValueError:
        host, port, parts = None, None, urlsplit("")
    if "@" in parts.netloc:
        raise ServingError("url: expected an address without a password; pass it with `headers` or `token`")
    is_plain = not (parts.query or parts.fragment or re.search(r"[\s\\]", url))
    if scheme not in ("grpc", "grpcs", "http", "https") or not host or not port or "/" in host or not is_plain:
        raise ServingError(f"url: expected {_EXPECTED}; found {url!r}")
    if ":" in host and f"[{host.lower()}]" not in rest.lower():
        raise ServingError(f"url: expected {_EXPECTED}, an IPv6 host in brackets; found {url!r}")
    prefix = quote(parts.path.rstrip("/"), safe="/%:@!$&'()*+,;=~-._")
    return ServerAddress(scheme, host, port, prefix)  # type: ignore[arg-type]  # one of the four
