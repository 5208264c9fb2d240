"""What a real server counts of the single pass: its callers' requests, all of them, and nothing of its own."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc
from fronts import front_before
from numpy.typing import NDArray
from tiny_model import CLASS_NAMES, delay_batches, random_images, write_tiny_model
from tritonclient.grpc import service_pb2
from tritonclient.utils import InferenceServerException

from heatserve import FREE_PORTS, Client, ServingError, TritonServer
from heatserve.export.repository.layout import open_model
from heatserve.serving.front.counted import PassedCounts
from heatserve.serving.front.state import state_of_triton
from heatserve.serving.observed.counting import INVALID_REASONS, class_groups
from heatserve.serving.observed.facts import declare_models
from heatserve.serving.observed.families import (
    ANSWERS,
    CERTIFIED_RADIUS,
    CLASS_ANSWERS,
    INVALID_INPUTS,
    REQUEST_SECONDS,
    REQUESTS,
    Family,
)
from heatserve.serving.observed.page import page, value_of
from heatserve.serving.observed.recorder import Recorder


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonServer]:
    """The models `tiny` and `patient`, which collects requests for a fifth of a second; nobody else asks them."""
    if sys.platform != "linux":
        pytest.skip("Triton runs on Linux only")
    repository = tmp_path_factory.mktemp("repository")
    write_tiny_model(repository)
    delay_batches(write_tiny_model(repository, "patient"), microseconds=200_000)
    with TritonServer(repository, endpoints=FREE_PORTS) as server:
        yield server


def counts(server: TritonServer, family: Family, *names: str, label: str) -> dict[str, float]:
    return {name: value_of(server.metrics, family, model="tiny", **{label: name}) for name in names}


def test_the_warm_up_and_the_questions_of_the_server_are_not_counted(server: TritonServer) -> None:
    time.sleep(2)  # it asks each model every second
    for family in (REQUESTS, REQUEST_SECONDS, ANSWERS, CERTIFIED_RADIUS, CLASS_ANSWERS, INVALID_INPUTS):
        assert value_of(server.metrics, family) == 0
    text = page(server.metrics)
    assert 'heatserve_requests_total{model="tiny",tier="one_pass",outcome="answered"} 0\n' in text
    assert 'heatserve_answers_total{model="tiny",reason="unsure"} 0\n' in text


@pytest.mark.parametrize("outputs", [None, ["certified_radius"]])
def test_images_are_counted_as_they_are_answered_whatever_was_asked_for(
    server: TritonServer, outputs: list[str] | None
) -> None:
    before = page(server.metrics)
    images = random_images(40, seed=3)
    with Client(server.endpoints.grpc_url, model="tiny") as client:
        full = client.predict(images)
        radii = value_of(server.metrics, CERTIFIED_RADIUS, model="tiny")
        calibrated = value_of(server.metrics, ANSWERS, model="tiny", reason="calibrated")
        classes = counts(server, CLASS_ANSWERS, *CLASS_NAMES, label="class")
        client.predict(images[:20], outputs=outputs) if outputs else client.predict(images[:20])
        client.predict(images[20:], outputs=outputs) if outputs else client.predict(images[20:])
    assert before != page(server.metrics)
    assert value_of(server.metrics, CERTIFIED_RADIUS, model="tiny") == radii + 40
    for name, images_ in counts(server, CLASS_ANSWERS, *CLASS_NAMES, label="class").items():
        assert images_ - classes[name] == sum(answer.class_name == name for answer in full)
    reasons = counts(server, ANSWERS, "calibrated", "unsure", label="reason")
    assert reasons["calibrated"] - calibrated == sum(answer.certified_radius > 0 for answer in full)
    assert sum(reasons.values()) == value_of(server.metrics, CERTIFIED_RADIUS, model="tiny")


def test_a_request_and_its_time_are_counted_once_also_in_a_batch_of_several(server: TritonServer) -> None:
    with tritonclient.grpc.InferenceServerClient(server.endpoints.grpc_url.split("://")[1]) as client:
        answers: list[object] = []
        good, bad = random_images(1), np.full((1, 1, 8, 8), np.nan, np.float32)
        for images in (good, bad, good):
            client.async_infer("patient", [tensor(images)], lambda result, error: answers.append(error or result))
        deadline = time.monotonic() + 60
        while len(answers) < 3 and time.monotonic() < deadline:
            time.sleep(0.02)
    assert sum(isinstance(answer, InferenceServerException) for answer in answers) == 1
    labels = {"model": "patient", "tier": "one_pass"}
    assert value_of(server.metrics, REQUESTS, outcome="answered", **labels) == 2
    assert value_of(server.metrics, REQUESTS, outcome="invalid", **labels) == 1
    assert value_of(server.metrics, REQUEST_SECONDS, **labels) == 3
    assert value_of(server.metrics, CERTIFIED_RADIUS, model="patient") == 2
    assert value_of(server.metrics, INVALID_INPUTS, model="patient") == 1


def tensor(images: NDArray[np.float32]) -> tritonclient.grpc.InferInput:
    found = tritonclient.grpc.InferInput("image", images.shape, "FP32")
    found.set_data_from_numpy(images)
    return found


@pytest.mark.parametrize(
    ("value", "reason"), [(np.nan, "nan"), (np.inf, "infinite"), (-0.5, "range"), (1.0000001, "range")]
)
def test_an_invalid_input_is_counted_by_what_is_wrong(server: TritonServer, value: float, reason: str) -> None:
    images = random_images(3)
    images[1, 0, 2, 3] = value
    before = counts(server, INVALID_INPUTS, *INVALID_REASONS, label="reason")
    images_before = value_of(server.metrics, CERTIFIED_RADIUS, model="tiny")
    with Client(server.endpoints.grpc_url, model="tiny") as client, pytest.raises(ServingError, match="image 1 of 3"):
        client._connection.infer("tiny", images, classes=10)
    after = counts(server, INVALID_INPUTS, *INVALID_REASONS, label="reason")
    assert {name for name in after if after[name] != before[name]} == {reason}
    assert after[reason] == before[reason] + 1
    # No answer was given: the two valid images of a request that was refused are not counted.
    assert value_of(server.metrics, CERTIFIED_RADIUS, model="tiny") == images_before


def test_where_the_backend_counts_nothing_the_front_counts_what_passes(server: TritonServer) -> None:
    """As before NVIDIA's own backend, which answers invalid images with label −1; here ours answers an error."""
    images = random_images(5, seed=4)
    with front_before(state_of_triton(server)) as front, Client(front.url, model="tiny") as client:
        client.predict(images)
        assert value_of(front.folder, REQUESTS) == 0
        tiny = [model for model in server.models if model.name == "tiny"]
        declare_models(front.folder, tiny, passed=True)
        declare_models(front.folder, tiny)  # as after a switch
        answers = client.predict(images)
        client.predict(images[:2], outputs=["certified_radius"])
        with pytest.raises(ServingError, match="NaN"):
            client._connection.infer("tiny", images * np.float32(np.nan), classes=10)
        with Client(front.url, model="patient") as other:
            other.predict(images)
        folder = front.folder
        assert value_of(folder, REQUESTS, model="tiny", tier="one_pass", outcome="answered") == 2
        assert value_of(folder, REQUESTS, model="tiny", tier="one_pass", outcome="invalid") == 1
        assert value_of(folder, REQUESTS) == value_of(folder, REQUEST_SECONDS) == 3
        assert value_of(folder, CERTIFIED_RADIUS, model="tiny") == 7
        assert value_of(folder, CLASS_ANSWERS, model="tiny") == 7  # the client asks for the label in any case
        assert value_of(folder, ANSWERS, model="tiny") == 5
        for name in CLASS_NAMES:
            expected = sum(answer.class_name == name for answer in answers[:5]) + sum(
                answer.class_name == name for answer in answers[:2]
            )
            assert value_of(folder, CLASS_ANSWERS, model="tiny", **{"class": name}) == expected


