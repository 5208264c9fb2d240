"""Queries that pods are found and scaled by: read by Prometheus' own promtool, and computed from samples."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from programs import program

DEPLOY = Path(__file__).parents[2] / "deploy"
INTERVAL = "15s"
POD = 'namespace="prod",pod="cifar10-predictor-0"'


def _promtool(*arguments: str) -> str:
    done = subprocess.run([program("promtool"), *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_prometheus_finds_the_pods_by_their_labels(tmp_path: Path) -> None:
    """Debian's Prometheus is built without Kubernetes: what that would say of each port of a pod comes from a file."""
    meta = "__meta_kubernetes_"
    pod = {f"{meta}namespace": "prod", f"{meta}pod_phase": "Running"}
    named = {**pod, f"{meta}pod_label_app_kubernetes_io_name": "heatserve", f"{meta}pod_container_port_name": "metrics"}
    said = {
        "10.0.0.1:8002": {
            **named,
            f"{meta}pod_name": "ours",
            f"{meta}pod_annotation_prometheus_io_scheme": "https",
        },
        "10.0.0.1:8000": {**named, f"{meta}pod_name": "ours", f"{meta}pod_container_port_name": "http"},
        "10.0.0.2:8002": {**named, f"{meta}pod_name": "done", f"{meta}pod_phase": "Succeeded"},
        "10.0.0.4:8002": {**named, f"{meta}pod_name": "fetching", f"{meta}pod_phase": "Pending"},
        "10.0.0.3:8002": {**named, f"{meta}pod_name": "other", f"{meta}pod_label_app_kubernetes_io_name": "other"},
    }
    configuration = yaml.safe_load((DEPLOY / "kubernetes" / "scrape.yaml").read_text())
    (job,) = configuration["scrape_configs"]
    assert job.pop("kubernetes_sd_configs") == [{"role": "pod"}]
    (tmp_path / "pods.json").write_text(json.dumps([{"targets": [at], "labels": one} for at, one in said.items()]))
    job["file_sd_configs"] = [{"files": ["pods.json"]}]
    (tmp_path / "prometheus.yml").write_text(yaml.safe_dump(configuration))
    found = json.loads(
        _promtool("check", "service-discovery", "--timeout=1s", str(tmp_path / "prometheus.yml"), "heatserve")
    )
    kept = [one["labels"] for one in found if one["labels"]]
    assert [(one["__address__"], one["job"], one["namespace"], one["pod"], one["__scheme__"]) for one in kept] == [
        ("10.0.0.1:8002", "heatserve", "prod", "ours", "https")
    ]
    assert len(found) == len(said)


def test_the_job_is_the_one_that_the_alerts_ask_for() -> None:
    (job,) = yaml.safe_load((DEPLOY / "kubernetes" / "scrape.yaml").read_text())["scrape_configs"]
    (local,) = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())["scrape_configs"]
    assert job["job_name"] == local["job_name"]


def test_the_pods_are_read_so_often_that_the_last_minute_has_a_rate() -> None:
    """The samples of the test below; of one a minute, which is Prometheus' default, there is no rate."""
    (job,) = yaml.safe_load((DEPLOY / "kubernetes" / "scrape.yaml").read_text())["scrape_configs"]
    assert job["scrape_interval"] == INTERVAL


def _adapter() -> str:
    """The query as prometheus-adapter asks it about the pods of a namespace."""
    (rule,) = yaml.safe_load((DEPLOY / "kubernetes" / "prometheus-adapter.yaml").read_text())["rules"]["custom"]
    query: str = rule["metricsQuery"]
    return query.replace("<<.LabelMatchers>>", POD).replace("<<.GroupBy>>", "pod")


def _keda() -> str:
    """The query as KEDA asks it."""
    manifests = yaml.safe_load_all((DEPLOY / "kserve" / "inferenceservice.yaml").read_text())
    (service,) = (manifest for manifest in manifests if manifest["kind"] == "InferenceService")
    (metric,) = service["spec"]["predictor"]["autoScaling"]["metrics"]
    query: str = metric["external"]["metric"]["query"]
    return query


@pytest.mark.parametrize(("query", "labels"), [(_adapter(), '{pod="cifar10-predictor-0"}'), (_keda(), "{}")])
@pytest.mark.parametrize(("waited", "requests", "seconds"), [("0+3000000x9", "0+150x9", 0.02), ("0x9", "0x9", 0.0)])
def test_queue_time_is_in_seconds_a_request_and_0_where_none_comes(
    query: str, labels: str, waited: str, requests: str, seconds: float, tmp_path: Path
) -> None:
    """150 requests in each 15 s that waited 3 s together, 20 ms each; then none."""
    test: dict[str, Any] = {
        "interval": INTERVAL,
        "input_series": [
            {"series": f'nv_inference_queue_duration_us{{{POD},model="cifar10"}}', "values": waited},
            {"series": f'nv_inference_request_success{{{POD},model="cifar10"}}', "values": requests},
        ],
        "promql_expr_test": [
            {"expr": query, "eval_time": "2m", "exp_samples": [{"labels": labels, "value": seconds}]},
        ],
    }
    path = tmp_path / "test.yml"
    path.write_text(yaml.safe_dump({"rule_files": [], "evaluation_interval": "15s", "tests": [test]}))
    _promtool("test", "rules", str(path))
