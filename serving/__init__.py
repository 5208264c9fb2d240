"""Serving: Triton on certified models, and its client."""

from serving.client import AsyncClient, Client
from serving.endpoints import FREE_PORTS, Endpoints
from serving.errors import OverloadedError, ServingError
from serving.triton import TritonServer
from serving.wire import ModelSpec, Prediction

__all__ = [
    "FREE_PORTS",
    "AsyncClient",
    "Client",
    "Endpoints",
    "ModelSpec",
    "OverloadedError",
    "Prediction",
    "ServingError",
    "TritonServer",
]
