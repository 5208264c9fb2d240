"""What one caller can make the server take of the machine: connections, log, shared memory, files. All is bounded."""

from __future__ import annotations

import os
import resource
import select
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import grpc
import numpy as np
import pytest
from test_poison import infer_request, refusal
from test_server import descendants, is_running, serve_command, triton_below, triton_process, wait_until_gone
from test_watch import BUSY_SECONDS, seconds_until
from tiny_model import random_images, take_uint8, write_tiny_model
from tritonclient.grpc import service_pb2_grpc

from heatserve import FREE_PORTS, Client, Endpoints, OverloadedError, ServingError, TritonServer
from heatserve.export.repository.layout import CONFIG_NAME, MAX_BATCH_SIZE
from heatserve.export.repository.settings import read_config, write_config
from heatserve.serving.batching import PICTURES_BYTES
from heatserve.serving.triton import server as server_module
from heatserve.serving.triton import workspace as workspace_module
from heatserve.serving.triton.bounded_log import LOG_BYTES, BoundedLog
from heatserve.serving.triton.options import CONNECTION_LIMITS

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform != "linux", reason="Triton runs on Linux only")]

SHARED_MEMORY = Path("/dev/shm")
GREETING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


def regions(folder: str) -> dict[str, os.stat_result]:
    return {path.name: path.stat() for path in SHARED_MEMORY.glob(f"{folder}*")}


def folder_of(server: TritonServer) -> str:
    """The name of the server's temporary folder, with which the names of its regions begin."""
    return server.log.stem


@contextmanager
def triton_stub(server: TritonServer) -> Iterator[service_pb2_grpc.GRPCInferenceServiceStub]:
    options = [("grpc.max_send_message_length", -1)]
    with grpc.insecure_channel(server.endpoints.grpc_url.removeprefix("grpc://"), options=options) as channel:
        yield service_pb2_grpc.GRPCInferenceServiceStub(channel)


@contextmanager
def limit(kind: int, value: int) -> Iterator[None]:
    """A soft limit of this process, and of those that it starts."""
    soft, hard = resource.getrlimit(kind)
    resource.setrlimit(kind, (value, hard))
    try:
        yield
    finally:
        resource.setrlimit(kind, (soft, hard))


def predicts(server: TritonServer) -> bool:
    with Client(server.endpoints.grpc_url, model="tiny", timeout=10) as client:
        return len(client.predict(random_images(2))) == 2


def test_what_the_server_makes_is_for_its_user_only(triton: TritonServer) -> None:
    status = Path(f"/proc/{triton_process(triton)}/status").read_text()
    assert "Umask:\t0077" in status
    assert triton.log.stat().st_mode & 0o777 == 0o600
    assert triton.log.with_suffix("").stat().st_mode & 0o777 == 0o700
    found = regions(folder_of(triton))
    assert len(found) == len(triton.models)
    assert {region.st_mode & 0o777 for region in found.values()} == {0o600}


def test_a_batch_too_large_is_refused_before_it_takes_shared_memory(triton: TritonServer) -> None:
    before = {name: region.st_size for name, region in regions(folder_of(triton)).items()}
    images = 48_829
    with triton_stub(triton) as stub:
        status, message = refusal(stub.ModelInfer, infer_request("tiny", (images, 1, 8, 8), bytes(256 * images)))
    assert status == grpc.StatusCode.INVALID_ARGUMENT
    assert message.endswith(f"inference request batch-size must be <= {MAX_BATCH_SIZE} for 'tiny'")
    assert {name: region.st_size for name, region in regions(folder_of(triton)).items()} == before
    assert predicts(triton)


def test_what_a_refused_request_took_is_given_back(triton: TritonServer) -> None:
    """100 MB; Triton reads it whole, and kept three times as much, for itself and for the next request."""
    images, most = 400_000, 20 * 2**20
    process = triton_process(triton)
    before = resident_bytes(process)
    with triton_stub(triton) as stub:
        for _ in range(2):
            status, _ = refusal(stub.ModelInfer, infer_request("tiny", (images, 1, 8, 8), bytes(256 * images)))
            assert status == grpc.StatusCode.INVALID_ARGUMENT
    deadline = time.monotonic() + 30
    while resident_bytes(process) > before + most:
        assert time.monotonic() < deadline, f"{(resident_bytes(process) - before) // 2**20} MiB are kept"
        time.sleep(0.1)
    assert predicts(triton)


