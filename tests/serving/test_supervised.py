"""A server that is kept up: after each fault a good answer comes again, or a clear end."""

from __future__ import annotations

import os
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from test_limits import limit
from test_server import command_of, descendants, log_named_in, serve_command, triton_below, wait_until_gone
from test_watch import BUSY_SECONDS, seconds_until
from tiny_model import edit_card, random_images, write_tiny_model

from heatserve import FREE_PORTS, Client, ServingError
from heatserve.serving.shadow.folder import Alarm
from heatserve.serving.supervised.events import Event, Recovery, Restart
from heatserve.serving.supervised.failures import USUAL_RULE, RestartRule
from heatserve.serving.supervised.server import Server, Supervision
from heatserve.serving.triton.processes import triton_and_instances
from heatserve.serving.triton.sockets import listens

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="Triton runs on Linux only"),
]


@contextmanager
def served(repository: Path, rule: RestartRule | None = USUAL_RULE) -> Iterator[tuple[Server, list[Event]]]:
    """A server of the model `tiny`, and what it tells."""
    events = list[Event]()
    with Server(
        repository,
        models=["tiny"],
        endpoints=FREE_PORTS,
        supervision=Supervision(restart=rule),
        on_event=events.append,
    ) as server:
        yield server, events
        problems = [event.problem for event in events if isinstance(event, Restart)]
        logs = {log_named_in(problem) for problem in problems if "its log " in problem}
    for log in {server.log, *logs}:
        log.unlink(missing_ok=True)


def tritons() -> set[int]:
    """Processes below this one that are, or become, a Triton with ports."""
    return set(filter(is_triton, descendants(os.getpid())))


def is_triton(pid: int) -> bool:
    return "--grpc-port=" in command_of(pid)


def processes_of(server: Server) -> list[int]:
    """Triton, and the process of its model instance."""
    triton = triton_below(os.getpid(), f"--grpc-port={server.endpoints.grpc}")
    return [process.pid for process in triton_and_instances(triton)]


def answers(server: Server, over: str = "grpc") -> bool:
    url = server.endpoints.grpc_url if over == "grpc" else server.endpoints.http_url
    with Client(url, model="tiny", timeout=BUSY_SECONDS, retries=0) as client:
        try:
            return len(client.predict(random_images(2))) == 2
        except ServingError:
            return False


def break_and_wait(server: Server, hurt: Callable[[], object]) -> None:
    """Hurt it: first it does not answer, or says so, then it answers again."""
    assert answers(server)
    hurt()
    seconds_until(lambda: not server.state.ready, at_most=BUSY_SECONDS)
    seconds_until(lambda: server.state.ready, at_most=BUSY_SECONDS)
    assert answers(server)
    assert answers(server, over="http")


def test_after_each_fault_it_answers_again_on_the_same_ports_and_at_the_fifth_it_ends(tiny_repository: Path) -> None:
    with served(tiny_repository, RestartRule(within=600.0)) as (server, events):
        for number, index in ((signal.SIGKILL, 0), (signal.SIGKILL, 1), (signal.SIGSTOP, 1), (signal.SIGSTOP, 0)):
            process = processes_of(server)[index]
            break_and_wait(server, lambda: os.kill(process, number))  # noqa: B023
            wait_until_gone({process}, seconds=BUSY_SECONDS)
        found = [event for event in events if isinstance(event, Restart)]
        assert [restart.cause for restart in found] == ["ended", "unhealthy", "unhealthy", "unhealthy"]
        assert [restart.pause for restart in found] == [0.1, 0.2, 0.4, 0.8]
        assert [type(event) for event in events] == [Restart, Recovery] * 4
        os.kill(processes_of(server)[0], signal.SIGKILL)
        with pytest.raises(ServingError, match=r"given up after 5 failures within 600 s; .* ended by itself: it was"):
            server.wait()
        assert not server.state.ready


