"""A real server that audits itself: honest traffic raises no alarm, a swapped model withdraws, shifted inputs tell."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from known_tiers import ask, hurry, voter_of
from numpy.typing import NDArray
from shadow_models import HONEST, OVERCONFIDENT, inputs, write_shadow_model
from test_server import triton_below

from heatserve import FREE_PORTS, Client, Reason, TritonServer
from heatserve.export.card import CardError, read_card
from heatserve.export.reference import REFERENCE_NAME
from heatserve.export.repository.tiers import write_tier_configs
from heatserve.export.tiers import TierModel
from heatserve.serving.errors import ServingError
from heatserve.serving.observed import families
from heatserve.serving.observed.page import value_of
from heatserve.serving.shadow.folder import Alarm, AuditSettings
from heatserve.serving.supervised.events import Event
from heatserve.serving.supervised.server import Server
from heatserve.serving.triton.installation import find_triton

SECONDS = 180


@pytest.fixture(scope="module")
def audited(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonServer]:
    """A server that judges every answer: of `honest`, of `shifted`, and of `swapped`, which has a tier."""
    repository = tmp_path_factory.mktemp("audited")
    for name, steepness in (("honest", HONEST), ("shifted", HONEST), ("swapped", OVERCONFIDENT)):
        version_dir = write_shadow_model(repository, name, steepness)
    write_tier_configs(repository, read_card(version_dir), [TierModel.CONFIRM, TierModel.CASCADE])
    settings = AuditSettings(share=1.0, withdraws=True, folder=tmp_path_factory.mktemp("state"))
    with TritonServer(repository, endpoints=FREE_PORTS, audit=settings) as server:
        for model in server.models:
            hurry(server, model.name)
        yield server


def eventually(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


def send(server: TritonServer, model: str, images: NDArray[np.float32]) -> int:
    """Send images one after the other, not faster than they are judged; how many had a positive radius."""
    positive = 0
    with Client(server.endpoints.grpc_url, model=model) as client:
        for image in images:
            positive += client.predict(image[None])[0].certified_radius > 0
            eventually(partial(is_judged, server, model, positive), "a judgement")
    return positive


def is_judged(server: TritonServer, model: str, answers: int) -> bool:
    return judged(server, model) >= answers


def judged(server: TritonServer, model: str) -> float:
    return value_of(server.metrics, families.SHADOW_JUDGED, model=model)


@pytest.mark.slow
def test_honest_traffic_raises_no_alarm_and_the_server_s_own_questions_are_not_judged(audited: TritonServer) -> None:
    positive = send(audited, "honest", inputs(60, seed=20))
    assert positive > 50
    assert value_of(audited.metrics, families.SHADOW_OVERCLAIMS, model="honest") == 0
    assert value_of(audited.metrics, families.SHADOW_ALARM, model="honest") == 0
    assert value_of(audited.metrics, families.DRIFT_ALARM, model="honest") == 0
    time.sleep(1.5)  # the watch of the server asks each model every second
    assert judged(audited, "honest") == positive
    assert "ALARM: honest" not in audited.log.read_text()


@pytest.mark.slow
def test_a_swapped_model_answers_radius_0_soon_and_says_why(audited: TritonServer) -> None:
    images = inputs(40, seed=21)
    with Client(audited.endpoints.grpc_url, model="swapped") as client:
        before = client.predict(images)
        claims = [answer.certified_radius > 0 for answer in before]
        assert sum(claims) > 35
        eventually(lambda: value_of(audited.metrics, families.SHADOW_ALARM, model="swapped") == 1, "an alarm")
        after = client.predict(images)
    assert all(answer.certified_radius == answer.l_bound == 0 for answer in after)
    reasons = [Reason.WITHDRAWN if claim else Reason.UNLIKE for claim in claims]
    assert [answer.reason for answer in after] == reasons
    assert [answer.label for answer in after] == [answer.label for answer in before]
    alarm = re.search(
        r"ALARM: swapped: expected overclaims of at most 0\.01 .* found \d+ of (\d+) that", audited.log.read_text()
    )
    assert alarm
    assert int(alarm[1]) <= 16, "so few that the queue holds are enough"
    tier = ask(audited, "swapped_confirm", images[:2], radius=0.05)
    assert tier["certified_radius"] == [0, 0]
    assert tier["outcome"] == ["yes", "yes"], "votes prove as before"
    cascade = ask(audited, "swapped_cascade", images[:2], radius=0.05)
    assert cascade["certified_radius"] == [0, 0]


@pytest.mark.slow
def test_inputs_that_are_brighter_raise_the_alarm_of_drift_and_withdraw_nothing(audited: TritonServer) -> None:
    images = np.clip(inputs(60, seed=22) + np.float32(0.008), 0, 1)
    send(audited, "shifted", images)
    assert value_of(audited.metrics, families.DRIFT_ALARM, model="shifted") == 1
    assert value_of(audited.metrics, families.SHADOW_ALARM, model="shifted") == 0
    with Client(audited.endpoints.grpc_url, model="shifted") as client:
        assert any(answer.certified_radius > 0 for answer in client.predict(images))


def test_a_reference_of_another_graph_is_told_before_anything_starts(tmp_path: Path) -> None:
    version_dir = write_shadow_model(tmp_path, "known", HONEST)
    write_shadow_model(tmp_path / "other", "known", OVERCONFIDENT)
    shutil.copy(tmp_path / "other" / "known" / "1" / REFERENCE_NAME, version_dir)
    with (
        pytest.raises(CardError, match="expected the reference of the graph of the card, found that of another one"),
        TritonServer(tmp_path, models=["known"], endpoints=FREE_PORTS, audit=AuditSettings(share=0.5)),
    ):
        pass


def test_where_another_backend_answers_an_audit_is_refused(tmp_path: Path) -> None:
    """As with a Triton that has NVIDIA's own `onnxruntime` backend: no answer passes through a process of ours."""
    found = find_triton()
    backends = tmp_path / "backends"
    shutil.copytree(found.backends, backends, symlinks=True)
    (backends / "onnxruntime").mkdir()
    (backends / "onnxruntime" / "libtriton_onnxruntime.so").touch()
    repository = tmp_path / "repository"
    write_shadow_model(repository, "known", HONEST)
    with (
        pytest.raises(ServingError, match="audit share: expected a Triton whose single passes our backend answers"),
        TritonServer(repository, endpoints=FREE_PORTS, backend_directory=backends, audit=AuditSettings(share=0.5)),
    ):
        pass


