"""What a client gets: the graph's own numbers, over both protocols, or an error that says what to change."""

from __future__ import annotations

import asyncio
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc
from numpy.typing import NDArray
from tiny_model import CALIBRATION, CLASS_NAMES, random_images

from heatserve import AsyncClient, Client, ModelSpec, Prediction, ServingError, TritonServer
from heatserve.export.card import GRAPH_NAME
from heatserve.export.contract import Reason
from heatserve.export.runtime.session import open_session, run

PROTOCOLS = pytest.mark.parametrize("protocol", ["grpc", "http"])


def predict_blocking(url: str, model: str, images: NDArray[Any], timeout: float = 60.0) -> list[Prediction]:
    with Client(url, model=model, timeout=timeout) as client:
        return client.predict(images)


def predict_asyncio(url: str, model: str, images: NDArray[Any], timeout: float = 60.0) -> list[Prediction]:
    async def ask() -> list[Prediction]:
        async with AsyncClient(url, model=model, timeout=timeout) as client:
            return await client.predict(images)

    return asyncio.run(ask())


Predict = Callable[..., list[Prediction]]
CLIENTS = pytest.mark.parametrize("predict", [predict_blocking, predict_asyncio], ids=["blocking", "asyncio"])


def url_of(server: TritonServer, protocol: str) -> str:
    return str(getattr(server.endpoints, f"{protocol}_url"))


@pytest.fixture(scope="module")
def in_process(tiny_repository: Path) -> Callable[[NDArray[np.float32]], dict[str, NDArray[Any]]]:
    session = open_session(tiny_repository / "tiny" / "1" / GRAPH_NAME)
    return lambda images: run(session, images)


def assert_same(predictions: list[Prediction], expected: dict[str, NDArray[Any]], *, rtol: float = 0.0) -> None:
    """Bit for bit, unless `rtol` is given: where Triton batches requests together, a product's last bits may differ."""
    for name in ("label", "probabilities", "top_k", "l_bound", "certified_radius", "nominal_radius", "reason"):
        found = [getattr(prediction, name) for prediction in predictions]
        np.testing.assert_allclose(found, expected[name], rtol=rtol, atol=rtol)


@CLIENTS
@PROTOCOLS
def test_served_numbers_are_the_graphs(triton: TritonServer, in_process: Any, protocol: str, predict: Predict) -> None:
    images, url = random_images(5), url_of(triton, protocol)
    predictions = predict(url, "tiny", images)
    assert_same(predictions, in_process(images))
    assert_same(predict(url, "tiny", images[2]), in_process(images[2:3]))
    first = predictions[0]
    assert first.class_name == CLASS_NAMES[first.label]
    assert first.probability == first.probabilities[first.label] == first.probabilities.max()
    assert 0 < first.l_bound <= first.certified_radius < first.nominal_radius


@PROTOCOLS
def test_asyncio_tasks_share_a_connection(triton: TritonServer, in_process: Any, protocol: str) -> None:
    async def ask() -> list[list[Prediction]]:
        async with AsyncClient(url_of(triton, protocol), model="tiny") as client:
            assert (await client.spec()).input_shape == (1, 8, 8)
            return await asyncio.gather(*(client.predict(random_images(3, seed=seed)) for seed in range(8)))

    for seed, predictions in enumerate(asyncio.run(ask())):
        assert_same(predictions, in_process(random_images(3, seed=seed)), rtol=1e-5)


@PROTOCOLS
def test_threads_get_their_own_answers(triton: TritonServer, in_process: Any, protocol: str) -> None:
    def ask(seed: int) -> list[Prediction]:
        with Client(url_of(triton, protocol), model="tiny") as client:
            return [prediction for _ in range(10) for prediction in client.predict(random_images(1, seed=seed))]

    with ThreadPoolExecutor(8) as pool:
        for seed, predictions in enumerate(pool.map(ask, range(8))):
            assert {prediction.label for prediction in predictions} == {
                *in_process(random_images(1, seed=seed))["label"]
            }


@PROTOCOLS
def test_the_specification_says_what_the_model_takes(triton: TritonServer, protocol: str) -> None:
    with Client(url_of(triton, protocol), model="tiny") as client:
        assert client.spec() == ModelSpec((1, 8, 8), "FP32", 10, 64, CALIBRATION.promise)
        assert client.spec() is client.spec()  # asked once