def front_of(server: Server) -> int:
    """The process of its front, which is told the number of the socket that it listens on."""
    (found,) = (
        pid
        for pid in descendants(os.getpid())
        if "heatserve.serving.front.main" in command_of(pid) and listens(pid, server.endpoints.http)
    )
    return found


def test_a_front_that_is_killed_or_stopped_is_followed_by_another_and_callers_wait(tiny_repository: Path) -> None:
    with served(tiny_repository) as (server, events):
        triton = server.triton
        for turn, number in enumerate((signal.SIGKILL, signal.SIGSTOP)):
            front = front_of(server)
            os.kill(front, number)
            assert answers(server, over="http"), "a connection that comes meanwhile is not refused"
            seconds_until(lambda: len(events) == 2 * turn + 2, at_most=BUSY_SECONDS)  # noqa: B023
            wait_until_gone({front}, seconds=BUSY_SECONDS)
        assert [(type(event), event.process) for event in events if not isinstance(event, Alarm)] == [
            (Restart, "front"),
            (Recovery, "front"),
        ] * 2
        assert [event.cause for event in events if isinstance(event, Restart)] == ["ended", "unhealthy"]
        assert server.triton is triton
        assert answers(server)


def test_a_crash_at_the_first_start_is_followed_by_another_start(tiny_repository: Path) -> None:
    others = tritons()

    def crash() -> None:
        seconds_until(lambda: bool(tritons() - others), at_most=BUSY_SECONDS)
        os.kill(min(tritons() - others), signal.SIGSEGV)

    crashing = threading.Thread(target=crash)
    crashing.start()
    with served(tiny_repository) as (server, events):
        crashing.join()
        assert answers(server)
        assert [event.cause for event in events if isinstance(event, Restart)] == ["start"]


def test_a_full_disk_holds_a_restart_up_until_there_is_room(tiny_repository: Path) -> None:
    with served(tiny_repository) as (server, events):
        with limit(resource.RLIMIT_FSIZE, 5000):
            os.kill(processes_of(server)[0], signal.SIGKILL)
            seconds_until(lambda: len(events) >= 3, at_most=BUSY_SECONDS)
        seconds_until(lambda: server.state.ready, at_most=BUSY_SECONDS)
        assert answers(server)
        starts = [event for event in events if isinstance(event, Restart) and event.cause == "start"]
        assert all("expected a temporary folder with room to write into" in event.problem for event in starts)


def test_a_card_is_verified_again_at_each_start(tmp_path: Path) -> None:
    version_dir = write_tiny_model(tmp_path)
    with served(tmp_path, RestartRule(within=1.0)) as (server, _):
        edit_card(version_dir, lambda card: card.update(graph_sha256="0" * 64))
        os.kill(processes_of(server)[0], signal.SIGKILL)
        with pytest.raises(ServingError, match=r"given up after \d failed starts; the last one: .*sha256"):
            server.wait()
        assert not answers(server)


def test_without_restarts_the_first_fault_ends_it(tiny_repository: Path) -> None:
    with served(tiny_repository, None) as (server, events):
        os.kill(processes_of(server)[1], signal.SIGKILL)
        with pytest.raises(ServingError, match="Triton was ended: tiny: expected a running process of the model"):
            server.wait()
        assert events == []


def test_the_command_goes_on_and_can_be_ended_while_it_restarts(tiny_repository: Path, tmp_path: Path) -> None:
    with serve_command(tiny_repository, tmp_path) as (process, _):
        os.kill(triton_below(process.pid), signal.SIGKILL)
        assert process.stderr is not None
        assert "Triton ended by itself: it was ended by SIGKILL" in process.stderr.readline()
        assert "triton: it is started again in 0.1 s" in process.stderr.readline()
        while not (starting := {pid for pid in descendants(process.pid) if is_triton(pid)}):
            time.sleep(0.02)
        os.kill(min(starting), signal.SIGSTOP)  # it will never be ready, and nobody is answered by it
        process.send_signal(signal.SIGTERM)
        assert process.wait(BUSY_SECONDS) == 0
    (log,) = tmp_path.iterdir()
    assert log.suffix == ".log"
