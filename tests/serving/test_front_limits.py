"""The times and numbers that the front grants a caller, with shorter times: its listeners, in this process."""

from __future__ import annotations

import asyncio
import gc
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from fronts import PATIENCE_SECONDS, error_of, raw_answer, read_all, status_of, until
from uvicorn.config import Config
from uvicorn.server import ServerState

from heatserve.serving.front import limits
from heatserve.serving.front.app import FrontApp
from heatserve.serving.front.connections import CallerConnection
from heatserve.serving.front.lifecycle import FrontServer
from heatserve.serving.front.limits import BodyBytes, Gate, Rates, WaitingImages
from heatserve.serving.front.models import ModelRules, TensorRule
from heatserve.serving.front.options import FrontOptions
from heatserve.serving.front.process import FrontSockets
from heatserve.serving.front.refusals import Refusal
from heatserve.serving.front.served import Served
from heatserve.serving.observed.families import FRONT_REJECTED
from heatserve.serving.observed.page import value_of
from heatserve.serving.observed.recorder import Recorder

LIVE = b"GET /v2/health/live HTTP/1.1\r\nHost: a\r\n\r\n"
MOST_CONNECTIONS = 8


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("metrics")


@pytest.fixture(scope="module")
def port(folder: Path) -> Iterator[int]:
    """A front with no Triton behind it, and little patience."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("HEADER_SECONDS", "BODY_SECONDS", "WRITE_SECONDS"):
            patch.setattr(limits, name, 0.3)
        patch.setattr(limits, "IDLE_SECONDS", 1)
        server = FrontServer(FrontOptions(max_connections=MOST_CONNECTIONS), Recorder(folder), None)
        with listening(server) as found:
            yield found


@contextmanager
def listening(server: FrontServer) -> Iterator[int]:
    """Its port, while it accepts connections, in a thread."""
    sockets = FrontSockets.bound("127.0.0.1", http=0)
    with ExitStack() as cleanup:
        loop = asyncio.new_event_loop()
        thread = threading.Thread(target=loop.run_forever)
        thread.start()
        cleanup.callback(loop.close)
        cleanup.callback(thread.join)
        cleanup.callback(loop.call_soon_threadsafe, loop.stop)
        asyncio.run_coroutine_threadsafe(server.listen(sockets.http, ()), loop).result(PATIENCE_SECONDS)
        yield sockets.http_port
        asyncio.run_coroutine_threadsafe(server.end(), loop).result(PATIENCE_SECONDS)


def connected(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_SECONDS)


def send_slowly(caller: socket.socket, what: bytes) -> None:
    for _ in range(200):
        caller.sendall(what)
        time.sleep(0.05)


@pytest.mark.parametrize("said", [b"", b"\r\n", b"GET /v2", b"GET /v2 HTTP/1.1\r\nHost: a\r\nX: "])
def test_headers_that_do_not_come(port: int, folder: Path, said: bytes) -> None:
    before = value_of(folder, FRONT_REJECTED, reason="slow")
    answer = raw_answer(port, said)
    assert status_of(answer) == 408
    assert error_of(answer) == "request: expected all headers within 0.3 s"
    assert value_of(folder, FRONT_REJECTED, reason="slow") == before + 1


def test_headers_that_come_a_byte_at_a_time(port: int) -> None:
    with connected(port) as caller, pytest.raises(OSError, match=r"pipe|reset"):
        send_slowly(caller, b"x")


def test_empty_lines_are_no_beginning(port: int) -> None:
    with connected(port) as caller:
        caller.sendall(LIVE)
        assert status_of(caller.recv(2**16)) == 200
        with pytest.raises(OSError, match=r"pipe|reset"):
            send_slowly(caller, b"\r\n")


def test_an_idle_connection_is_closed(port: int) -> None:
    with connected(port) as caller:
        caller.sendall(LIVE)
        assert read_all(caller).count(b"HTTP/1.1 200") == 1  # and then its end, before our patience


def test_connections_of_one_address(port: int, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HEADER_SECONDS", "IDLE_SECONDS"):  # they are all open at once, however long this takes
        monkeypatch.setattr(limits, name, PATIENCE_SECONDS)
    with ExitStack() as opened:
        callers = [opened.enter_context(connected(port)) for _ in range(MOST_CONNECTIONS)]
        for caller in callers:
            caller.sendall(LIVE)
        answers = [caller.recv(2**16) for caller in callers]
        assert [status_of(answer) for answer in answers] == [200] * 4 + [503] * 4
        assert error_of(answers[-1]) == "connections: expected at most 4 from one address; ask again later"
    last = LIVE.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
    until(lambda: status_of(raw_answer(port, last)) == 200)
    assert value_of(folder, FRONT_REJECTED, reason="connections") >= 4


@pytest.mark.parametrize("ends", ["answered", "failed"])
def test_a_caller_who_left_counts_until_his_request_has_ended(ends: str) -> None:
    """What he asked for is still computed: by leaving he could ask for more than those who stay."""

    async def ask() -> None:
        begun, ended = asyncio.Event(), asyncio.Event()

        async def app(scope: Any, receive: Any, send: Any) -> None:
            del receive, send
            connection = scope["state"]["connection"]
            connection.begin(lambda: None)
            begun.set()
            await ended.wait()
            connection.settle()
            if ends == "failed":
                raise ValueError

        gate, state = Gate(2), ServerState()
        config = Config(app, http=CallerConnection, ws="none", lifespan="off", log_config=None)
        config.load()
        loop = asyncio.get_running_loop()
        refused = list[str]()
        async with await loop.create_server(
            lambda: CallerConnection(config, state, gate, lambda reason, _: refused.append(reason)), "127.0.0.1", 0
        ) as server:
            address = server.sockets[0].getsockname()
            _, caller = await asyncio.open_connection(*address)
            caller.write(LIVE)
            await begun.wait()
            caller.close()
            while state.connections:
                await asyncio.sleep(0.01)
            assert gate.open == 1
            other, _ = await asyncio.open_connection(*address)
            assert status_of(await other.read()) == 503
            assert refused == ["connections"]
            ended.set()
            await asyncio.gather(*state.tasks, return_exceptions=True)
            while gate.open:
                await asyncio.sleep(0.01)

    asyncio.run(asyncio.wait_for(ask(), PATIENCE_SECONDS))


def test_a_gate_counts_all_addresses_together() -> None:
    gate = Gate(4)
    assert [gate.enter(address) for address in "abcd"] == [""] * 4
    assert gate.enter("e") == "connections: expected at most 4 in all"
    gate.leave("a", is_refused=False)
    assert gate.enter("b") == ""


def test_refused_connections_of_one_address_take_no_place_of_others(port: int) -> None:
    """Each is read for a moment longer, for its answer to arrive: many a second would shut everybody else out."""
    with ExitStack() as opened:
        for _ in range(4 * MOST_CONNECTIONS):
            caller = opened.enter_context(socket.socket())
            caller.settimeout(PATIENCE_SECONDS)
            caller.bind(("127.0.0.2", 0))
            caller.connect(("127.0.0.1", port))
        with connected(port) as other:
            other.sendall(LIVE.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
            assert status_of(read_all(other)) == 200


def test_rates_are_of_each_client(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    rates = Rates(2)
    assert [rates.wait_of("a") for _ in range(3)] == [0, 0, 0.5]
    assert rates.wait_of("b") == 0
    now = 0.5
    assert rates.wait_of("a") == 0
    assert rates.wait_of("a") == 0.5
    now = 100.0
    assert [rates.wait_of("a") > 0 for _ in range(3)] == [False, False, True]


def test_a_rate_below_one_lets_the_first_request_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "monotonic", lambda: 0.0)
    rates = Rates(0.1)
    assert rates.wait_of("a") == 0
    assert rates.wait_of("a") == pytest.approx(10)


def test_rates_forget_who_asked_long_ago() -> None:
    rates = Rates(1)
    for client in range(20_000):
        rates.wait_of(str(client))
    assert len(rates._buckets) == 10_000


def test_bodies_share_what_there_is() -> None:
    bodies = BodyBytes(10)
    assert [bodies.take("a", 3), bodies.take("a", 3), bodies.take("a", 2)] == [True, False, True]
    assert [bodies.take("b", 5), bodies.take("c", 1)] == [True, False]
    bodies.give("a", 5)
    assert [bodies.take("a", 5), bodies.take("c", 1)] == [True, False]


def test_images_that_wait_share_a_queue() -> None:
    """A request that alone is more than half of the queue is the tier's to refuse."""
    waiting = WaitingImages()
    with waiting.held("a", "m", 3, 4), waiting.held("b", "m", 6, 4), waiting.held("a", "other", 4, 4):
        with pytest.raises(Refusal, match="found 3 and 2 more"), waiting.held("a", "m", 2, 4):
            pass
        with waiting.held("a", "m", 1, 4), waiting.held("a", "unbounded", 100, None):
            pass
    assert not waiting._of, "who waits no more is forgotten"


