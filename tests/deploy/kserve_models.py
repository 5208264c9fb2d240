"""Builds manifests by the models of KServe's SDK, in a process of its own: its protobuf is named as tritonclient's.

Reads a JSON list of manifests from stdin, and writes a list of what is wrong with each: null, or a text.
"""

from __future__ import annotations

import json
import re
import sys
from typing import Any

import kserve
import kubernetes.client

MODELS = {"InferenceService": "V1beta1InferenceService", "ServingRuntime": "V1alpha1ServingRuntime"}
PLAIN = {"str": str, "int": int, "bool": bool}


def built(name: str, value: Any, path: str = "") -> Any:
    """A value of a manifest as the SDK's model of its type, which checks required and permitted values.

    Types that neither the SDK nor Kubernetes' client has, such as quantities, are taken as they are.

    Raises:
        ValueError, TypeError: a key that the model does not have, or a value of another type. Says where.
    """
    if within := re.fullmatch(r"list\[(.+)\]", name):
        return [built(within[1], one, f"{path}[]") for one in value]
    if name in PLAIN:
        if not isinstance(value, PLAIN[name]):
            raise TypeError(f"{path}: expected {name}, got {value!r}")
        return value
    model = getattr(kserve, name, None) or getattr(kubernetes.client, name, None)
    if model is None or not isinstance(value, dict):
        return value
    keys = {key: attribute for attribute, key in model.attribute_map.items()}
    if unknown := set(value) - set(keys):
        raise ValueError(f"{path}: expected a key of {name}, got {', '.join(sorted(unknown))}")
    types = model.openapi_types
    return model(**{keys[key]: built(types[keys[key]], one, f"{path}.{key}") for key, one in value.items()})


def problem(manifest: Any) -> str | None:
    """What is wrong with a manifest; None: nothing."""
    try:
        built(MODELS[manifest["kind"]], manifest)
    except (ValueError, TypeError) as error:
        return str(error)
    return None


if __name__ == "__main__":
    json.dump([problem(manifest) for manifest in json.load(sys.stdin)], sys.stdout)