@CLIENTS
@PROTOCOLS
def test_large_batches_are_split(triton: TritonServer, in_process: Any, protocol: str, predict: Predict) -> None:
    images = random_images(150)
    assert len(images) > 2 * 64
    predictions = predict(url_of(triton, protocol), "tiny", images)
    assert [prediction.label for prediction in predictions] == in_process(images)["label"].tolist()


@CLIENTS
@PROTOCOLS
def test_uint8_images_are_channels_last(triton: TritonServer, in_process: Any, protocol: str, predict: Predict) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (2, 8, 8, 1), dtype=np.uint8)
    expected = in_process(pixels.transpose(0, 3, 1, 2) / np.float32(255))
    assert_same(predict(url_of(triton, protocol), "tiny", pixels), expected)


@CLIENTS
@PROTOCOLS
def test_uncalibrated_model_certifies_nothing(triton: TritonServer, protocol: str, predict: Predict) -> None:
    for prediction in predict(url_of(triton, protocol), "uncalibrated", random_images(20)):
        assert prediction.certified_radius == prediction.l_bound == 0 < prediction.nominal_radius


@CLIENTS
@PROTOCOLS
def test_an_answer_says_why_its_radius_is_what_it_is(triton: TritonServer, protocol: str, predict: Predict) -> None:
    url, usual, black = url_of(triton, protocol), random_images(1), np.zeros((1, 1, 8, 8), np.float32)
    for model, images, reason in (
        ("guarded", usual, Reason.CALIBRATED),
        ("guarded", black, Reason.UNLIKE),
        ("tiny", black, Reason.UNSURE),
        ("uncalibrated", usual, Reason.NOT_CALIBRATED),
    ):
        (answer,) = predict(url, model, images)
        assert answer.reason is reason
        assert (answer.certified_radius > 0) == (reason is Reason.CALIBRATED)


@PROTOCOLS
def test_the_server_tells_the_promise_of_the_card(triton: TritonServer, protocol: str) -> None:
    for model, promise in (
        ("tiny", CALIBRATION.promise),
        ("uncalibrated", "none: the model is not calibrated, and every certified radius is 0"),
    ):
        with Client(url_of(triton, protocol), model=model) as client:
            assert client.promise() == promise

    async def ask() -> str | None:
        async with AsyncClient(url_of(triton, protocol), model="tiny") as client:
            return await client.promise()

    assert asyncio.run(ask()) == CALIBRATION.promise


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((2, 1, 8, 8)), "image: expected dtype float32 in [0,1], or uint8; found float64"),
        (
            np.zeros((2, 1, 9, 8), np.float32),
            "image: expected float32 [N,C,H,W] = [N,1,8,8], or one [1,8,8]; found [2,1,9,8]",
        ),
        (
            np.zeros((2, 1, 8, 8), np.uint8),
            "image: expected uint8 [N,H,W,C] = [N,8,8,1], or one [8,8,1]; found [2,1,8,8]",
        ),
        (np.zeros((0, 1, 8, 8), np.float32), "image: expected at least one image, found an empty batch"),
        (np.full((1, 8, 8), 255, np.float32), "has 64 outside [0,1] of 64 values (min 255 and max 255)"),
    ],
)
@CLIENTS
def test_images_are_checked_before_they_are_sent(
    triton: TritonServer, images: NDArray[Any], message: str, predict: Predict
) -> None:
    with pytest.raises(ServingError, match=re.escape(message)):
        predict(triton.endpoints.grpc_url, "tiny", images)


@CLIENTS
@PROTOCOLS
def test_unknown_model(triton: TritonServer, protocol: str, predict: Predict) -> None:
    message = f"{protocol}://.*unknown model: 'nobody'.*`heatserve serve` prints the names"
    with pytest.raises(ServingError, match=message):
        predict(url_of(triton, protocol), "nobody", random_images(1))


@CLIENTS
@PROTOCOLS
def test_no_server(protocol: str, predict: Predict) -> None:
    message = f"{protocol}://127.0.0.1:9: no server answers here .*heatserve serve"
    with pytest.raises(ServingError, match=message):
        predict(f"{protocol}://127.0.0.1:9", "tiny", random_images(1))


@pytest.fixture(params=[b"", b"SSH-2.0-OpenSSH_9.6\r\n"], ids=["hangs up", "speaks another protocol"])
def stranger(request: pytest.FixtureRequest) -> Iterator[str]:
    """`host:port` of something that is no Triton: it says this much to each connection and closes it."""
    with socket.create_server(("127.0.0.1", 0)) as listener, ThreadPoolExecutor(1) as pool:

        def serve() -> None:
            while True:
                connection, _ = listener.accept()
                with connection:
                    if connection.recv(65536) == b"stop":
                        return
                    connection.sendall(request.param)

        pool.submit(serve)
        host, port = listener.getsockname()
        yield f"{host}:{port}"
        with socket.create_connection((host, port)) as last:
            last.sendall(b"stop")


