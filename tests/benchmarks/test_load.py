"""`heatserve bench load`: who asks, when, what counts, what the server takes; and the whole command on the digits."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
import pytest
from tiny_model import random_images

from heatserve import TritonServer
from heatserve.benchmarks.classifiers import CLASSIFIERS, publish_uncalibrated, random_classifier
from heatserve.benchmarks.load import asking
from heatserve.benchmarks.load.asking import Stream, arrivals_at, ask_stream
from heatserve.benchmarks.load.floors import identity_graph
from heatserve.benchmarks.load.helper import Helper
from heatserve.benchmarks.load.messages import LoadRequest
from heatserve.benchmarks.load.server_use import look_at_server, use_between
from heatserve.benchmarks.load.targets import ALONE, BESIDE_CONFIRM, targets_of
from heatserve.benchmarks.load.third_party import check_third_party, run_third_party
from heatserve.benchmarks.records.load import Heard, LoadRow, LoadTarget, RawRow, RequestKind, TailMilliseconds
from heatserve.certification.errors import HeatserveError
from heatserve.export.graph.build import certified_graph, uint8_input
from heatserve.export.runtime.session import open_session, run

ROOT = Path(__file__).parents[2]

Answer = Callable[[], Awaitable[bytes]]
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"


@contextmanager
def http_server(answer: Answer) -> Iterator[str]:
    """An HTTP server on this machine that answers every request as it is told; its URL."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                (length,) = re.findall(rb"Content-Length: (\d+)", head)
                await reader.readexactly(int(length))
                writer.write(await answer())
        except (asyncio.IncompleteReadError, asyncio.CancelledError, ConnectionError):
            writer.close()

    loop = asyncio.new_event_loop()
    server = loop.run_until_complete(asyncio.start_server(talk, "127.0.0.1", 0))
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        server.close()
        for task in asyncio.all_tasks(loop):
            task.cancel()
            loop.run_until_complete(task)
        loop.close()


def post(url: str) -> bytes:
    return f"POST / HTTP/1.1\r\nHost: {url}\r\nContent-Length: 2\r\n\r\n{{}}".encode()


def test_arrivals_are_a_poisson_process() -> None:
    random = np.random.default_rng(0)
    moments = arrivals_at(1000.0, begin=-2.0, end=18.0, random=random)
    assert len(moments) == pytest.approx(20_000, abs=5 * np.sqrt(20_000))
    assert np.all(np.diff(moments) >= 0)
    assert -2 <= moments[0] < moments[-1] < 18
    gaps = np.diff(moments)  # exponential: standard deviation and mean are the same
    assert gaps.std() / gaps.mean() == pytest.approx(1, abs=0.05)
    counts = np.histogram(moments, bins=200)[0]  # Poisson: variance and mean are the same
    assert counts.var() / counts.mean() == pytest.approx(1, abs=0.5)


def test_an_open_loop_sees_the_waiting_that_a_closed_loop_hides() -> None:
    """The server stalls for 0.5 s of each window: half of the arrivals wait for it, and one caller waits once."""
    stall = [0.0]

    async def answer() -> bytes:
        now = time.perf_counter()
        if stall[0] <= now < stall[0] + 0.5:
            await asyncio.sleep(stall[0] + 0.5 - now)
        return OK

    with http_server(answer) as url:
        stall[0] = time.perf_counter() + 0.45
        opened = ask_stream(Stream(url, (post(url),), arrivals=np.linspace(0, 1, 100)), stall[0] - 0.25, 1.0)
        stall[0] = time.perf_counter() + 0.45
        closed = ask_stream(Stream(url, (post(url),), callers=1), stall[0] - 0.25, 1.0)
    slow = {name: (heard.latencies > 0.1).mean() for name, heard in (("open", opened), ("closed", closed))}
    assert len(opened.latencies) == 99  # the last was to start at the window's end
    assert slow["open"] > 0.3
    assert slow["closed"] < slow["open"] / 3
    assert (opened.answered - opened.sent).max() > 0.3


def test_a_request_that_is_sent_late_counts_from_when_it_was_to_start() -> None:
    async def answer() -> bytes:
        return OK

    with http_server(answer) as url:
        begin = time.perf_counter() - 0.3  # the generator itself comes too late
        heard = ask_stream(Stream(url, (post(url),), arrivals=np.array([0.05, 0.1])), begin, 0.5)
    assert (heard.sent - heard.intended).min() > 0.15
    assert heard.latencies.min() > 0.15


