"""What the process of the front runs: `main OPTIONS UP LOG HTTP,… METRICS,…`, with numbers of descriptors."""

from __future__ import annotations

import logging
import os
import socket
import sys
from collections.abc import Sequence

from heatserve.serving.errors import EXPLAINED, ServingError
from heatserve.serving.front.lifecycle import live
from heatserve.serving.front.options import options_of

_MOST_WORDS = 4096


def main(arguments: Sequence[str]) -> None:
    """Serve until SIGTERM."""
    import uvloop

    options, up, log, http, metrics = arguments
    logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)  # a line for each stranger who cannot speak HTTP
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    try:
        uvloop.run(live(options_of(options), _sockets(http), _sockets(metrics), int(up), int(log)))
    except ServingError as error:
        print(f"heatserve: front: {error}", file=sys.stderr)  # noqa: T201
        os.write(int(up), str(error).encode()[:_MOST_WORDS])
        sys.exit(EXPLAINED)


def _sockets(numbers: str) -> list[socket.socket]:
    return [socket.socket(fileno=int(number)) for number in numbers.split(",") if number]
