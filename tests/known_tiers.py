"""A served model with tiers whose votes are known exactly: a linear classifier with two classes that ever win."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import tritonclient.grpc
import tritonclient.http
from numpy.typing import NDArray
from tiny_model import SHAPE, write_tiny_model
from tritonclient.utils import InferenceServerException

from heatserve import TritonServer
from heatserve.export.card import read_card
from heatserve.export.repository.layout import CONFIG_NAME
from heatserve.export.repository.settings import write_config
from heatserve.export.repository.tiers import read_tier_configs, write_tier_configs
from heatserve.export.tiers import TIER_TENSORS, TierModel

_PIXELS = int(np.prod(SHAPE))
DIRECTION = np.where(np.arange(_PIXELS) % 2, 1.0, -1.0) / np.sqrt(_PIXELS)
"""Of length 1, and orthogonal to grey. A vote is for class 0 on its side of the grey image 0.5, for class 1 beyond."""
_STEEPNESS = 14.0


def write_known_model(
    repository: Path,
    name: str = "known",
    *,
    tiers: Sequence[TierModel] = tuple(TierModel),
    sign: int = 1,
    **limits: object,
) -> Path:
    """Write the model and its tiers, with the operator's limits; returns the folder of its version.

    With the `sign` −1 the two classes are exchanged.
    """
    weights = np.zeros((_PIXELS, 10), np.float32)
    weights[:, 0], weights[:, 1] = sign * _STEEPNESS * DIRECTION, -sign * _STEEPNESS * DIRECTION
    version_dir = write_tiny_model(repository, name, weights=weights)
    write_tier_configs(repository, read_card(version_dir), tiers)
    for kind, config in read_tier_configs(repository, name).items():
        for limit, value in limits.items():
            config.parameters[limit].string_value = str(value)
        write_config(repository / kind.beside(name) / CONFIG_NAME, config)
    return version_dir


def at_distance(*distances: float, on_grid: bool = True) -> NDArray[np.float32]:
    """Images [N, 1, 8, 8] at these L2 distances from the boundary, on the side of class 0; of class 1 if negative."""
    images = (0.5 + np.outer(distances, DIRECTION)).reshape(-1, *SHAPE)
    return (np.rint(images * 255) / 255 if on_grid else images).astype(np.float32)


def distances_of(images: NDArray[np.float32]) -> NDArray[np.float64]:
    """The exact distances: the smoothed classifier answers class 0, or 1, within them and nowhere beyond."""
    return np.asarray(images.reshape(len(images), -1).astype(np.float64) @ DIRECTION)


def ask(
    server: TritonServer,
    model: str,
    images: NDArray[Any],
    *,
    over: str = "grpc",
    outputs: Sequence[str] | None = None,
    **parameters: Any,
) -> dict[str, list[Any]]:
    """A tier's answer through tritonclient alone, by output: a value for each image, codes as their words.

    Raises:
        InferenceServerException: the server's error.
    """
    package = tritonclient.grpc if over == "grpc" else tritonclient.http
    url = server.endpoints.grpc_url if over == "grpc" else server.endpoints.http_url
    options = {"client_timeout": 60} if over == "grpc" else {}
    more = {} if over == "grpc" else {"network_timeout": 60}
    with package.InferenceServerClient(url.split("://")[1], **more) as client:
        tensor = package.InferInput("image", images.shape, "FP32")
        tensor.set_data_from_numpy(images)
        wanted = None if outputs is None else [package.InferRequestedOutput(name) for name in outputs]
        result = client.infer(model, [tensor], outputs=wanted, parameters=parameters, **options)
        response = result.get_response()
        names = (
            [output.name for output in response.outputs] if over == "grpc" else [o["name"] for o in response["outputs"]]
        )
        return {name: read_output(name, result.as_numpy(name)) for name in names}


def read_output(name: str, values: NDArray[Any]) -> list[Any]:
    """The values of an output, one for each image: [N, 1] as a list of N, codes as their words."""
    rows = [row[0] if len(row) == 1 else row for row in values.tolist()]
    return [word_of(name, row) for row in rows]


def word_of(name: str, value: Any) -> Any:
    """What a value of an output stands for."""
    words = [tensor.words for tensor in TIER_TENSORS if tensor.name == name]
    return words[0][value] if words and words[0] else value


def code_of(name: str, word: Any) -> Any:
    """The number that stands for a word in an output; anything else is handed on as it is."""
    words = [tensor.words for tensor in TIER_TENSORS if tensor.name == name]
    return words[0].index(word) if isinstance(word, str) else word


def refusal(server: TritonServer, model: str, images: NDArray[Any], **parameters: Any) -> tuple[str, str]:
    """The status and the message of the error that is answered."""
    try:
        answer = ask(server, model, images, **parameters)
    except InferenceServerException as error:
        return str(error.status()), error.message()
    raise AssertionError(f"expected an error, got {answer}")


def voter_of(server: TritonServer, model: str = "known") -> int:
    """The process that takes the votes of a model's tiers."""
    return server.voters.process_of(model)


def hurry(server: TritonServer, model: str = "known") -> None:
    """Have a voter run like any other process, where that is allowed: a machine with other work would starve it."""
    pid = voter_of(server, model)
    with suppress(PermissionError, FileNotFoundError):
        Path(f"/proc/{pid}/autogroup").write_text("0")
    for thread in os.listdir(f"/proc/{pid}/task"):
        with suppress(PermissionError, ProcessLookupError):  # a thread may end meanwhile
            os.sched_setscheduler(int(thread), os.SCHED_OTHER, os.sched_param(0))
            os.setpriority(os.PRIO_PROCESS, int(thread), 0)
