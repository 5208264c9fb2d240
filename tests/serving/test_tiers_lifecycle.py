"""Voters begin and end with their server: a start that fails is explained, and requests in flight are answered."""

from __future__ import annotations

import os
import shutil
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from fronts import until
from known_tiers import ask, at_distance, hurry, voter_of, write_known_model
from test_server import descendants, is_running, log_named_in, serve_command, triton_process, wait_until_gone

from heatserve import FREE_PORTS, Client, ServingError, TritonServer
from heatserve.certification.outcome import Outcome
from heatserve.export.card import BASE_NAME
from heatserve.export.repository.layout import open_model
from heatserve.export.tiers import TierModel
from heatserve.serving.tiers.unanswered import unanswered
from heatserve.serving.triton import voters, workspace
from heatserve.serving.triton.installation import find_triton
from heatserve.serving.triton.processes import triton_and_instances
from heatserve.serving.triton.voters import MOST_DEATHS

pytestmark = pytest.mark.slow

FAR = at_distance(0.8)


def test_a_server_answers_what_is_in_flight_and_leaves_no_process(tmp_path: Path) -> None:
    write_known_model(tmp_path, tiers=[TierModel.CERTIFY], most_n=10**7)
    others = descendants(os.getpid())  # servers that other tests share
    with ThreadPoolExecutor(1) as pool:
        with TritonServer(tmp_path, endpoints=FREE_PORTS, exit_timeout=120) as server:
            hurry(server)
            processes = descendants(os.getpid()) - others
            voter = voter_of(server)
            assert voter in processes
            sockets = server._workspace.offers["known"].sockets
            ask(server, "known_certify", FAR, n=100)
            while unanswered(sockets, "certify"):  # its answer came before the tier has noted that
                time.sleep(0.01)
            in_flight = pool.submit(ask, server, "known_certify", FAR, n=500_000, deadline_ms=60_000)
            while not unanswered(sockets, "certify") and not in_flight.done():
                time.sleep(0.01)
            assert not in_flight.done()
        assert in_flight.result()["outcome"] == ["yes"]
    wait_until_gone(processes, seconds=60)
    assert not server.log.exists()


def test_a_killed_command_takes_its_voters_along(tmp_path: Path) -> None:
    write_known_model(tmp_path / "models", tiers=[TierModel.CONFIRM])
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    with serve_command(tmp_path / "models", temporary, model="known") as (process, _):
        processes = descendants(process.pid)
        (voter,) = (
            pid for pid in processes if "heatserve.serving.tiers.voter" in Path(f"/proc/{pid}/cmdline").read_text()
        )
        os.kill(voter, signal.SIGSTOP)  # no signal but SIGKILL ends it then
        process.kill()
        wait_until_gone(processes, seconds=60)


def test_a_voter_that_keeps_dying_ends_the_server(tmp_path: Path) -> None:
    write_known_model(tmp_path, tiers=[TierModel.CONFIRM])
    with TritonServer(tmp_path, endpoints=FREE_PORTS) as server:

        def kill_voters() -> None:
            for _ in range(MOST_DEATHS + 1):
                pid = voter_of(server)
                os.kill(pid, signal.SIGKILL)
                while is_running(pid) or voter_of(server) == pid:
                    if not threading.main_thread().is_alive() or server.voters.has_given_up:
                        return
                    time.sleep(0.02)

        killer = threading.Thread(target=kill_voters)
        killer.start()
        with pytest.raises(ServingError) as caught:
            server.wait()
        killer.join()
    message = str(caught.value)
    assert (
        f"known: expected a running process that takes the votes of its tiers, found that it ended {MOST_DEATHS + 1} "
        "times within 60 s, the last time it was ended by SIGKILL"
    ) in message
    log_named_in(message).unlink()


def test_a_voter_that_stays_stopped_is_followed_by_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(voters, "STOPPED_VOTER_LOOKS", 2)
    write_known_model(tmp_path, tiers=[TierModel.CONFIRM])
    with TritonServer(tmp_path, endpoints=FREE_PORTS) as server:
        stopped = voter_of(server)
        os.kill(stopped, signal.SIGSTOP)
        wait_until_gone({stopped}, seconds=60)
        until(lambda: voter_of(server) != stopped and server.voters.are_ready())
        hurry(server)
        with Client(server.endpoints.grpc_url, model="known") as client:
            assert client.confirm(FAR, radius=0.1, deadline=50)[0].outcome is Outcome.YES
        assert "the voter of known was stopped for 2 s, and is ended; it is started again" in server.log.read_text()


