"""Another version of a model in a running server: tried, switched to under load, gone back from, or kept out."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from known_tiers import ask, at_distance, hurry, write_known_model
from tiny_model import edit_card
from typer.testing import CliRunner

from heatserve import FREE_PORTS, Client, HeatserveError, ServingError, TritonServer
from heatserve.cli import app
from heatserve.export.card import GRAPH_NAME
from heatserve.export.repository.layout import LABELS_NAME, open_model, version_dirs, write_model_config
from heatserve.export.repository.pins import PIN_NAME, Pin, read_pin
from heatserve.export.repository.publishing import republish
from heatserve.export.signing.signing import sign_version
from heatserve.export.signing.trust import Trust
from heatserve.export.tiers import TierModel
from heatserve.serving.observed.page import page
from heatserve.serving.supervised.server import Server
from heatserve.serving.switching import watching
from heatserve.serving.switching.control import ask_server, servers_of
from heatserve.serving.switching.switcher import Switcher, SwitchOutcome
from heatserve.serving.switching.switching import SWITCH, Switching
from heatserve.serving.switching.watching import VersionWatch
from heatserve.serving.tiers.unanswered import unanswered
from heatserve.serving.triton.processes import triton_and_instances
from heatserve.serving.triton.voters import VoterPlan, Voters

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="Triton runs on Linux only"),
]

FAR = at_distance(0.8)
"""An image of class 0 in version 1, and of class 1 in version 2, whose weights have the other sign."""


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Versions 1 and 2 of the model `known`, with the tiers confirm and certify."""
    folder = tmp_path_factory.mktemp("switching")
    write_known_model(folder / "models", tiers=[TierModel.CONFIRM, TierModel.CERTIFY], most_n=10**7)
    publish_other(folder / "models")
    return folder / "models"


def publish_other(repository: Path) -> int:
    """Publish one more version, whose classes are those of the newest exchanged; returns its number."""
    newest = len(version_dirs(repository / "known"))
    with tempfile.TemporaryDirectory() as other:
        write_known_model(Path(other), sign=-1 if newest % 2 else 1, tiers=[])
        return republish(open_model(Path(other), "known"), repository, "known").version


@pytest.fixture(scope="module")
def server(repository: Path) -> Iterator[TritonServer]:
    with TritonServer(repository, versions={"known": 1}, endpoints=FREE_PORTS) as server:
        yield server


@pytest.fixture
def switcher(server: TritonServer, repository: Path) -> Switcher:
    """Of the server, which serves version 1, without a pin."""
    switcher = Switcher(repository, lambda: server.versions)
    if switcher.served != {"known": 1}:
        server.versions.replace(server.versions.open("known", 1))
    (repository / "known" / PIN_NAME).unlink(missing_ok=True)
    return switcher


@contextmanager
def load(server: TritonServer) -> Iterator[Counter[str]]:
    """Callers over gRPC and HTTP, of the single pass and of confirm, one after the other; counts answers and errors."""
    counts, ended = Counter[str](), threading.Event()

    def call(url: str, kind: str) -> None:
        with Client(url, model="known", retries=0) as client:
            while not ended.is_set():
                try:
                    label = (client.predict(FAR) if kind != "confirm" else client.confirm(FAR, radius=0.2))[0].label
                    counts[f"{kind}: {label}"] += 1
                except ServingError as error:
                    counts[f"error: {error}"] += 1
                ended.wait(0.02)  # a switch needs the cores, too

    callers = {"grpc": server.endpoints.grpc_url, "http": server.endpoints.http_url}
    with ThreadPoolExecutor(3) as pool:
        for kind, url in {**callers, "confirm": callers["grpc"]}.items():
            pool.submit(call, url, kind)
        try:
            yield counts
        finally:
            ended.set()