@pytest.mark.slow
def test_a_voter_that_is_started_again_goes_on_with_what_was_seen(audited: TritonServer) -> None:
    """The alarm of a model that was swapped stays, and so does its radius of 0."""
    eventually(lambda: value_of(audited.metrics, families.SHADOW_ALARM, model="swapped") == 1, "the alarm of before")
    former = voter_of(audited, "swapped")
    os.kill(former, signal.SIGKILL)
    eventually(lambda: voter_of(audited, "swapped") != former, "another voter")
    with Client(audited.endpoints.grpc_url, model="swapped") as client:
        assert client.predict(inputs(1, seed=23))[0].certified_radius == 0
    eventually(lambda: audited.voters.are_ready(), "a voter that takes questions")
    assert value_of(audited.metrics, families.SHADOW_ALARM, model="swapped") == 1
    assert audited.log.read_text().count("ALARM: swapped") == 1


@pytest.mark.slow
def test_what_is_withdrawn_stays_so_where_triton_is_started_again(tmp_path: Path) -> None:
    write_shadow_model(tmp_path, "swapped", OVERCONFIDENT)
    images = inputs(20, seed=24)
    audit, events = AuditSettings(share=1.0, withdraws=True), list[Event]()
    with (
        (tmp_path / "log").open("wb") as log,
        Server(tmp_path, endpoints=FREE_PORTS, audit=audit, log_file=log.fileno(), on_event=events.append) as server,
    ):
        hurry(server.triton, "swapped")
        with Client(server.endpoints.grpc_url, model="swapped") as client:
            assert client.predict(images[:1])[0].certified_radius > 0
            client.predict(images)
            eventually(lambda: client.predict(images[:1])[0].reason is Reason.WITHDRAWN, "an alarm")
        former = server.triton
        os.kill(triton_below(os.getpid(), f"--grpc-port={server.endpoints.grpc}"), signal.SIGKILL)
        eventually(lambda: server.triton is not former and server.state.ready, "another Triton")
        with Client(server.endpoints.grpc_url, model="swapped") as client:
            answer = client.predict(images[:1])[0]
    assert (answer.certified_radius, answer.reason) == (0, Reason.WITHDRAWN)
    former.log.unlink(missing_ok=True)
    (alarm,) = (event for event in events if isinstance(event, Alarm) and event.about == "promise")
    assert alarm.described.startswith("ALARM: swapped: expected overclaims of at most 0.01 of the positive radii")
    logged = map(json.loads, (tmp_path / "log").read_text().splitlines())
    (line,) = (line for line in logged if line["event"] == "alarm" and line["about"] == "promise")
    assert (line["level"], line["model"]) == ("error", "swapped")
    assert line["problem"] == alarm.problem
