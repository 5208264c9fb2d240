"""Certified image classification in one forward pass, served by Triton.

    from heatserve import Client

    with Client("grpc://127.0.0.1:8001", model="digits") as client:
        predictions = client.predict(images)
        answers = client.confirm(images, radius=0.125)

The rooms are packages of their own: `heatserve.certification`, `training`, `export`, `serving` and `benchmarks`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from heatserve._lazy import lazy_names

if TYPE_CHECKING:
    from heatserve.certification.errors import HeatserveError
    from heatserve.certification.outcome import Outcome
    from heatserve.export.contract import Reason
    from heatserve.export.tiers import Mode, Tier, TierLimits, TierModel, TierReason
    from heatserve.serving.client.access import Tls
    from heatserve.serving.client.answers import ModelSpec, Prediction
    from heatserve.serving.client.async_client import AsyncClient
    from heatserve.serving.client.client import Client
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

__all__ = [
    "FREE_PORTS",
    "AsyncClient",
    "Client",
    "Endpoints",
    "HeatserveError",
    "Mode",
    "ModelSpec",
    "Outcome",
    "OverloadedError",
    "Prediction",
    "Reason",
    "Server",
    "ServingError",
    "Tier",
    "TierAnswer",
    "TierLimits",
    "TierModel",
    "TierReason",
    "TierSpec",
    "Tls",
    "TooLateError",
    "TritonServer",
    "UnavailableError",
    "UnknownModelError",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "AsyncClient": "heatserve.serving.client.async_client",
        "Client": "heatserve.serving.client.client",
        "Endpoints": "heatserve.serving.triton.endpoints",
        "FREE_PORTS": "heatserve.serving.triton.endpoints",
        "HeatserveError": "heatserve.certification.errors",
        "Mode": "heatserve.export.tiers",
        "ModelSpec": "heatserve.serving.client.answers",
        "Outcome": "heatserve.certification.outcome",
        "OverloadedError": "heatserve.serving.errors",
        "Prediction": "heatserve.serving.client.answers",
        "Reason": "heatserve.export.contract",
        "Server": "heatserve.serving.supervised.server",
        "ServingError": "heatserve.serving.errors",
        "Tier": "heatserve.export.tiers",
        "TierAnswer": "heatserve.serving.client.tier_answers",
        "TierLimits": "heatserve.export.tiers",
        "TierModel": "heatserve.export.tiers",
        "TierReason": "heatserve.export.tiers",
        "TierSpec": "heatserve.serving.client.tier_questions",
        "Tls": "heatserve.serving.client.access",
        "TooLateError": "heatserve.serving.errors",
        "TritonServer": "heatserve.serving.triton.server",
        "UnavailableError": "heatserve.serving.errors",
        "UnknownModelError": "heatserve.serving.errors",
    },
)