def resident_bytes(process: int) -> int:
    """Of a process' memory."""
    return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * resource.getpagesize()


def test_a_request_without_shared_memory_is_told_to_come_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A region that may not grow fails as one does where /dev/shm is full."""
    take_uint8(write_tiny_model(tmp_path, "pictures", calibrated=False), resize=12)
    monkeypatch.setattr(workspace_module, "_REGION_FACTOR", 0)
    with TritonServer(tmp_path, endpoints=FREE_PORTS) as server:
        for url in (server.endpoints.grpc_url, server.endpoints.http_url):
            with Client(url, model="pictures") as client:
                with pytest.raises(OverloadedError, match=r"no shared memory left .*--shm-size") as error:
                    client.predict(np.zeros((1, 5000, 5000, 1), np.uint8))
                assert "heatserve-" not in str(error.value), "the name of the region"
                assert len(client.predict(np.zeros((1, 50, 50, 1), np.uint8))) == 1


def test_a_request_of_pictures_is_limited_in_bytes_and_so_is_shared_memory(tmp_path: Path) -> None:
    take_uint8(write_tiny_model(tmp_path, "pictures", calibrated=False), resize=12)
    with TritonServer(tmp_path, endpoints=FREE_PORTS) as server, triton_stub(server) as stub:
        limits = Path(f"/proc/{triton_process(server)}/limits").read_text()
        (most,) = (int(line.split()[3]) for line in limits.splitlines() if line.startswith("Max file size"))
        assert PICTURES_BYTES < most < 5 * PICTURES_BYTES
        side = 16_400
        request = infer_request("pictures", (1, side, side, 1), bytes(side * side))
        status, message = refusal(stub.ModelInfer, request)
        assert status == grpc.StatusCode.INVALID_ARGUMENT
        assert message == f"image: expected at most {PICTURES_BYTES} bytes in one request, found {side * side}"
        stub.ModelInfer(infer_request("pictures", (1, 20, 20, 1), bytes(400)), timeout=30)
        assert all(region.st_size <= most for region in regions(folder_of(server)).values())


def test_the_client_splits_large_pictures(tmp_path: Path) -> None:
    take_uint8(write_tiny_model(tmp_path, "pictures", calibrated=False), resize=12)
    with (
        TritonServer(tmp_path, endpoints=FREE_PORTS) as server,
        Client(server.endpoints.grpc_url, model="pictures") as client,
    ):
        assert len(client.predict(np.zeros((3, 10_000, 10_000, 1), np.uint8))) == 3


def test_shared_memory_without_room_for_a_full_batch_is_explained(tmp_path: Path) -> None:
    path = write_tiny_model(tmp_path).parent / CONFIG_NAME
    config = read_config(path)
    config.instance_group[0].count = 2**30
    write_config(path, config)
    with pytest.raises(
        ServingError,
        match=r"/dev/shm: expected \d+ MiB free for one full batch of each model instance, .*--shm-size=\d+m\)",
    ):
        TritonServer(tmp_path, endpoints=FREE_PORTS).__enter__()


def test_a_thousand_idle_connections_hold_nobody_up(tiny_repository: Path) -> None:
    """Each takes a descriptor, of which a shell gives a process 1,024; Triton takes all that the system allows."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 2500:
        pytest.skip("this system allows too few descriptors")
    with limit(resource.RLIMIT_NOFILE, 1024):
        server = TritonServer(tiny_repository, models=["tiny"], endpoints=FREE_PORTS).__enter__()
    with ExitStack() as open_ones, limit(resource.RLIMIT_NOFILE, hard):
        open_ones.enter_context(server)
        for _ in range(1100):
            open_ones.enter_context(socket.create_connection(("127.0.0.1", server.endpoints.grpc), timeout=5))
        assert predicts(server)
        assert server.log.stat().st_size < 100_000


