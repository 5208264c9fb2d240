"""Options of Triton that hold for every server of ours."""

from __future__ import annotations

import secrets
from collections.abc import Iterator

# A caller that answers no ping is closed after 60 + 20 s; each connection is replaced after ten minutes, and what runs
# on it then has a minute more. Clients of gRPC connect again by themselves.
CONNECTION_LIMITS = (
    "--grpc-keepalive-time=60000",
    "--grpc-keepalive-timeout=20000",
    "--grpc-keepalive-permit-without-calls=true",
    "--grpc-http2-max-pings-without-data=0",
    "--grpc-max-connection-age=600000",
    "--grpc-max-connection-age-grace=60000",
    # Of requests that were answered, Triton would keep some for reuse, with the memory of the largest: 2 GiB each.
    "--grpc-infer-allocation-pool-size=0",
)
START_SECONDS = 170.0
"""The time in which all models must be ready, or a version of one be loaded, and the front must accept connections.

It is an upper bound, for machines that are starved; what fails is noticed at once. The probes of `deploy/` wait longer,
so that a server says what is wrong before it is ended.
"""
POLLS = (
    "--model-control-mode=poll",
    "--repository-poll-secs=1",
    # Otherwise Triton says for good that it is not ready once a version has failed to load, though all others serve.
    "--strict-readiness=false",
)
"""Triton looks for other versions in its repository (`heatserve.serving.triton.replacing`)."""
# Shared memory lets a caller name the memory that Triton reads and writes; the others load models, or change what is
# logged where. Triton closes an API to callers that lack a header. Whoever is on this machine may read the header in
# the list of processes, so nobody can send it: HTTP/2 has no capitals in names, HTTP/1 no line break in values.
_CLOSED_APIS = "shared-memory,model-repository,trace,logging"
_HEADER = "NOBODY={secret}\n"


def closed_apis() -> Iterator[str]:
    """Close what no caller may use."""
    header = _HEADER.format(secret=secrets.token_hex())
    yield f"--http-restricted-api={_CLOSED_APIS}:{header}"
    yield f"--grpc-restricted-protocol={_CLOSED_APIS}:{header}"
