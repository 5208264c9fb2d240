"""What the server itself answers to callers that check nothing: errors that name what is wrong, and in which image."""

from __future__ import annotations

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.http
from numpy.typing import NDArray
from tiny_model import random_images
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from heatserve import TritonServer

INVALID_ARGUMENT = ("StatusCode.INVALID_ARGUMENT", "400")


class Caller:
    """A connection of tritonclient and nothing more."""

    def __init__(self, package: ModuleType, server: TritonServer) -> None:
        protocol = package.__name__.rpartition(".")[2]
        address = getattr(server.endpoints, f"{protocol}_url").split("://")[1]
        self.package = package
        self.connection = package.InferenceServerClient(address)

    def infer(self, images: NDArray[Any], *, model: str = "tiny", output: str = "label") -> NDArray[Any]:
        tensor = self.package.InferInput("image", images.shape, np_to_triton_dtype(images.dtype))
        tensor.set_data_from_numpy(images)
        wanted = [self.package.InferRequestedOutput(output)]
        answer = self.connection.infer(model, [tensor], outputs=wanted).as_numpy(output)
        assert isinstance(answer, np.ndarray)
        return answer


@pytest.fixture(params=[tritonclient.grpc, tritonclient.http], ids=["grpc", "http"])
def caller(request: pytest.FixtureRequest, triton: TritonServer) -> Iterator[Caller]:
    caller = Caller(request.param, triton)
    yield caller
    caller.connection.close()


def with_pixel(value: float) -> NDArray[np.float32]:
    images = random_images(3)
    images[1, 0, 2, 3] = value
    return images


@pytest.mark.parametrize(
    ("images", "parts"),
    [
        (with_pixel(np.nan), ["image: expected finite values in [0,1]", "image 1 of 3 has 1 NaN of 64 values"]),
        (with_pixel(np.inf), ["image: expected finite", "image 1 of 3 has 1 infinite"]),
        (with_pixel(-np.inf), ["image: expected finite", "image 1 of 3 has 1 infinite"]),
        (with_pixel(-0.5), ["image: expected finite", "image 1 of 3 has 1 outside [0,1]", "min -0.5 and max 0."]),
        (with_pixel(1.0000001), ["image: expected finite", "image 1 of 3 has 1 outside [0,1]"]),
        (random_images(3) + 2, ["image 0 of 3 has 64 outside [0,1]", "image 2 of 3 has 64 outside [0,1]"]),
        (random_images(2).astype(np.float64), ["'image' data-type is 'FP64'", "expects 'FP32'"]),
        (np.zeros((2, 1, 8, 8), np.uint8), ["'image' data-type is 'UINT8'", "expects 'FP32'"]),
        (np.zeros((2, 1, 9, 8), np.float32), ["'image'", "Expected [-1,1,8,8], got [2,1,9,8]"]),
        (np.zeros((1, 8, 8), np.float32), ["'image'", "Expected [-1,1,8,8], got [1,8,8]"]),
        (random_images(65), ["batch-size must be <= 64 for 'tiny'"]),
        (random_images(0), ["'image'", "Expected 256, got 0"]),
    ],
)
def test_invalid_input_is_refused_and_the_next_answered(caller: Caller, images: NDArray[Any], parts: list[str]) -> None:
    with pytest.raises(InferenceServerException) as caught:
        caller.infer(images)
    assert caught.value.status() in INVALID_ARGUMENT
    for part in parts:
        assert part in caught.value.message()
    assert caller.infer(random_images(2)).shape == (2, 1)


def test_unknown_output_is_refused(caller: Caller) -> None:
    with pytest.raises(InferenceServerException, match=re.escape("unexpected inference output 'radius'")):
        caller.infer(random_images(1), output="radius")


def test_bad_request_does_not_harm_those_it_was_batched_with(triton: TritonServer) -> None:
    def ask(images: NDArray[np.float32]) -> Any:
        """The radii, or the error's message."""
        caller = Caller(tritonclient.grpc, triton)
        try:
            return caller.infer(images, model="patient", output="certified_radius")
        except InferenceServerException as error:
            return error.message()
        finally:
            caller.connection.close()

    def executions() -> int:
        caller = Caller(tritonclient.grpc, triton)
        statistics = caller.connection.get_inference_statistics("patient").model_stats[0]
        caller.connection.close()
        return int(statistics.execution_count)

    before = executions()
    with ThreadPoolExecutor(3) as pool:
        first, bad, last = pool.map(ask, [random_images(2, seed=1), with_pixel(np.nan), random_images(4, seed=2)])
    assert executions() == before + 1, "the requests did not meet in one batch"
    assert "image 1 of 3 has 1 NaN" in bad
    for answer, images in ((first, random_images(2, seed=1)), (last, random_images(4, seed=2))):
        np.testing.assert_allclose(answer, ask(images), rtol=1e-6)


@pytest.mark.parametrize("path", ["systemsharedmemory/status", "repository/index", "logging", "trace/setting"])
def test_apis_that_open_the_machine_are_closed(triton: TritonServer, path: str) -> None:
    import http.client

    connection = http.client.HTTPConnection(triton.endpoints.http_url.removeprefix("http://"))
    connection.request("POST" if path == "repository/index" else "GET", f"/v2/{path}")
    assert connection.getresponse().status == http.client.FORBIDDEN
    connection.close()