def half_a_request() -> bytes:
    """HTTP/2 to where inference is asked for: settings, headers, and 8 of 21 bytes of the message."""

    def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
        return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload

    fields = {
        ":method": "POST",
        ":scheme": "http",
        ":path": "/inference.GRPCInferenceService/ModelInfer",
        ":authority": "this",
        "te": "trailers",
        "content-type": "application/grpc",
    }
    headers = b"".join(
        bytes([0, len(name)]) + name.encode() + bytes([len(value)]) + value.encode() for name, value in fields.items()
    )
    settings, head, data = frame(4, 0, 0, b""), frame(1, 4, 1, headers), frame(0, 0, 1, b"\0\0\0\x10\0abc")
    return GREETING + settings + head + data


def test_a_request_that_never_ends_is_closed(tiny_repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After 80 seconds; here after 2."""
    quick = {"--grpc-keepalive-time": 1000, "--grpc-keepalive-timeout": 1000}
    options = [option.split("=") for option in CONNECTION_LIMITS]
    assert quick.keys() < dict(options).keys()
    shortened = tuple(f"{name}={quick.get(name, value)}" for name, value in options)
    monkeypatch.setattr(server_module, "CONNECTION_LIMITS", shortened)
    with TritonServer(tiny_repository, models=["tiny"], endpoints=FREE_PORTS) as server, ExitStack() as stack:
        address = ("127.0.0.1", server.endpoints.grpc)
        callers = [stack.enter_context(socket.create_connection(address)) for _ in range(200)]
        for caller in callers:
            caller.sendall(half_a_request())
        assert_closed(callers, seconds=20)
        assert predicts(server)


def assert_closed(callers: list[socket.socket], *, seconds: float) -> None:
    """All connections are closed by the other side within this time."""
    left, deadline = set(callers), time.monotonic() + seconds
    while left:
        assert time.monotonic() < deadline, f"{len(left)} of {len(callers)} are open"
        for caller in select.select(list(left), [], [], 0.2)[0]:
            try:
                data = caller.recv(2**16)
            except ConnectionResetError:
                data = b""
            if not data:
                left.remove(caller)


def test_clients_outlive_their_connections(tiny_repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection is replaced after ten minutes; here after one second."""
    options = [option.split("=") for option in CONNECTION_LIMITS]
    assert "--grpc-max-connection-age" in dict(options)
    shortened = tuple(f"{name}={1000 if name.endswith('-age') else value}" for name, value in options)
    monkeypatch.setattr(server_module, "CONNECTION_LIMITS", shortened)
    with (
        TritonServer(tiny_repository, models=["patient"], endpoints=FREE_PORTS) as server,
        Client(server.endpoints.grpc_url, model="patient") as client,
    ):
        end = time.monotonic() + 5
        while time.monotonic() < end:
            assert len(client.predict(random_images(2))) == 2


def test_the_log_keeps_its_newest_lines(tmp_path: Path) -> None:
    log = BoundedLog(tmp_path / "triton.log", limit=200_000)
    with log.writer as writer:
        for number in range(60_000):
            writer.write(f"line {number}\n".encode())
    log.settle(seconds=10)
    first, *lines = log.path.read_text().splitlines()
    assert log.path.stat().st_size <= 200_000
    assert log.path.stat().st_mode & 0o777 == 0o600
    assert first == "(older lines were removed)"
    assert len(lines) > 3_000
    assert lines == [f"line {number}" for number in range(60_000 - len(lines), 60_000)]


def test_a_full_disk_costs_lines_of_the_log_and_holds_nobody_up(tmp_path: Path) -> None:
    with limit(resource.RLIMIT_FSIZE, 5000):
        log = BoundedLog(tmp_path / "triton.log", limit=LOG_BYTES)
        with log.writer as writer:
            for number in range(20_000):
                writer.write(f"line {number}\n".encode())
        log.settle(seconds=10)
    assert log.path.read_text().startswith("line 0\n")
    assert log.path.stat().st_size <= 5000


def test_of_servers_that_start_at_once_on_the_same_ports_one_is_ready(tiny_repository: Path, tmp_path: Path) -> None:
    ports = Endpoints(http=0, grpc=0, metrics=0).bound()
    options = [f"--{name}-port={getattr(ports, name)}" for name in ("http", "grpc", "metrics")]
    command = [sys.executable, "-m", "heatserve", "serve", "tiny", f"--repository={tiny_repository}", *options]
    servers = [
        subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "TMPDIR": str(tmp_path)},
        )
        for _ in range(3)
    ]
    try:
        deadline = time.monotonic() + 60
        while sum(server.poll() is None for server in servers) > 1:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        (ready,) = (server for server in servers if server.poll() is None)
        assert ready.stdout is not None
        assert any(line.startswith("gRPC") for line in ready.stdout)
    finally:
        for server in servers:
            server.terminate()
    for server in servers:
        output, errors = server.communicate(timeout=30)
        if server is not ready:
            assert server.returncode == 1
            assert "-port" in errors
            assert "expected a free port, found that " in errors
            assert "gRPC" not in output
    assert not list(tmp_path.iterdir())


