"""What strangers send to the front: each is refused with a reason, and the next good request is answered."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator

import numpy as np
import pytest
from fronts import (
    PATIENCE_SECONDS,
    RunningFront,
    error_of,
    front_before,
    post,
    raw_answer,
    read_all,
    status_of,
)
from tiny_model import random_images

from heatserve import Client, TritonServer
from heatserve.serving.front.models import JSON_HEADER_BYTES
from heatserve.serving.front.state import state_of_triton

INFER = "/v2/models/tiny/infer"
IMAGE = {"name": "image", "datatype": "FP32", "shape": [1, 1, 8, 8], "data": [0.5] * 64}


@pytest.fixture(scope="module")
def front(triton: TritonServer) -> Iterator[RunningFront]:
    with front_before(state_of_triton(triton)) as running:
        yield running
        assert running.log.read_bytes() == b"", "nothing of ours failed"
        assert not running.front.wait(0), "the front lives"


@pytest.fixture(autouse=True)
def next_good_request(front: RunningFront) -> Iterator[None]:
    yield
    with Client(front.url, model="tiny") as client:
        assert client.predict(random_images(1))[0].label >= 0


def nested(levels: int) -> object:
    found: object = 0
    for _ in range(levels):
        found = [found]
    return found


def asked(front: RunningFront, body: object, *headers: str, path: str = INFER) -> tuple[int, str]:
    """The status, and the error, of a request with this body."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    answer = raw_answer(front.port, post(path, content, *headers))
    return status_of(answer), error_of(answer) if status_of(answer) != 200 else ""


def image(**changes: object) -> dict[str, object]:
    return {"inputs": [{**IMAGE, **changes}]}


def without(name: str) -> dict[str, object]:
    return {"inputs": [{key: value for key, value in IMAGE.items() if key != name}]}


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (image(shape=[2**32, 1, 8, 8]), "image: expected the shape [N, 1, 8, 8], got [4294967296, 1, 8, 8]"),
        (image(shape=[2**31 - 1, 1, 8, 8]), "image: expected at most 64 images in a request, got 2147483647"),
        (image(shape=[2**62, 4, 8, 8]), "image: expected the shape [N, 1, 8, 8]"),
        (image(shape=[10**30, 1, 8, 8]), "image: expected the shape"),
        (image(shape=[-1, 1, 8, 8]), "image: expected the shape"),
        (image(shape=[0, 1, 8, 8]), "image: expected the shape"),
        (image(shape=[True, 1, 8, 8]), "image: expected the shape"),
        (image(shape=[1.0, 1, 8, 8]), "image: expected the shape"),
        (image(shape=[[1], 1, 8, 8]), "image: expected the shape"),
        (image(shape=[1] * 10_000), "image: expected the shape"),
        (image(shape="1,1,8,8"), "image: expected the shape [N, 1, 8, 8], got '1,1,8,8'"),
        (without("shape"), "image: expected the shape [N, 1, 8, 8], got None"),
        (image(shape=[2, 1, 8, 8]), "image: expected 128 values for the shape [2, 1, 8, 8], got 64"),
        (image(data=[0.5] * 63), "image: expected 64 values"),
        (image(data=[[[0.5] * 8] * 8, 0.5]), "image: expected lists of one depth"),
        (image(data=[[[[[0.5]]]]] * 64), "image: expected numbers for FP32, got [0.5]"),
        (image(data=["0.5"] * 64), "image: expected numbers for FP32, got '0.5'"),
        (image(data=[None] * 64), "image: expected numbers for FP32, got None"),
        (image(data=[True] * 64), "image: expected numbers for FP32, got True"),
        (image(data={"0": 0.5}), "image: expected a list of 64 values as data"),
        (image(data=[]), "image: expected 64 values"),
        (image(data=[1e39] * 64), "image: expected finite values in [0,1]"),
        (image(data=[2] * 64), "image: expected finite values in [0,1]"),
        (image(datatype="BF16"), "image: expected datatype FP32, got 'BF16'"),
        (image(datatype="BYTES"), "image: expected datatype FP32, got 'BYTES'"),
        (image(datatype=7), "image: expected datatype FP32, got 7"),
        (image(name="mask"), "inputs: expected the input image once, got 'mask'"),
        (image(name=["image"]), "inputs: expected the input image once, got ['image']"),
        ({"inputs": [IMAGE, IMAGE]}, "inputs: expected a list with the input image"),
        ({"inputs": []}, "inputs: expected a list with the input image, got []"),
        ({"inputs": IMAGE}, "inputs: expected a list with the input image"),
        ({}, "inputs: expected a list with the input image, got None"),
        ([], "body: expected a JSON object, got []"),
        (nested(900), "body: expected a JSON object, got [[['...']]]"),
        (
            {"inputs": [{"": {"": {"": [1]}}}] * 5_000},
            "inputs: expected a list with the input image, got [{'': {'': '...'}}, ",
        ),
        ({**image(), "outputs": [{"name": "weights"}]}, "outputs: expected some of certified_radius"),
        ({**image(), "outputs": [{"name": "label"}] * 2}, "each once, got 'label'"),
        ({**image(), "outputs": [{"name": "label"}] * 100}, "outputs: expected a list of at most 7"),
        ({**image(), "outputs": "label"}, "outputs: expected a list"),
        (
            {**image(), "outputs": [{"name": "label", "parameters": {"shared_memory_region": "x"}}]},
            "parameters of label: expected none but binary_data, classification, got 'shared_memory_region'",
        ),
        (
            image(parameters={"shared_memory_region": "x", "shared_memory_byte_size": 1}),
            "parameters of image: expected none but binary_data_size",
        ),
        ({**image(), "parameters": {"a": [1]}}, "'a': expected a parameter that is text, true, false or a number"),
        ({**image(), "parameters": {"a": 2**63}}, "'a': expected a parameter"),
        ({**image(), "parameters": {"a\0b": 1}}, "letters, digits, _, . and -, got 'a\\x00b' after 0"),
        ({**image(), "parameters": {"/tmp/x/": 1}}, "letters, digits, _, . and -, got '/tmp/x/' after 0"),
        ({**image(), "parameters": {"a": "1\0b"}}, "'a': expected a parameter without the character NUL, got '1"),
        ({**image(), "parameters": {str(n): 1 for n in range(100)}}, "parameters: expected at most 64"),
        ({**image(), "parameters": []}, "parameters: expected a JSON object"),
        ({**image(), "id": "a\r\nSet-Cookie: b=c"}, "id: expected printable text of at most 128 characters"),
        ({**image(), "id": "x" * 129}, "id: expected printable text"),
        ({**image(), "id": 7}, "id: expected printable text"),
    ],
)
def test_json_that_says_something_impossible(front: RunningFront, body: object, expected: str) -> None:
    status, error = asked(front, body)
    assert status == 400
    assert expected in error
    assert len(error) < 400


