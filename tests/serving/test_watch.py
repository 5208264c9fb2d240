"""A server whose models do not answer says so and ends, one that is busy goes on, one that drains is unavailable."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path

import numpy as np
import onnx
import pytest
import tritonclient.grpc
from onnx import parser
from test_server import descendants, is_running, serve_command, triton_below, triton_process, wait_until_gone
from tiny_model import SIGMA, delay_batches, random_images, write_tiny_card, write_tiny_model
from tritonclient.utils import InferenceServerException

from heatserve import FREE_PORTS, Client, ServingError, TritonServer, UnavailableError
from heatserve.export.card import BASE_NAME, GRAPH_NAME
from heatserve.export.graph.build import certified_graph
from heatserve.serving.triton import watch
from heatserve.serving.triton.processes import triton_and_instances
from heatserve.serving.triton.watch import Question, Watch

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="Triton runs on Linux only"),
]

BUSY_SECONDS = 60.0
"""A death is told within 3 s where the machine is free (docs/guide/operate.md); a test must also pass on a busy one."""

# 64 images take 13 billion multiplications, which two cores that do other things too need about a second for.
HEAVY = """
<ir_version: 9, opset_import: ["" : 18]>
heavy (float[N,1,8,8] image) => (float[N,10] logits)
<int64[2] into = {64, 8192}, int64[2] square = {8192, 8192}, int64[2] out = {8192, 64}> {
    flat = Flatten<axis = 1>(image)
    narrow_to_wide = ConstantOfShape<value = float[1] {0.001}>(into)
    wide_to_wide = ConstantOfShape<value = float[1] {0.0001}>(square)
    wide_to_narrow = ConstantOfShape<value = float[1] {0.001}>(out)
    wide = MatMul(flat, narrow_to_wide)
    wider = MatMul(wide, wide_to_wide)
    widest = MatMul(wider, wide_to_wide)
    sums = MatMul(widest, wide_to_narrow)
    both = Add(flat, sums)
    logits = MatMul(both, weights)
}
"""


@pytest.fixture
def server(tiny_repository: Path) -> Iterator[TritonServer]:
    """A server of its own, for a test to break."""
    with TritonServer(tiny_repository, models=["tiny", "patient"], endpoints=FREE_PORTS) as server:
        yield server
    server.log.unlink(missing_ok=True)


def instance_of(server: TritonServer, model: str) -> int:
    """The process of a model's one instance."""
    (process,) = (process for process in triton_and_instances(triton_process(server)) if process.model == model)
    return process.pid


@contextmanager
def callers(server: TritonServer, count: int, *, model: str = "tiny", images: int = 4) -> Iterator[list[float]]:
    """So many callers without a pause; yields the seconds that each answer took."""
    done, seconds = threading.Event(), list[float]()

    def call(seed: int) -> None:
        with Client(server.endpoints.grpc_url, model=model) as client:
            while not done.is_set():
                start = time.monotonic()
                try:
                    client.predict(random_images(images, seed=seed))
                    seconds.append(time.monotonic() - start)
                except ServingError:
                    time.sleep(0.01)

    with ThreadPoolExecutor(count) as pool:
        calls = [pool.submit(call, seed) for seed in range(count)]
        try:
            yield seconds
        finally:
            done.set()
        for finished in calls:
            finished.result()


def seconds_until(condition: Callable[[], bool], *, at_most: float) -> float:
    start = time.monotonic()
    while not condition():
        assert time.monotonic() - start < at_most
        time.sleep(0.01)
    return time.monotonic() - start


def says_ready(server: TritonServer) -> bool:
    connection = HTTPConnection(server.endpoints.http_url.removeprefix("http://"), timeout=5)
    try:
        connection.request("GET", "/v2/health/ready")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


@pytest.mark.parametrize("count", [0, 6])
@pytest.mark.parametrize(
    ("number", "found"),
    [(signal.SIGKILL, r"was ended by SIGKILL \(by another process, .*start it again"), (signal.SIGSTOP, "is stopped")],
)
def test_a_server_with_a_dead_instance_ends_and_says_which(
    server: TritonServer, number: signal.Signals, found: str, count: int
) -> None:
    """With callers, a stopped instance once had Triton itself die, and answer without outputs before."""
    process = instance_of(server, "tiny")
    with ThreadPoolExecutor(1) as pool, callers(server, count or 1):
        if count:
            time.sleep(0.5)
        os.kill(process, number)
        ready = pool.submit(seconds_until, lambda: not says_ready(server), at_most=BUSY_SECONDS)
        start = time.monotonic()
        expected = (
            f"Triton was ended: tiny: expected a running process of the model instance tiny_0_0.* {process} {found}"
        )
        with pytest.raises(ServingError, match=expected):
            server.wait()
        assert time.monotonic() - start < BUSY_SECONDS
        ready.result()
        with Client(server.endpoints.grpc_url, model="tiny") as client, pytest.raises(UnavailableError):
            client.spec()
    assert server.log.exists()


