"""The client in real programs: outages, lost connections, threads, forked processes, servers that never end."""

from __future__ import annotations

import ast
import asyncio
import inspect
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from relays import Relay, Seen, answering, host_and_port, http_front
from test_client import PROTOCOLS, in_process, url_of
from test_false_answers import ChangingProxy, proxy
from tiny_model import random_images

from heatserve import (
    AsyncClient,
    Client,
    OverloadedError,
    Prediction,
    ServingError,
    TooLateError,
    TritonServer,
    UnavailableError,
)
from heatserve.serving.client.connection import Connection

__all__ = ["in_process", "proxy"]  # fixtures


@PROTOCOLS
def test_a_server_that_is_back_answers_the_next_request(triton: TritonServer, protocol: str) -> None:
    images = random_images(1)
    with Relay(host_and_port(url_of(triton, protocol))) as relay:
        options: dict[str, Any] = {"model": "tiny", "timeout": 20, "retries": 0}
        url = f"{protocol}://{relay.address}"
        with Client(url, **options) as old, Client(url, **options) as fresh:
            old.predict(images)
            relay.close()
            end = time.monotonic() + 2  # gRPC waits longer after each attempt to connect
            while time.monotonic() < end:
                with pytest.raises(UnavailableError, match="no server answers here"):
                    old.predict(images)
                time.sleep(0.1)
            relay.open()
            assert old.predict(images)  # at once, though nothing is tried again
            assert fresh.predict(images)


@PROTOCOLS
def test_a_server_that_is_back_answers_the_next_request_of_asyncio(triton: TritonServer, protocol: str) -> None:
    async def ask(relay: Relay) -> None:
        async with AsyncClient(f"{protocol}://{relay.address}", model="tiny", timeout=20, retries=0) as client:
            await client.predict(random_images(1))
            relay.close()
            for _ in range(5):
                with pytest.raises(UnavailableError, match="no server answers here"):
                    await client.predict(random_images(1))
                await asyncio.sleep(0.2)
            relay.open()
            assert await client.predict(random_images(1))

    with Relay(host_and_port(url_of(triton, protocol))) as relay:
        asyncio.run(ask(relay))


@PROTOCOLS
def test_a_connection_whose_end_is_gone_without_a_word_fails_one_request(triton: TritonServer, protocol: str) -> None:
    with (
        Relay(host_and_port(url_of(triton, protocol))) as relay,
        Client(f"{protocol}://{relay.address}", model="tiny", timeout=1) as client,
    ):
        client.predict(random_images(1))
        relay.fall_silent()
        with pytest.raises(TooLateError):
            client.predict(random_images(1))
        assert client.predict(random_images(1))


@PROTOCOLS
def test_one_client_serves_threads(
    triton: TritonServer, in_process: Callable[[NDArray[np.float32]], dict[str, NDArray[Any]]], protocol: str
) -> None:
    with Client(url_of(triton, protocol), model="tiny", timeout=30) as client, ThreadPoolExecutor(8) as pool:

        def ask(seed: int) -> list[int]:
            return [one.label for _ in range(10) for one in client.predict(random_images(1, seed=seed))]

        for seed, labels in enumerate(pool.map(ask, range(8))):
            assert {*labels} == {*in_process(random_images(1, seed=seed))["label"].tolist()}


@PROTOCOLS
def test_closing_a_client_lets_the_requests_of_other_threads_be_answered(triton: TritonServer, protocol: str) -> None:
    with Client(url_of(triton, protocol), model="patient", timeout=30) as client, ThreadPoolExecutor(4) as pool:
        client.spec()
        waiting = [pool.submit(client.predict, random_images(1)) for _ in range(8)]
        while not all(one.done() for one in waiting):
            client.close()
            time.sleep(0.02)  # of the fifth of a second that an answer takes
        assert [len(one.result()) for one in waiting] == [1] * 8


@PROTOCOLS
def test_closing_a_client_lets_the_requests_of_other_tasks_be_answered(triton: TritonServer, protocol: str) -> None:
    async def ask() -> list[int]:
        client = AsyncClient(url_of(triton, protocol), model="patient", timeout=30)
        await client.spec()
        waiting = [asyncio.create_task(client.predict(random_images(1))) for _ in range(4)]
        await asyncio.sleep(0.05)
        await client.close()
        return [len(found) for found in await asyncio.gather(*waiting)]

    assert asyncio.run(ask()) == [1] * 4