@pytest.mark.parametrize(
    "content",
    [
        b"[" * 100_000,
        b'{"inputs":' * 5_000,
        b'{"a":' + b"[" * 5_000 + b"]" * 5_000 + b"}",
        b'{"inputs": [{"name": "image", "datatype": "FP32", "shape": [1, 1, 8, 8], "data": [NaN]}]}',
        b'{"inputs": [{"name": "image", "datatype": "FP32", "shape": [1, 1, 8, 8], "data": [Infinity]}]}',
        b'{"inputs": [{"name": "image", "datatype": "FP32", "shape": [1, 1, 8, 8], "data": [1e400]}]}',
        b'{"id": "\\ud800"}',
        b'{"id": "\xff\xfe"}',
        b"\xef\xbb\xbf{}",
        b"{'inputs': []}",
        b"not JSON",
        b"\x00" * 1_000,
    ],
)
def test_what_is_no_json(front: RunningFront, content: bytes) -> None:
    status, error = asked(front, content)
    assert status == 400
    assert error.startswith("body: expected JSON, got something else: ")


def test_of_a_key_that_stands_twice_the_last_counts(front: RunningFront) -> None:
    body = json.dumps(image())[:-1].encode() + b', "inputs": []}'
    assert asked(front, body)[1] == "inputs: expected a list with the input image, got []"


def binary(shape: list[int], size: object, pixels: bytes) -> tuple[bytes, str]:
    said = {"name": "image", "datatype": "FP32", "shape": shape, "parameters": {"binary_data_size": size}}
    header = json.dumps({"inputs": [said]}).encode()
    return header + pixels, f"Inference-Header-Content-Length: {len(header)}"


