"""Streams through the front, callers who leave before their answer, and one who asks for more than his share."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import grpc.aio
import pytest
from fronts import (
    BODY,
    PATIENCE_SECONDS,
    RunningFront,
    error_of,
    front_before,
    post,
    raw_answer,
    read_all,
    status_of,
    until,
)
from known_tiers import voter_of
from relays import Relay, host_and_port
from tiny_model import random_images
from tiny_tiers import QUEUE, RADIUS, grid_images
from tritonclient.grpc import service_pb2 as pb

from heatserve import Client, ServingError, TritonServer
from heatserve.serving.front.app import FrontApp
from heatserve.serving.front.refusals import Refusal
from heatserve.serving.front.served import Served
from heatserve.serving.front.state import FrontState, state_of_triton
from heatserve.serving.front.triton import TritonCalls
from heatserve.serving.observed.families import FRONT_REQUESTS, REQUESTS
from heatserve.serving.observed.page import value_of
from heatserve.serving.observed.recorder import Recorder
from heatserve.serving.triton import voters


@pytest.mark.slow
def test_a_stream(tiers: TritonServer) -> None:
    image = random_images(1)[0]
    with front_before(state_of_triton(tiers)) as front:
        model = "tiny"
        with (
            Client(front.url, model=model, timeout=2 * PATIENCE_SECONDS) as client,
            Client(tiers.endpoints.grpc_url, model=model, timeout=2 * PATIENCE_SECONDS) as grpc,
        ):
            over_http, over_grpc = (
                [*client.certify(image, n=200, deadline=PATIENCE_SECONDS)],
                [*grpc.certify(image, n=200, deadline=PATIENCE_SECONDS)],
            )
            assert over_http[-1].label == over_grpc[-1].label
            assert len(over_http) > 1
            assert client.confirm(image[None], radius=0.01, deadline=PATIENCE_SECONDS)[0].explanation
            with pytest.raises(ServingError, match="alpha: expected"):
                next(client.certify(image, alpha=0.5, deadline=PATIENCE_SECONDS))
            answers = client.certify(image, n=100_000, deadline=PATIENCE_SECONDS)
            next(answers)
            answers.close()  # the caller leaves: the tier is free for the next one
            assert [*client.certify(image, n=200, deadline=PATIENCE_SECONDS)]
        refused = raw_answer(front.port, post(f"/v2/models/{model}_certify_stream/infer", BODY))
        assert status_of(refused) == 400
        assert "generate_stream" in error_of(refused)
        refused = raw_answer(front.port, post(f"/v2/models/{model}/generate_stream", BODY))
        assert status_of(refused) == 400


@pytest.mark.slow
def test_a_stream_that_triton_does_not_end(tiers: TritonServer) -> None:
    """Its status was sent long before: the log says how it ended."""
    with Relay(host_and_port(tiers.endpoints.grpc_url)) as relay:
        state = replace(state_of_triton(tiers), grpc=relay.address)
        with front_before(state) as front, Client(front.url, model="tiny", timeout=2 * PATIENCE_SECONDS) as client:
            answers = client.certify(random_images(1)[0], n=100_000, deadline=PATIENCE_SECONDS)
            next(answers)
            relay.close()
            with pytest.raises(ServingError, match="the model server does not answer now"):
                list(answers)
            until(lambda: b"generate_stream" in front.events.read_bytes())
            (line,) = filter(lambda line: "generate_stream" in line, front.events.read_text().splitlines())
    event = json.loads(line)
    assert (event["status"], event["reason"], event["grpc_status"]) == (200, "unavailable", "UNAVAILABLE")
    assert event["grpc_details"]


@pytest.mark.parametrize("cancels", [False, True])
def test_a_caller_who_leaves(triton: TritonServer, cancels: bool) -> None:
    """His request is cancelled only in a Triton that survives it: 2.51 is aborted by some of 10,000 cancellations."""
    state = state_of_triton(triton)
    assert not state.cancels
    kind = 'nv_inference_request_failure{model="patient",reason="CANCELED"' if cancels else _ANSWERED
    before = triton_value(state, kind)
    with front_before(replace(state, cancels=cancels)) as front:

        def seen(code: str) -> float:
            return value_of(front.folder, FRONT_REQUESTS, route="infer", code=code)

        def leave() -> bool:
            """Leave within the fifth of a second that it takes; False: he was answered first, on a busy machine."""
            seen_before = seen("499") + seen("200")
            with socket.create_connection(("127.0.0.1", front.port)) as caller:
                caller.sendall(post("/v2/models/patient/infer", BODY))
                time.sleep(0.05)
            until(lambda: seen("499") + seen("200") > seen_before)
            return seen("499") == 1

        assert any(leave() for _ in range(5))
        until(lambda: triton_value(state, kind) > before)


def test_one_caller_leaves_room_for_the_images_of_others(tiers: TritonServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Four may wait for votes, which nobody takes now."""
    monkeypatch.setattr(voters, "STOPPED_VOTER_LOOKS", sys.maxsize)
    shape = {"name": "image", "datatype": "FP32", "shape": [1, 1, 8, 8]}
    tensor = shape | {"data": grid_images(1).ravel().tolist()}

    def ask(front: RunningFront, address: str, *, milliseconds: int) -> bytes:
        parameters = {"radius": RADIUS, "deadline_ms": milliseconds}
        body = json.dumps({"inputs": [tensor], "parameters": parameters}).encode()
        with socket.create_connection(
            ("127.0.0.1", front.port), timeout=PATIENCE_SECONDS, source_address=(address, 0)
        ) as caller:
            caller.sendall(post("/v2/models/narrow_confirm/infer", body))
            return read_all(caller)

    def wait(front: RunningFront) -> bytes:
        """Until the deadline, once it is let in: one that only looks may have been there before."""
        while status_of(answer := ask(front, "127.0.0.1", milliseconds=10_000)) == 503:
            pass
        return answer

    voter = voter_of(tiers, "narrow")
    os.kill(voter, signal.SIGSTOP)
    try:
        with front_before(state_of_triton(tiers)) as front, ThreadPoolExecutor(QUEUE // 2) as pool:
            waiting = [pool.submit(wait, front) for _ in range(QUEUE // 2)]
            until(lambda: status_of(ask(front, "127.0.0.1", milliseconds=50)) == 503)
            refused, other = (ask(front, address, milliseconds=50) for address in ("127.0.0.1", "127.0.0.2"))
            os.kill(voter, signal.SIGCONT)
            answers = [one.result() for one in waiting]
    finally:
        os.kill(voter, signal.SIGCONT)
    assert status_of(refused) == 503
    assert b"\r\nretry-after: 1\r\n" in refused
    assert error_of(refused) == (
        "queue is full: expected at most 2 images of one client that wait for votes, found 2 and 1 more; ask again in "
        "about 1 s"
    )
    assert [status_of(answer) for answer in (other, *answers)] == [200] * 3


@pytest.mark.slow
def test_a_stream_goes_on_where_its_caller_leaves_with_a_request_behind_it(tiers: TritonServer) -> None:
    """An older Triton is aborted by some streams that are cancelled."""

    def ended(outcome: str) -> float:
        return value_of(tiers.metrics, REQUESTS, model="tiny", tier="certify_stream", outcome=outcome)

    answered, cancelled = ended("answered"), ended("cancelled")
    body = json.dumps({"image": [0.5] * 64, "n": 100_000, "deadline_ms": 3_000}).encode()
    with front_before(state_of_triton(tiers)) as front:
        with socket.create_connection(("127.0.0.1", front.port), timeout=PATIENCE_SECONDS) as caller:
            path = "/v2/models/tiny_certify_stream/generate_stream"
            caller.sendall(post(path, body, close=False) + b"GET /v2 HTTP/1.1\r\nHost: a\r\n\r\n")
            assert status_of(caller.recv(2**16)) == 200
        until(lambda: value_of(front.folder, FRONT_REQUESTS, route="generate_stream") == 1)
        assert value_of(front.folder, FRONT_REQUESTS, route="generate_stream", code="499") == 1
        assert front.log.read_bytes() == b""
    until(lambda: ended("answered") + ended("cancelled") == answered + cancelled + 1)
    assert ended("cancelled") == cancelled


@pytest.mark.parametrize("cancels", [False, True])
def test_nothing_that_a_caller_asked_is_cancelled_in_an_older_triton(cancels: bool) -> None:
    """Neither what computes nothing, such as the statistics of a model."""

    class Connection:
        address, is_reading, is_lost = "", False, False
        on_lost: object = None

        def begin(self, on_lost: object) -> None:
            self.on_lost = on_lost

        def settle(self) -> None:
            pass

    async def nothing(*_: object) -> Any:
        pass

    async def ask() -> None:
        served, connection = Served(), Connection()
        served.tell(FrontState(cancels=cancels))
        app = FrontApp(served, tokens=None, rates=None, recorder=Recorder(), log=None)
        scope = {"method": "GET", "raw_path": b"/v2", "headers": [], "state": {"connection": connection}}
        await app(scope, nothing, nothing)
        assert callable(connection.on_lost) is cancels

    asyncio.run(ask())


def test_a_stream_that_is_refused_is_not_cancelled() -> None:
    """Each error would be a cancellation, of those that abort an older Triton."""

    async def ask() -> None:
        ends = asyncio.Queue[bool]()

        async def infer(requests: Any, context: Any) -> Any:
            del requests, context
            yield pb.ModelStreamInferResponse(error_message="n: expected another number")
            try:
                await asyncio.sleep(0.2)
            except asyncio.CancelledError:
                ends.put_nowait(True)
                raise
            ends.put_nowait(False)

        method = grpc.stream_stream_rpc_method_handler(
            infer, pb.ModelInferRequest.FromString, pb.ModelStreamInferResponse.SerializeToString
        )
        server = grpc.aio.server()
        server.add_generic_rpc_handlers(
            [grpc.method_handlers_generic_handler("inference.GRPCInferenceService", {"ModelStreamInfer": method})]
        )
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        calls = TritonCalls(f"127.0.0.1:{port}")
        with pytest.raises(Refusal, match="n: expected another number"):
            await anext(calls.stream(pb.ModelInferRequest(), None))
        assert not await ends.get()
        await calls.close()
        await server.stop(None)

    asyncio.run(asyncio.wait_for(ask(), PATIENCE_SECONDS))


_ANSWERED = 'nv_inference_request_success{model="patient"'


def triton_value(state: FrontState, start: str) -> float:
    host, _, port = state.metrics.partition(":")
    page = raw_answer(int(port), f"GET /metrics HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
    return sum(float(line.split()[-1]) for line in page.decode().splitlines() if line.startswith(start))
