"""What a client gets: the graph's own numbers, over both protocols, or an error that says what to change."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tiny_model import CLASS_NAMES, random_images

from heatserve import AsyncClient, Client, Prediction, ServingError, TritonServer
from heatserve.export.card import GRAPH_NAME
from heatserve.export.runtime.session import open_session, run

PROTOCOLS = pytest.mark.parametrize("protocol", ["grpc", "http"])


def url_of(server: TritonServer, protocol: str) -> str:
    return str(getattr(server.endpoints, f"{protocol}_url"))


@pytest.fixture(scope="module")
def in_process(tiny_repository: Path) -> Callable[[NDArray[np.float32]], dict[str, NDArray[Any]]]:
    session = open_session(tiny_repository / "tiny" / "1" / GRAPH_NAME)
    return lambda images: run(session, images)


def assert_same(predictions: list[Prediction], expected: dict[str, NDArray[Any]], *, rtol: float = 0.0) -> None:
    """Bit for bit, unless `rtol` is given: where Triton batches requests together, a product's last bits may differ."""
    for name in ("label", "probabilities", "top_k", "l_bound", "certified_radius", "nominal_radius"):
        found = [getattr(prediction, name) for prediction in predictions]
        np.testing.assert_allclose(found, expected[name], rtol=rtol, atol=rtol)


@PROTOCOLS
def test_served_numbers_are_the_graphs(triton: TritonServer, in_process: Any, protocol: str) -> None:
    images = random_images(5)
    with Client(url_of(triton, protocol), model="tiny") as client:
        predictions = client.predict(images)
        assert_same(predictions, in_process(images))
        assert_same(client.predict(images[2]), in_process(images[2:3]))
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


def test_large_batches_are_split(triton: TritonServer, in_process: Any) -> None:
    images = random_images(150)
    with Client(triton.endpoints.grpc_url, model="tiny") as client:
        assert client.spec().max_batch_size == 64
        predictions = client.predict(images)
    assert [prediction.label for prediction in predictions] == in_process(images)["label"].tolist()


def test_uint8_images_are_channels_last(triton: TritonServer, in_process: Any) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (2, 8, 8, 1), dtype=np.uint8)
    with Client(triton.endpoints.grpc_url, model="tiny") as client:
        expected = in_process(pixels.transpose(0, 3, 1, 2) / np.float32(255))
        assert_same(client.predict(pixels), expected)


@PROTOCOLS
def test_uncalibrated_model_certifies_nothing(triton: TritonServer, protocol: str) -> None:
    with Client(url_of(triton, protocol), model="uncalibrated") as client:
        for prediction in client.predict(random_images(20)):
            assert prediction.certified_radius == prediction.l_bound == 0 < prediction.nominal_radius


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
def test_images_are_checked_before_they_are_sent(triton: TritonServer, images: NDArray[Any], message: str) -> None:
    with (
        Client(triton.endpoints.grpc_url, model="tiny") as client,
        pytest.raises(ServingError, match=re.escape(message)),
    ):
        client.predict(images)


@PROTOCOLS
def test_unknown_model(triton: TritonServer, protocol: str) -> None:
    with (
        Client(url_of(triton, protocol), model="nobody") as client,
        pytest.raises(ServingError, match="unknown model: 'nobody'"),
    ):
        client.predict(random_images(1))


@PROTOCOLS
def test_no_server(protocol: str) -> None:
    message = f"{protocol}://127.0.0.1:9: no server answers here .*heatserve serve"
    with Client(f"{protocol}://127.0.0.1:9", model="tiny") as client, pytest.raises(ServingError, match=message):
        client.predict(random_images(1))

    async def ask() -> None:
        async with AsyncClient(f"{protocol}://127.0.0.1:9", model="tiny") as client:
            await client.predict(random_images(1))

    with pytest.raises(ServingError, match=message):
        asyncio.run(ask())


@PROTOCOLS
def test_answer_that_comes_too_late(triton: TritonServer, protocol: str) -> None:
    with (
        Client(url_of(triton, protocol), model="patient", timeout=0.05) as client,
        pytest.raises(ServingError, match="no answer in time"),
    ):
        client.predict(random_images(1))


@pytest.mark.parametrize("url", ["ftp://127.0.0.1:8001", "127.0.0.1", "grpc://127.0.0.1"])
def test_malformed_url(url: str) -> None:
    with pytest.raises(ServingError, match="url: expected grpc://host:port"):
        Client(url, model="tiny")