FORKS = """
import os, sys, threading, time
import numpy as np
from heatserve import Client, ServingError
url, kind = sys.argv[1:]
images = np.full((1, 1, 8, 8), 0.5, np.float32)
client = Client(url, model="patient" if kind == "busy" else "tiny", timeout=20)
label = None if kind == "cold" else client.predict(images)[0].label
if kind == "busy":
    threading.Thread(target=client.predict, args=(images,), daemon=True).start()
    time.sleep(0.1)  # of the fifth of a second that its answer takes

def ask():
    try:
        used = Client(url, model="tiny", timeout=20) if kind == "fresh" else client
        return str({used.predict(images)[0].label for _ in range(3)})
    except ServingError as error:
        return f"{type(error).__name__}: {error}"

for _ in range(3):
    read, write = os.pipe()
    if os.fork() == 0:
        os.write(write, ask().encode())
        os._exit(0)
    os.close(write)
    print(os.read(read, 4096).decode())
    os.wait()
print(ask(), {label})
"""


def forked(url: str, kind: str) -> list[str]:
    """What three forked processes found, and then their parent."""
    command = [sys.executable, "-c", FORKS, url, kind]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@PROTOCOLS
@pytest.mark.parametrize("kind", ["shared", "fresh", "cold"])
def test_forked_processes_are_answered(triton: TritonServer, protocol: str, kind: str) -> None:
    *children, parent = forked(url_of(triton, protocol), kind)
    answer = parent.partition(" ")[0]
    assert re.fullmatch(r"\{\d\}", answer)
    assert children == [answer] * 3


def test_a_process_that_is_forked_while_grpc_is_busy_says_what_to_do(triton: TritonServer) -> None:
    *children, parent = forked(triton.endpoints.grpc_url, "busy")
    for child in children:
        assert re.match(r"TooLateError: grpc://.*forked from one that had used gRPC.*ask over http://", child)
    assert parent.startswith("{")
    *children, parent = forked(triton.endpoints.http_url, "busy")
    assert children == [parent.partition(" ")[0]] * 3


def drip(head: bytes) -> Callable[[socket.socket], None]:
    """An answer that goes on for a minute, a byte at a time."""

    def answer(connection: socket.socket) -> None:
        connection.sendall(head)
        for _ in range(600):
            connection.sendall(b"x")
            time.sleep(0.1)

    return answer


