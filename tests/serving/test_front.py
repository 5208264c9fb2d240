"""The front as its callers and its parent see it: the protocol, its state, its end."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fronts import (
    BODY,
    IMAGE,
    PATIENCE_SECONDS,
    RunningFront,
    error_of,
    front_before,
    post,
    raw_answer,
    status_of,
    until,
)
from test_server import wait_until_gone
from tiny_model import random_images

from heatserve import AsyncClient, Client, OverloadedError, ServingError, TritonServer
from heatserve.serving.front.options import FrontOptions
from heatserve.serving.front.process import Front, FrontSockets
from heatserve.serving.front.refusals import GrpcFailure
from heatserve.serving.front.state import FrontState, state_of, state_of_triton
from heatserve.serving.front.triton import refusal_of
from heatserve.serving.observed.families import FRONT_REQUESTS
from heatserve.serving.observed.logs import LINE_BYTES, json_line
from heatserve.serving.observed.page import value_of

INFER = "/v2/models/tiny/infer"


@pytest.fixture(scope="module")
def front(triton: TritonServer) -> Iterator[RunningFront]:
    with front_before(state_of_triton(triton)) as running:
        yield running


def got(front: RunningFront, path: str) -> tuple[int, dict[str, object]]:
    connection = http.client.HTTPConnection("127.0.0.1", front.port, timeout=PATIENCE_SECONDS)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())
    finally:
        connection.close()


def test_answers_are_those_of_grpc(front: RunningFront, triton: TritonServer) -> None:
    images = random_images(70)
    with Client(front.url, model="tiny") as ours, Client(triton.endpoints.grpc_url, model="tiny") as theirs:
        assert repr(ours.predict(images)) == repr(theirs.predict(images))
        assert ours.promise() == theirs.promise()
        some = ours.predict(images[:2], outputs=["certified_radius"])
        assert [one.certified_radius for one in some] == [one.certified_radius for one in theirs.predict(images[:2])]


def test_json_says_the_same_as_bytes(front: RunningFront) -> None:
    image = random_images(1, seed=3)
    said = {"name": "image", "datatype": "FP32", "shape": [1, 1, 8, 8], "data": image.tolist()}
    outputs = [{"name": "label"}, {"name": "probabilities", "parameters": {"binary_data": True}}]
    body = json.dumps({"id": "mine", "inputs": [said], "outputs": outputs}).encode()
    head, _, content = raw_answer(front.port, post(INFER, body)).partition(b"\r\n\r\n")
    length = int(head.partition(b"inference-header-content-length: ")[2].split(b"\r\n")[0])
    answer = json.loads(content[:length])
    with Client(front.url, model="tiny") as client:
        (expected,) = client.predict(image)
    assert answer["id"] == "mine"
    by_name = {output["name"]: output for output in answer["outputs"]}
    assert by_name["label"]["data"] == [expected.label]
    assert by_name["probabilities"]["parameters"] == {"binary_data_size": 40}
    assert np.array_equal(np.frombuffer(content[length:], np.float32), expected.probabilities)


def test_classes_by_name(front: RunningFront) -> None:
    body = json.loads(BODY) | {"outputs": [{"name": "probabilities", "parameters": {"classification": 2}}]}
    answer = raw_answer(front.port, post(INFER, json.dumps(body).encode()))
    (output,) = json.loads(answer.split(b"\r\n\r\n")[1])["outputs"]
    assert output["datatype"] == "BYTES"
    assert len(output["data"]) == 2
    assert output["data"][0].endswith(":nine")


def test_what_the_server_says_of_itself(front: RunningFront) -> None:
    assert got(front, "/v2")[1]["name"] == "triton"
    assert got(front, "/v2/health/live") == (200, {"live": True})
    assert got(front, "/v2/health/ready") == (200, {"ready": True})
    assert got(front, "/v2/models/tiny/ready") == (200, {"name": "tiny", "ready": True})
    assert got(front, "/v2/models/tiny/versions/1")[1]["versions"] == ["1"]
    for of_version in ("", "/ready", "/config", "/stats"):
        assert got(front, f"/v2/models/tiny/versions/1{of_version}")[0] == 200
        assert got(front, f"/v2/models/tiny/versions/7{of_version}")[0] == 404
    status, config = got(front, "/v2/models/tiny/config")
    assert (status, config["max_batch_size"]) == (200, 64)
    assert config["input"][0]["dims"] == [1, 8, 8]  # type: ignore[index]


def test_request_ids_and_logs(front: RunningFront) -> None:
    trace = f"00-{'a' * 32}-{'b' * 16}-01"
    answer = raw_answer(front.port, post(INFER, BODY, "X-Request-Id: mine-1", f"traceparent: {trace}"))
    assert b"\r\nx-request-id: mine-1\r\n" in answer
    until(lambda: b"mine-1" in front.events.read_bytes())
    (line,) = (line for line in front.events.read_text().splitlines() if "mine-1" in line)
    event = json.loads(line)
    assert (event["route"], event["model"], event["status"], event["traceparent"]) == ("infer", "tiny", 200, trace)


def test_requests_are_counted_on_the_page(front: RunningFront) -> None:
    before = value_of(front.folder, FRONT_REQUESTS, route="infer", code="200")
    assert status_of(raw_answer(front.port, post(INFER, BODY))) == 200
    request = b"GET /metrics HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
    counted = f'heatserve_front_requests_total{{route="infer",code="200"}} {before + 1:g}\n'
    until(lambda: counted in raw_answer(front.sockets.metrics_port, request).decode())
    until(lambda: b'nv_inference_request_success{model="tiny"' in raw_answer(front.sockets.metrics_port, request))
    assert status_of(raw_answer(front.sockets.metrics_port, request.replace(b"/metrics", b"/v2"))) == 404


def test_a_client_at_the_port_of_metrics_is_told_its_address(front: RunningFront) -> None:
    url = f"http://127.0.0.1:{front.sockets.metrics_port}"
    with (
        pytest.raises(ServingError, match=f"{url}: expected a server of models, found another service"),
        Client(url, model="tiny") as client,
    ):
        client.spec()


def test_states_are_told_as_lines() -> None:
    state = FrontState(ready=True, reason="a\nb", grpc="127.0.0.1:1", models=("a", "b"), is_draining=True)
    assert state.line().count(b"\n") == 1
    assert state_of(state.line()) == state


def test_not_ready_until_told(triton: TritonServer) -> None:
    """Without Triton the front is live, not ready, and holds a request until there is one."""
    state = state_of_triton(triton)
    with front_before(FrontState(reason="the models are loaded")) as front:
        assert got(front, "/v2/health/live")[0] == 200
        status, said = got(front, "/v2/health/ready")
        assert (status, said["error"]) == (503, "server: expected one that is ready, found: the models are loaded")
        answer = raw_answer(front.port, post(INFER, BODY))
        assert status_of(answer) == 503
        assert b"retry-after: 1" in answer
        answers = list[bytes]()
        caller = threading.Thread(target=lambda: answers.append(raw_answer(front.port, post(INFER, BODY))))
        caller.start()
        time.sleep(0.1)
        front.front.tell(state)
        caller.join()
        assert status_of(answers[0]) == 200
        assert got(front, "/v2/health/ready")[0] == 200
        front.front.tell(replace(state, ready=False, reason="the server ends", is_draining=True))
        until(lambda: got(front, "/v2/health/ready")[0] == 503)
        answer = raw_answer(front.port, post(INFER, BODY, close=False))
        assert status_of(answer) == 200
        assert b"connection: close" in answer


def test_a_triton_that_is_gone(triton: TritonServer) -> None:
    """The caller is told when to ask again; the log says, of each such answer, what gRPC said."""
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{nobody.getsockname()[1]}"
        state = replace(state_of_triton(triton), grpc=address)
        with front_before(state) as front:
            answer = raw_answer(front.port, post(INFER, BODY))
            assert status_of(answer) == 503
            assert error_of(answer) == "the model server does not answer now; ask again in 1 s"
            assert not any(said in answer for said in (address.encode(), b"UNAVAILABLE", b"grpc", b"connect to"))
            for path in ("/v2/health/ready", "/v2/models/tiny/ready", "/v2/models/tiny/config"):
                status, said = got(front, path)
                assert status == 503
                assert address not in str(said)
            assert got(front, "/v2/models/nobody/config")[0] == 404
            until(lambda: front.events.read_bytes().count(b"\n") == 5)
            *unavailable, unknown = (json.loads(line) for line in front.events.read_text().splitlines())
    for line in unavailable:
        assert (line["status"], line["grpc_status"]) == (503, "UNAVAILABLE")
        assert address in line["grpc_details"]
    assert unknown["status"] == 404
    assert "grpc_status" not in unknown


@pytest.mark.parametrize("letter", ["a", "\0", "é", "😀", "\\"])
def test_what_grpc_says_leaves_the_other_fields_of_a_line_whole(letter: str) -> None:
    fields: dict[str, Any] = {
        "request_id": "i" * 128,
        "traceparent": "0" * 55,
        "model": "m" * 200,
        "client": "f" * 64,
        "ms": 1e300 / 3,
    }
    failure = GrpcFailure("UNAVAILABLE", "Socket closed" + letter * 10_000)
    line = json_line("request", process="front", **fields, **failure.fields())
    assert len(line) <= LINE_BYTES
    said = json.loads(line)
    assert said.items() >= fields.items()
    assert said["grpc_details"].startswith("Socket closed")
    assert len(said["grpc_details"]) == 400


@pytest.mark.parametrize("status", ["UNAVAILABLE", "INTERNAL", "UNKNOWN", "DEADLINE_EXCEEDED"])
@pytest.mark.parametrize("private", ["cannot open /models/tiny/1/model.onnx", 'File "model.py", line 7, in execute'])
def test_what_is_private_of_a_failure_is_for_the_log(status: str, private: str) -> None:
    refusal = refusal_of(status, private)
    assert refusal.status >= 500
    assert private.encode() not in refusal.answer.body
    assert refusal.answer.failure == GrpcFailure(status, private)


@pytest.mark.parametrize("said", ["/tmp/x/", "Traceback", "Failed to increase the shared memory pool size"])
def test_a_refusal_that_repeats_a_caller_names_what_is_wrong(said: str) -> None:
    """He could have the server say that it failed, or that it has no memory left, and have that counted."""
    for told in (f"radius: expected a number above 0, got '{said}'", "Traceback: expected no parameters but radius"):
        refusal = refusal_of("INVALID_ARGUMENT", told)
        assert (refusal.status, refusal.reason, refusal.message) == (400, "invalid", told)
    for private in (f"no file: {said}: expected /tmp/x/", "/tmp/x/card.json: expected a card"):
        assert "/tmp/x/" not in refusal_of("INVALID_ARGUMENT", private).message


def test_a_full_queue_of_a_tier_keeps_its_advice() -> None:
    told = refusal_of("UNAVAILABLE", "the queue of 'digits_certify_stream' is full: ask again in about 4 s")
    assert b"ask again in about 4 s" in told.answer.body
    lost = refusal_of("UNAVAILABLE", "Stream removed (GOAWAY received; Error code: 2)")
    assert b"GOAWAY" not in lost.answer.body


def test_a_front_that_is_killed_loses_nobody_who_waits(triton: TritonServer) -> None:
    """Its sockets are its parent's: who connects meanwhile is answered by the next one."""
    with front_before(state_of_triton(triton)) as running:
        running.front.kill()
        answers = list[bytes]()
        caller = threading.Thread(target=lambda: answers.append(raw_answer(running.port, post(INFER, BODY))))
        caller.start()
        time.sleep(0.2)
        assert not answers
        running.front.start(running.state)
        caller.join()
        assert status_of(answers[0]) == 200