@pytest.mark.parametrize("label", [0, -1])
def test_an_answer_that_says_that_an_image_is_invalid_is_counted_so(tmp_path: Path, label: int) -> None:
    """Such an answer as NVIDIA's own backend gives: no error, label −1 and reason 2."""
    write_tiny_model(tmp_path / "models")
    declare_models(tmp_path, [open_model(tmp_path / "models", "tiny")], passed=True)
    response = service_pb2.ModelInferResponse(model_name="tiny")
    for name, dtype, values in (
        ("label", np.int64, (label, 3)),
        ("certified_radius", np.float32, (0, 0.1)),
        ("reason", np.int64, (0 if label == 0 else 2, 0)),
    ):
        response.outputs.add(name=name, datatype="INT64" if dtype is np.int64 else "FP32", shape=[2, 1])
        response.raw_output_contents.append(np.array(values, dtype).tobytes())
    PassedCounts(Recorder(tmp_path), tmp_path).answered("tiny", response)
    assert value_of(tmp_path, INVALID_INPUTS, reason="other") == (label < 0)
    assert value_of(tmp_path, ANSWERS) == value_of(tmp_path, CERTIFIED_RADIUS) == 1 + (label >= 0)


def test_classes_are_at_most_a_hundred_groups() -> None:
    assert class_groups(["a", "b" * 1000]) == (["a", "b" * 100], 1)
    groups, width = class_groups([str(i) for i in range(1000)])
    assert (len(groups), width, groups[0], groups[-1]) == (100, 10, "0-9", "990-999")
    groups, width = class_groups([str(i) for i in range(101)])
    assert (len(groups), width, groups[-1]) == (51, 2, "100-100")
    assert len(class_groups(["x"] * 21_843)[0]) <= 100
