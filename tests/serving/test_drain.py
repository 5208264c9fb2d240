"""A server that ends under load loses no request: readiness fails first, and what was sent until then is answered."""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http.client import HTTPConnection
from pathlib import Path

import pytest
from test_server import serve_command_at
from test_watch import BUSY_SECONDS, seconds_until
from tiny_model import random_images

from heatserve import Client, ServingError, UnavailableError

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="Triton runs on Linux only"),
]

GRACE_SECONDS = 5.0  # twelve callers in one process learn of it within this time, on a busy machine too


@dataclass
class Caller:
    """Who asks without a pause, and what came of it."""

    url: str
    answers: int = 0
    errors: list[tuple[float, ServingError]] = field(default_factory=list)
    """When which request got no answer."""

    def ask_while(self, condition: Callable[[], bool]) -> None:
        with Client(self.url, model="patient", retries=0) as client:
            while condition():
                try:
                    self.answers += len(client.predict(random_images(1)))
                except ServingError as error:
                    self.errors.append((time.monotonic(), error))


def says_ready(port: int) -> bool:
    connection = HTTPConnection("127.0.0.1", port, timeout=BUSY_SECONDS)
    try:
        connection.request("GET", "/v2/health/ready")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


def test_no_request_is_lost_at_the_end_under_load(tiny_repository: Path, tmp_path: Path) -> None:
    """Who looks at readiness, as load balancers do, gets every answer; who does not is refused only after the grace."""
    is_ready, runs = threading.Event(), threading.Event()
    is_ready.set()
    runs.set()
    with serve_command_at(tiny_repository, tmp_path, f"--grace={GRACE_SECONDS}") as (process, urls):
        http = urls["HTTP"]
        careful, careless = ([Caller(url) for url in (urls["gRPC"], http) * times] for times in (4, 2))
        with ThreadPoolExecutor(len(careful) + len(careless)) as pool:
            asking = [pool.submit(caller.ask_while, is_ready.is_set) for caller in careful]
            asking += [pool.submit(caller.ask_while, runs.is_set) for caller in careless]
            seconds_until(lambda: all(caller.answers for caller in (*careful, *careless)), at_most=BUSY_SECONDS)
            assert says_ready(int(http.rpartition(":")[2]))
            ended_at = time.monotonic()
            process.send_signal(signal.SIGTERM)
            seconds_until(lambda: not says_ready(int(http.rpartition(":")[2])), at_most=GRACE_SECONDS)
            is_ready.clear()
            assert process.wait(BUSY_SECONDS) == 0
            seconds_until(lambda: all(caller.errors for caller in careless), at_most=BUSY_SECONDS)
            runs.clear()
        for asked in asking:
            asked.result()
    assert [caller.errors for caller in careful if caller.errors] == []
    refused = [one for caller in careless for one in caller.errors]
    assert {type(error) for _, error in refused} == {UnavailableError}
    assert min(when for when, _ in refused) > ended_at + GRACE_SECONDS
    assert list(tmp_path.iterdir()) == []