def until(holds: Callable[[], object], *, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def label_of(server: TritonServer) -> int:
    with Client(server.endpoints.grpc_url, model="known") as client:
        return client.predict(FAR)[0].label


def command(*words: str, repository: Path) -> subprocess.CompletedProcess[str]:
    """A command of heatserve about that repository."""
    line = [sys.executable, "-m", "heatserve", *words, "--repository", str(repository)]
    return subprocess.run(line, capture_output=True, text=True, timeout=300, check=False)


def test_commands_switch_and_roll_back_under_load_without_a_request_that_fails(
    switcher: Switcher, server: TritonServer, repository: Path
) -> None:
    said = list[str]()
    with Switching(repository, lambda: server.versions, say=said.append), load(server) as counts:
        (folder,) = servers_of(repository)
        assert folder.stat().st_mode & 0o777 == 0o700
        (error,) = ask_server(folder, {"do": SWITCH, "model": 5})
        assert error == {"error": "expected the name of a model, and the number of a version or none"}
        done = command("switch", "known", repository=repository)
        assert done.returncode == 0, done.stderr
        assert done.stdout.splitlines() == said
        assert "version 2 answers 10 images as its graph does" in said[1]
        assert said[1].endswith("; 2 tiers answer")
        until(lambda: all(counts[f"{kind}: 1"] for kind in ("grpc", "http", "confirm")))
        assert read_pin(repository, "known") == Pin(2, 1)
        refused = command("switch", "known", "9", repository=repository)
        assert refused.returncode == 1
        assert "version 9 stays out, and version 2 is served" in refused.stdout
        assert command("rollback", "known", repository=repository).returncode == 0
        counts.clear()
        until(lambda: all(counts[f"{kind}: 0"] for kind in ("grpc", "http", "confirm")))
        assert not [problem for problem in counts if problem.startswith("error")], counts
    assert switcher.served == {"known": 1}
    assert server.problem == ""
    assert read_pin(repository, "known") == Pin(1, None, (2,))
    assert 'heatserve_model_info{model="known",version="1"' in page(server.metrics)
    until(lambda: len(os.listdir(server._folder / "offers")) == 1)  # what was replaced is gone, with its voter


def test_without_a_server_the_next_one_is_told(repository: Path) -> None:
    (repository / "known" / PIN_NAME).unlink(missing_ok=True)
    options = ["known", "--repository", str(repository)]
    done = CliRunner().invoke(app, ["switch", *options, "1"])
    assert done.exit_code == 0, done.output
    assert "the next one serves version 1" in done.output
    assert read_pin(repository, "known") == Pin(1, None, (2,))
    assert CliRunner().invoke(app, ["switch", *options]).exit_code == 0
    assert CliRunner().invoke(app, ["rollback", *options]).exit_code == 0
    assert read_pin(repository, "known") == Pin(1, None, (2,))
    assert "expected a version that was served before" in str(CliRunner().invoke(app, ["rollback", *options]).exception)


@pytest.mark.usefixtures("switcher")
def test_what_the_former_version_has_begun_it_answers(server: TritonServer) -> None:
    hurry(server)
    former = server._workspace.offers["known"].sockets
    with ThreadPoolExecutor(1) as pool:
        begun = pool.submit(ask, server, "known_certify", FAR, n=100_000, deadline_ms=60_000)
        until(lambda: unanswered(former, "certify") or begun.done())
        assert not begun.done(), begun.result()
        server.versions.replace(server.versions.open("known", 2))
        assert label_of(server) == 1
        answer = begun.result()
    assert (answer["outcome"], answer["label"]) == (["yes"], [0])


def test_a_version_that_does_not_load_leaves_the_former_one(server: TritonServer, switcher: Switcher) -> None:
    """Its graph is exchanged after its card was verified."""
    model = server.versions.open("known", 2)
    content = (model.path / GRAPH_NAME).read_bytes()
    with load(server) as counts:
        (model.path / GRAPH_NAME).write_bytes(b"another")
        try:
            with pytest.raises(ServingError, match=r"version 2 does not load: known\w*: .*model\.onnx: .*sha256"):
                server.versions.replace(model)
        finally:
            (model.path / GRAPH_NAME).write_bytes(content)
        assert switcher.served == {"known": 1}
        server.versions.replace(
            server.versions.open("known", 2)
        )  # what failed once may be switched to when it is mended
        assert not [problem for problem in counts if problem.startswith("error")], counts
    assert label_of(server) == 1
    assert server.problem == ""


@pytest.fixture
def third(repository: Path) -> Iterator[Path]:
    """The folder of a version 3, which is removed afterwards."""
    folder = repository / "known" / str(publish_other(repository))
    yield folder
    shutil.rmtree(folder)
    write_model_config(repository, open_model(repository, "known").card)


def test_a_card_of_other_graphs_stays_out(switcher: Switcher, third: Path) -> None:
    (third / GRAPH_NAME).write_bytes(b"another")
    done = switcher.switch("known", 3)
    assert done.outcome is SwitchOutcome.REFUSED
    assert "the card belongs to another graph" in done.reason
    assert switcher.served == {"known": 1}
    assert read_pin(third.parents[1], "known") is None


def test_other_classes_stay_out(switcher: Switcher, third: Path) -> None:
    names = [f"other {index}" for index in range(10)]
    edit_card(third, lambda card: card.update(class_names=names))
    (third.parent / LABELS_NAME).write_text("".join(f"{name}\n" for name in names))
    done = switcher.switch("known", 3)
    assert done.outcome is SwitchOutcome.REFUSED
    assert "class_names: expected that of version 1" in done.reason


def test_a_version_that_fails_its_trial_stays_out(switcher: Switcher, repository: Path) -> None:
    """Here since no trial can be made of what the operator keeps for it."""
    kept = repository / "known" / "kept"
    kept.mkdir()
    np.save(kept / "small.npy", np.zeros((1, 1, 7, 7), np.float32))
    try:
        done = switcher.switch("known", 2)
    finally:
        shutil.rmtree(kept)
    assert done.outcome is SwitchOutcome.FAILED_TRIAL
    assert "small.npy: image: expected float32 [N,C,H,W] = [N,1,8,8]" in done.reason
    assert switcher.served == {"known": 1}


def test_there_must_be_something_to_switch_to(server: TritonServer, tmp_path: Path) -> None:
    (tmp_path / "known" / "²").mkdir(parents=True)  # no number of a version
    with pytest.raises(HeatserveError, match=r"known: expected a version to switch to, found none"):
        Switcher(tmp_path, lambda: server.versions).switch("known")


def test_there_must_be_something_to_go_back_to(switcher: Switcher) -> None:
    with pytest.raises(HeatserveError, match="expected a version that was served before, found none"):
        switcher.roll_back("known")
    with pytest.raises(HeatserveError, match="other: expected a model that is served: known"):
        switcher.switch("other")


def test_a_new_version_that_is_published_is_switched_to(
    server: TritonServer, switcher: Switcher, repository: Path, third: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The broken one is left out, and so is, later, the one that was gone back from."""
    monkeypatch.setattr(watching, "_LOOK_SECONDS", 0.5)
    (third / GRAPH_NAME).write_bytes(b"another")
    said = list[str]()
    watch = VersionWatch(repository, switcher, say=said.append)
    watch.start()
    try:
        assert read_pin(repository, "known") == Pin(1)
        until(lambda: switcher.served == {"known": 2})
        until(lambda: read_pin(repository, "known") == Pin(2, 1, (3,)))
        assert label_of(server) == 1
        while True:
            try:
                switcher.roll_back("known")
                break
            except HeatserveError:  # a look at version 3 is under way
                time.sleep(0.1)
        time.sleep(1)  # for a look that was begun before
        count = len(said)
        time.sleep(2)
        assert switcher.served == {"known": 1}
        assert said[count:] == []
    finally:
        watch.stop()


@pytest.mark.usefixtures("switcher")
def test_a_pin_decides_what_is_served(repository: Path) -> None:
    (repository / "known" / PIN_NAME).write_text('{"version": "two"}')
    with pytest.raises(HeatserveError, match=r"served\.json: expected a JSON object such as"):
        TritonServer(repository, endpoints=FREE_PORTS).__enter__()
    (repository / "known" / PIN_NAME).write_text('{"version": 1}')
    with TritonServer(repository, endpoints=FREE_PORTS) as other:
        assert other.models[0].version == 1
        assert label_of(other) == 0
        loaded = other.log.read_text().count("successfully loaded 'known")
        time.sleep(2.5)  # Triton looks for changes every second, and finds none
        assert other.log.read_text().count("successfully loaded 'known") == loaded


def test_a_server_of_trusted_keys_switches_to_signed_versions_only(tmp_path: Path) -> None:
    models = tmp_path / "models"
    write_known_model(models, tiers=[])
    publish_other(models)
    for words in (
        ["ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", "signing.pem"],
        ["pkey", "-in", "signing.pem", "-pubout", "-out", "trusted.pem"],
    ):
        subprocess.run(["openssl", *words], cwd=tmp_path, check=True, capture_output=True)
    sign_version(models, "known", tmp_path / "signing.pem", version=1)
    trust = Trust.of([tmp_path / "trusted.pem"])
    with TritonServer(models, versions={"known": 1}, endpoints=FREE_PORTS, trust=trust) as server:
        switcher = Switcher(models, lambda: server.versions)
        refused = switcher.switch("known", 2)
        assert refused.outcome is SwitchOutcome.REFUSED
        assert "expected the signature of a trusted key, found none" in refused.reason
        sign_version(models, "known", tmp_path / "signing.pem", version=2)
        server.versions.replace(server.versions.open("known", 2))
        (models / "known" / "2" / GRAPH_NAME).write_bytes(b"another")
        assert label_of(server) == 1


def test_a_server_that_is_started_again_serves_what_was_switched_to(tmp_path: Path) -> None:
    """And not the newest version, which nobody has tried."""
    write_known_model(tmp_path / "models", tiers=[])
    with Server(tmp_path / "models", endpoints=FREE_PORTS) as server:
        publish_other(tmp_path / "models")
        server.triton.versions.replace(server.triton.versions.open("known", 2))
        publish_other(tmp_path / "models")
        former = server.triton
        (triton, *_) = triton_and_instances(former._process.pid)
        os.kill(triton.pid, signal.SIGKILL)
        until(lambda: server.triton is not former and server.state.ready)
        assert [model.version for model in server.models] == [2]
        assert label_of(server.triton) == 1
    former.log.unlink(missing_ok=True)


def test_a_voter_that_is_added_once_all_have_stopped_has_a_problem(tmp_path: Path) -> None:
    voters = Voters([], tmp_path, modules=[], environment={}, on_problem=pytest.fail)
    plan = VoterPlan("known", tmp_path, tmp_path, batch_size=1, threads=1, most_open=1)
    voters.stop()
    voters.add(plan, is_needed=False)
    voters.need(plan)
    assert voters.problem_of(plan) == "Triton ended meanwhile, and its voters with it"
