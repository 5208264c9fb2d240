"""A real Prometheus reads a real server: every panel of the dashboard has data, and the alert rules are judged."""

from __future__ import annotations

import json
import math
import re
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from known_tiers import ask, hurry, refusal
from programs import program

from heatserve import FREE_PORTS, Client, ServingError
from heatserve.serving.observed import families
from heatserve.serving.observed.families import FAMILIES, Family
from heatserve.serving.observed.page import value_of
from heatserve.serving.observed.recorder import Recorder
from heatserve.serving.supervised.server import Server

ROOT = Path(__file__).parents[2]
RULES = ROOT / "deploy" / "prometheus"
DASHBOARD = ROOT / "deploy" / "grafana" / "heatserve.json"
GUIDE = ROOT / "docs" / "guide" / "operate.md"
WAIT_SECONDS = 120.0
STROKE = np.tile(np.array([0, 0, 0, 1, 1, 0, 0, 0], np.float32), (1, 8, 1))
IMAGES = np.stack([STROKE, np.zeros_like(STROKE)])
"""[2, 1, 8, 8]: the digit 1, and a black image."""


def expressions() -> list[tuple[str, str]]:
    """Title and query of every target of the dashboard."""
    panels = json.loads(DASHBOARD.read_text())["panels"]
    return [(panel["title"], target["expr"]) for panel in panels for target in panel.get("targets", ())]


def rules() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load((RULES / "alerts.yml").read_text())["groups"] for rule in group["rules"]]


@dataclass(frozen=True)
class Prometheus:
    """A Prometheus that runs."""

    url: str

    def ask(self, path: str, **query: str) -> Any:
        url = f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(query)}"
        with urllib.request.urlopen(url, timeout=WAIT_SECONDS) as answer:
            return json.loads(answer.read())["data"]

    def numbers(self, query: str) -> list[float]:
        """The finite results of a query, for all models, of the last half minute."""
        query = query.replace("$__rate_interval", "30s").replace("$model", ".*")
        found = (float(each["value"][1]) for each in self.ask("query", query=query)["result"])
        return [value for value in found if math.isfinite(value)]


@dataclass(frozen=True)
class Served:
    """A server with a model and its tiers, as `heatserve serve` runs it, and clients that have asked before."""

    server: Server
    clients: tuple[Client, Client]

    def call(self) -> None:
        """One request of each kind."""
        for client in self.clients:
            client.predict(IMAGES)
        with pytest.raises(ServingError, match="NaN"):
            self.clients[1]._connection.infer("digits", IMAGES * np.float32(np.nan), classes=10)
        ask(self.server.triton, "digits_confirm", IMAGES, radius=0.05, deadline_ms=60_000)
        refusal(self.server.triton, "digits_confirm", IMAGES, radius=-1.0)


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    program("prometheus")
    with (
        Server(ROOT / "model_repository", models=["digits"], endpoints=FREE_PORTS) as server,
        Client(server.endpoints.grpc_url, model="digits") as grpc,
        Client(server.endpoints.http_url, model="digits") as http,
    ):
        hurry(server.triton, "digits")
        served = Served(server, (grpc, http))
        served.call()
        yield served