def test_an_instance_that_triton_has_given_up_is_reported(
    server: TritonServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its process is silent for a reason that the kernel does not show: here, since nobody looks for the stop."""
    monkeypatch.setattr(watch, "STOPPED_LOOKS", sys.maxsize)
    os.kill(instance_of(server, "tiny"), signal.SIGSTOP)
    start = time.monotonic()
    with pytest.raises(ServingError, match=r"tiny: expected an answer to a valid image, found: .* is not healthy"):
        server.wait()
    assert time.monotonic() - start < BUSY_SECONDS


def test_an_instance_that_is_stopped_for_half_a_second_goes_on(server: TritonServer) -> None:
    process = instance_of(server, "tiny")
    with Client(server.endpoints.grpc_url, model="tiny") as client:
        for _ in range(3):
            os.kill(process, signal.SIGSTOP)
            time.sleep(0.5)
            os.kill(process, signal.SIGCONT)
            assert len(client.predict(random_images(2))) == 2
            time.sleep(0.5)
        time.sleep(3)
        assert len(client.predict(random_images(2))) == 2


def test_the_command_ends_with_an_error_for_an_orchestrator(tiny_repository: Path, tmp_path: Path) -> None:
    with serve_command(tiny_repository, tmp_path, "--no-restart") as (process, _):
        processes = descendants(process.pid)
        os.kill(triton_and_instances(triton_below(process.pid))[1].pid, signal.SIGKILL)
        _, errors = process.communicate(timeout=20)
    assert process.returncode == 1
    assert "patient: expected a running process of the model instance patient_0_0" in " ".join(errors.split())
    wait_until_gone(processes, seconds=1)


@pytest.mark.parametrize(
    ("image", "classes", "message"),
    [
        (np.full((1, 1, 8, 8), np.nan, np.float32), 10, "found: image: expected finite values"),
        (random_images(1), 9, "found: probabilities: expected FP32 [1, 9] from the server, found float32 [1, 10]"),
    ],
)
def test_a_model_that_fails_on_a_valid_image_is_reported(
    triton: TritonServer, image: np.ndarray[tuple[int, ...], np.dtype[np.float32]], classes: int, message: str
) -> None:
    """These questions stand for a model that fails on its own: it answers an error, or another number of classes."""
    problems = list[str]()
    watching = Watch(os.getpid(), triton.endpoints.grpc_url, [Question("tiny", image, classes)], problems.append)
    watching.start()
    seconds_until(lambda: bool(problems), at_most=BUSY_SECONDS)
    assert "tiny: expected an answer to a valid image, " + message in problems[0]
    time.sleep(2 * watch.ASK_SECONDS)
    assert len(problems) == 1


def test_a_model_that_does_nothing_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Triton holds its requests back for ten minutes: no different from an instance that waits for ever."""
    monkeypatch.setattr(watch, "DEADLINE_SECONDS", 1.0)
    delay_batches(write_tiny_model(tmp_path), microseconds=600_000_000)
    with TritonServer(tmp_path, endpoints=FREE_PORTS) as server:
        start = time.monotonic()
        with pytest.raises(ServingError, match=r"tiny: expected an answer .* no answer in 1 s, in which its processes"):
            server.wait()
        assert time.monotonic() - start < BUSY_SECONDS
    server.log.unlink()


def test_a_server_that_is_merely_busy_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two busy loops, a slow model, and a queue that is longer than any deadline of the watch."""
    monkeypatch.setattr(watch, "DEADLINE_SECONDS", 2.0)
    version_dir = write_tiny_model(tmp_path, "heavy", calibrated=False)
    logits = parser.parse_model(HEAVY)
    logits.graph.initializer.extend(onnx.load(version_dir / BASE_NAME).graph.initializer)
    onnx.save(logits, version_dir / BASE_NAME)
    onnx.save(certified_graph(logits, sigma=SIGMA), version_dir / GRAPH_NAME)
    write_tiny_card(version_dir, calibration=None)
    loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(2)]
    try:
        with (
            TritonServer(tmp_path, endpoints=FREE_PORTS) as server,
            callers(server, 40, model="heavy", images=64) as seconds,
        ):
            process = instance_of(server, "heavy")
            time.sleep(15)
            assert is_running(process)
            answered = len(seconds)
            assert np.median(seconds) > 2 * watch.DEADLINE_SECONDS, "it was not busy"
            seconds_until(lambda: len(seconds) > answered, at_most=60)
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


def test_a_server_that_drains_is_unavailable(tmp_path: Path) -> None:
    """Triton itself would say for two to three seconds, with NOT_FOUND, that its models have no versions."""
    write_tiny_model(tmp_path)
    delay_batches(write_tiny_model(tmp_path, "slow"), microseconds=2_000_000)
    ended = threading.Event()

    def refusals(client: Client) -> Iterator[tuple[float, ServingError]]:
        while not ended.is_set():
            try:
                client.predict(random_images(1))
            except ServingError as error:
                yield time.monotonic(), error

    def ask(url: str, client: Client) -> list[tuple[float, ServingError]]:
        found = refusals(client)
        first = next(found)
        with Client(url, model="another") as other, pytest.raises(ServingError, match="unknown model") as caught:
            other.spec()
        assert not isinstance(caught.value, UnavailableError)
        with pytest.raises(InferenceServerException, match="Server exiting"):
            tritonclient.grpc.InferenceServerClient(url.removeprefix("grpc://")).is_server_ready()
        return [first, *found]

    with ThreadPoolExecutor(2) as pool:
        with TritonServer(tmp_path, endpoints=FREE_PORTS) as server:
            url = server.endpoints.grpc_url
            slow, quick = Client(url, model="slow"), Client(url, model="tiny")
            assert len(quick.predict(random_images(1))) == 1
            slow.spec()
            answer = pool.submit(slow.predict, random_images(1))
            asking = pool.submit(ask, url, quick)
            time.sleep(0.5)
        ended.set()
        assert len(answer.result()) == 1
        found = asking.result()
    slow.close()
    quick.close()
    assert {type(error) for _, error in found} == {UnavailableError}
    unloaded = [when for when, error in found if "has no available versions" in str(error)]
    assert max(unloaded, default=0) - min(unloaded, default=0) < 1
