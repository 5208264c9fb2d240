"""`heatserve fuzz`: it finds what is wrong with a server that is wrong, and nothing with ours."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from random import Random

import numpy as np
import pytest
from tiny_model import SHAPE, random_images, write_tiny_model

from heatserve.benchmarks.fuzz.cancelling import cancel_requests
from heatserve.benchmarks.fuzz.findings import UNANSWERED, FuzzFindings, tells_of_inside
from heatserve.benchmarks.fuzz.grpc_requests import mutated_message, valid_message
from heatserve.benchmarks.fuzz.hostile import HTTP_CASES
from heatserve.benchmarks.fuzz.http_requests import mutated_binary, mutated_json, valid_binary, valid_json
from heatserve.benchmarks.fuzz.mutations import mutate_protocol
from heatserve.benchmarks.fuzz.reading import images_of_grpc, images_of_http
from heatserve.benchmarks.fuzz.subject import Subject, is_valid, subject_of
from heatserve.benchmarks.fuzz.target import FuzzTarget, compared, own_server, use_of
from heatserve.benchmarks.wire import exchange
from heatserve.certification.errors import HeatserveError
from heatserve.export.repository.layout import open_model


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    repository = tmp_path_factory.mktemp("fuzzed")
    write_tiny_model(repository)
    write_tiny_model(repository, "uncalibrated", calibrated=False)
    return repository


@pytest.fixture(scope="module")
def subject(repository: Path) -> Subject:
    return subject_of(open_model(repository, "tiny"), random_images(50))


def test_valid_requests_are_read_as_the_images_that_they_hold(subject: Subject) -> None:
    images = subject.images[:3]
    body = valid_json(subject, images).body
    binary = valid_binary(subject, images)
    header = int(dict(binary.headers)["Inference-Header-Content-Length"])
    message = valid_message(subject, images).SerializeToString()
    for found in (
        images_of_http(body, None, SHAPE),
        images_of_http(binary.body, header, SHAPE),
        images_of_grpc(message, "tiny", SHAPE),
    ):
        assert found is not None
        np.testing.assert_array_equal(found, images)


@pytest.mark.parametrize(
    "change",
    [
        lambda tensor: tensor.update(shape=[2**32, *SHAPE]),
        lambda tensor: tensor.update(shape=[1, 64]),
        lambda tensor: tensor.update(shape=[1.0, *SHAPE]),
        lambda tensor: tensor.update(datatype="FP64"),
        lambda tensor: tensor.update(name="images"),
        lambda tensor: tensor["data"].append(0.5),
        lambda tensor: tensor.update(data="0.5"),
        lambda tensor: tensor.pop("shape"),
    ],
)
def test_a_request_that_is_wrong_holds_no_images(change: object, subject: Subject) -> None:
    document = json.loads(valid_json(subject, subject.images[:1]).body)
    change(document["inputs"][0])  # type: ignore[operator]
    assert images_of_http(json.dumps(document).encode(), None, SHAPE) is None


def test_most_mutations_hold_no_valid_image_and_all_can_be_made_again(subject: Subject) -> None:
    for make in (mutated_json, mutated_binary, mutated_message):
        found = [make(subject, Random(index)) for index in range(100)]
        again = [make(subject, Random(index)) for index in range(100)]
        assert [str(one) for one in found] == [str(one) for one in again]
        assert len({str(one) for one in found}) > 80
        invalid = sum(one.images is None or not is_valid(one.images) for one in found)
        assert 30 < invalid < 100


@contextmanager
def wrong_server(status: int, answer: dict[str, object]) -> Iterator[FuzzTarget]:
    """A server that gives the same answer to everybody."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            content = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:
            del format, args

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield FuzzTarget(http=("127.0.0.1", server.server_port))
        finally:
            server.shutdown()
            thread.join()


def faults_of(subject: Subject, status: int, answer: dict[str, object]) -> dict[str, int]:
    findings = FuzzFindings()
    with wrong_server(status, answer) as target:
        mutate_protocol("http-json", target, subject, 60, seed=0, findings=findings, advance=lambda _: None)
    return dict(findings.faults)


def test_a_server_that_certifies_everything_is_found_out(subject: Subject) -> None:
    output = {"name": "certified_radius", "datatype": "FP32", "shape": [1], "data": [3.0]}
    faults = faults_of(subject, 200, {"outputs": [output]})
    assert faults["a positive radius on invalid input"] > 10
    assert faults["a larger radius than the graph's"] > 0
    assert faults[UNANSWERED] > 10


def test_a_server_that_fails_and_tells_of_its_inside_is_found_out(subject: Subject) -> None:
    assert faults_of(subject, 500, {"error": "no"})["a status 500"] > 10
    told = 'File "/srv/model.py", line 3, in run'
    assert faults_of(subject, 400, {"error": told})["an error that tells of the inside"] > 10
    assert tells_of_inside(b"Traceback (most recent call last)")
    assert not tells_of_inside(b"image: expected finite values in [0,1]")


def test_models_that_it_cannot_ask_about(repository: Path) -> None:
    with pytest.raises(HeatserveError, match="uncalibrated: expected positive radii, got none on 5 images"):
        subject_of(open_model(repository, "uncalibrated"), random_images(5))


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="Triton runs on Linux only")
def test_our_server_stands(repository: Path, subject: Subject) -> None:
    findings = FuzzFindings()
    with own_server(repository, "tiny") as target:
        assert target.parent is not None
        before = use_of(target.parent)
        for protocol in ("http-json", "http-binary", "grpc"):
            counts = mutate_protocol(protocol, target, subject, 150, seed=1, findings=findings, advance=lambda _: None)
            assert counts.sent == 150
            assert counts.refused > 75
        for protocol in ("http", "grpc"):
            cancel_requests(protocol, target, subject, 100, seed=1, findings=findings, advance=lambda _: None)
        told = {name: call(target, subject) for name, call in [*HTTP_CASES.items()][:3]}
        after = compared(before, use_of(target.parent))
        assert target.http is not None
        assert exchange(target.http, valid_json(subject, subject.images[:1]).encoded(), timeout=60).outcome == "200"
    assert findings.faults == {}, findings.examples
    assert findings.valid == 3 * 150 + 2 * 16
    assert all(outcome.startswith("status 4") for outcome in told.values()), told
    assert {"front", "heatserve serve", "triton", "stub tiny"} <= {row.role for row in after}
    assert all(row.processes == 1 for row in after)
