"""KServe's manifests: built by the SDK's own models, and what is of Kubernetes checked against its schemas."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from serve_options import check_serve

FOLDER = Path(__file__).parents[2] / "deploy" / "kserve"
KSERVE = ("InferenceService", "ServingRuntime")


def _manifests(*kinds: str) -> Sequence[dict[str, Any]]:
    found = (one for path in sorted(FOLDER.glob("*.yaml")) for one in yaml.safe_load_all(path.read_text()))
    return [one for one in found if not kinds or one["kind"] in kinds]


def _changed(key: str, value: object) -> dict[str, Any]:
    """The InferenceService with another value in its model."""
    (manifest,) = _manifests("InferenceService")
    manifest["spec"]["predictor"]["model"][key] = value
    return manifest


WRONG = {
    "got protocol": _changed("protocol", "v2"),
    "storageUri: expected str, got 1": _changed("storageUri", 1),
    "got containerz": {"kind": "ServingRuntime", "metadata": {"name": "a"}, "spec": {"containerz": []}},
}
"""Manifests that are wrong, by what is to be said of them."""


@pytest.fixture(scope="module")
def problems() -> list[str | None]:
    """What KServe's SDK finds wrong with our manifests, and with `WRONG`."""
    given = json.dumps([*_manifests(*KSERVE), *WRONG.values()])
    script = Path(__file__).with_name("kserve_models.py")
    done = subprocess.run([sys.executable, str(script)], input=given, capture_output=True, text=True, check=True)
    return list(json.loads(done.stdout))


def test_the_sdk_builds_our_manifests(problems: list[str | None]) -> None:
    assert problems[: len(KSERVE)] == [None] * len(KSERVE)


def test_the_sdk_refuses_wrong_manifests(problems: list[str | None]) -> None:
    for message, found in zip(WRONG, problems[len(KSERVE) :], strict=True):
        assert message in str(found)


def test_what_is_of_kubernetes_is_checked_by_its_schemas() -> None:
    others = [manifest for manifest in _manifests() if manifest["kind"] not in KSERVE]
    assert {manifest["kind"] for manifest in others} == {"NetworkPolicy", "PodDisruptionBudget", "ServiceAccount"}
    for manifest in others:
        kubernetes_validate.validate(manifest, "1.37", strict=True)


def test_the_pod_of_the_runtime_is_one_of_kubernetes() -> None:
    (runtime,) = _manifests("ServingRuntime")
    spec = {key: runtime["spec"][key] for key in ("containers", "volumes")}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "heatserve"}, "spec": spec}
    kubernetes_validate.validate(pod, "1.37", strict=True)


def test_the_service_asks_for_the_runtime_and_its_protocol() -> None:
    (service,), (runtime,) = _manifests("InferenceService"), _manifests("ServingRuntime")
    model = service["spec"]["predictor"]["model"]
    assert model["runtime"] == runtime["metadata"]["name"]
    assert model["protocolVersion"] == "v2"
    assert model["protocolVersion"] in runtime["spec"]["protocolVersions"]
    formats = [(one["name"], one["version"]) for one in runtime["spec"]["supportedModelFormats"]]
    assert (model["modelFormat"]["name"], model["modelFormat"]["version"]) in formats


def test_the_server_is_started_with_options_that_exist_and_asked_where_it_listens() -> None:
    (runtime,) = _manifests("ServingRuntime")
    (container,) = runtime["spec"]["containers"]
    check_serve(container["args"])
    assert "--repository=/mnt/models" in container["args"]
    (port,) = (option.partition("=")[2] for option in container["args"] if option.startswith("--http-port="))
    http, metrics = (one["containerPort"] for one in container["ports"])
    assert http == int(port)
    asked = {name: container[f"{name}Probe"]["httpGet"]["port"] for name in ("startup", "liveness", "readiness")}
    assert asked == {"startup": http, "liveness": metrics, "readiness": http}


def test_the_budget_and_the_policy_are_about_the_pods_of_the_service() -> None:
    (service,) = _manifests("InferenceService")
    labels = {"serving.kserve.io/inferenceservice": service["metadata"]["name"]}
    (budget,), (policy,) = _manifests("PodDisruptionBudget"), _manifests("NetworkPolicy")
    assert budget["spec"]["selector"]["matchLabels"] == policy["spec"]["podSelector"]["matchLabels"] == labels