@pytest.mark.parametrize(
    ("shape", "size", "sent", "expected"),
    [
        ([1, 1, 8, 8], 255, 255, "image: expected binary_data_size 256 for FP32 [1, 1, 8, 8], got 255"),
        ([1, 1, 8, 8], 2**63, 256, "image: expected binary_data_size 256"),
        ([1, 1, 8, 8], -256, 256, "image: expected binary_data_size 256"),
        ([1, 1, 8, 8], True, 256, "image: expected binary_data_size 256"),
        ([1, 1, 8, 8], "256", 256, "image: expected binary_data_size 256"),
        ([1, 1, 8, 8], 256, 255, "image: expected 256 bytes behind the JSON, got 255"),
        ([1, 1, 8, 8], 256, 257, "body: expected no bytes behind the last tensor, got 1"),
        ([64, 1, 8, 8], 2**14, 256, "image: expected 16384 bytes behind the JSON, got 256"),
        ([2**32, 1, 8, 8], 256, 256, "image: expected the shape [N, 1, 8, 8]"),
    ],
)
def test_bytes_that_do_not_fit(front: RunningFront, shape: list[int], size: object, sent: int, expected: str) -> None:
    body, length = binary(shape, size, bytes(sent))
    status, error = asked(front, body, length)
    assert status == 400
    assert expected in error


@pytest.mark.parametrize("length", ["", "0", "-1", "+5", "1e3", "0x10", "99999", "٣", "9" * 30, "5, 5", "16 16"])
def test_lengths_of_json_that_are_none(front: RunningFront, length: str) -> None:
    body, _ = binary([1, 1, 8, 8], 256, bytes(256))
    request = post(INFER, body, "X: y").replace(b"X: y", b"Inference-Header-Content-Length: " + length.encode())
    answer = raw_answer(front.port, request)
    assert status_of(answer) == 400
    assert "Inference-Header-Content-Length: expected a number from 1 to" in error_of(answer)


def test_two_lengths_of_json(front: RunningFront) -> None:
    body, length = binary([1, 1, 8, 8], 256, bytes(256))
    assert asked(front, body, length, length.replace("Inference", "inference"))[0] == 400


def test_data_and_bytes_at_once(front: RunningFront) -> None:
    said = {**IMAGE, "parameters": {"binary_data_size": 256}}
    status, error = asked(front, {"inputs": [said]})
    assert (status, error) == (400, "image: expected either data or binary_data_size, got both")
    assert asked(front, without("data"))[1] == "image: expected either data or binary_data_size, got neither"


def test_not_a_number_in_bytes_is_refused_by_the_model(front: RunningFront) -> None:
    pixels = np.full((1, 1, 8, 8), np.nan, np.float32).tobytes()
    body, length = binary([1, 1, 8, 8], 256, pixels)
    status, error = asked(front, body, length)
    assert status == 400
    assert "image: expected finite values in [0,1]; found: image 0 of 1 has" in error


