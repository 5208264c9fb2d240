"""Counting in several processes at once, and the page that adds it up, read by Prometheus' own parser."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from heatserve.serving.front import metrics_page
from heatserve.serving.front.metrics_page import MetricsApp
from heatserve.serving.front.routes import Route
from heatserve.serving.front.served import Served
from heatserve.serving.observed.facts import declare_models
from heatserve.serving.observed.families import (
    CERTIFIED_RADIUS,
    DRIFT_ALARM,
    FAMILIES,
    INVALID_INPUTS,
    READY,
    REQUEST_SECONDS,
    REQUESTS,
    SHADOW_ALARM,
    VOTES_TAKEN,
)
from heatserve.serving.observed.page import page, value_of
from heatserve.serving.observed.recorder import FOLDER_VARIABLE, Recorder
from heatserve.serving.observed.series import SUFFIX

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def samples(text: str) -> Samples:
    """Every sample of a page, by name and labels."""
    found = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    assert len({(sample.name, frozenset(sample.labels.items())) for sample in found}) == len(found)
    return {(sample.name, frozenset(sample.labels.items())): sample.value for sample in found}


def sample(text: str, name: str, **labels: str) -> float:
    return samples(text)[name, frozenset(labels.items())]


def counting(folder: Path, code: str, **environment: str) -> subprocess.Popen[str]:
    """A process that counts; it says when it has, and waits until its input is closed."""
    program = """\
        import sys, threading
        from heatserve.serving.observed.families import *
        from heatserve.serving.observed.recorder import Recorder
        recorder = Recorder.of_environment()
    """
    lines = textwrap.dedent(program) + textwrap.dedent(code) + "\nprint('counted', flush=True)\nsys.stdin.read()\n"
    process = subprocess.Popen(
        [sys.executable, "-c", lines],
        env={**os.environ, FOLDER_VARIABLE: str(folder), **environment},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "counted\n"
    return process


def test_a_page_has_every_kind_of_metric_as_prometheus_reads_it(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path)
    recorder.add(REQUESTS, "digits", "one_pass", "answered", by=3)
    recorder.add(INVALID_INPUTS, 'a "b"\\c\nd', "nan")
    recorder.set(READY, 1)
    recorder.observe(REQUEST_SECONDS, 0.0025, "digits", "one_pass")
    recorder.observe(REQUEST_SECONDS, 1000.0, "digits", "one_pass")
    text = page(tmp_path)
    assert sample(text, "heatserve_requests_total", model="digits", tier="one_pass", outcome="answered") == 3
    assert sample(text, "heatserve_invalid_inputs_total", model='a "b"\\c\nd', reason="nan") == 1
    assert sample(text, "heatserve_ready") == 1
    labels = {"model": "digits", "tier": "one_pass"}
    name = "heatserve_request_duration_seconds"
    assert sample(text, f"{name}_bucket", le="0.001", **labels) == 0
    assert sample(text, f"{name}_bucket", le="0.0025", **labels) == 1  # a bound belongs to its bucket
    assert sample(text, f"{name}_bucket", le="60.0", **labels) == 1
    assert sample(text, f"{name}_bucket", le="+Inf", **labels) == sample(text, f"{name}_count", **labels) == 2
    assert sample(text, f"{name}_sum", **labels) == 1000.0025


def test_many_values_are_counted_as_each_of_them_is(tmp_path: Path) -> None:
    radii = np.random.default_rng(0).choice([0.0, 0.05, 0.0500001, 0.3, 3.9, 4.0, 7.5], 1000).astype(np.float32)
    one, many = Recorder(tmp_path), Recorder(tmp_path)
    for radius in radii:
        one.observe(CERTIFIED_RADIUS, float(radius), "one")
    many.observe_all(CERTIFIED_RADIUS, radii.reshape(100, 10), "many")
    many.observe_all(CERTIFIED_RADIUS, [], "none")
    found = samples(page(tmp_path))
    by_model = {
        model: {
            (name, dict(labels).get("le")): value
            for (name, labels), value in found.items()
            if ("model", model) in labels
        }
        for model in ("one", "many", "none")
    }
    assert by_model["one"] == pytest.approx(by_model["many"])
    assert by_model["one"]["heatserve_certified_radius_bucket", "0.0"] == np.sum(radii == 0)
    assert by_model["one"]["heatserve_certified_radius_count", None] == 1000
    assert not by_model["none"]


def test_a_count_outlives_its_process_however_that_ended_and_the_folder_does_not_grow(tmp_path: Path) -> None:
    code = "recorder.add(VOTES_TAKEN, 'digits', 'confirm', by=7); recorder.set(READY, {ready})"
    lasting = counting(tmp_path, code.format(ready=0))
    for turn in range(3):
        process = counting(tmp_path, code.format(ready=1))
        assert value_of(tmp_path, VOTES_TAKEN, model="digits") == 7 * (turn + 2)
        process.send_signal(signal.SIGKILL) if turn % 2 else process.communicate()
        process.wait()
        assert value_of(tmp_path, VOTES_TAKEN, tier="confirm") == 7 * (turn + 2)
        assert value_of(tmp_path, READY) == 1  # the last that was set
        assert len([*tmp_path.glob(f"*{SUFFIX}")]) == 1
    lasting.communicate()
    assert value_of(tmp_path, VOTES_TAKEN) == value_of(tmp_path, VOTES_TAKEN, model="digits", tier="confirm") == 28
    assert not [*tmp_path.glob(f"*{SUFFIX}")]


def test_what_was_folded_is_counted_once_where_its_files_were_not_removed(tmp_path: Path) -> None:
    """A reader may be killed between the two steps."""
    counting(tmp_path, "recorder.add(VOTES_TAKEN, 'digits', 'confirm')").communicate()
    (path,) = tmp_path.glob(f"*{SUFFIX}")
    content = path.read_bytes()
    assert value_of(tmp_path, VOTES_TAKEN) == 1
    ended = tmp_path / "ended.json"
    ended.write_text(ended.read_text().replace('"files": []', f'"files": ["{path.name}"]'))
    path.write_bytes(content)
    assert value_of(tmp_path, VOTES_TAKEN) == value_of(tmp_path, VOTES_TAKEN) == 1


def test_threads_and_readers_at_once_lose_nothing(tmp_path: Path) -> None:
    code = """
        def count(name):
            for turn in range(2000):
                recorder.add(VOTES_TAKEN, name, 'confirm')
                recorder.observe(CERTIFIED_RADIUS, 0.1, f"{name} {turn % 50}")
        threads = [threading.Thread(target=count, args=(f"model {i % 2}",)) for i in range(4)]
        print('counted', flush=True)
        [thread.start() for thread in threads]
        [thread.join() for thread in threads]
    """
    processes = [counting(tmp_path, code) for _ in range(2)]
    last = 0.0
    for _ in range(20):  # while they count
        now = value_of(tmp_path, VOTES_TAKEN)
        assert last <= now <= 16_000
        last = now
    for process in processes:
        process.communicate()
    assert value_of(tmp_path, VOTES_TAKEN, model="model 1") == value_of(tmp_path, VOTES_TAKEN) / 2 == 8_000
    assert value_of(tmp_path, CERTIFIED_RADIUS) == 16_000


def test_a_process_that_finds_no_room_goes_on_and_counts_what_it_can(tmp_path: Path) -> None:
    """Without room made first, a write into the mapped file would end the process by SIGBUS."""
    code = """
        import resource
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
        for turn in range(1000):
            recorder.add(VOTES_TAKEN, f"model {turn}", 'confirm')
            recorder.add(VOTES_TAKEN, "model 0", 'confirm')
    """
    counting(tmp_path, code).communicate()
    assert value_of(tmp_path, VOTES_TAKEN, model="model 0") == 1001
    assert 1001 < value_of(tmp_path, VOTES_TAKEN) < 2000


def test_a_recorder_that_nobody_holds_any_more_leaves_no_file_open(tmp_path: Path) -> None:
    def count() -> int:
        Recorder(tmp_path).add(VOTES_TAKEN, "digits", "confirm")
        return len(os.listdir("/proc/self/fd"))

    before = count()
    assert {count() for _ in range(20)} == {before}
    assert value_of(tmp_path, VOTES_TAKEN) == 21
    assert not [*tmp_path.glob(f"*{SUFFIX}")]


@pytest.mark.parametrize("folder", ["", "/nowhere/at/all"])
def test_without_a_folder_counting_does_nothing(folder: str, tmp_path: Path) -> None:
    process = counting(
        tmp_path, "[recorder.add(VOTES_TAKEN, str(i), 'confirm') for i in range(1000)]", **{FOLDER_VARIABLE: folder}
    )
    process.communicate()
    assert process.returncode == 0
    assert page(tmp_path) == page(tmp_path / "none") == ""


def test_the_number_of_series_is_bounded(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path)
    for turn in range(3000):
        recorder.add(VOTES_TAKEN, f"model {turn}", "confirm")
    assert value_of(tmp_path, VOTES_TAKEN) == 2000
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) < 2**20


def test_a_label_that_is_missing_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"heatserve_votes_total: expected values of .*, got"):
        Recorder().add(VOTES_TAKEN, "digits")


def test_each_family_follows_the_conventions_of_names() -> None:
    names = [family.name for family in FAMILIES]
    assert len({*names}) == len(names)
    for family in FAMILIES:
        assert family.name.startswith("heatserve_")
        assert family.name.endswith("_total") is (family.kind == "counter")
        assert list(family.buckets) == sorted({*family.buckets})
        assert bool(family.buckets) is (family.kind == "histogram")
        assert not {"le", "job", "instance"} & {*family.labels}


def test_facts_of_models_are_those_declared_last(tmp_path: Path) -> None:
    from tiny_model import write_tiny_model

    from heatserve.export.repository.layout import open_model

    write_tiny_model(tmp_path / "models", "tiny")
    write_tiny_model(tmp_path / "models", "plain", calibrated=False)
    models = [open_model(tmp_path / "models", name) for name in ("tiny", "plain")]
    declare_models(tmp_path, models)
    found = samples(page(tmp_path))
    info = {dict(labels)["model"]: dict(labels) for name, labels in found if name == "heatserve_model_info"}
    assert info["tiny"]["alpha"] == "0.01"
    assert info["plain"]["alpha"] == ""
    assert {labels["certificate_kind"] for labels in info.values()} == {"statistical"}
    assert info["tiny"]["graph"] == models[0].card.graph_sha256[:12]
    assert sample(page(tmp_path), "heatserve_card_alpha_ratio", model="tiny") == 0.01
    declare_models(tmp_path, models[1:])
    assert "tiny" not in page(tmp_path)


def test_an_alarm_about_a_promise_ends_with_the_version_that_made_it(tmp_path: Path) -> None:
    from tiny_model import write_tiny_model

    from heatserve.export.repository.layout import open_model

    write_tiny_model(tmp_path / "models", "tiny")
    write_tiny_model(tmp_path / "switched", "tiny", calibrated=False)
    recorder = Recorder(tmp_path)
    for alarm in (SHADOW_ALARM, DRIFT_ALARM):
        recorder.set(alarm, 1, "tiny")
    declare_models(tmp_path, [open_model(tmp_path / "models", "tiny")])
    assert [sample(page(tmp_path), alarm.name, model="tiny") for alarm in (SHADOW_ALARM, DRIFT_ALARM)] == [1, 1]
    declare_models(tmp_path, [open_model(tmp_path / "switched", "tiny")])
    assert "_alarm" not in page(tmp_path)


def test_all_who_wait_for_the_page_get_one_that_is_new(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else one who asks for it again and again takes the front's interpreter from all requests."""
    recorder, made = Recorder(tmp_path), list[float]()

    def counted(folder: Path) -> str:
        made.append(time.monotonic())
        return page(folder)

    async def ask() -> None:
        app = MetricsApp(Served(), folder=tmp_path, tokens=None, recorder=recorder)
        for requests in (1, 2):
            recorder.add(REQUESTS, "digits", "one_pass", "answered")
            answers = await asyncio.gather(*(app.describe(Route("metrics")) for _ in range(20)))
            assert len(made) == requests
            for answer in answers:
                found = sample(answer.body.decode(), REQUESTS.name, model="digits", tier="one_pass", outcome="answered")
                assert found == requests
        assert made[1] - made[0] >= metrics_page.PAUSE_SECONDS

    monkeypatch.setattr(metrics_page, "page", counted)
    asyncio.run(ask())
