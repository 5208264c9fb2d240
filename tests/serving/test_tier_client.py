"""What a client gets from the tiers of a real server: answers to its question, or an error that says what to change."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from known_tiers import code_of, voter_of
from numpy.typing import NDArray
from test_client import ABSENT, PROTOCOLS, url_of
from tiny_model import CLASS_NAMES
from tiny_tiers import PATIENT_SECONDS, QUEUE, RADIUS, grid_images
from tritonclient.grpc import service_pb2, service_pb2_grpc

from heatserve import (
    AsyncClient,
    Client,
    Mode,
    Outcome,
    OverloadedError,
    ServingError,
    Tier,
    TierAnswer,
    TierLimits,
    TierModel,
    TierReason,
    TritonServer,
)
from heatserve.serving.observed.families import REQUESTS
from heatserve.serving.observed.page import value_of

pytestmark = pytest.mark.slow


def ask_blocking(url: str, method: str, images: NDArray[Any], *, model: str = "tiny", **asked: Any) -> list[TierAnswer]:
    with Client(url, model=model, timeout=PATIENT_SECONDS) as client:
        return list(getattr(client, method)(images, **asked))


def ask_asyncio(url: str, method: str, images: NDArray[Any], *, model: str = "tiny", **asked: Any) -> list[TierAnswer]:
    async def ask() -> list[TierAnswer]:
        async with AsyncClient(url, model=model, timeout=PATIENT_SECONDS) as client:
            if method == "certify":
                return [answer async for answer in client.certify(images, **asked)]
            return list(await getattr(client, method)(images, **asked))

    return asyncio.run(ask())


Ask = Callable[..., list[TierAnswer]]
CLIENTS = pytest.mark.parametrize("ask", [ask_blocking, ask_asyncio], ids=["blocking", "asyncio"])


@CLIENTS
@PROTOCOLS
def test_confirm_is_about_the_class_of_the_single_pass(tiers: TritonServer, protocol: str, ask: Ask) -> None:
    images, url = grid_images(6), url_of(tiers, protocol)
    with Client(url, model="tiny") as client:
        single = client.predict(images)
    answers = ask(url, "confirm", images, radius=RADIUS, n=400)
    assert [answer.label for answer in answers] == [prediction.label for prediction in single]
    assert [answer.certified_radius for answer in answers] == [prediction.certified_radius for prediction in single]
    for answer in answers:
        assert answer.class_name == CLASS_NAMES[answer.label]
        assert answer.proven_radius == (RADIUS if answer else 0)
        assert answer.tier is Tier.CONFIRM
        assert answer.alpha == TierLimits().alpha
        assert 0 < answer.votes <= 400 or answer.reason is TierReason.HOPELESS
        assert answer.sampling in ("grid", "none")
    assert Outcome.YES in {answer.outcome for answer in answers}
    assert answers != ask(url, "confirm", images, radius=8 * RADIUS, n=400)


@CLIENTS
@PROTOCOLS
def test_a_batch_above_the_largest_goes_as_several_requests(tiers: TritonServer, protocol: str, ask: Ask) -> None:
    images = np.repeat(grid_images(2), 35, axis=0)
    assert len(images) > 64
    answers = ask(url_of(tiers, protocol), "confirm", images, radius=RADIUS, n=32, alpha=1e-3)
    with Client(url_of(tiers, protocol), model="tiny") as client:
        assert [answer.label for answer in answers] == [prediction.label for prediction in client.predict(images)]


@CLIENTS
@PROTOCOLS
def test_a_cascade_says_which_way_it_took(tiers: TritonServer, protocol: str, ask: Ask) -> None:
    images, url = grid_images(12), url_of(tiers, protocol)
    with Client(url, model="tiny") as client:
        radius = max(prediction.certified_radius for prediction in client.predict(images))
    claimed = ask(url, "cascade", images, radius=radius, n=400)
    assert {answer.tier for answer in claimed} == {Tier.ONE_PASS, Tier.CONFIRM}
    for answer in claimed:
        assert answer.certified_radius is not None
        assert (answer.tier is Tier.ONE_PASS) == (answer.certified_radius < radius)
        assert (answer.tier is Tier.ONE_PASS) == (answer.reason is TierReason.NOT_CLAIMED)
        assert not answer or answer.votes
    for answer in ask(url, "cascade", images, radius=radius, mode=Mode.ANY, n=400):
        assert answer.tier is Tier.CONFIRM


@CLIENTS
@PROTOCOLS
def test_certify_tightens_and_ends_near_certify_of_a_fixed_size(tiers: TritonServer, protocol: str, ask: Ask) -> None:
    images, url = grid_images(3), url_of(tiers, protocol)
    fixed = ask(url, "certify_fixed", images, n=400)
    assert {answer.votes for answer in fixed} == {500}
    surest = int(np.argmax([answer.proven_radius for answer in fixed]))
    bounds = ask(url, "certify", images[surest], n=400)
    assert all(bound.reason is TierReason.TIGHTENING for bound in bounds[:-1])
    assert bounds[-1].reason is TierReason.PROVEN
    radii = [bound.proven_radius for bound in bounds]
    assert len(radii) > 3
    assert radii == sorted(radii)
    assert bounds[-1].label == fixed[surest].label
    assert bounds[-1].proven_radius == pytest.approx(fixed[surest].proven_radius, abs=0.1)  # other votes
    assert bounds[-1].p_lower is not None
    assert bounds[-1].classes == (bounds[-1].label,)


@PROTOCOLS
def test_a_float32_image_is_answered_with_its_sampling(tiers: TritonServer, protocol: str) -> None:
    image = np.random.default_rng(0).random((1, 8, 8), np.float32)
    (answer,) = ask_blocking(url_of(tiers, protocol), "certify_fixed", image, n=50)
    assert answer.sampling == "float32"


def cancelled(server: TritonServer) -> float:
    """Streams that the server has given up since nobody waits for them."""
    return value_of(server.metrics, REQUESTS, model="tiny", tier="certify_stream", outcome="cancelled")


def leave_a_loop(url: str) -> None:
    with Client(url, model="tiny", timeout=PATIENT_SECONDS) as client:
        for answer in client.certify(grid_images(1), n=100_000):
            assert answer.reason is TierReason.TIGHTENING
            break


def leave_an_asyncio_loop(url: str) -> None:
    async def ask() -> None:
        async with (
            AsyncClient(url, model="tiny", timeout=PATIENT_SECONDS) as client,
            aclosing(client.certify(grid_images(1), n=100_000)) as answers,
        ):
            async for answer in answers:
                assert answer.reason is TierReason.TIGHTENING
                break

    asyncio.run(ask())


@pytest.mark.parametrize("leave", [leave_a_loop, leave_an_asyncio_loop])
@PROTOCOLS
def test_leaving_a_stream_gives_it_up_on_the_server(
    tiers: TritonServer, protocol: str, leave: Callable[[str], None]
) -> None:
    before = cancelled(tiers)
    leave(url_of(tiers, protocol))
    end = time.monotonic() + 30
    while cancelled(tiers) == before:
        assert time.monotonic() < end
        time.sleep(0.2)


@PROTOCOLS
def test_a_client_that_is_closed_lets_a_stream_end(tiers: TritonServer, protocol: str) -> None:
    async def ask() -> list[TierAnswer]:
        client = AsyncClient(url_of(tiers, protocol), model="tiny", timeout=PATIENT_SECONDS)
        answers = client.certify(grid_images(1)[0], n=100_000)
        first = await anext(answers)
        await client.close()
        return [first, *[answer async for answer in answers]]

    answers = asyncio.run(ask())
    assert [answer.reason for answer in answers[:-1]] == [TierReason.TIGHTENING] * (len(answers) - 1)
    assert answers[-1].reason is TierReason.PROVEN


@PROTOCOLS
def test_asyncio_tasks_ask_at_once(tiers: TritonServer, protocol: str) -> None:
    async def ask() -> list[list[TierAnswer]]:
        async with AsyncClient(url_of(tiers, protocol), model="tiny", timeout=PATIENT_SECONDS) as client:
            asked = (client.confirm(grid_images(2, seed=seed), radius=RADIUS, n=100) for seed in range(8))
            return await asyncio.gather(*asked)

    with Client(url_of(tiers, protocol), model="tiny") as client:
        for seed, answers in enumerate(asyncio.run(ask())):
            labels = [prediction.label for prediction in client.predict(grid_images(2, seed=seed))]
            assert [answer.label for answer in answers] == labels


@CLIENTS
@PROTOCOLS
def test_a_deadline_that_passes_is_undecided(tiers: TritonServer, protocol: str, ask: Ask) -> None:
    voter = voter_of(tiers, "tiny")
    os.kill(voter, signal.SIGSTOP)  # or a machine that is quick answers in time
    try:
        (answer,) = ask(url_of(tiers, protocol), "confirm", grid_images(1), radius=RADIUS, deadline=0.1)
    finally:
        os.kill(voter, signal.SIGCONT)
    assert answer.outcome is Outcome.UNDECIDED
    assert answer.reason is TierReason.DEADLINE
    assert not answer


@CLIENTS
@PROTOCOLS
def test_a_full_queue_says_when_to_ask_again(tiers: TritonServer, protocol: str, ask: Ask) -> None:
    url = url_of(tiers, protocol)
    assert len(ask(url, "confirm", grid_images(QUEUE), model="narrow", radius=RADIUS, n=100)) == QUEUE
    with pytest.raises(OverloadedError, match=rf"queue is full: expected at most {QUEUE} images .* ask again") as error:
        ask(url, "confirm", grid_images(2 * QUEUE), model="narrow", radius=RADIUS, n=100)
    assert error.value.retry_after is not None
    assert error.value.retry_after >= 1


@CLIENTS
@PROTOCOLS
def test_a_tier_that_is_not_offered(tiers: TritonServer, protocol: str, ask: Ask) -> None:
    message = "model 'lone': expected the tier confirm, found that this server offers the single pass, certify of this"
    with pytest.raises(ServingError, match=message):
        ask(url_of(tiers, protocol), "confirm", grid_images(1), model="lone", radius=RADIUS)
    with pytest.raises(ServingError, match="unknown model: 'nobody' is not found"):
        ask(url_of(tiers, protocol), "confirm", grid_images(1), model="nobody", radius=RADIUS)
    with pytest.raises(
        ServingError, match="'lone_certify': expected the name of a model, got that of its tier certify; n"
    ):
        ask(url_of(tiers, protocol), "certify_fixed", grid_images(1), model="lone_certify")


@pytest.mark.parametrize(
    ("method", "asked", "message"),
    [
        ("confirm", {"radius": RADIUS, "alpha": 0.1}, r"alpha: expected a number from 1e-09 to 0\.001, got 0\.1"),
        ("confirm", {"radius": RADIUS, "n": 10**6}, "n: expected a whole number from 1 to 100000, got 1000000"),
        ("confirm", {"radius": RADIUS, "n": 10}, "n: expected at least"),
        ("confirm", {"radius": -1.0}, "radius: expected a number"),
        ("confirm", {"radius": float("nan")}, "radius: expected a finite number, got nan"),
        ("confirm", {"radius": RADIUS, "n": 1.5}, r"n: expected a whole number, got 1\.5"),
        ("confirm", {"radius": str(RADIUS)}, "radius: expected a finite number, got '0"),
        ("confirm", {"radius": RADIUS, "n": 2**70}, "n: expected a whole number of 64 bits, got 1.18e"),
        ("confirm", {"radius": RADIUS, "deadline": 0}, "deadline: expected seconds above 0, got 0"),
        ("confirm", {"radius": RADIUS, "deadline": "5"}, "deadline: expected a finite number, got '5'"),
        (
            "confirm",
            {"radius": RADIUS, "deadline": PATIENT_SECONDS},
            "deadline: expected less than the client's timeout, 300 s",
        ),
        (
            "certify",
            {"deadline": 2 * PATIENT_SECONDS},
            "deadline: expected at most 300 s, which is what the operator allows, got 600 s",
        ),
        ("cascade", {"radius": RADIUS, "mode": "both"}, "mode: expected claimed or any, got 'both'"),
        ("certify_fixed", {"top_k": 10}, "top_k: expected"),
        ("certify", {"n0": 10**6}, "n0: expected a whole number from 1 to 1000, got 1000000"),
        ("certify", {"alpha": 0.1}, r"alpha: expected a number from 1e-09 to 0\.001, got 0\.1"),
    ],
)
@CLIENTS
def test_what_is_asked_is_checked(
    tiers: TritonServer, method: str, asked: dict[str, Any], message: str, ask: Ask
) -> None:
    for protocol in ("grpc", "http"):
        with pytest.raises(ServingError, match=message):
            ask(url_of(tiers, protocol), method, grid_images(1), **asked)


def test_a_client_that_would_give_up_before_the_default_deadline_is_told(tiers: TritonServer) -> None:
    with (
        Client(tiers.endpoints.grpc_url, model="tiny", timeout=10) as client,
        pytest.raises(
            ServingError, match="timeout, 10 s, got 150 s, the server's default; ask with an earlier deadline"
        ),
    ):
        client.confirm(grid_images(1), radius=RADIUS)


def test_one_image_is_certified_at_a_time(tiers: TritonServer) -> None:
    with (
        Client(tiers.endpoints.grpc_url, model="tiny", timeout=PATIENT_SECONDS) as client,
        pytest.raises(ServingError, match="image: expected one image, found a batch of 2"),
    ):
        client.certify(grid_images(2))


def test_the_server_tells_promise_and_limits_of_a_tier(tiers: TritonServer) -> None:
    with Client(tiers.endpoints.grpc_url, model="narrow") as client:
        spec = client.tier(TierModel.CONFIRM)
        assert client.tier(TierModel.CONFIRM) is spec  # asked once
    assert spec.name == "narrow_confirm"
    assert spec.limits == TierLimits(
        queue=QUEUE, deadline_ms=int(PATIENT_SECONDS * 500), most_deadline_ms=int(PATIENT_SECONDS * 1000)
    )
    assert spec.promise is not None
    assert spec.promise.startswith("The outcome yes says that the smoothed classifier")


class LyingProxy(service_pb2_grpc.GRPCInferenceServiceServicer):  # type: ignore[misc]  # untyped
    """Passes requests on to a real server, and changes one output of what its tiers answer."""

    def __init__(self, triton: grpc.Channel) -> None:
        self._triton = service_pb2_grpc.GRPCInferenceServiceStub(triton)
        self.lie = ("", b"")

    def ModelConfig(self, request: Any, _context: object) -> Any:
        return self._triton.ModelConfig(request)

    def ModelInfer(self, request: Any, _context: object) -> Any:
        return self._changed(self._triton.ModelInfer(request))

    def ModelStreamInfer(self, requests: Any, _context: object) -> Any:
        for answer in self._triton.ModelStreamInfer(requests):
            self._changed(answer.infer_response)
            yield answer

    def _changed(self, answer: service_pb2.ModelInferResponse) -> service_pb2.ModelInferResponse:
        name, content = self.lie
        for index, output in enumerate(answer.outputs):
            if output.name == name and len(answer.outputs) > 1:
                answer.raw_output_contents[index] = content
        return answer


@pytest.fixture
def proxy(tiers: TritonServer) -> Iterator[tuple[str, LyingProxy]]:
    address = tiers.endpoints.grpc_url.removeprefix("grpc://")
    with grpc.insecure_channel(address) as channel, ThreadPoolExecutor(2) as pool:
        proxy, server = LyingProxy(channel), grpc.server(pool)
        service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(proxy, server)
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        yield f"grpc://127.0.0.1:{port}", proxy
        server.stop(None).wait()


def code(name: str, word: str) -> bytes:
    """One word of an output as Triton sends it."""
    return np.int64(code_of(name, word)).tobytes()


@CLIENTS
def test_a_lie_about_a_proof_is_refused(proxy: tuple[str, LyingProxy], ask: Ask) -> None:
    url, liar = proxy
    (image,) = grid_images(1)
    hopeless = {"radius": 8 * RADIUS, "n": 400}
    (honest,) = ask(url, "confirm", image, **hopeless)
    assert not honest
    for name, content in (
        ("outcome", code("outcome", "yes")),
        ("proven_radius", np.float32(8 * RADIUS).tobytes()),
        ("reason", code("reason", "proven")),
        ("label", np.int64(99).tobytes()),
        ("alpha", np.float64(1e-3).tobytes()),
    ):
        liar.lie = (name, content)
        with pytest.raises(ServingError, match=r"expected .* from the server, found"):
            ask(url, "confirm", image, **hopeless)
    for name, content in (("proven_radius", np.float32(np.inf).tobytes()), ("tier", code("tier", "one pass"))):
        liar.lie = (name, content)
        with pytest.raises(ServingError, match=rf"{name}: expected .* from the server, found"):
            ask(url, "certify", image, n=200)


@CLIENTS
def test_a_picture_of_any_size_is_certified_over_grpc_only(tiers: TritonServer, ask: Ask) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (12, 9, 1), dtype=np.uint8)
    bounds = ask(tiers.endpoints.grpc_url, "certify", picture, model="pictures", n=100)
    assert bounds[-1].reason is not TierReason.TIGHTENING
    assert bounds[-1].sampling == "grid"
    with pytest.raises(ServingError, match="image: expected gRPC for a stream about a picture of any size, got HTTP"):
        ask(tiers.endpoints.http_url, "certify", picture, model="pictures", n=100)


CONFIRM = f"""
import sys
sys.modules.update(dict.fromkeys({ABSENT}))
import heatserve
import numpy as np
with heatserve.Client(sys.argv[1], model="tiny", timeout={PATIENT_SECONDS}) as client:
    (answer,) = client.confirm(np.full((1, 8, 8), 0.6, np.float32), radius={RADIUS}, n=100)
    print(answer.outcome.value)
    print([bound.votes for bound in client.certify(np.full((1, 8, 8), 0.6, np.float32), n=100)][-1])
sys.argv = ["heatserve", "predict", sys.argv[2], "--url", sys.argv[1], "--model", "tiny", "--confirm", "{RADIUS}"]
from heatserve.cli import main
main()
"""


@PROTOCOLS
def test_asking_for_a_proof_needs_only_what_the_extra_of_clients_installs(
    tiers: TritonServer, tmp_path: Path, protocol: str
) -> None:
    np.save(tmp_path / "image.npy", grid_images(1))
    command = [sys.executable, "-c", CONFIRM, url_of(tiers, protocol), str(tmp_path / "image.npy")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENT_SECONDS, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\n")[1] == "200"
    assert "never confirm another class" in " ".join(done.stdout.split())