def test_only_requests_of_the_window_count() -> None:
    async def answer() -> bytes:
        return OK

    with http_server(answer) as url:
        begin = time.perf_counter() + 0.3
        heard = ask_stream(Stream(url, (post(url),), arrivals=np.array([-0.2, -0.1, 0.1, 0.2, 0.4])), begin, 0.3)
    assert heard.intended - begin == pytest.approx([0.1, 0.2])
    assert heard.within == 2


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        ("503 Service Unavailable", b"the queue is full: ask again in about 2 s", "overloaded"),
        ("400 Bad Request", b"Exceeds maximum queue size", "overloaded"),
        ("400 Bad Request", b"image: expected", "HTTP 400"),
    ],
)
def test_errors_are_counted_by_kind(status: str, body: bytes, kind: str) -> None:
    async def answer() -> bytes:
        await asyncio.sleep(0.01)
        return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body

    with http_server(answer) as url:
        heard = ask_stream(Stream(url, (post(url),), callers=2), time.perf_counter(), 0.2)
    assert set(heard.errors) == {kind}
    assert heard.errors[kind] > 2
    assert (len(heard.latencies), heard.within) == (0, 0)
    lost = ask_stream(Stream(url, (post(url),), arrivals=np.array([0.0, 0.1])), time.perf_counter(), 0.2)
    assert lost.errors == {"no connection": 2}


def test_what_is_never_answered_is_given_up_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking, "PATIENCE", 0.3)

    async def answer() -> bytes:
        await asyncio.sleep(60)
        return OK

    with http_server(answer) as url:
        start = time.perf_counter()
        heard = ask_stream(Stream(url, (post(url),), callers=3), start + 0.1, 0.2)
        assert heard.errors == {asking.NO_ANSWER: 3}, "also requests that began before the window"
        assert time.perf_counter() - start < 5


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_messages_are_what_triton_takes(triton: TritonServer, protocol: str) -> None:
    url = triton.endpoints.grpc_url if protocol == "grpc" else triton.endpoints.http_url
    images = random_images(4)
    request = LoadRequest("one pass", "tiny", "grpc" if protocol == "grpc" else "http", images, count=2)
    assert request.kind == RequestKind(tier="one pass", protocol=request.protocol, input="FP32", images=2)
    messages = request.messages(url)
    assert len({*messages}) == 2
    heard = ask_stream(Stream(url, messages, callers=2), time.perf_counter() + 0.2, 0.5)
    assert heard.errors == {}
    assert len(heard.latencies) > 10
    assert heard.latencies.min() > 0
    invalid = LoadRequest("one pass", "tiny", request.protocol, images + 2).messages(url)
    heard = ask_stream(Stream(url, invalid, callers=1), time.perf_counter() + 0.1, 0.3)
    assert set(heard.errors) == {"INVALID_ARGUMENT" if protocol == "grpc" else "HTTP 400"}


def fail(message: str) -> None:
    raise ValueError(message)


def test_a_helper_hands_over_answers_and_errors_and_ends_at_any_time() -> None:
    with Helper() as helper:
        assert helper.start(os.getpid)() == helper.pid != os.getpid()
        with pytest.raises(ValueError, match="too much"):
            helper.start(fail, "too much")()
        wait = helper.start(os._exit, 3)
        with pytest.raises(HeatserveError, match=r"process that runs _exit, found that it ended with exit code 3"):
            wait()
    start = time.perf_counter()
    with Helper() as helper:
        helper.start(time.sleep, 60)
    assert time.perf_counter() - start < 20


def test_cpu_and_memory_are_those_of_the_processes_below() -> None:
    code = (
        "import time; held = b'x' * 2**26\nwhile time.process_time() < 0.5: pass\n"
        "print('done', flush=True); time.sleep(60)"
    )
    before = look_at_server(os.getpid(), apart=frozenset())
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as child:
        try:
            assert child.stdout is not None
            child.stdout.readline()
            after = look_at_server(os.getpid(), apart=frozenset(process.pid for process in before.kinds))
            found = use_between(before, after, seconds=1.0)
            assert look_at_server(os.getpid(), apart=frozenset([child.pid])).kinds == before.kinds
        finally:
            child.kill()
    (use,) = found.values()
    assert use.cores == pytest.approx(0.5, abs=0.1)
    assert use.rss_mib > 64
    assert use.shared_mib < use.rss_mib - 64