BODIES_BYTES = 2**20


@pytest.fixture
def bodies() -> BodyBytes:
    """The bytes of bodies that `pictures_port` holds."""
    return BodyBytes(BODIES_BYTES)


@pytest.fixture
def pictures_port(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bodies: BodyBytes) -> Iterator[int]:
    """A front whose model takes pictures of half of all that the front holds, and answers nothing."""

    async def rules(*_: str) -> ModelRules:
        image = TensorRule("image", "UINT8", 1, (BODIES_BYTES // 2,))
        return ModelRules("m", {"image": image}, frozenset(), False, 1, False, BODIES_BYTES // 2, BODIES_BYTES // 2)

    server = FrontServer(FrontOptions(), Recorder(tmp_path), None)
    monkeypatch.setattr(server._app, "_bodies", bodies)
    monkeypatch.setattr(server.served, "rules", rules)
    with listening(server) as port:
        yield port


def begin_body(address: str, port: int, size: int) -> socket.socket:
    """A caller of all but the last byte of a body."""
    caller = socket.create_connection(("127.0.0.1", port), PATIENCE_SECONDS, source_address=(address, 0))
    caller.sendall(f"POST /v2/models/m/infer HTTP/1.1\r\nHost: a\r\nContent-Length: {size}\r\n\r\n".encode())
    caller.sendall(b"x" * (size - 1))
    return caller


def test_one_caller_leaves_room_for_the_bodies_of_others(
    pictures_port: int, bodies: BodyBytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """He sends all but the last byte of bodies that no time limit ends soon."""
    monkeypatch.setattr(limits, "BODY_SECONDS", 300)  # a busy machine takes longer for the other bodies

    def begin(address: str) -> socket.socket:
        return opened.enter_context(begin_body(address, pictures_port, BODIES_BYTES // 2))

    with ExitStack() as opened:
        held = begin("127.0.0.1")
        until(lambda: bodies._of_client.get("127.0.0.1") == BODIES_BYTES // 2 - 1)  # else it may be the one refused
        refused, other = begin("127.0.0.1"), begin("127.0.0.2")
        answer = read_all(refused)
        assert status_of(answer) == 503
        assert (
            error_of(answer) == "body: expected room for it, found that other requests hold all of it; ask again later"
        )
        for caller in (held, other):
            caller.sendall(b"x")
            assert status_of(caller.recv(2**16)) == 400  # it was read: it is no JSON


def test_a_body_that_stops_is_given_up_whatever_has_come_of_it(
    pictures_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else bytes that were sent at once would pay for hours, in which others have no room."""
    monkeypatch.setattr(limits, "BODY_SECONDS", 0.3)
    with begin_body("127.0.0.1", pictures_port, BODIES_BYTES // 2) as caller:
        caller.settimeout(BODIES_BYTES / 2 / limits.BODY_RATE / 2)  # half of the time that its bytes would have paid
        answer = read_all(caller)
    assert status_of(answer) == 408
    assert error_of(answer) == "body: expected at least 4096 bytes a second"


@pytest.mark.parametrize(("size", "turns", "looks_for_garbage"), [(2**16, 1, True), (2**16 + 1, 3, False)])
def test_large_bodies_are_read_one_in_a_turn(size: int, turns: int, looks_for_garbage: bool) -> None:
    """Each may take most of a second; many that end at once held the front up until its supervisor ended it."""

    async def read_three() -> set[tuple[int, bool]]:
        loop, turn = asyncio.get_running_loop(), 0

        def count() -> None:
            nonlocal turn
            turn += 1
            loop.call_soon(count)

        count()
        app = FrontApp(Served(), tokens=None, rates=None, recorder=Recorder(), log=None)
        found = await asyncio.gather(*(app._read(bytes(size), lambda _: (turn, gc.isenabled())) for _ in range(3)))
        return {*found}

    found = asyncio.run(asyncio.wait_for(read_three(), PATIENCE_SECONDS))
    assert len(found) == turns
    assert {is_enabled for _, is_enabled in found} == {looks_for_garbage}
    assert gc.isenabled()
