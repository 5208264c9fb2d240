"""Closed-loop load on a served model: callers that ask for one image, wait for the answer, and ask again."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import grpc
import numpy as np

from heatserve.export.contract import OUTPUT_NAMES
from heatserve.serving.client.failures import OVERLOADED
from heatserve.serving.client.messages import InferRequest, grpc_message
from heatserve.serving.errors import OverloadedError, ServingError
from heatserve.serving.pixels import Pixels

GRPC_METHOD = "/inference.GRPCInferenceService/ModelInfer"
"""What every request over gRPC calls."""
_WARM_UP_SECONDS = 0.3
_ENOUGH = 100
"""Answers that a 99th percentile needs at least."""
_PATIENCE = 5
"""How many times the wanted seconds are spent to get as many."""


@dataclass(frozen=True)
class LoadResult:
    """What `concurrency` callers saw: images a second, and percentiles of one request's latency in milliseconds."""

    concurrency: int
    images_per_second: float
    p50: float
    p99: float
    caller_cores: float
    """Cores that the callers took. They share one thread: near 1, they were the bottleneck and not the server."""


def closed_loop(url: str, model: str, image: Pixels, *, concurrency: int, seconds: float) -> LoadResult:
    """Ask for all outputs of one image, over and over, with `concurrency` requests on the way at any time.

    The request is serialised once and answers are not parsed, so that asking costs little beside answering.

    Args:
        url: `grpc://host:port`.
        model: the model's name on the server.
        image: FP32 [1, C, H, W] in [0,1], or UINT8 [1, H, W, C], as the model takes it.
        concurrency: requests on the way at once.
        seconds: how long; longer where that brings too few answers for a 99th percentile.

    Raises:
        OverloadedError: the server's queue has a limit, and so many callers reach it.
        ServingError: a request was refused for another reason; holds the server's message.
        KeyboardInterrupt: SIGINT or SIGTERM came.
    """
    request = grpc_message(InferRequest(model, image, OUTPUT_NAMES)).SerializeToString()

    async def measure() -> LoadResult:
        with _cancelled_by_signals():
            return await ask()

    async def ask() -> LoadResult:
        async with grpc.aio.insecure_channel(url.removeprefix("grpc://")) as channel:
            call = channel.unary_unary(GRPC_METHOD)
            await _callers(lambda: call(request), concurrency, _WARM_UP_SECONDS)
            return await _callers(lambda: call(request), concurrency, seconds)

    try:
        return asyncio.run(measure())
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None
    except grpc.aio.AioRpcError as error:
        reason = error.details() or ""
        kind = OverloadedError if any(words in reason for words in OVERLOADED) else ServingError
        raise kind(f"{model}: a request of {concurrency} callers was refused: {reason}") from None


@contextmanager
def _cancelled_by_signals() -> Iterator[None]:
    """Have the signals to end cancel this task: an exception that they raise may get lost in gRPC's callbacks."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    wanted = [number for number, handler in before.items() if handler is not signal.SIG_IGN]
    for number in wanted:
        loop.add_signal_handler(number, task.cancel)
    try:
        yield
    finally:
        for number in wanted:
            loop.remove_signal_handler(number)
            signal.signal(number, before[number])


async def _callers(ask: Callable[[], Awaitable[object]], concurrency: int, seconds: float) -> LoadResult:
    latencies: list[float] = []
    start, cpu = time.perf_counter(), time.process_time()

    def is_over(now: float) -> bool:
        return now > start + seconds and (len(latencies) >= _ENOUGH or now > start + _PATIENCE * seconds)

    async def caller() -> None:
        while not is_over(asked := time.perf_counter()):
            await ask()
            latencies.append(time.perf_counter() - asked)

    await asyncio.gather(*(caller() for _ in range(concurrency)))
    elapsed = time.perf_counter() - start
    p50, p99 = np.percentile(latencies, (50, 99)) * 1000
    cores = (time.process_time() - cpu) / elapsed
    return LoadResult(concurrency, len(latencies) / elapsed, float(p50), float(p99), cores)
