"""Serving: certified models behind NVIDIA Triton, and all that asks them.

- `client`: `Client` and `AsyncClient` send images over gRPC or HTTP and read classes, certificates and what is proven.
- `triton`: `TritonServer` starts a Triton, watches it and ends it.
- `supervised`: `Server` keeps one up, and starts another where it fails.
- `backend`: what runs inside Triton where it has no `onnxruntime` backend of its own.
- `tuning`: `tune` finds the instances, threads and batching that answer most within a latency.
- `conformance`: compares what engines answer with float64.

Importing this package imports neither tritonclient nor an inference engine; the names below are imported when they are
first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from heatserve._lazy import lazy_names

if TYPE_CHECKING:
    from heatserve.serving.client.access import Tls
    from heatserve.serving.client.answers import ModelSpec, Prediction
    from heatserve.serving.client.async_client import AsyncClient
    from heatserve.serving.client.client import Client
    from heatserve.serving.client.image_files import read_images
    from heatserve.serving.client.tier_answers import TierAnswer
    from heatserve.serving.client.tier_questions import TierSpec
    from heatserve.serving.errors import (
        OverloadedError,
        ServingError,
        TooLateError,
        UnavailableError,
        UnknownModelError,
    )
    from heatserve.serving.supervised.server import Server
    from heatserve.serving.triton.endpoints import FREE_PORTS, Endpoints
    from heatserve.serving.triton.server import TritonServer
    from heatserve.serving.tuning.tune import TuningResult, tune, write_choice

__all__ = [
    "FREE_PORTS",
    "AsyncClient",
    "Client",
    "Endpoints",
    "ModelSpec",
    "OverloadedError",
    "Prediction",
    "Server",
    "ServingError",
    "TierAnswer",
    "TierSpec",
    "Tls",
    "TooLateError",
    "TritonServer",
    "TuningResult",
    "UnavailableError",
    "UnknownModelError",
    "read_images",
    "tune",
    "write_choice",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "AsyncClient": "heatserve.serving.client.async_client",
        "Client": "heatserve.serving.client.client",
        "Endpoints": "heatserve.serving.triton.endpoints",
        "FREE_PORTS": "heatserve.serving.triton.endpoints",
        "ModelSpec": "heatserve.serving.client.answers",
        "OverloadedError": "heatserve.serving.errors",
        "Prediction": "heatserve.serving.client.answers",
        "Server": "heatserve.serving.supervised.server",
        "ServingError": "heatserve.serving.errors",
        "TierAnswer": "heatserve.serving.client.tier_answers",
        "TierSpec": "heatserve.serving.client.tier_questions",
        "Tls": "heatserve.serving.client.access",
        "TooLateError": "heatserve.serving.errors",
        "TritonServer": "heatserve.serving.triton.server",
        "TuningResult": "heatserve.serving.tuning.tune",
        "UnavailableError": "heatserve.serving.errors",
        "UnknownModelError": "heatserve.serving.errors",
        "read_images": "heatserve.serving.client.image_files",
        "tune": "heatserve.serving.tuning.tune",
        "write_choice": "heatserve.serving.tuning.tune",
    },
)
