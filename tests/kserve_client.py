"""Asks a server through the clients of the package kserve, in a process of its own: `kserve_client.py OPTIONS`.

Its definitions of the protocol and those of tritonclient cannot be loaded into one process. OPTIONS is JSON; what came
is written to stdout, as JSON.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

import httpx
import numpy as np
from kserve import InferenceGRPCClient, InferenceRESTClient, InferInput, InferRequest, RESTConfig


def request_of(model: str, images: Any, *, binary: bool) -> InferRequest:
    """A request of images FP32 [N, C, H, W], as raw bytes or as numbers."""
    tensor = InferInput("image", list(images.shape), "FP32")
    tensor.set_data_from_numpy(images, binary_data=binary)
    return InferRequest(model, [tensor])


def outputs_of(response: Any) -> dict[str, Any]:
    """Each output as a list."""
    return {output.name: output.as_numpy().tolist() for output in response.outputs}


async def over_rest(url: str, model: str, images: Any) -> dict[str, Any]:
    """What the client for REST gets."""
    async with InferenceRESTClient(RESTConfig(protocol="v2")) as client:
        found: dict[str, Any] = {
            "live": await client.is_server_live(url),
            "ready": await client.is_server_ready(url),
            "model ready": await client.is_model_ready(url, model),
            "nobody ready": await client.is_model_ready(url, "nobody"),
        }
        for binary in (True, False):
            answer = await client.infer(url, request_of(model, images, binary=binary), model_name=model)
            found["binary" if binary else "numbers"] = outputs_of(answer)
        try:
            await client.infer(url, request_of(model, images - 2, binary=True), model_name=model)
        except httpx.HTTPStatusError as error:
            found["refusal"] = str(error)
        return found


async def over_grpc(address: str, model: str, images: Any, tls: dict[str, Any], headers: Any) -> dict[str, Any]:
    """What the client for gRPC gets."""
    async with InferenceGRPCClient(address, **tls) as client:
        found: dict[str, Any] = {
            "live": await client.is_server_live(),
            "ready": await client.is_server_ready(),
            "model ready": await client.is_model_ready(model, headers=headers),
        }
        for binary in (True, False):
            answer = await client.infer(request_of(model, images, binary=binary), headers=headers)
            found["binary" if binary else "numbers"] = outputs_of(answer)
        return found


async def ask(options: dict[str, Any]) -> dict[str, Any]:
    """What comes over REST, over gRPC, and over gRPC with TLS and a token."""
    images, model = np.array(options["images"], np.float32), options["model"]
    headers = [tuple(pair) for pair in options["headers"]]
    return {
        "rest": await over_rest(options["rest"], model, images),
        "directly": await over_grpc(options["directly"], model, images, {}, []),
        "nginx": await over_grpc(options["nginx"], model, images, options["tls"], headers),
    }


if __name__ == "__main__":
    print(json.dumps(asyncio.run(ask(json.loads(sys.argv[1])))))
