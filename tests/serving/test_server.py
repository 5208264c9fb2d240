"""Starting and ending Triton: each failure explained, no process left behind."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import onnx
import pytest
import tritonclient.grpc
import tritonclient.http
from tiny_model import random_images, write_tiny_card, write_tiny_model
from tritonclient.utils import InferenceServerException

import heatserve
from heatserve import FREE_PORTS, Client, Endpoints, ServingError, TritonServer
from heatserve.export.card import GRAPH_NAME, CardError
from heatserve.export.repository.layout import CONFIG_NAME
from heatserve.export.repository.settings import read_config, write_config
from heatserve.serving.triton.installation import Triton, find_triton

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="Triton runs on Linux only")


def start(repository: Path) -> None:
    with TritonServer(repository, endpoints=FREE_PORTS):
        pass


def test_empty_repository(tmp_path: Path) -> None:
    with pytest.raises(ServingError, match="expected a model repository, found no model in it"):
        start(tmp_path)


def test_truncated_graph_is_refused_before_triton_starts(tmp_path: Path) -> None:
    version_dir = write_tiny_model(tmp_path)
    graph = version_dir / GRAPH_NAME
    graph.write_bytes(graph.read_bytes()[:500])
    write_tiny_card(version_dir)
    with pytest.raises(CardError, match=r"model\.onnx: expected an ONNX graph"):
        start(tmp_path)


@pytest.mark.slow
def test_graph_that_onnx_runtime_refuses_is_explained(tmp_path: Path) -> None:
    version_dir = write_tiny_model(tmp_path)
    graph = version_dir / GRAPH_NAME
    model = onnx.load(graph)
    model.graph.node[0].op_type = "Nonsense"
    onnx.save(model, graph)
    write_tiny_card(version_dir)
    with pytest.raises(ServingError, match="did not start") as caught:
        start(tmp_path)
    message = str(caught.value)
    assert "failed to load 'tiny' version 1" in message
    assert str(graph) in message
    assert "Nonsense" in message
    log = log_named_in(message)
    assert "Nonsense" in log.read_text()
    log.unlink()


@pytest.mark.parametrize("service", ["http", "grpc", "metrics"])
def test_port_that_is_taken(tiny_repository: Path, service: str) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        endpoints = Endpoints(**{"http": 0, "grpc": 0, "metrics": 0, service: port})
        with pytest.raises(ServingError, match=f"--{service}-port {port}: expected a free port"):
            TritonServer(tiny_repository, endpoints=endpoints).__enter__()


@pytest.mark.parametrize(
    ("endpoints", "message"),
    [
        (Endpoints(http=70000), "--http-port 70000: expected a port to listen on"),
        (Endpoints(host="no.such.host.invalid"), "--host no.such.host.invalid: expected an IPv4 address"),
        (Endpoints(host="192.0.2.1"), "--host 192.0.2.1: expected an address of this machine"),
    ],
)
def test_impossible_endpoints(endpoints: Endpoints, message: str) -> None:
    with pytest.raises(ServingError, match=message):
        endpoints.bound()


@pytest.mark.parametrize(("one", "other"), [("http", "grpc"), ("http", "metrics"), ("grpc", "metrics")])
def test_two_services_are_not_given_one_port(one: str, other: str) -> None:
    ports: dict[str, Any] = {"http": 0, "grpc": 0, "metrics": 0, one: 9000, other: 9000}
    with pytest.raises(
        ServingError, match=f"--{one}-port, --{other}-port: expected a port for each, got 9000 for both"
    ):
        Endpoints(**ports)


def test_no_usable_triton(tmp_path: Path) -> None:
    with pytest.raises(ServingError, match=r"found .*tritonserver, with neither in .*pip install 'heatserve\[serve\]'"):
        find_triton(backend_directory=tmp_path)


def test_python_without_a_backend(tmp_path: Path) -> None:
    stub = tmp_path / "backends" / "python" / "triton_python_backend_stub"
    stub.parent.mkdir(parents=True)
    stub.write_bytes(b"\0libpython3.8.so.1.0\0")
    running = f"{sys.version_info.major}.{sys.version_info.minor}"
    with pytest.raises(ServingError, match=rf"expected a Python backend for Python {running}.* found it for 3\.8"):
        Triton(tmp_path / "bin" / "tritonserver", tmp_path / "backends").stub()


def test_native_backend_is_used_as_it_is(tmp_path: Path) -> None:
    library = tmp_path / "onnxruntime" / "libtriton_onnxruntime.so"
    library.parent.mkdir()
    library.touch()
    triton = find_triton(backend_directory=tmp_path)
    assert triton.has_native_onnxruntime
    assert triton.backends == tmp_path


@pytest.mark.slow
def test_servers_side_by_side(triton: TritonServer, tiny_repository: Path) -> None:
    with TritonServer(tiny_repository, models=["uncalibrated"], endpoints=FREE_PORTS) as other:
        assert [model.name for model in other.models] == ["uncalibrated"]
        with Client(other.endpoints.grpc_url, model="uncalibrated") as client:
            assert len(client.predict(random_images(2))) == 2
        with (
            Client(other.endpoints.grpc_url, model="tiny") as client,
            pytest.raises(ServingError, match="unknown model"),
        ):
            client.spec()
    with Client(triton.endpoints.http_url, model="tiny") as client:
        assert len(client.predict(random_images(2))) == 2
    assert not other.log.exists()


@contextmanager
def serve_command(
    repository: Path, temporary: Path, *options: str, model: str = "patient"
) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """`heatserve serve` as a process of its own, its temporary files in `temporary`; and its gRPC URL."""
    with serve_command_at(repository, temporary, *options, model=model) as (process, urls):
        yield process, urls["gRPC"]


@contextmanager
def serve_command_at(
    repository: Path, temporary: Path, *options: str, model: str = "patient"
) -> Iterator[tuple[subprocess.Popen[str], dict[str, str]]]:
    """The same, and its URLs of `HTTP` and `gRPC`."""
    # A shell that starts us in the background, or `nohup`, has a signal ignored, for us and our children.
    start = "from signal import *; signal(SIGINT, default_int_handler); signal(SIGHUP, SIG_DFL); "
    code = start + "from heatserve.cli import main; main()"
    ports = ["--http-port", "0", "--grpc-port", "0", "--metrics-port", "0"]
    with subprocess.Popen(
        [sys.executable, "-c", code, "serve", model, "--repository", str(repository), *ports, *options],
        env={**os.environ, "TMPDIR": str(temporary)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        urls = dict[str, str]()
        for line in process.stdout:
            if line.startswith(("HTTP ", "gRPC ")):
                urls[line.split()[0]] = line.split()[1]
            if len(urls) == 2:
                break
        try:
            yield process, urls
        finally:  # where a test failed, too: leaving the context waits for the process
            process.kill()


@pytest.mark.slow
def test_the_server_runs_nothing_from_the_folder_it_was_started_in(tiny_repository: Path, tmp_path: Path) -> None:
    """The program `heatserve` does not look for modules there; nor does what it starts."""
    for name in ("json", "math", "numpy", "onnxruntime", "heatserve", "export"):
        (tmp_path / f"{name}.py").write_text(f"raise SystemExit('{name}.py of the user was run')\n")
    code = (
        "import sys; sys.path.remove(''); from heatserve import FREE_PORTS, Client, TritonServer\n"
        f"with TritonServer({str(tiny_repository)!r}, models=['tiny'], endpoints=FREE_PORTS) as server:\n"
        "    print([model.name for model in server.models])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "['tiny']\n"), done.stderr


@pytest.mark.slow
def test_the_server_gets_nothing_but_what_the_card_is_about(tmp_path: Path) -> None:
    """Triton would load a library that lies beside a graph, and a version that no card was verified of."""
    version_dir = write_tiny_model(tmp_path)
    shutil.copytree(version_dir, version_dir.parent / "2")
    config = read_config(version_dir.parent / CONFIG_NAME)
    config.version_policy.all.SetInParent()
    write_config(version_dir.parent / CONFIG_NAME, config)
    for folder in (version_dir, version_dir.parent / "2", version_dir.parent):
        (folder / "libtriton_onnxruntime.so").write_bytes(b"not a library")
        (folder / "model.py").write_text("raise SystemExit('model.py of the repository was run')\n")
    with TritonServer(tmp_path, endpoints=FREE_PORTS) as server:
        connection = tritonclient.http.InferenceServerClient(server.endpoints.http_url.removeprefix("http://"))
        assert connection.get_model_metadata("tiny")["versions"] == ["2"]
        connection.close()


def status(port: int, path: str, name: str, value: str) -> str:
    """What HTTP answers who sends one header as it is given: the code, or nothing where the header is no header."""
    with socket.create_connection(("127.0.0.1", port)) as http:
        http.sendall(f"GET {path} HTTP/1.1\r\nHost: this\r\n{name}: {value}\r\nConnection: close\r\n\r\n".encode())
        return http.recv(100).decode()[9:12]


def test_who_reads_the_list_of_processes_opens_no_closed_api(triton: TritonServer) -> None:
    commands = (command_of(pid).split("\0") for pid in descendants(os.getpid()))
    (command,) = (command for command in commands if f"--http-port={triton.endpoints.http}" in command)
    headers = {word.split(":")[1] for word in command if "-restricted-" in word}
    assert len(headers) == 1
    name, value = headers.pop().split("=")
    sendable = value.strip()
    assert status(triton.endpoints.http, "/v2", name, sendable) == "200"
    assert status(triton.endpoints.http, "/v2/logging", name, sendable) == "403"
    for sent in (value, f"{sendable} ", f"{sendable}\r\n "):
        assert status(triton.endpoints.http, "/v2/logging", name, sent) in ("403", "")
    grpc = tritonclient.grpc.InferenceServerClient(triton.endpoints.grpc_url.removeprefix("grpc://"))
    for key in (name, name.lower()):
        for sent in (value, sendable):
            with pytest.raises(InferenceServerException, match=r"restricted|Illegal header|Invalid metadata"):
                grpc.get_log_settings(headers={f"triton-grpc-protocol-{key}": sent})
    grpc.close()


@pytest.mark.slow
def test_the_server_runs_the_package_that_this_process_does(tiny_repository: Path, tmp_path: Path) -> None:
    """A copy of the package that PYTHONPATH names, with a backend that refuses to load."""
    copy = tmp_path / "copy"
    shutil.copytree(Path(heatserve.__file__).parent, copy / "heatserve")
    backend = copy / "heatserve" / "serving" / "backend" / "model.py"
    backend.write_text(backend.read_text() + "\nraise ImportError('the copy was imported')\n")
    code = (
        "from heatserve import FREE_PORTS, TritonServer\n"
        f"with TritonServer({str(tiny_repository)!r}, models=['tiny'], endpoints=FREE_PORTS): pass\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(copy)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "the copy was imported" in done.stderr


def log_named_in(message: str) -> Path:
    """The log of a Triton that failed, from the error that tells of it."""
    return Path(message.split("its log ")[1].split(" ")[0])


def descendants(pid: int) -> set[int]:
    tasks = Path(f"/proc/{pid}/task").glob("*/children")  # a process belongs to the thread that started it
    children = {int(child) for task in tasks for child in text_of(task).split()}
    return children.union(*(descendants(child) for child in children))


def text_of(path: Path) -> str:
    """What the kernel says there of a process or a thread; nothing, where that ended meanwhile."""
    try:
        return path.read_text()
    except OSError:
        return ""


def command_of(pid: int) -> str:
    """The command line of a process, a zero byte behind each word; empty where it ended meanwhile."""
    return text_of(Path(f"/proc/{pid}/cmdline"))


def triton_process(server: TritonServer) -> int:
    """The process of Triton."""
    return triton_below(os.getpid(), f"--http-port={server.endpoints.http}")


def triton_below(pid: int, option: str = "--grpc-port=") -> int:
    """The one Triton that a process started, with such an option."""
    (found,) = (child for child in descendants(pid) if f"\0{option}" in command_of(child))
    return found


def is_running(pid: int) -> bool:
    """Whether a process exists and is not merely waiting for an init that collects it late."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] != "Z"
    except OSError:
        return False


