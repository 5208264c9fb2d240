"""What Triton makes of a model's settings: a queue that has an end, a warm-up that ran, what `heatserve tune` chose."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc
from numpy.typing import NDArray
from test_server import log_named_in
from tiny_model import delay_batches, random_images, write_tiny_model
from typer.testing import CliRunner

from heatserve import FREE_PORTS, Client, OverloadedError, ServingError, TritonServer
from heatserve.cli import app
from heatserve.export.card import read_card
from heatserve.export.repository.layout import CONFIG_NAME, write_model_config
from heatserve.export.repository.settings import THREADS, WARM_UP_PATH, read_config, write_config
from heatserve.serving.triton import watch
from heatserve.serving.tuning.closed_loop import LoadResult, closed_loop
from heatserve.serving.tuning.settings import TUNED, ServerSetting
from heatserve.serving.tuning.tune import TuningTrial, best_of, climb

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="Triton runs on Linux only"),
]


@pytest.fixture(scope="module")
def overloaded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonServer]:
    """`narrow` holds requests for 0.3 s and lets two wait; `hasty` lets none wait for more than 0.1 s."""
    repository = tmp_path_factory.mktemp("overloaded")
    for name, field, value in (
        ("narrow", "max_queue_size", 2),
        ("hasty", "default_timeout_microseconds", 100_000),
    ):
        version_dir = write_tiny_model(repository, name)
        delay_batches(version_dir, microseconds=300_000)
        config = read_config(version_dir.parent / CONFIG_NAME)
        setattr(config.dynamic_batching.default_queue_policy, field, value)
        write_config(version_dir.parent / CONFIG_NAME, config)
    with TritonServer(repository, endpoints=FREE_PORTS) as server:
        yield server


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_a_full_queue_refuses_and_says_so(overloaded: TritonServer, protocol: str) -> None:
    url = getattr(overloaded.endpoints, f"{protocol}_url")
    one_by_one, together = threading.Lock(), threading.Barrier(5)

    def ask(_: int) -> str | int:
        """How many images were answered, or why they were not."""
        with Client(url, model="narrow") as client:
            with one_by_one:
                client.spec()
            together.wait()
            try:
                return len(client.predict(random_images(1)))
            except OverloadedError as error:
                return str(error)

    with ThreadPoolExecutor(together.parties) as pool:
        answers = list(pool.map(ask, range(together.parties)))
    assert answers.count(1) == 2
    refused = (
        f"{url}: the server has more requests than it can answer and refused this one (Exceeds maximum queue size); "
        "ask again later, ask for less at a time, or serve the model with more instances or cores"
    )
    assert answers.count(refused) == 3
    with Client(url, model="narrow") as client:
        assert len(client.predict(random_images(1))) == 1


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_a_request_that_waits_too_long_is_refused(overloaded: TritonServer, protocol: str) -> None:
    with (
        Client(getattr(overloaded.endpoints, f"{protocol}_url"), model="hasty") as client,
        pytest.raises(OverloadedError, match=r"refused this one \(Request timeout expired\); ask again later"),
    ):
        client.predict(random_images(1))


def write_warm_up(version_dir: Path, image: NDArray[np.float32]) -> None:
    path = version_dir.parent / WARM_UP_PATH
    path.parent.mkdir()
    path.write_bytes(image.tobytes())
    write_model_config(version_dir.parents[1], read_card(version_dir))


def test_the_model_has_warmed_up_before_the_first_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "ASK_SECONDS", 60.0)  # its requests are counted, too
    write_warm_up(write_tiny_model(tmp_path), random_images(1))
    write_tiny_model(tmp_path, "black")
    with TritonServer(tmp_path, endpoints=FREE_PORTS) as server:
        connection = tritonclient.grpc.InferenceServerClient(server.endpoints.grpc_url.removeprefix("grpc://"))
        statistics = connection.get_inference_statistics().model_stats
        connection.close()
    assert {model.name: model.execution_count for model in statistics} == {"tiny": 1, "black": 1}


def failed_start(repository: Path) -> str:
    """Why Triton does not start on a repository; its log is removed."""
    with pytest.raises(ServingError, match="did not start") as caught:
        TritonServer(repository, endpoints=FREE_PORTS).__enter__()
    message = str(caught.value)
    log_named_in(message).unlink()
    return message


def test_a_warm_up_that_fails_is_told(tmp_path: Path) -> None:
    """By our backend ("Internal"): where Triton's core is the first to see it ("Invalid argument"), it may crash."""
    write_warm_up(write_tiny_model(tmp_path), np.full((1, 8, 8), np.nan, np.float32))
    write_tiny_model(tmp_path, "black")
    message = failed_start(tmp_path)
    assert "it ended with exit code 1;" in message
    assert "failed to load 'tiny' version 1: Internal: " in message
    assert "failed to run warmup sample 'one image': image: expected finite" in message
    assert "image 0 of 1 has 64 NaN" in message