def triton_folder(temporary: Path) -> Path:
    """That of the one Triton whose files are there."""
    (found,) = (path.parent for path in temporary.glob("heatserve-*/models"))
    return found


def test_the_next_server_removes_what_a_killed_one_left(tiny_repository: Path, tmp_path: Path) -> None:
    with serve_command(tiny_repository, tmp_path) as (process, _):
        seconds_until(lambda: any(tmp_path.glob("*/control.json")), at_most=BUSY_SECONDS)
        folder, own = triton_folder(tmp_path), {path for path in tmp_path.iterdir() if path.is_dir()}
        assert len(own) == 3, "of the server, of its Triton, and for `heatserve switch`"
        processes = descendants(process.pid)
        with serve_command(tiny_repository, tmp_path) as (other, _):
            assert all(path.exists() for path in own)
            assert regions(folder.name), "what belongs to a living server was removed"
            for pid in (process.pid, *processes):
                with suppress(ProcessLookupError):  # the front ends with its parent
                    os.kill(pid, signal.SIGKILL)
            process.wait()
            wait_until_gone(processes, seconds=5)
            assert folder.exists()
            assert regions(folder.name)
            with serve_command(tiny_repository, tmp_path) as (third, _):
                assert not any(path.exists() for path in own)
                assert not folder.with_name(f"{folder.name}.log").exists()
                assert not regions(folder.name)
                for server in (other, third):
                    server.send_signal(signal.SIGTERM)
                    assert server.wait(20) == 0
    assert not list(tmp_path.iterdir())


def test_triton_that_outlives_its_parent_keeps_its_folder(tiny_repository: Path, tmp_path: Path) -> None:
    """It drains: a request in flight needs what is there."""
    with serve_command(tiny_repository, tmp_path) as (process, _):
        folder, triton = triton_folder(tmp_path), triton_below(process.pid)
        os.kill(triton, signal.SIGSTOP)
        try:
            process.kill()
            process.wait()
            assert is_running(triton)
            with serve_command(tiny_repository, tmp_path):
                assert folder.exists()
        finally:
            os.kill(triton, signal.SIGKILL)


@pytest.mark.parametrize("name", ["a b", "$x", "ü", os.fsdecode(b"\xe9"), "a\nb"])
def test_a_temporary_folder_that_triton_cannot_work_in_is_refused(
    tiny_repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    (tmp_path / name).mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / name))
    with pytest.raises(ServingError, match="TMPDIR: expected a folder whose path has only ASCII letters") as error:
        TritonServer(tiny_repository, endpoints=FREE_PORTS).__enter__()
    assert str(error.value).isprintable()
    assert not list((tmp_path / name).iterdir())


@pytest.mark.parametrize("size", [0, 100_000])
def test_a_temporary_folder_without_room_is_explained(tiny_repository: Path, tmp_path: Path, size: int) -> None:
    code = (
        f"import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, ({size}, {size}))\n"
        f"sys.argv = ['heatserve', 'serve', '--repository', {str(tiny_repository)!r}]\n"
        "sys.argv += ['--http-port=0', '--grpc-port=0', '--metrics-port=0']\n"
        "from heatserve.cli import main; main()"
    )
    env = {**os.environ, "TMPDIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert done.stderr.startswith("error: ")
    assert "expected a temporary folder with room to write into, found: " in done.stderr
    assert "TMPDIR" in done.stderr
    assert "->" not in done.stderr, "the files that were copied"
    assert not list(tmp_path.iterdir())
