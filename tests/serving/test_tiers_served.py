"""The tiers in a real Triton: what is proven is true, what is refused says why, and each caller is answered."""

from __future__ import annotations

import json
import os
import signal
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc
from known_tiers import (
    ask,
    at_distance,
    distances_of,
    hurry,
    read_output,
    refusal,
    voter_of,
    word_of,
    write_known_model,
)
from numpy.typing import NDArray
from tiny_model import SIGMA, random_images
from tritonclient.utils import InferenceServerException

from heatserve import FREE_PORTS, Client, TritonServer
from heatserve.export.tiers import TierModel, tier_tensors
from heatserve.serving.observed.counting import INVALID_REASONS
from heatserve.serving.observed.families import (
    INVALID_INPUTS,
    REQUEST_SECONDS,
    REQUESTS,
    RESTARTS,
    TIER_ANSWERS,
    VOTES_TAKEN,
)
from heatserve.serving.observed.page import value_of

pytestmark = pytest.mark.slow

FAR = at_distance(0.8)
SECONDS = 20_000
"""Milliseconds that votes are given where the machine does other things, too."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonServer]:
    """Models `known`, with all tiers, and `narrow`, whose operator allows little."""
    repository = tmp_path_factory.mktemp("repository")
    write_known_model(repository, most_n=10**8)
    write_known_model(
        repository, "narrow", tiers=[TierModel.CONFIRM], queue=3, sampling="grid", n=300, most_n=300, most_alpha=1e-6
    )
    with TritonServer(repository, endpoints=FREE_PORTS) as server:
        for model in ("known", "narrow"):
            hurry(server, model)
        yield server


def test_the_voter_runs_only_where_nothing_else_wants_to(server: TritonServer) -> None:
    """Another one, which nobody has hurried; see `known_tiers.hurry`."""
    pid = voter_of(server)
    os.kill(pid, signal.SIGKILL)
    until(lambda: voter_of(server) != pid and server.voters.are_ready())
    pid = voter_of(server)
    for thread in os.listdir(f"/proc/{pid}/task"):
        assert os.sched_getscheduler(int(thread)) == os.SCHED_IDLE
        assert os.getpriority(os.PRIO_PROCESS, int(thread)) == 19
        assert os.sched_getaffinity(int(thread)) == {max(os.sched_getaffinity(0))}
    autogroup = Path(f"/proc/{pid}/autogroup")
    assert not autogroup.exists() or autogroup.read_text().endswith("nice 19\n")
    hurry(server)
    until(lambda: try_to_confirm(server) == "yes")
    before = ticks(pid)
    time.sleep(1)
    assert ticks(pid) == before, "a voter that nobody asks uses the CPU"


def ticks(pid: int) -> int:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    return int(fields[11]) + int(fields[12])


def until(condition: Any, *, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def try_to_confirm(server: TritonServer, model: str = "known") -> str:
    """The outcome, or the error."""
    try:
        return str(ask(server, f"{model}_confirm", FAR, radius=0.1, deadline_ms=SECONDS)["outcome"][0])
    except InferenceServerException as error:
        return f"{error.status()} {error.message()}"


@pytest.mark.parametrize("over", ["grpc", "http"])
def test_confirm_says_what_is_true(server: TritonServer, over: str) -> None:
    images = at_distance(*np.linspace(-0.3, 0.3, 40), *[0.097] * 10, *[0.103] * 10)
    answer = ask(server, "known_confirm", images, over=over, radius=0.1, deadline_ms=SECONDS)
    assert list(answer) == [tensor.name for tensor in tier_tensors(TierModel.CONFIRM)]
    distances = distances_of(images)
    for index, distance in enumerate(distances):
        assert answer["label"][index] == (0 if distance > 0 else 1)
        assert answer["outcome"][index] != ("no" if abs(distance) > 0.1 else "yes"), distance
        assert answer["proven_radius"][index] == (np.float32(0.1) if answer["outcome"][index] == "yes" else 0)
        assert 0 <= answer["votes"][index] <= 1000
    assert len(set(answer["outcome"])) > 1
    assert set(answer["tier"]) == {"confirm"}
    assert set(answer["alpha"]) == {1e-6}
    with Client(server.endpoints.grpc_url, model="known") as client:
        passed = client.predict(images)
    assert answer["certified_radius"] == [prediction.certified_radius for prediction in passed]


def test_radius_and_alpha_are_those_of_the_request(server: TritonServer) -> None:
    answer = ask(server, "known_confirm", FAR, radius="0.3", alpha=1e-3, n="5000", deadline_ms=SECONDS)
    assert (answer["outcome"], answer["alpha"]) == (["yes"], [1e-3])
    assert answer["proven_radius"] == [np.float32(0.3)]


def test_certify_takes_n0_and_n_votes_and_proves_true_radii(server: TritonServer) -> None:
    images = at_distance(0.3, -0.3, 0.0)
    answer = ask(server, "known_certify", images, n=2000, n0=50, alpha=1e-3, top_k=1, deadline_ms=SECONDS)
    assert answer["votes"] == [2050] * 3
    assert answer["label"] == [0, 1, -1]
    assert answer["outcome"] == ["yes", "yes", "undecided"]
    for radius, distance, p_lower in zip(
        answer["proven_radius"], abs(distances_of(images)), answer["p_lower"], strict=True
    ):
        assert radius <= distance
        assert (radius > 0) == (p_lower > 0.5)
    assert answer["proven_radius"][0] > 0.2
    both = ask(server, "known_certify", images[:1], n=200, top_k=2, deadline_ms=SECONDS, outputs=["classes", "label"])
    assert both == {"label": [0], "classes": [[0, 1]]}


def test_noise_differs_from_request_to_request(server: TritonServer) -> None:
    image = at_distance(0.1)
    found = {ask(server, "known_certify", image, n=2000, deadline_ms=SECONDS)["p_lower"][0] for _ in range(4)}
    assert len(found) > 1


def test_the_sampling_is_named(server: TritonServer) -> None:
    images = np.concatenate([FAR, at_distance(0.77, on_grid=False)])
    assert ask(server, "known_confirm", images, radius=0.1, deadline_ms=SECONDS)["sampling"] == ["grid", "float32"]
    status, message = refusal(server, "narrow_confirm", images[1:], radius=0.1)
    assert status == "StatusCode.INVALID_ARGUMENT"
    assert "image: expected images of 8 bits, multiples of 1/255, found that image 0 is not of 8 bits" in message


def test_cascade_confirms_what_is_claimed_or_tries_anyway(server: TritonServer) -> None:
    images = at_distance(0.8, 0.02)
    passed = ask(server, "known", images)["certified_radius"]
    radius = float(np.mean(passed))
    claimed = ask(server, "known_cascade", images, radius=radius, deadline_ms=SECONDS)
    assert (claimed["tier"], claimed["reason"][1]) == (["confirm", "one pass"], "not claimed")
    assert claimed["outcome"] == ["yes", "undecided"]
    assert claimed["votes"][1] == 0
    assert claimed["sampling"] == ["grid", "none"]
    assert claimed["certified_radius"] == passed
    tried = ask(server, "known_cascade", images, radius=0.01, mode="any", n=20_000, deadline_ms=60_000)
    assert tried["tier"] == ["confirm", "confirm"]
    assert tried["outcome"][0] == "yes"


class Streamed:
    """A stream of `known_certify_stream`."""

    def __init__(self, server: TritonServer, image: Any, **parameters: Any) -> None:
        self._answers = SimpleQueue[Any]()
        self._client = tritonclient.grpc.InferenceServerClient(server.endpoints.grpc_url.split("://")[1])
        self._client.start_stream(lambda result, error: self._answers.put((result, error)))
        tensor = tritonclient.grpc.InferInput("image", image.shape, "FP32")
        tensor.set_data_from_numpy(image)
        self._client.async_stream_infer(
            "known_certify_stream", [tensor], parameters=parameters, enable_empty_final_response=True
        )

    def next(self) -> dict[str, Any] | None:
        """The next answer; None: it was the last."""
        result, error = self._answers.get(timeout=60)
        if error is not None:
            raise error
        response = result.get_response()
        found = {output.name: read_output(output.name, result.as_numpy(output.name))[0] for output in response.outputs}
        return found or None

    def cancel(self) -> None:
        self._client.stop_stream(cancel_requests=True)
        self._client.close()


def test_a_stream_tightens_to_the_last_vote(server: TritonServer) -> None:
    stream = Streamed(server, FAR, n=3000, deadline_ms=60_000)
    bounds = list[dict[str, Any]]()
    while not bounds or bounds[-1]["reason"] == "tightening":
        bounds.append(stream.next() or {})
    stream.cancel()
    radii = [bound["proven_radius"] for bound in bounds]
    assert radii == sorted(radii)
    assert len(set(radii)) > 5
    assert radii[-1] <= distances_of(FAR)[0]
    assert (bounds[-1]["reason"], bounds[-1]["votes"], bounds[-1]["outcome"]) == ("proven", 3100, "yes")


def test_a_stream_that_is_cancelled_is_not_voted_on(server: TritonServer) -> None:
    stream = Streamed(server, FAR, n=10**8, deadline_ms=60_000)
    stream.next()
    pid = voter_of(server)
    busy = ticks(pid)
    until(lambda: ticks(pid) > busy)
    stream.cancel()

    def is_idle() -> bool:
        before = ticks(pid)
        time.sleep(0.3)
        return ticks(pid) == before

    until(is_idle, seconds=20)
    assert value_of(server.metrics, REQUESTS, model="known", tier="certify_stream", outcome="cancelled") >= 1


def test_a_request_of_http_alone_is_answered_with_json(server: TritonServer) -> None:
    """`generate` and `generate_stream`: any key that is no input is a parameter."""

    def generate(model: str, way: str, **parameters: Any) -> list[dict[str, Any]]:
        body = json.dumps({"image": FAR.ravel().tolist(), **parameters}).encode()
        request = urllib.request.Request(f"{server.endpoints.http_url}/v2/models/{model}/{way}", body)
        text = urllib.request.urlopen(request, timeout=60).read().decode()
        return [json.loads(line.removeprefix("data: ")) for line in text.splitlines() if line]

    (answer,) = generate("known_confirm", "generate", radius=0.1, deadline_ms=SECONDS)
    assert (word_of("outcome", answer["outcome"]), answer["label"]) == ("yes", 0)
    answers = generate("known_certify_stream", "generate_stream", n=1000, deadline_ms=60_000)
    radii = [answer["proven_radius"] for answer in answers]
    assert len(radii) > 1
    assert radii == sorted(radii)


def test_only_outputs_that_were_asked_for_are_answered(server: TritonServer) -> None:
    answer = ask(server, "known_confirm", FAR, radius=0.1, deadline_ms=SECONDS, outputs=["votes", "outcome"])
    assert set(answer) == {"votes", "outcome"}


@pytest.mark.parametrize("over", [tritonclient.grpc, tritonclient.http])
@pytest.mark.parametrize("kind", [TierModel.CONFIRM, TierModel.CERTIFY, TierModel.CASCADE])
def test_no_output_ends_the_server_when_its_classes_are_asked_for(
    server: TritonServer, over: Any, kind: TierModel
) -> None:
    """Triton 2.51 divides by the size of an item, which is 0 in an output of text."""
    url = server.endpoints.grpc_url if over is tritonclient.grpc else server.endpoints.http_url
    radius = {} if kind is TierModel.CERTIFY else {"radius": 0.1}
    with over.InferenceServerClient(url.split("://")[1]) as client:
        image = over.InferInput("image", FAR.shape, "FP32")
        image.set_data_from_numpy(FAR)
        for tensor in tier_tensors(kind):
            wanted = [over.InferRequestedOutput(tensor.name, class_count=2)]
            answer = client.infer(
                kind.beside("known"), [image], outputs=wanted, parameters={"deadline_ms": 0, **radius}
            )
            assert answer.as_numpy(tensor.name).dtype == object
    assert ask(server, "known", FAR)["label"] == [0]


def test_answers_that_leave_from_several_threads_at_once_are_counted(server: TritonServer) -> None:
    """By deadlines, by votes and at once."""
    images = np.repeat(FAR, 2, axis=0)
    before = value_of(server.metrics, TIER_ANSWERS, model="known", tier="confirm")

    def call(turn: int) -> str:
        try:
            answer = ask(server, "known_confirm", images, radius=0.1, deadline_ms=1 + turn % 20)
        except InferenceServerException as error:
            return f"{error.status()} {error.message()}"
        return "no" if "no" in answer["outcome"] else "answered"

    with ThreadPoolExecutor(32) as pool:
        found = Counter(pool.map(call, range(640)))
    assert found == {"answered": 640}
    assert value_of(server.metrics, TIER_ANSWERS, model="known", tier="confirm") == before + 2 * 640


def test_a_name_of_a_parameter_is_not_answered_at_any_length(server: TritonServer) -> None:
    status, message = refusal(server, "known_confirm", FAR, radius=0.1, **{"x" * 10**7: 1})
    assert (status, len(message) < 200) == ("StatusCode.INVALID_ARGUMENT", True)
    assert ask(server, "known_confirm", FAR, radius=0.1, deadline_ms=SECONDS)["outcome"] == ["yes"]


def test_a_deadline_of_nothing_is_undecided_and_takes_no_votes(server: TritonServer) -> None:
    for kind in (TierModel.CONFIRM, TierModel.CERTIFY, TierModel.CASCADE):
        more: dict[str, Any] = {} if kind is TierModel.CERTIFY else {"radius": 0.1}
        answer = ask(server, kind.beside("known"), FAR, deadline_ms=0, **more)
        assert (answer["outcome"], answer["reason"], answer["votes"]) == (["undecided"], ["deadline"], [0])


def with_pixel(value: float) -> Any:
    images = random_images(3)
    images[1, 0, 2, 3] = value
    return images


@pytest.mark.parametrize("model", ["known_confirm", "known_certify", "known_cascade"])
@pytest.mark.parametrize(
    ("images", "part"),
    [
        (with_pixel(np.nan), "image 1 of 3 has 1 NaN of 64 values"),
        (with_pixel(-0.5), "image 1 of 3 has 1 outside [0,1]"),
        (np.zeros((2, 1, 9, 8), np.float32), "Expected [-1,1,8,8], got [2,1,9,8]"),
        (np.zeros((0, 1, 8, 8), np.float32), "'image'"),
        (random_images(65), "batch-size must be <= 64"),
    ],
)
def test_invalid_images_are_refused_and_the_next_answered(
    server: TritonServer, model: str, images: Any, part: str
) -> None:
    more: dict[str, Any] = {} if model == "known_certify" else {"radius": 0.1}
    status, message = refusal(server, model, images, **more)
    assert status == "StatusCode.INVALID_ARGUMENT"
    assert part in message
    assert ask(server, model, FAR, deadline_ms=SECONDS, **more)["outcome"] == ["yes"]


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({}, "radius: expected the L2 radius to prove"),
        ({"radius": 0.1, "seed": 3}, "seed: expected no parameters but radius, alpha, n, deadline_ms, got this one"),
        ({"radius": 0.1, "n": 301}, "n: expected a whole number from 1 to 300, got 301"),
        ({"radius": 0.1, "alpha": 1e-3}, "alpha: expected a number from 1e-09 to 1e-06, got 0.001"),
        ({"radius": True}, "radius: expected a number above 0, at most 2 (8 sigma), got True"),
    ],
)
def test_parameters_beyond_the_operators_limits_are_refused(
    server: TritonServer, parameters: dict[str, Any], message: str
) -> None:
    status, found = refusal(server, "narrow_confirm", FAR, **parameters)
    assert status == "StatusCode.INVALID_ARGUMENT"
    assert message in found


def test_a_full_queue_is_refused_with_a_hint_and_a_stopped_voter_is_a_deadline(server: TritonServer) -> None:
    pid = voter_of(server, "narrow")
    os.kill(pid, signal.SIGSTOP)
    try:
        with ThreadPoolExecutor(3) as pool:
            start = time.monotonic()
            waiting = [pool.submit(ask, server, "narrow_confirm", FAR, radius=0.1, deadline_ms=6000) for _ in range(3)]
            four = np.repeat(FAR, 4, axis=0)  # more than may ever wait: they take no place of the others
            until(lambda: "found 3 and 4 more" in refusal(server, "narrow_confirm", four, radius=0.1)[1])
            status, message = refusal(server, "narrow_confirm", FAR, radius=0.1)
            found = [future.result() for future in waiting]
            seconds = time.monotonic() - start
    finally:
        os.kill(pid, signal.SIGCONT)
    assert status == "StatusCode.UNAVAILABLE"
    assert "queue is full: expected at most 3 images that wait for votes, found 3 and 1 more; ask again in" in message
    assert [answer["reason"] for answer in found] == [["deadline"]] * 3
    assert [answer["label"] for answer in found] == [[0]] * 3
    assert 5.9 < seconds < 12
    assert ask(server, "narrow_confirm", FAR, radius=0.1, deadline_ms=SECONDS)["outcome"] == ["yes"]


def test_a_killed_voter_comes_back_and_nothing_else_fails(server: TritonServer) -> None:
    pid = voter_of(server, "narrow")
    os.kill(pid, signal.SIGSTOP)  # so that a question is open
    with ThreadPoolExecutor(1) as pool:
        open_question = pool.submit(refusal, server, "narrow_confirm", FAR, radius=0.1)
        time.sleep(0.5)
        os.kill(pid, signal.SIGKILL)
        status, message = open_question.result()
    assert status == "StatusCode.UNAVAILABLE"
    assert "the process that votes ended, and is started again; ask again" in message
    assert ask(server, "known_confirm", FAR, radius=0.1, deadline_ms=SECONDS)["outcome"] == ["yes"]
    assert ask(server, "narrow", FAR)["label"] == [0]
    assert try_to_confirm(server, "narrow").startswith(("StatusCode.UNAVAILABLE", "yes"))
    until(lambda: voter_of(server, "narrow") != pid and server.voters.are_ready())
    hurry(server, "narrow")
    until(lambda: try_to_confirm(server, "narrow") == "yes")
    assert "the voter of narrow was ended by SIGKILL" in server.log.read_text()
    assert value_of(server.metrics, RESTARTS, process="voter") >= 1


def test_many_callers_of_all_tiers_at_once_are_all_answered(server: TritonServer) -> None:
    """And single passes beside them."""
    images = at_distance(0.8, -0.8)
    requests: list[tuple[str, dict[str, Any]]] = [
        ("known_confirm", {"radius": 0.1}),
        ("known_certify", {"n": 300, "alpha": 1e-3}),
        ("known_cascade", {"radius": 0.1}),
        ("known_cascade", {"radius": 0.1, "mode": "any"}),
        ("known", {}),
    ]

    def call(caller: int) -> list[str]:
        found = list[str]()
        for turn in range(5):
            model, parameters = requests[(caller + turn) % len(requests)]
            answer = ask(server, model, images, **({**parameters, "deadline_ms": 60_000} if parameters else {}))
            assert answer["label"] == [0, 1]
            found.extend(answer.get("outcome", ["single pass"] * 2))
        return found

    with ThreadPoolExecutor(64) as pool:
        outcomes = Counter(outcome for found in pool.map(call, range(64)) for outcome in found)
    assert outcomes.total() == 64 * 5 * 2
    assert outcomes["single pass"] == 64 * 2
    assert not outcomes["no"]
    assert outcomes["yes"] > 0.99 * 64 * 4 * 2  # one may be given up, if its first votes were unlucky


def test_answers_refusals_and_votes_are_counted(server: TritonServer) -> None:
    proven = {"model": "known", "tier": "confirm", "outcome": "yes", "reason": "proven"}
    confirm = {"model": "known", "tier": "confirm"}
    before = value_of(server.metrics, TIER_ANSWERS, **proven)
    votes, requests = (
        value_of(server.metrics, VOTES_TAKEN, **confirm),
        value_of(server.metrics, REQUEST_SECONDS, **confirm),
    )
    answer = ask(server, "known_confirm", np.repeat(FAR, 3, axis=0), radius=0.1, deadline_ms=SECONDS)
    assert value_of(server.metrics, TIER_ANSWERS, **proven) == before + 3
    assert value_of(server.metrics, VOTES_TAKEN, **confirm) == votes + sum(answer["votes"])
    assert value_of(server.metrics, REQUEST_SECONDS, **confirm) == requests + 1


@pytest.mark.parametrize(
    ("fault", "image", "parameters"),
    [
        ("nan", FAR * np.float32(np.nan), {"radius": 0.1}),
        ("range", FAR + np.float32(1), {"radius": 0.1}),
        ("parameters", FAR, {"radius": -1.0}),
    ],
)
def test_a_refusal_is_counted_by_what_is_wrong(
    server: TritonServer, fault: str, image: NDArray[np.float32], parameters: dict[str, float]
) -> None:
    invalid = {"model": "known", "tier": "confirm", "outcome": "invalid"}
    requests, faults = value_of(server.metrics, REQUESTS, **invalid), faults_of(server)
    refusal(server, "known_confirm", image, **parameters)
    assert value_of(server.metrics, REQUESTS, **invalid) == requests + 1
    assert {name: count - faults[name] for name, count in faults_of(server).items() if count != faults[name]} == {
        fault: 1
    }


def faults_of(server: TritonServer) -> dict[str, float]:
    return {
        reason: value_of(server.metrics, INVALID_INPUTS, model="known", reason=reason) for reason in INVALID_REASONS
    }


def test_sigma_of_the_server_is_that_of_these_tests(server: TritonServer) -> None:
    assert {model.card.sigma for model in server.models} == {SIGMA}


@pytest.mark.parametrize("over", ["grpc", "http"])
def test_a_server_ends_soon_after_streams_that_were_watched_to_their_end(tmp_path: Path, over: str) -> None:
    """Triton never lets go of a request whose caller cancels it while it ends, and so of its model."""
    write_known_model(tmp_path, tiers=[TierModel.CERTIFY_STREAM])
    with TritonServer(tmp_path, endpoints=FREE_PORTS) as server:
        hurry(server)
        url = server.endpoints.grpc_url if over == "grpc" else server.endpoints.http_url
        with Client(url, model="known") as client:
            for _ in range(10):
                last = [*client.certify(FAR[0], n=1000)][-1]
                assert last.outcome.value == "yes"
        process = server._process
        process.send_signal(signal.SIGTERM)
        assert process.wait(6) == 0