@pytest.mark.parametrize(
    ("data", "kind", "reason"),
    [
        ({"random_data": True}, "Internal", "failed to run warmup sample 'mine': image: expected finite"),
        ({"input_data_file": "short"}, "Invalid argument", "warmup setting expects 256 bytes"),
        ({}, "Invalid argument", "warmup setting expects input 'image' to have input_data_type set"),
    ],
)
def test_a_warm_up_of_ones_own_that_fails_is_told(tmp_path: Path, data: dict[str, Any], kind: str, reason: str) -> None:
    """By our backend, or by Triton where there is no such image: it sees that before the warm-up."""
    version_dir = write_tiny_model(tmp_path)
    write_warm_up(version_dir, random_images(1))
    (version_dir.parent / WARM_UP_PATH.parent / "short").write_bytes(bytes(252))
    config = read_config(version_dir.parent / CONFIG_NAME)
    tensor = config.model_warmup.add(name="mine", batch_size=1).inputs["image"]
    tensor.CopyFrom(config.model_warmup[0].inputs["image"])
    tensor.ClearField("input_data_file")
    for field, value in data.items():
        setattr(tensor, field, value)
    write_config(version_dir.parent / CONFIG_NAME, config)
    message = failed_start(tmp_path)
    assert f"failed to load 'tiny' version 1: {kind}: " in message
    assert reason in message


def test_a_warm_up_image_that_is_gone_is_told(tmp_path: Path) -> None:
    version_dir = write_tiny_model(tmp_path)
    write_warm_up(version_dir, random_images(1))
    (version_dir.parent / WARM_UP_PATH).unlink()
    assert "tiny/warmup/image" in failed_start(tmp_path)


def tune(repository: Path, *options: str) -> list[str]:
    return ["tune", "tiny", "--repository", str(repository), "--seconds", "0.1", *options]


def test_tune_writes_settings_that_serve_and_stay(tmp_path: Path) -> None:
    version_dir = write_tiny_model(tmp_path)
    path, out = version_dir.parent / CONFIG_NAME, tmp_path / "tune.json"
    before = read_config(path)
    result = CliRunner().invoke(app, tune(tmp_path, "--p99", "1000", "--out", str(out), "--json"))
    assert result.exit_code == 0, result.output
    results = json.loads(out.read_text())
    assert json.loads(result.stdout) == results
    chosen = results["choice"]["setting"]
    assert results["target"] == 1000
    assert {trial["setting"]["instances"] for trial in results["trials"]} >= {1, len(os.sched_getaffinity(0))}
    config = read_config(path)
    assert config.instance_group[0].count == chosen["instances"]
    assert config.parameters[THREADS].string_value == str(chosen["threads"])
    assert list(config.dynamic_batching.preferred_batch_size) == [chosen["preferred_batch"]]
    assert config.dynamic_batching.max_queue_delay_microseconds == chosen["queue_delay_us"]
    assert config.parameters[TUNED].string_value.startswith("p99 <= 1e+03 ms: ")
    assert config.dynamic_batching.default_queue_policy == before.dynamic_batching.default_queue_policy
    assert config.output == before.output
    with (
        TritonServer(tmp_path, endpoints=FREE_PORTS) as server,
        Client(server.endpoints.grpc_url, model="tiny") as client,
    ):
        assert len(client.predict(random_images(3))) == 3
    write_model_config(tmp_path, read_card(version_dir))  # as the next calibration does
    assert read_config(path) == config