@pytest.mark.parametrize(
    "path",
    [
        "/v2/models/../../etc/passwd",
        "/v2/models/%2e%2e/infer",
        "/v2/models/..%2f..%2fetc/infer",
        "/v2/models/tiny%00/infer",
        "/v2/models/tiny%0d%0aSet-Cookie:%20a=b/infer",
        "/v2/models/%ff%fe/infer",
        "/v2/models/t%C3%AFny/infer",
        "/v2/models/" + "x" * 20_000 + "/infer",
        "/v2/models//infer",
        "/v2/models/tiny/versions/../infer",
        "/v2/models/tiny/versions/-1/infer",
        "/v2/models/tiny/versions/9999999999999999999999/infer",
        "/v2/models/tiny/versions/%D9%A3/infer",
        "/v2/models/tiny/infer/",
        "//v2/models/tiny/infer",
        "/V2/models/tiny/infer",
        "/v2/repository/index",
        "/v2/systemsharedmemory/region/a/register",
        "/v2/models/tiny/trace/setting",
        "/metrics",
    ],
)
def test_paths_that_are_not_there(front: RunningFront, path: str) -> None:
    answer = raw_answer(front.port, post(path, json.dumps(image()).encode()))
    assert status_of(answer) == 404
    assert "Set-Cookie" not in answer.split(b"\r\n\r\n")[0].decode()
    assert len(answer) < 1_000


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"GET / HTTP/2.0\r\n\r\n", 505),
        (b"GET /v2 HTTP/1.1\r\n\r\n", 400),
        (b"GET /v2 HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
        (b"GET /v2 HTTP/1.1\r\nX: " + b"\r\n y" * 1_000 + b"\r\n\r\n", 400),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
        (b"CONNECT evil.example:443 HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
        (b"GET /v2 HTTP/1.1\r\nHost : a\r\n\r\n", 400),
        (b"GET /v2 HTTP/1.1\r\n Host: a\r\n\r\n", 400),
        (b"GET /v2\x00 HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (b"GET /v2 HTTP/1.1\r\nHost: a\r\nX: \x00\r\n\r\n", 400),
        (b"POST /v2 HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab", 400),
        (b"POST /v2 HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        (b"POST /v2 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n", 400),
        (b"POST /v2 HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n", 400),
        (b"POST /v2 HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999999999999999\r\n\r\n", 400),
        (b"POST /v2 HTTP/1.1\r\nHost: a\r\nContent-Length: 0x10\r\n\r\n", 400),
        (b"GET /v2 HTTP/1.1\r\nHost: a\r\nX: " + b"y" * 100_000 + b"\r\n\r\n", 431),
        (b"GET /v2 HTTP/1.1\r\nHost: a\r\n" + b"X: y\r\n" * 50_000 + b"\r\n", 431),
        (b"GET /" + b"x" * 100_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n", 431),
        (b"GET /v2 HTTP/1.1\r\nHost: a\r\nX: " + b"y" * 10_000_000, 431),
        (b"GET /v2 HTTP/1.1\r\n" + b"x" * 10_000_000, 431),
        (b"DELETE /v2/models/tiny HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", 405),
        (b"TRACE /v2 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", 405),
        (b"GET /v2/models/tiny/infer HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", 405),
    ],
)
def test_what_is_no_request(front: RunningFront, request_bytes: bytes, status: int) -> None:
    answer = raw_answer(front.port, request_bytes)
    assert status_of(answer) == status
    assert b"\r\ncontent-type: application/json\r\n" in answer
    assert "expected" in error_of(answer)


def test_a_body_that_is_too_large_is_not_read(front: RunningFront) -> None:
    head = f"POST {INFER} HTTP/1.1\r\nHost: a\r\nContent-Length: {2**40}\r\n\r\n".encode()
    answer = raw_answer(front.port, head)  # no byte of it is sent
    assert status_of(answer) == 413
    assert "body: expected at most" in error_of(answer)
    assert b"connection: close" in answer


def test_a_caller_who_waits_for_100_is_refused_before_he_sends(front: RunningFront) -> None:
    head = f"POST {INFER} HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: {2**30}\r\n\r\n".encode()
    assert status_of(raw_answer(front.port, head)) == 413


def test_a_caller_who_waits_for_100_gets_it(front: RunningFront) -> None:
    head, _, body = post(INFER, json.dumps(image()).encode(), "Expect: 100-continue").partition(b"\r\n\r\n")
    with socket.create_connection(("127.0.0.1", front.port), timeout=PATIENCE_SECONDS) as connection:
        connection.sendall(head + b"\r\n\r\n")
        assert connection.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(body)
        assert status_of(read_all(connection)) == 200


def test_a_body_that_grows_without_a_length(front: RunningFront) -> None:
    chunk = b"10000\r\n" + b"x" * 2**16 + b"\r\n"
    head = f"POST {INFER} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
    assert status_of(raw_answer(front.port, head + chunk * 1_000)) == 413


def test_a_million_chunks_of_one_byte(front: RunningFront) -> None:
    head = f"POST {INFER} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
    answer = raw_answer(front.port, head + b"1\r\nx\r\n" * 1_000_000 + b"0\r\n\r\n")
    assert status_of(answer) in (400, 413)


def test_chunk_extensions_and_trailers_without_end(front: RunningFront) -> None:
    head = f"POST {INFER} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
    assert status_of(raw_answer(front.port, head + b"1;" + b"x" * 5_000_000)) == 400
    assert status_of(raw_answer(front.port, head + b"0\r\n" + b"X: y\r\n" * 500_000)) in (400, 431)


def test_bodies_in_chunks_are_answered(front: RunningFront) -> None:
    head = f"POST {INFER} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n".encode()
    body = json.dumps(image()).encode()
    chunks = [body[start : start + 50] for start in range(0, len(body), 50)]
    framed = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks)
    assert status_of(raw_answer(front.port, head + framed + b"0\r\nX-Trailer: a\r\n\r\n")) == 200


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "gzip, gzip"])
def test_encoded_bodies(front: RunningFront, encoding: str) -> None:
    status, error = asked(front, b"\x1f\x8b" + bytes(100), f"Content-Encoding: {encoding}")
    assert (status, error) == (415, f"Content-Encoding: expected identity, got '{encoding}'")