def test_the_end_answers_what_is_in_flight(triton: TritonServer) -> None:
    with front_before(state_of_triton(triton)) as running:
        address = ("127.0.0.1", running.port)
        idle, *callers = (socket.create_connection(address, timeout=PATIENCE_SECONDS) for _ in range(9))
        request = post("/v2/models/patient/infer", BODY, "Expect: 100-continue", close=False)
        head, _, body = request.partition(b"\r\n\r\n")
        for caller in callers:
            caller.sendall(head + b"\r\n\r\n")
            assert caller.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        for caller in callers:
            caller.sendall(body)  # and waits for 0.2 s in the queue of the model
        running.front.drain()
        assert [status_of(caller.recv(2**16)) for caller in callers] == [200] * 8
        assert idle.recv(1) == b""
        for caller in (*callers, idle):
            caller.close()


def test_it_ends_with_its_parent(tmp_path: Path) -> None:
    """Killed, a parent says nothing more: the front hears that."""
    script = f"""
import sys, time
from pathlib import Path
from heatserve.serving.front.app import FrontApp
from heatserve.serving.front.options import FrontOptions
from heatserve.serving.front.process import Front, FrontSockets
sockets = FrontSockets.bound("127.0.0.1", http=0)
front = Front(FrontOptions(), sockets, folder=Path({str(tmp_path)!r}), log=sys.stderr.buffer)
front.start()
print(front.pid, flush=True)
time.sleep(600)
"""
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        parent.kill()
    wait_until_gone({pid}, seconds=PATIENCE_SECONDS)