@pytest.mark.parametrize(
    "head",
    [b"HTTP/1.1 200 OK\r\nX-Endless: ", b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n", b"HTTP/1.1 503 No\r\n\r\n"],
    ids=["in the headers", "in the body", "in an error"],
)
@pytest.mark.parametrize("kind", ["blocking", "asyncio"])
def test_an_answer_that_never_ends_is_too_late(head: bytes, kind: str) -> None:
    async def ask(url: str) -> None:
        async with AsyncClient(url, model="tiny", timeout=0.5) as client:
            await client.predict(random_images(1))

    start = time.monotonic()
    with answering(drip(head)) as address:
        url = f"http://{address}"
        blocking = Client(url, model="tiny", timeout=0.5)
        with pytest.raises(TooLateError):
            asyncio.run(ask(url)) if kind == "asyncio" else blocking.predict(random_images(1))
        assert time.monotonic() - start < 50  # the answer takes 60


def test_a_lost_request_is_asked_again(triton: TritonServer) -> None:
    seen = Seen(answers=[None, (503, {}, b"<html>"), (502, {}, b"")])
    with http_front(triton.endpoints.http_url, seen=seen) as address:
        with Client(f"http://{address}", model="tiny") as client:
            assert client.predict(random_images(1))
            asked = [f"/v2/models/tiny/{name}" for name in ("config", "infer", "versions/1/config", "infer")]
            assert seen.paths == [asked[0]] * 4 + asked[1:]
            seen.paths.clear()
            seen.answers[:] = [None] * 4
            with pytest.raises(UnavailableError):
                client.predict(random_images(1))
            assert seen.paths[:4] == [asked[1]] * 4
        seen.answers[:] = [None] * 9
        with (
            Client(f"http://{address}", model="tiny", retries=20, timeout=2) as client,
            pytest.raises(UnavailableError),
        ):
            client.predict(random_images(1))
        assert seen.answers  # the time was over before


def test_an_answer_of_the_server_is_not_asked_for_again(triton: TritonServer) -> None:
    seen = Seen()
    full = b'{"error": "Exceeds maximum queue size"}'
    with (
        http_front(triton.endpoints.http_url, seen=seen) as address,
        Client(f"http://{address}", model="tiny") as client,
    ):
        client.spec()
        seen.paths.clear()
        for status, body, kind in (
            (400, b'{"error": "no"}', ServingError),
            (500, b'{"error": "no"}', ServingError),
            (503, full, OverloadedError),
            (429, b"", OverloadedError),
            (200, b"{}", ServingError),
            (200, b'{"outputs": []}', ServingError),
            (200, b"[]", ServingError),
            (200, b'{"outputs": [{"name": "label"}]}', ServingError),
        ):
            seen.answers[:] = [(status, {"Retry-After": "7"}, body)]
            with pytest.raises(kind) as error:
                client.predict(random_images(1))
            assert not isinstance(error.value, UnavailableError)
            if status == 429:
                assert getattr(error.value, "retry_after", None) == 7
    assert len(seen.paths) == 8


@pytest.mark.slow
def test_requests_have_an_id_that_their_answers_and_errors_have_too(
    triton: TritonServer, proxy: tuple[str, ChangingProxy]
) -> None:
    url, changes = proxy
    ids = list[str]()
    changes.change_outputs = lambda answer: ids.append(answer.id)
    with Client(url, model="tiny") as client:
        client.predict(random_images(1))
        client.predict(random_images(1))
        client.predict(random_images(65), request_id="mine")
        assert len({*ids[:2]}) == 2
        assert ids[2:] == ["mine", "mine"]
        changes.change_outputs = lambda answer: setattr(answer, "id", "yours")
        with pytest.raises(ServingError, match="id: expected mine from the server, as in the request, found 'yours'"):
            client.predict(random_images(1), request_id="mine")
    invalid = np.full((1, 1, 8, 8), 2, np.float32)
    for protocol in ("grpc", "http"):
        connection = Connection(url_of(triton, protocol), timeout=20)
        with pytest.raises(ServingError, match=r"^image: expected finite values") as error:
            connection.infer("tiny", invalid, classes=10, request_id="mine")
        assert error.value.request_id == "mine"
        connection.close()


@pytest.mark.slow
def test_only_the_outputs_that_are_wanted_are_sent(proxy: tuple[str, ChangingProxy]) -> None:
    url, changes = proxy
    sent = list[list[str]]()
    changes.change_outputs = lambda answer: sent.append([output.name for output in answer.outputs])
    images = random_images(2)
    with Client(url, model="tiny") as client:
        whole = client.predict(images)
        some = client.predict(images, outputs=["certified_radius", "reason"])
        for one, other in zip(some, whole, strict=True):
            assert one.label == other.label
            assert one.class_name == other.class_name
            assert one.certified_radius == other.certified_radius
            assert one.reason is other.reason
            for name, output in (("l_bound", "l_bound"), ("probability", "probabilities"), ("top_k", "top_k")):
                with pytest.raises(AttributeError, match=f"{name}: not asked for; add '{output}' to `outputs`"):
                    getattr(one, name)
            assert "l_bound" not in repr(one)
        for outputs in (["radius"], []):
            with pytest.raises(ServingError, match=r"outputs: expected some of label, .*, got"):
                client.predict(images, outputs=outputs)
    assert sorted(sent[1]) == ["certified_radius", "label", "reason"]


def test_a_type_checker_sees_a_misspelt_attribute_of_a_prediction() -> None:
    """It takes every name for an attribute where a class has `__getattr__`, unless it is told to pass that over."""
    (prediction,) = ast.parse(inspect.getsource(Prediction)).body
    assert isinstance(prediction, ast.ClassDef)
    assert "__getattr__" in vars(Prediction)
    assert "__getattr__" not in [one.name for one in prediction.body if isinstance(one, ast.FunctionDef)]


@PROTOCOLS
def test_fewer_outputs_over_both_protocols_and_asyncio(triton: TritonServer, protocol: str) -> None:
    async def ask() -> float:
        async with AsyncClient(url_of(triton, protocol), model="tiny") as client:
            return (await client.predict(random_images(1), outputs=["certified_radius"]))[0].certified_radius

    with Client(url_of(triton, protocol), model="tiny") as client:
        (found,) = client.predict(random_images(1), outputs=["certified_radius"])
        assert found.certified_radius == asyncio.run(ask()) > 0


def test_a_client_of_asyncio_is_for_one_event_loop(triton: TritonServer) -> None:
    client = AsyncClient(triton.endpoints.http_url, model="tiny")

    async def ask() -> int:
        return len(await client.predict(random_images(1)))

    async def ask_and_close() -> int:
        try:
            return await ask()
        finally:
            await client.close()

    assert asyncio.run(ask_and_close()) == 1  # made outside of a loop, closed in it: the next one is the first again
    assert asyncio.run(ask_and_close()) == 1
    loop = asyncio.new_event_loop()
    assert loop.run_until_complete(ask()) == 1
    with pytest.raises(ServingError, match="expected the event loop in which this client was first used"):
        asyncio.run(ask())
    loop.run_until_complete(client.close())
    loop.close()


def test_failures_leave_no_connection_behind(triton: TritonServer) -> None:
    with (
        Relay(host_and_port(triton.endpoints.grpc_url)) as relay,
        Client(f"grpc://{relay.address}", model="tiny", timeout=5, retries=0) as client,
    ):
        client.predict(random_images(1))
        before = len(os.listdir("/proc/self/fd"))
        relay.close()
        for _ in range(50):
            with pytest.raises(UnavailableError):
                client.predict(random_images(1))
        relay.open()
        client.predict(random_images(1))
        assert len(os.listdir("/proc/self/fd")) <= before + 5