@pytest.mark.slow
@pytest.mark.parametrize("input_type", ["FP32", "UINT8"])
def test_the_identity_is_asked_and_answers_like_the_model(input_type: str, tmp_path: Path) -> None:
    shape = CLASSIFIERS["digits"]
    logits = random_classifier(shape, 0)
    network = uint8_input(logits) if input_type == "UINT8" else logits
    certified = certified_graph(network, sigma=0.25)
    images = np.random.default_rng(0).integers(0, 256, (3, 1, 8, 8), dtype=np.uint8) / np.float32(255)
    answers = [run(open_session(graph.SerializeToString()), images) for graph in (certified, identity_graph(certified))]
    described = [{name: (value.shape, value.dtype) for name, value in found.items()} for found in answers]
    assert described[0] == described[1]
    assert not any(value.any() for value in answers[1].values())
    model = publish_uncalibrated(
        logits,
        shape,
        tmp_path,
        "nothing",
        input_type="UINT8" if input_type == "UINT8" else "FP32",
        change=identity_graph,
    )
    operators = {node.op_type for node in onnx.load(model.path / "model.onnx").graph.node}
    assert operators == {"Shape", "Concat", "ConstantOfShape"}
    assert [path.name for path in tmp_path.iterdir()] == ["nothing"], "it has no tiers"


def heard(
    milliseconds: float,
    *,
    tier: str = "one pass",
    p99: float | None = None,
    callers: int | None = 1,
    rate: float | None = None,
    images_per_second: float = 1000.0,
) -> Heard:
    tail = p99 or milliseconds
    return Heard(
        tier=tier,
        protocol="grpc",
        input="FP32",
        images=1,
        callers=callers,
        rate=rate,
        answers=9,
        images_per_second=images_per_second,
        milliseconds=TailMilliseconds(p50=milliseconds, p90=milliseconds, p99=tail, p999=tail),
        late_p99=0,
        errors={},
    )


def row(*parts: Heard) -> LoadRow:
    return LoadRow(seconds=1, heard=parts, generator_cores=0.1, server={})


def test_targets_are_computed_from_the_rows() -> None:
    def found(single: float, busy_p99: float, beside: float) -> tuple[LoadTarget, ...]:
        raw = RawRow(batch=1, milliseconds=TailMilliseconds(p50=0.5, p90=1, p99=1, p999=1), images_per_second=2000)
        return targets_of(
            architecture="cifar_resnet20",
            kind=RequestKind(tier="one pass", protocol="grpc", input="FP32", images=1),
            raw=[raw],
            raw_single=raw,
            closed=[
                row(heard(single)),
                row(heard(0.6, tier="identity")),
                row(heard(5, callers=8, images_per_second=1600)),
            ],
            opened=[
                row(heard(2, p99=busy_p99, callers=None, rate=0.7 * 1600)),
                row(heard(2, p99=99, callers=None, rate=0.9 * 1600)),
            ],
            mixes={
                ALONE: row(heard(1, p99=2)),
                BESIDE_CONFIRM: row(heard(1, p99=beside), heard(50, p99=90, tier="confirm", callers=4)),
            },
            third_party=[],
        )

    targets = found(1.2, 5.0, 2.5)
    assert [target.name for target in targets] == [
        "certified − identity, ms, one caller",
        "saturation ÷ best of ONNX Runtime",
        "p99 ÷ p50 at 70% of saturation",
        "p99 of one pass beside confirm ÷ alone",
    ]
    assert [target.found for target in targets] == pytest.approx([0.6, 0.8, 2.5, 1.25])
    assert [target.limit for target in targets] == pytest.approx([1.1 * 0.5 + 0.15, 0.75, 3, 1.5])
    assert all(target.met for target in targets)
    assert [target.met for target in found(1.4, 7.0, 3.5)] == [False, True, False, False]


def test_another_generator_that_is_unknown_or_absent_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(HeatserveError, match="third-party: expected one of wrk, hey, got ab"):
        check_third_party("ab")
    monkeypatch.setenv("PATH", "")
    with pytest.raises(HeatserveError, match="wrk: expected it on PATH, found none; on Debian: apt install wrk"):
        check_third_party("wrk")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["wrk", "hey"])
def test_another_generator_sends_the_same_request(triton: TritonServer, name: str) -> None:
    if not shutil.which(name):
        pytest.skip(f"{name} is not installed")
    images, url = random_images(1), triton.endpoints.http_url
    message = LoadRequest("one pass", "tiny", "http", images).first_http()
    said = run_third_party(name, message, url, callers=2, seconds=1)
    assert said.requests_per_second > 10
    assert said.command.startswith(f"{name} -")
    invalid = LoadRequest("one pass", "tiny", "http", images + 2).first_http()
    with pytest.raises(HeatserveError, match=f"{name}: expected answers of status 200, found: "):
        run_third_party(name, invalid, url, callers=2, seconds=1)
