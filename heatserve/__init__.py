"""Certified image classification in one forward pass, served by Triton.

    from heatserve import Client

    with Client("grpc://127.0.0.1:8001", model="digits") as client:
        predictions = client.predict(images)

The rooms are packages of their own: `heatserve.certification`, `training`, `export`, `serving` and `benchmarks`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from heatserve._lazy import lazy_names

if TYPE_CHECKING:
    from heatserve.certification.errors import HeatserveError
    from heatserve.export.contract import Reason
    from heatserve.serving.client.answers import ModelSpec, Prediction
    from heatserve.serving.client.client import AsyncClient, Client
    from heatserve.serving.errors import OverloadedError, ServingError, UnavailableError
    from heatserve.serving.triton.endpoints import FREE_PORTS, Endpoints
    from heatserve.serving.triton.server import TritonServer

__all__ = [
    "FREE_PORTS",
    "AsyncClient",
    "Client",
    "Endpoints",
    "HeatserveError",
    "ModelSpec",
    "OverloadedError",
    "Prediction",
    "Reason",
    "ServingError",
    "TritonServer",
    "UnavailableError",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "AsyncClient": "heatserve.serving.client.client",
        "Client": "heatserve.serving.client.client",
        "Endpoints": "heatserve.serving.triton.endpoints",
        "FREE_PORTS": "heatserve.serving.triton.endpoints",
        "HeatserveError": "heatserve.certification.errors",
        "ModelSpec": "heatserve.serving.client.answers",
        "OverloadedError": "heatserve.serving.errors",
        "Prediction": "heatserve.serving.client.answers",
        "Reason": "heatserve.export.contract",
        "ServingError": "heatserve.serving.errors",
        "TritonServer": "heatserve.serving.triton.server",
        "UnavailableError": "heatserve.serving.errors",
    },
)
