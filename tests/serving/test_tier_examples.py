"""What `heatserve serve` prints of a model's tiers, and what the pages say of them, can be copied and run."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from known_tiers import word_of
from PIL import Image

from heatserve import TritonServer
from heatserve.commands.serve import confirm_examples
from heatserve.serving.triton.endpoints import FREE_PORTS

ROOT = Path(__file__).parents[2]
OUTCOMES = ("yes", "no", "undecided")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def digits() -> Iterator[TritonServer]:
    with TritonServer(ROOT / "model_repository", models=["digits"], endpoints=FREE_PORTS) as server:
        yield server


def run(*command: str) -> str:
    """What a command prints that succeeds."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


def blocks(page: str, language: str, *words: str) -> list[str]:
    """The blocks of code of a page in which these words stand."""
    found = re.findall(rf"^```{language}\n(.*?)^```", (ROOT / page).read_text(), re.MULTILINE | re.DOTALL)
    return [code for code in found if all(word in code for word in words)]


def at(server: TritonServer, code: str) -> str:
    """The code of a page, with the addresses and the name of the model that is served here."""
    code = code.replace("grpc://127.0.0.1:8001", server.endpoints.grpc_url)
    return code.replace("http://127.0.0.1:8000", server.endpoints.http_url).replace("quickstart_digits", "digits")


def outputs(answer: str) -> dict[str, Any]:
    """The outputs of an answer over HTTP, by name, codes as their words."""
    found = {output["name"]: output["data"] for output in json.loads(answer)["outputs"]}
    return {name: [word_of(name, value) for value in values] for name, values in found.items()}


def test_the_examples_of_confirm_can_be_copied_and_run(
    digits: TritonServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a busy machine votes may take longer than the deadline; the answer is undecided then."""
    monkeypatch.chdir(tmp_path)
    Image.fromarray(np.full((8, 8), 128, np.uint8)).save("a picture.png")
    shell, anywhere = confirm_examples(digits.models[0], digits.endpoints, Path("a picture.png")).split("\n\n")
    assert any(outcome in run("bash", "-c", shell).split() for outcome in OUTCOMES)
    if not shutil.which("curl"):
        pytest.skip("there is no curl on this machine")
    found = outputs(run("bash", "-c", anywhere))
    assert found["tier"] == ["confirm"]
    assert found["outcome"][0] in OUTCOMES
    assert found["alpha"] == [1e-6]


def test_curl_of_the_pages_is_answered(digits: TritonServer) -> None:
    if not shutil.which("curl"):
        pytest.skip("there is no curl on this machine")
    codes = blocks("docs/guide/serve.md", "sh", "/infer")
    assert codes
    for code in codes:
        found = outputs(run("bash", "-c", at(digits, code)))
        assert "certified_radius" in found, code
        if "digits_confirm" in code:  # the digit 1, of which all votes agree
            assert (found["outcome"][0], found["reason"][0]) in (("yes", "proven"), ("undecided", "deadline"))
            assert found["label"] == [1]


def test_a_stream_of_the_pages_tightens(digits: TritonServer) -> None:
    if not shutil.which("curl"):
        pytest.skip("there is no curl on this machine")
    (code,) = blocks("docs/guide/serve.md", "sh", "/generate_stream")
    events = re.findall(r"^data: (.*)$", run("bash", "-c", at(digits, code)), re.MULTILINE)
    answers = [json.loads(event) for event in events]
    radii = [answer["proven_radius"] for answer in answers]
    assert radii == sorted(radii)
    reasons = [word_of("reason", answer["reason"]) for answer in answers]
    assert set(reasons[:-1]) <= {"tightening"}
    assert reasons[-1] in ("proven", "deadline")


def posted(server: TritonServer, path: str, body: dict[str, Any]) -> tuple[int, str]:
    """The HTTP status and the body of an answer to JSON."""
    request = urllib.request.Request(f"{server.endpoints.http_url}/v2/models/{path}", json.dumps(body).encode())
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


IMAGE = {"name": "image", "datatype": "FP32", "shape": [1, 1, 8, 8], "data": [0.5] * 64}


@pytest.mark.parametrize(
    ("path", "body", "status", "text"),
    [
        ("digits_confirm/infer", {"inputs": [IMAGE]}, 400, "radius: expected"),
        (
            "digits_confirm/infer",
            {"inputs": [{**IMAGE, "data": [2] * 64}], "parameters": {"radius": 0.1}},
            400,
            "image: ",
        ),
        ("gone_confirm/infer", {"inputs": [IMAGE]}, 404, "Request for unknown model"),
        ("digits_certify_stream/infer", {"inputs": [IMAGE]}, 501, "decoupled"),
        (
            "digits_certify_stream/generate_stream",
            {"image": [0.5] * 64, "n": 10**6},
            400,
            'data: {"error":"n: expected',
        ),
        ("digits_certify_stream/generate", {"image": [0.5] * 64, "n": 20}, 200, "generate stream"),
    ],
)
def test_http_statuses_are_those_of_the_contract(
    digits: TritonServer, path: str, body: dict[str, Any], status: int, text: str
) -> None:
    found, answer = posted(digits, path, body)
    assert (found, text in answer) == (status, True), answer
    assert "error" in answer


def test_a_full_queue_is_503_and_says_when_to_ask_again(digits: TritonServer) -> None:
    many = {**IMAGE, "shape": [64, 1, 8, 8], "data": [0.5] * 64 * 64}
    body = {"inputs": [many], "parameters": {"n": 100_000, "deadline_ms": 5_000}}
    with ThreadPoolExecutor(6) as pool:  # 384 images, where 256 may wait
        answers = list(pool.map(lambda _: posted(digits, "digits_certify/infer", body), range(6)))
    refused = [answer for status, answer in answers if status == 503]
    assert {status for status, _ in answers} == {200, 503}
    assert all(re.search(r"queue is full: .*; ask again in about \d+ s", answer) for answer in refused)


def test_generate_refuses_with_400_whatever_it_is_about(digits: TritonServer) -> None:
    full = {**IMAGE, "shape": [64, 1, 8, 8], "data": [0.5] * 64 * 64}
    body = {"inputs": [full], "parameters": {"n": 100_000, "deadline_ms": 5_000}}

    def fill() -> None:
        while posted(digits, "digits_certify/infer", body)[0] == 503:  # the image below has a place just now
            pass

    with ThreadPoolExecutor(4) as pool:
        waiting = [pool.submit(fill) for _ in range(4)]
        status, answer = 200, ""
        while status == 200 and not all(request.done() for request in waiting):
            status, answer = posted(digits, "digits_certify/generate", {"image": [0.5] * 64, "deadline_ms": 1})
    assert (status, "queue is full" in answer) == (400, True), answer


def test_classes_of_a_stream_over_http_are_a_list_only_for_several(digits: TritonServer) -> None:
    for top_k, expected in ((1, int), (2, list)):
        _, text = posted(
            digits, "digits_certify_stream/generate_stream", {"image": [0.5] * 64, "n": 50, "top_k": top_k}
        )
        last = json.loads(re.findall(r"^data: (.*)$", text, re.MULTILINE)[-1])
        assert isinstance(last["classes"], expected)