def test_a_base_network_that_does_not_load_is_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is exchanged after the card was verified."""
    version_dir = write_known_model(tmp_path, tiers=[TierModel.CONFIRM])
    prepare = workspace.prepare

    def exchanging(*args: Any, **options: Any) -> workspace.Workspace:
        found = prepare(*args, **options)
        (found.offers["known"].folder / "known" / version_dir.name / BASE_NAME).write_bytes(b"another")
        return found

    monkeypatch.setattr("heatserve.serving.triton.server.prepare", exchanging)
    with pytest.raises(ServingError) as caught:
        TritonServer(tmp_path, endpoints=FREE_PORTS).__enter__()
    message = str(caught.value)
    assert (
        "known: expected a running process that takes the votes of its tiers, found that it ended with exit" in message
    )
    assert "error: known:" in message
    assert "base.onnx: expected sha256" in message
    log_named_in(message).unlink()


def test_a_voter_that_cannot_be_started_again_ends_the_server(tmp_path: Path) -> None:
    """Something cleans up temporary folders."""
    write_known_model(tmp_path, tiers=[TierModel.CONFIRM])
    with TritonServer(tmp_path, endpoints=FREE_PORTS) as server:
        shutil.rmtree(server.log.with_suffix(""))
        os.kill(voter_of(server), signal.SIGKILL)
        with pytest.raises(ServingError, match="of its tiers, found that it cannot be started: No such file") as caught:
            server.wait()
    log_named_in(str(caught.value)).unlink()


def test_what_python_raised_in_a_voter_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_known_model(tmp_path, tiers=[TierModel.CONFIRM])
    monkeypatch.setattr("heatserve.serving.triton.voters._VOTER", "import a_module_that_is_not_there  # {path}")
    with pytest.raises(ServingError) as caught:
        TritonServer(tmp_path, endpoints=FREE_PORTS).__enter__()
    message = str(caught.value)
    assert f"found that it ended {MOST_DEATHS + 1} times" in message
    assert "  ModuleNotFoundError: No module named 'a_module_that_is_not_there'" in message
    assert "File" not in message.partition("says:")[2]
    log_named_in(message).unlink()


def test_each_tier_counts_when_shared_memory_is_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_known_model(tmp_path, tiers=[TierModel.CONFIRM, TierModel.CASCADE])
    model = open_model(tmp_path, "known")
    room = workspace._FIRST_REGION_BYTES + workspace._batch_bytes(model)
    for free, is_enough in ((3 * room, True), (3 * room - 1, False)):
        usage = type("Usage", (), {"free": free, "used": 0})
        monkeypatch.setattr("heatserve.serving.triton.workspace.shutil.disk_usage", lambda _, usage=usage: usage)
        folder = tmp_path / f"workspace-{is_enough}"
        folder.mkdir()
        if is_enough:
            assert [plan.model for plan in workspace.prepare(find_triton(), [model], folder).voters] == ["known"]
        else:
            with pytest.raises(ServingError, match="expected 4 MiB free for one full batch of each model instance"):
                workspace.prepare(find_triton(), [model], folder)


def test_a_model_without_tiers_has_no_voter(tmp_path: Path) -> None:
    write_known_model(tmp_path, tiers=[])
    folder = tmp_path / "workspace"
    folder.mkdir()
    prepared = workspace.prepare(find_triton(), [open_model(tmp_path, "known")], folder)
    assert prepared.voters == ()
    assert [path.name for path in prepared.repository.iterdir()] == ["known"]


def test_a_tier_whose_process_is_stopped_ends_the_server(tmp_path: Path) -> None:
    """Triton would give it up after a second, and go on to say that it is ready."""
    write_known_model(tmp_path, tiers=[TierModel.CERTIFY_STREAM])
    with TritonServer(tmp_path, endpoints=FREE_PORTS) as server:
        (tier,) = (p for p in triton_and_instances(triton_process(server)) if p.model == "known_certify_stream")
        os.kill(tier.pid, signal.SIGSTOP)
        with pytest.raises(
            ServingError, match="known_certify_stream: expected a running process of the model"
        ) as caught:
            server.wait()
    log_named_in(str(caught.value)).unlink()


def test_a_server_that_nobody_asks_asks_its_tiers_and_goes_on(tmp_path: Path) -> None:
    """They answer the question of every second without a vote, also while their voter is stopped."""
    write_known_model(tmp_path, queue=1)
    with TritonServer(tmp_path, endpoints=FREE_PORTS) as server, ThreadPoolExecutor(1) as pool:
        os.kill(voter_of(server), signal.SIGSTOP)
        full = pool.submit(ask, server, "known_confirm", FAR, radius=0.1, deadline_ms=8_000)
        assert full.result()["reason"] == ["deadline"]
        assert ask(server, "known", FAR)["label"] == [0]
        os.kill(voter_of(server), signal.SIGCONT)