@CLIENTS
@PROTOCOLS
def test_something_else_that_listens(stranger: str, protocol: str, predict: Predict) -> None:
    with pytest.raises(ServingError, match=f"{protocol}://{stranger}: no server answers here .*heatserve serve"):
        predict(f"{protocol}://{stranger}", "tiny", random_images(1))


@CLIENTS
@PROTOCOLS
def test_answer_that_comes_too_late(triton: TritonServer, protocol: str, predict: Predict) -> None:
    with pytest.raises(ServingError, match="no answer in time"):
        predict(url_of(triton, protocol), "patient", random_images(1), timeout=0.05)


@PROTOCOLS
def test_a_task_that_gives_up_leaves_the_connection_usable(triton: TritonServer, protocol: str) -> None:
    async def ask() -> list[Prediction]:
        async with AsyncClient(url_of(triton, protocol), model="patient") as client:
            await client.spec()
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(client.predict(random_images(1)), 0.05)
            return await client.predict(random_images(2))

    assert len(asyncio.run(ask())) == 2


def give_up_at_the_timeout(url: str) -> None:
    with pytest.raises(ServingError, match="no answer in time"):
        predict_blocking(url, "patient", random_images(2), timeout=0.05)


def give_up_by_cancelling_the_task(url: str) -> None:
    with pytest.raises(asyncio.TimeoutError):
        asyncio.run(asyncio.wait_for(predict_in_a_task(url), 0.05))


async def predict_in_a_task(url: str) -> list[Prediction]:
    async with AsyncClient(url, model="patient") as client:
        return await client.predict(random_images(2))


@pytest.mark.parametrize("give_up", [give_up_at_the_timeout, give_up_by_cancelling_the_task])
def test_over_grpc_the_server_does_not_run_what_nobody_waits_for(
    triton: TritonServer, give_up: Callable[[str], None]
) -> None:
    url = triton.endpoints.grpc_url
    statistics = tritonclient.grpc.InferenceServerClient(url.removeprefix("grpc://"))

    def counts() -> tuple[int, int]:
        """Batches of several images that `patient` was run on, unlike those of the watch, and requests that failed."""
        found = statistics.get_inference_statistics("patient").model_stats[0]
        several = sum(batch.compute_infer.count for batch in found.batch_stats if batch.batch_size > 1)
        return several, found.inference_stats.fail.count

    run_before, failed_before = counts()
    deadline = time.monotonic() + 30
    while counts()[1] == failed_before:
        assert time.monotonic() < deadline
        give_up(url)  # on a busy machine perhaps before the request was sent
        time.sleep(0.5)
    assert counts()[0] == run_before
    statistics.close()


@CLIENTS
@pytest.mark.parametrize("url", ["ftp://127.0.0.1:8001", "127.0.0.1", "grpc://127.0.0.1", "grpc://http://a:1"])
def test_malformed_url(url: str, predict: Predict) -> None:
    with pytest.raises(ServingError, match="url: expected grpc://host:port"):
        predict(url, "tiny", random_images(1))


def test_a_url_without_a_protocol_is_grpc(triton: TritonServer) -> None:
    address = triton.endpoints.grpc_url.removeprefix("grpc://")
    assert len(predict_blocking(address, "tiny", random_images(1))) == 1


ABSENT = ("torch", "onnx", "onnxruntime", "scipy", "sklearn")
ASK = f"""
import sys
import time
sys.modules.update(dict.fromkeys({ABSENT}))
import heatserve
import numpy as np
with heatserve.Client(sys.argv[1], model="tiny") as client:
    print(len(client.predict(np.zeros((3, 1, 8, 8), np.float32))))
sys.argv = ["heatserve", "predict", sys.argv[2], "--url", sys.argv[1], "--model", "tiny"]
from heatserve.cli import main
main()
"""


@PROTOCOLS
def test_the_client_needs_only_what_its_extra_installs(triton: TritonServer, tmp_path: Path, protocol: str) -> None:
    np.save(tmp_path / "image.npy", random_images(1))
    command = [sys.executable, "-c", ASK, url_of(triton, protocol), str(tmp_path / "image.npy")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("3\n")
    assert "certified" in done.stdout