@pytest.fixture(scope="module")
def prometheus(served: Served, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """It reads the server every second, with the configuration and the rules of `deploy/prometheus`."""
    folder = tmp_path_factory.mktemp("prometheus")
    configuration = (RULES / "prometheus.yml").read_text().replace("_interval: 15s", "_interval: 1s")
    (folder / "prometheus.yml").write_text(configuration)
    (folder / "alerts.yml").write_text((RULES / "alerts.yml").read_text())
    (folder / "targets.yml").write_text(f'- targets: ["127.0.0.1:{served.server.endpoints.metrics}"]\n')
    command = [
        program("prometheus"),
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        "--web.listen-address=127.0.0.1:0",
    ]
    with (folder / "log").open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        try:
            yield Prometheus(f"http://127.0.0.1:{port_of(folder / 'log')}")
        finally:
            process.terminate()


def port_of(log: Path) -> int:
    """Where Prometheus listens, as it logs it."""
    deadline = time.monotonic() + WAIT_SECONDS
    while time.monotonic() < deadline:
        if found := re.search(r"Listening on.* address=127\.0\.0\.1:(\d+)", log.read_text()):
            return int(found[1])
        time.sleep(0.05)
    raise AssertionError(log.read_text())


def count_what_others_count(recorder: Recorder) -> None:
    """What the shadow audit and switches count, which do not run here, and a restart."""
    recorder.add(families.RESTARTS, "triton", "killed")
    recorder.add(families.LOG_DROPPED, "front")
    recorder.add(families.SWITCHES, "digits", "switched")
    for family in (families.SHADOW_JUDGED, families.SHADOW_OVERCLAIMS, families.SHADOW_DROPPED):
        recorder.add(family, "digits")
    for gauge in (families.SHADOW_RATE, families.SHADOW_RATE_LOWER, families.SHADOW_RATE_UPPER):
        recorder.set(gauge, 0.005, "digits")
    for gauge in (families.SHADOW_ALARM, families.DRIFT_ALARM, families.DRIFT_EVIDENCE):
        recorder.set(gauge, 0, "digits")


@pytest.mark.slow
def test_every_panel_has_data_and_every_rule_is_judged(served: Served, prometheus: Prometheus) -> None:
    count_what_others_count(Recorder(served.server.metrics))
    queries = {*expressions()}
    deadline = time.monotonic() + WAIT_SECONDS
    while queries and time.monotonic() < deadline:
        served.call()
        queries = {(title, query) for title, query in queries if not prometheus.numbers(query)}
        time.sleep(0.5)
    assert not queries
    until(lambda: prometheus.numbers("up") == [1])  # a page that takes longer than a second is not read
    judged = [rule for group in prometheus.ask("rules")["groups"] for rule in group["rules"]]
    assert {rule["name"] for rule in judged} == {rule["alert"] for rule in rules()}
    assert {rule["health"] for rule in judged} == {"ok"}
    assert [alert for alert in prometheus.ask("alerts")["alerts"] if alert["state"] == "firing"] == []


@pytest.mark.slow
def test_what_prometheus_reads_is_what_was_answered(served: Served, prometheus: Prometheus) -> None:
    answered = {"tier": "one_pass", "outcome": "answered"}
    counted: list[tuple[Family, dict[str, str], int]] = [
        (families.REQUESTS, answered, 2),
        (families.CERTIFIED_RADIUS, {}, 4),
        (families.REQUESTS, {"tier": "confirm", "outcome": "answered"}, 1),
        (families.FRONT_REQUESTS, {"route": "infer", "code": "200"}, 1),
        (families.FRONT_REQUESTS, {"route": "infer", "code": "400"}, 1),
    ]
    before = settled(lambda: [value_of(served.server.metrics, family, **labels) for family, labels, _ in counted])
    wanted = {
        query_of(family, labels): known + 3 * each
        for (family, labels, each), known in zip(counted, before, strict=True)
    }
    for _ in range(3):
        served.call()
    until(lambda: {query: sum(prometheus.numbers(query)) for query in wanted} == wanted)


def settled(look: Callable[[], list[float]]) -> list[float]:
    """What it sees, once that stays the same for a second: an answer may be counted after it was sent."""
    seen = look()
    while True:
        time.sleep(1)
        last, seen = seen, look()
        if seen == last:
            return seen


def query_of(family: Family, labels: dict[str, str]) -> str:
    name = family.name + ("_count" if family.kind == "histogram" else "")
    pairs = ",".join(f'{label}="{value}"' for label, value in labels.items())
    return f"{name}{{{pairs}}}"


def page_of(server: Server) -> str:
    """What Prometheus reads of it."""
    content: bytes = urllib.request.urlopen(server.endpoints.metrics_url, timeout=WAIT_SECONDS).read()
    return content.decode()


def until(condition: Callable[[], bool]) -> None:
    """Wait until it holds."""
    deadline = time.monotonic() + WAIT_SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.5)


@pytest.mark.slow
def test_the_page_passes_promtool(served: Served) -> None:
    """Triton's own part of it has units and names of another convention, which are not ours to change."""
    served.call()
    count_what_others_count(Recorder(served.server.metrics))
    until(lambda: "nv_inference_count" in page_of(served.server))  # left out where Triton takes longer than a second
    text = page_of(served.server)
    ours = "".join(line for line in text.splitlines(keepends=True) if "nv_" not in line)
    checked = subprocess.run(
        [program("promtool"), "check", "metrics"], input=ours, capture_output=True, text=True, timeout=300
    )
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")
    assert [family.name for family in FAMILIES if f"# TYPE {family.name} " not in text] == []


@pytest.mark.parametrize(
    "arguments", ["check rules alerts.yml", "check config prometheus.yml", "test rules alerts.test.yml"]
)
def test_the_files_of_prometheus_pass_promtool(arguments: str) -> None:
    done = subprocess.run(
        [program("promtool"), *arguments.split()], cwd=RULES, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_tests_of_the_rules_see_each_alert_fire() -> None:
    tests = yaml.safe_load((RULES / "alerts.test.yml").read_text())["tests"]
    samples = [
        sample["labels"]
        for test in tests
        for each in test.get("promql_expr_test", ())
        for sample in each["exp_samples"]
    ]
    fired = {name for labels in samples for name in re.findall(r'alertname="(\w+)"', labels)}
    assert fired == {rule["alert"] for rule in rules()}


def test_rules_and_panels_ask_for_metrics_that_there_are() -> None:
    known = {family.name for family in FAMILIES if family.kind != "histogram"}
    histograms = (family.name for family in FAMILIES if family.kind == "histogram")
    known |= {f"{name}_{suffix}" for name, suffix in product(histograms, ("bucket", "sum", "count"))}
    asked = [expr for _, expr in expressions()] + [rule["expr"] for rule in rules()]
    assert {name for expr in asked for name in re.findall(r"heatserve_\w+", expr)} <= known


def test_every_metric_is_in_the_guide_and_every_rule_names_its_place_in_the_runbook() -> None:
    text = GUIDE.read_text()
    assert [family.name for family in FAMILIES if f"`{family.name}`" not in text] == []
    for rule in rules():
        assert rule["annotations"]["runbook"] == f"docs/guide/runbook.md#{rule['alert'].lower()}"
        assert rule["labels"]["severity"] in ("critical", "warning")