def test_what_it_cannot_start_with_is_explained(tmp_path: Path) -> None:
    sockets = FrontSockets.bound("127.0.0.1", http=0)
    with open(os.devnull, "wb") as log:
        front = Front(FrontOptions(token_file=tmp_path / "none"), sockets, folder=tmp_path, log=log)
        with pytest.raises(ServingError, match=r"--token-file .*none: expected a file, found: No such file"):
            front.start()
    sockets.close()


def test_asyncio_callers(front: RunningFront) -> None:
    async def ask() -> int:
        async with AsyncClient(front.url, model="tiny") as client:
            answers = await asyncio.gather(*(client.predict(random_images(1)) for _ in range(50)))
            return len(answers)

    assert asyncio.run(ask()) == 50


def test_a_client_is_told_when_to_ask_again(triton: TritonServer) -> None:
    with (
        front_before(state_of_triton(triton), FrontOptions(rate=3)) as front,
        Client(front.url, model="tiny") as client,
    ):
        with pytest.raises(OverloadedError) as caught:
            [client.predict(random_images(1)) for _ in range(100)]
        assert caught.value.retry_after == 1
        assert got(front, "/v2/health/ready")[0] == 200  # probes are not counted


def test_memory_is_given_back(front: RunningFront) -> None:
    """Bodies of many callers at once, all as large as they may be, leave nothing."""

    def resident() -> int:
        with open(f"/proc/{front.front.pid}/statm") as file:
            return int(file.read().split()[1]) * 4096

    body = json.dumps({"inputs": [{**IMAGE, "shape": [64, 1, 8, 8], "data": [0.123456789] * 4096}]}).encode()
    request = post(INFER, body)

    def ask_often() -> None:
        for _ in range(20):
            assert status_of(raw_answer(front.port, request)) == 200

    def all_at_once() -> None:
        threads = [threading.Thread(target=ask_often) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    all_at_once()
    before = resident()
    for _ in range(3):
        all_at_once()
    assert resident() < before + 30 * 2**20
