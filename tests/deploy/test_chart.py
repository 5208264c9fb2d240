"""The Helm chart: linted, rendered, and each manifest checked against Kubernetes' own schemas."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import helm_python
import kubernetes_validate
import pytest
import yaml
from serve_options import check_serve

from heatserve.serving.triton.options import START_SECONDS

ROOT = Path(__file__).parents[2]
CHART = ROOT / "deploy" / "helm" / "heatserve"
KUBERNETES = ("1.30", "1.37")
"""The oldest and the newest version whose schemas are asked."""
Values = Mapping[str, Any]
STORE: Values = {"modelStore": {"uri": "s3://models/model_repository"}}
VOLUME: Values = {"modelStore": {"existingClaim": "models"}, "autoscaling": {"enabled": False}}
EVERYTHING: Values = {
    "models": ["cifar10"],
    "modelStore": {
        "uri": "s3://models/model_repository",
        "credentialsSecret": "store",
        "trustedKeysSecret": "trust",
        "trustedKeys": ["ours.pem"],
    },
    "serve": {"grace": 7, "rate": 50, "extraOptions": ["--max-connections=256"]},
    "tls": {"secret": "tls"},
    "tokens": {"secret": "tokens"},
    "grpc": {"enabled": True, "tlsSecret": "grpc", "tokensSecret": "callers"},
    "gpus": 1,
    "networkPolicy": {"clients": [{"podSelector": {"matchLabels": {"app": "caller"}}}]},
    "podAnnotations": {"team": "imaging"},
}
RELEASES = {"store": STORE, "volume": VOLUME, "everything": EVERYTHING}


def _manifests(values: Values, *, name: str = "demo") -> list[dict[str, Any]]:
    with helm_python.Chart.load(CHART) as chart:
        files = chart.render(dict(values), name=name, namespace="prod")
    return [
        manifest
        for path, text in files.items()
        if not path.endswith("NOTES.txt")
        for manifest in yaml.safe_load_all(text)
        if manifest
    ]


@cache
def _rendered(release: str) -> list[dict[str, Any]]:
    return _manifests(RELEASES[release])


def _one(release: str, kind: str) -> dict[str, Any]:
    (found,) = (manifest for manifest in _rendered(release) if manifest["kind"] == kind)
    return found


def _pod(release: str) -> dict[str, Any]:
    pod: dict[str, Any] = _one(release, "Deployment")["spec"]["template"]["spec"]
    return pod


def _containers(release: str) -> Iterator[dict[str, Any]]:
    pod = _pod(release)
    yield from (*pod.get("initContainers", ()), *pod["containers"])


@pytest.mark.parametrize("release", RELEASES)
def test_the_chart_is_linted(release: str) -> None:
    found = helm_python.lint(CHART, dict(RELEASES[release]), strict=True)
    assert found["errors"] == []
    assert [message["error"] for message in found["messages"]] == ["icon is recommended"]


@pytest.mark.parametrize("version", KUBERNETES)
@pytest.mark.parametrize("release", RELEASES)
def test_every_manifest_is_one_of_kubernetes(release: str, version: str) -> None:
    for manifest in _rendered(release):
        kubernetes_validate.validate(manifest, version, strict=True)


@pytest.mark.parametrize(
    ("values", "name"),
    [
        (STORE, "2026"),
        (STORE, "true"),
        ({"modelStore": {"existingClaim": "1"}, "tls": {"secret": "2"}, "tokens": {"secret": "3"}}, "demo"),
        (
            {
                "modelStore": {
                    "uri": "s3://a",
                    "credentialsSecret": "4",
                    "trustedKeysSecret": "5",
                    "trustedKeys": ["6"],
                },
                "grpc": {"enabled": True, "tlsSecret": "7", "tokensSecret": "8"},
            },
            "demo",
        ),
    ],
)
def test_names_that_yaml_would_read_as_numbers_are_names(values: Values, name: str) -> None:
    for manifest in _manifests(values, name=name):
        kubernetes_validate.validate(manifest, KUBERNETES[-1], strict=True)


def test_a_wrong_manifest_is_found() -> None:
    wrong = json.loads(json.dumps(_one("store", "Deployment")))
    wrong["spec"]["template"]["spec"]["containers"][0]["livenesProbe"] = {}
    with pytest.raises(kubernetes_validate.ValidationError, match="livenesProbe"):
        kubernetes_validate.validate(wrong, KUBERNETES[-1], strict=True)


@pytest.mark.parametrize("release", RELEASES)
def test_every_container_may_do_nothing_but_compute(release: str) -> None:
    pod = _pod(release)
    assert pod["securityContext"]["runAsNonRoot"]
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["automountServiceAccountToken"] is False
    for container in _containers(release):
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "runAsNonRoot": True,
            "runAsUser": 10001,
            "runAsGroup": 10001,
            "capabilities": {"drop": ["ALL"]},
        }
        assert container["resources"]["limits"]["memory"]


@pytest.mark.parametrize("release", RELEASES)
def test_every_volume_that_is_mounted_exists_and_is_used(release: str) -> None:
    mounted = {mount["name"] for container in _containers(release) for mount in container["volumeMounts"]}
    assert mounted == {volume["name"] for volume in _pod(release)["volumes"]}


@pytest.mark.parametrize("release", RELEASES)
def test_the_server_is_started_with_options_that_exist(release: str) -> None:
    (server, *_) = _pod(release)["containers"]
    check_serve(server["args"])


def test_everything_that_is_asked_for_reaches_the_server() -> None:
    (server, nginx) = _pod("everything")["containers"]
    assert server["args"] == [
        "cifar10",
        "--repository=/models",
        "--host=0.0.0.0",
        "--grace=7",
        "--log=-",
        "--rate=50",
        "--tls-cert=/etc/heatserve/tls/tls.crt",
        "--tls-key=/etc/heatserve/tls/tls.key",
        "--token-file=/etc/heatserve/tokens/tokens",
        "--trust=/etc/heatserve/trust/ours.pem",
        "--max-connections=256",
    ]
    assert server["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert {server[probe]["httpGet"]["scheme"] for probe in ("startupProbe", "livenessProbe", "readinessProbe")} == {
        "HTTPS"
    }
    assert nginx["image"].startswith("nginx:")


def test_live_and_ready_are_asked_where_they_are_told_apart() -> None:
    (server,) = _pod("store")["containers"]
    paths = {probe: server[probe]["httpGet"]["path"] for probe in ("startupProbe", "livenessProbe", "readinessProbe")}
    assert paths == {
        "startupProbe": "/v2/health/ready",
        "livenessProbe": "/v2/health/live",
        "readinessProbe": "/v2/health/ready",
    }
    ports = {port["name"]: port["containerPort"] for port in server["ports"]}
    assert ports == {"http": 8000, "metrics": 8002}
    asked = {probe: server[probe]["httpGet"]["port"] for probe in paths}
    assert asked == {"startupProbe": "http", "livenessProbe": "metrics", "readinessProbe": "http"}


def test_a_pod_is_not_ended_before_its_server_says_why_it_does_not_start() -> None:
    (server,) = _pod("store")["containers"]
    assert server["startupProbe"]["failureThreshold"] * server["startupProbe"]["periodSeconds"] > START_SECONDS


def test_a_pod_that_ends_has_time_for_its_grace_and_for_requests_in_flight() -> None:
    drain = 10  # `exit_timeout` of the server
    for release in RELEASES:
        grace = RELEASES[release].get("serve", {}).get("grace", 5)
        assert _pod(release)["terminationGracePeriodSeconds"] > grace + drain + 5


def test_pods_are_scaled_by_the_metric_that_the_adapter_gives() -> None:
    adapter = yaml.safe_load((ROOT / "deploy" / "kubernetes" / "prometheus-adapter.yaml").read_text())
    (rule,) = adapter["rules"]["custom"]
    queue, cpu = _one("store", "HorizontalPodAutoscaler")["spec"]["metrics"]
    assert queue["pods"]["metric"]["name"] == rule["name"]["as"]
    assert cpu["resource"]["name"] == "cpu"
    assert "replicas" not in _one("store", "Deployment")["spec"]
    assert _one("volume", "Deployment")["spec"]["replicas"] == 2


def test_only_callers_and_prometheus_reach_a_pod_and_only_the_store_is_reached() -> None:
    policy = _one("everything", "NetworkPolicy")["spec"]
    reached = {tuple(port["port"] for port in rule["ports"]): rule["from"] for rule in policy["ingress"]}
    assert reached[("http", "grpc")] == EVERYTHING["networkPolicy"]["clients"]
    assert reached[("metrics",)][0]["namespaceSelector"]["matchLabels"] == {"kubernetes.io/metadata.name": "monitoring"}
    assert {port["port"] for rule in policy["egress"] for port in rule["ports"]} == {53, 443}
    assert _one("volume", "NetworkPolicy")["spec"]["egress"] == []


def test_nginx_has_the_files_that_its_configuration_names() -> None:
    files = _one("everything", "ConfigMap")["data"]
    nginx = ROOT / "deploy" / "nginx"
    assert files == {path.name: path.read_text() for path in nginx.glob("*.conf")}
    (volume,) = (volume for volume in _pod("everything")["volumes"] if volume["name"] == "nginx")
    paths = {
        item["path"] for source in volume["projected"]["sources"] for item in source.get("secret", {}).get("items", ())
    }
    assert paths == {"tls/server.pem", "tls/server.key", "tls/clients.pem", "tokens.map"}
    assert all(path in files["nginx.conf"] for path in paths)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "modelStore: expected uri or existingClaim, got neither"),
        (
            {"modelStore": {"uri": "s3://a", "existingClaim": "b"}},
            "modelStore: expected uri or existingClaim, got both",
        ),
        (
            {"modelStore": {"uri": "s3://a", "trustedKeysSecret": "trust"}},
            "modelStore: expected trustedKeysSecret and the names of its trustedKeys, got one of them",
        ),
        (
            {"modelStore": {"uri": "s3://a", "trustedKeys": ["ours.pem"]}},
            "modelStore: expected trustedKeysSecret and the names of its trustedKeys, got one of them",
        ),
        ({"modelStore": {"uri": "models"}}, "modelStore/uri"),
        ({**STORE, "modelStor": {}}, "modelStor"),
        (
            {**STORE, "autoscaling": {"queueSeconds": "", "cpuUtilization": 0}},
            "expected queueSeconds or cpuUtilization",
        ),
        ({**STORE, "autoscaling": {"min": 7, "max": 3}}, "expected min of at most max, got 7 and 3"),
        ({**STORE, "grpc": {"enabled": True}}, "grpc.tlsSecret: expected a secret"),
        (
            {**STORE, "grpc": {"enabled": True, "tlsSecret": "grpc"}, "gpus": 1, "tls": {"secret": "tls"}},
            "grpc.enabled: expected it with tokens.secret or serve.rate",
        ),
        ({**STORE, "serve": {"extraOptions": ["audit"]}}, "extraOptions"),
    ],
)
def test_values_that_cannot_be_are_refused_by_name(values: dict[str, Any], message: str) -> None:
    with helm_python.Chart.load(CHART) as chart, pytest.raises(helm_python.HelmError, match=message):
        chart.render(values, name="demo", namespace="prod")


def test_every_value_is_described_by_the_schema() -> None:
    """Nothing in values.yaml is missing there, at any depth, so that a misspelt value is refused."""

    def check(values: Mapping[str, Any], schema: Mapping[str, Any], path: str) -> None:
        for name, value in values.items():
            assert name in schema["properties"], f"{path}{name}"
            below = schema["properties"][name]
            if isinstance(value, dict) and "properties" in below:
                assert below["additionalProperties"] is False, f"{path}{name}"
                check(value, below, f"{path}{name}.")

    schema = json.loads((CHART / "values.schema.json").read_text())
    check(yaml.safe_load((CHART / "values.yaml").read_text()), schema, "")