def test_tune_writes_nothing_where_nothing_is_quick_enough(tmp_path: Path) -> None:
    path = write_tiny_model(tmp_path).parent / CONFIG_NAME
    before = path.read_bytes()
    result = CliRunner().invoke(app, tune(tmp_path, "--p99", "0.001"))
    assert isinstance(result.exception, ServingError)
    assert "expected a setting with a 99th percentile of at most 0.001 ms, the quickest took" in str(result.exception)
    assert path.read_bytes() == before


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGINT])
def test_tune_that_is_interrupted_leaves_everything_as_it_was(tmp_path: Path, number: signal.Signals) -> None:
    version_dir = write_tiny_model(tmp_path / "models")
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    before = (version_dir.parent / CONFIG_NAME).read_bytes()
    # A shell that starts us in the background has SIGINT ignored, and nohup SIGHUP, for us and our children.
    start = "from signal import *; signal(SIGINT, default_int_handler); signal(SIGHUP, SIG_DFL); "
    code = start + "from heatserve.cli import main; main()"
    process = subprocess.Popen(
        [sys.executable, "-c", code, *tune(tmp_path / "models", "--seconds", "30")],
        env={**os.environ, "TMPDIR": str(temporary)},
        stderr=subprocess.DEVNULL,
    )
    while not list(temporary.glob("heatserve-*.log")):
        assert process.poll() is None
        time.sleep(0.05)
    time.sleep(3)  # the load is on
    process.send_signal(number)
    assert process.wait(20) == 130
    assert (version_dir.parent / CONFIG_NAME).read_bytes() == before
    assert not list(temporary.iterdir())


def load(callers: int, rate: float, p99: float) -> LoadResult:
    return LoadResult(callers, rate, p50=p99 / 2, p99=p99, caller_cores=0.1)


def test_callers_are_added_until_the_target_is_missed_or_nothing_is_gained() -> None:
    setting = ServerSetting(1, 2, 64)
    slower = climb(lambda callers: load(callers, 100.0 * callers, p99=4.0 * callers), setting, 10.0)
    assert [(trial.load.concurrency, trial.meets_target) for trial in slower] == [(1, True), (2, True), (4, False)]
    full = climb(lambda callers: load(callers, min(100.0 * callers, 200.0), p99=1.0), setting, 10.0)
    assert [trial.load.concurrency for trial in full] == [1, 2, 4]


def test_a_queue_that_is_full_ends_the_climb(overloaded: TritonServer) -> None:
    """Two requests may wait, so two callers are answered, and four are not."""
    image = random_images(1)
    url = overloaded.endpoints.grpc_url
    trials = climb(
        lambda callers: closed_loop(url, "narrow", image, concurrency=callers, seconds=0.1),
        ServerSetting(1, 2, 64),
        1000.0,
    )
    assert [trial.load.concurrency for trial in trials] == [1, 2]


def test_the_choice_answers_clearly_more_within_the_target() -> None:
    first, within_noise, better, too_slow = (
        TuningTrial(ServerSetting(instances, 1, 64), load(4, rate, 5.0), meets)
        for instances, rate, meets in ((1, 100.0, True), (2, 104.0, True), (4, 106.0, True), (8, 900.0, False))
    )
    assert best_of([first, within_noise, better, too_slow]) == better
    assert best_of([first, within_noise]) == first
    assert best_of([too_slow]) is None