def wait_until_gone(pids: set[int], *, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while any(map(is_running, pids)):
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signal_drains_and_leaves_nothing(tiny_repository: Path, tmp_path: Path, number: signal.Signals) -> None:
    with serve_command(tiny_repository, tmp_path) as (process, url), ThreadPoolExecutor(1) as pool:
        processes = descendants(process.pid)
        assert len(processes) == 3, "expected the front, Triton and one model instance"
        with Client(url, model="patient") as client:
            client.spec()
            answer = pool.submit(client.predict, random_images(3))  # waits in the queue for a fifth of a second
            time.sleep(0.1)
            process.send_signal(number)
            assert len(answer.result()) == 3
        assert process.wait(20) == 0
        wait_until_gone(processes, seconds=1)
        assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_killed_command_takes_triton_along(tiny_repository: Path, tmp_path: Path) -> None:
    with serve_command(tiny_repository, tmp_path) as (process, _):
        processes = descendants(process.pid)
        process.kill()
        wait_until_gone(processes, seconds=20)


@pytest.mark.slow
def test_triton_that_ends_is_explained_though_somebody_removed_its_files(tiny_repository: Path, tmp_path: Path) -> None:
    """As services do that clean temporary folders; a running Triton needs none of its files."""
    with serve_command(tiny_repository, tmp_path, "--no-restart") as (process, url):
        for path in tmp_path.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        with Client(url, model="patient") as client:
            assert len(client.predict(random_images(2))) == 2
        os.kill(triton_below(process.pid), signal.SIGKILL)
        _, errors = process.communicate(timeout=20)
    assert process.returncode == 1
    assert "Triton ended by itself: it was ended by SIGKILL" in errors
    assert errors.rstrip().endswith(".log cannot be read: No such file or directory")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_triton_that_ends_by_itself_is_explained(tiny_repository: Path, tmp_path: Path) -> None:
    with serve_command(tiny_repository, tmp_path, "--no-restart") as (process, _):
        processes = descendants(process.pid)
        os.kill(triton_below(process.pid), signal.SIGKILL)
        _, errors = process.communicate(timeout=20)
    assert process.returncode == 1
    assert "Triton ended by itself: it was ended by SIGKILL (by another process, or by the kernel for want of" in errors
    assert errors.rstrip().endswith(".log has no error and no warning")
    wait_until_gone(processes, seconds=1)


def test_a_crash_while_it_starts_is_told(tiny_repository: Path) -> None:
    before = descendants(os.getpid())

    def crash() -> None:
        deadline = time.monotonic() + 20
        while not (started := descendants(os.getpid()) - before):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        os.kill(min(started), signal.SIGSEGV)

    with ThreadPoolExecutor(1) as pool:
        crashed = pool.submit(crash)
        with pytest.raises(ServingError, match=r"did not start: it was ended by SIGSEGV \(it crashed\)") as caught:
            start(tiny_repository)
        crashed.result(timeout=1)
    message = str(caught.value)
    assert message.endswith("Triton may die so before it says why; started again, it may say it")
    log_named_in(message).unlink()