def test_requests_ahead_of_their_answers_are_answered_in_order(front: RunningFront) -> None:
    requests = [post(INFER, json.dumps({**image(), "id": str(n)}).encode(), close=n == 9) for n in range(10)]
    answers = raw_answer(front.port, b"".join(requests))
    assert answers.count(b"HTTP/1.1 200 OK") == 10
    assert [answers.index(f'"id":"{n}"'.encode()) for n in range(10)] == sorted(
        answers.index(f'"id":"{n}"'.encode()) for n in range(10)
    )


def test_a_request_that_has_begun_to_come_behind_another_is_answered(front: RunningFront) -> None:
    request = post(INFER, json.dumps(image()).encode(), close=False)
    with socket.create_connection(("127.0.0.1", front.port), timeout=PATIENCE_SECONDS) as caller:
        caller.sendall(request + request[:-1])
        first = caller.recv(2**16)
        caller.sendall(request[-1:])
        second = caller.recv(2**16)
    assert [status_of(first), status_of(second)] == [200, 200]
    assert b"connection: close" not in first


def test_thousands_of_requests_ahead_of_their_answers(front: RunningFront) -> None:
    answers = raw_answer(front.port, b"GET /v2/models/tiny/config HTTP/1.1\r\nHost: a\r\n\r\n" * 50_000)
    assert answers.count(b"HTTP/1.1 200 OK") <= 20


def test_what_follows_a_good_request_does_not_take_its_answer(front: RunningFront) -> None:
    good = post(INFER, json.dumps(image()).encode(), close=False)
    answer = raw_answer(front.port, good + b"\x00\x01 nonsense\r\n\r\n")
    assert status_of(answer) == 200
    assert answer.count(b"HTTP/1.1") == 1


def test_an_old_caller(front: RunningFront) -> None:
    answer = raw_answer(front.port, post(INFER, json.dumps(image()).encode(), version="1.0", close=False))
    assert status_of(answer) == 200
    assert b"connection: close" in answer


def test_head_has_no_body(front: RunningFront) -> None:
    answer = raw_answer(front.port, b"HEAD /v2/health/ready HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
    assert status_of(answer) == 200
    assert answer.endswith(b"\r\n\r\n")


@pytest.mark.parametrize("protocol", ["websocket", "h2c"])
def test_upgrades_are_ignored(front: RunningFront, protocol: str) -> None:
    request = f"GET /v2 HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: {protocol}\r\n\r\n".encode()
    answer = raw_answer(front.port, request + b"more bytes")
    assert status_of(answer) == 200
    assert answer.count(b"HTTP/1.1") == 1


@pytest.mark.parametrize("given", ["a\tb", "x" * 129, "a b", "<script>", "ä"])
def test_request_ids_that_are_none_are_replaced(front: RunningFront, given: str) -> None:
    request = f"GET /v2 HTTP/1.1\r\nHost: a\r\nX-Request-Id: {given}\r\nConnection: close\r\n\r\n"
    answer = raw_answer(front.port, request.encode())
    head = answer.split(b"\r\n\r\n")[0]
    assert status_of(answer) == 200
    assert given.encode() not in head
    assert len(head.partition(b"x-request-id: ")[2].split(b"\r\n")[0]) == 32


def test_the_largest_header_of_a_binary_request(front: RunningFront) -> None:
    said = {**IMAGE, "parameters": {"binary_data_size": 256}}
    del said["data"]
    header = json.dumps({"inputs": [said], "padding": "x" * JSON_HEADER_BYTES}).encode()
    status, error = asked(front, header + bytes(256), f"Inference-Header-Content-Length: {len(header)}")
    assert status in (400, 413)
    assert "expected" in error
