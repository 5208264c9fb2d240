"""What gRPC and HTTP do differently, in one place; and the requests and answers that both share."""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from heatserve.export.contract import OUTPUT_NAMES
from heatserve.serving.batching import batch_limit
from heatserve.serving.errors import OverloadedError, ServingError

Pixels = NDArray[np.float32] | NDArray[np.uint8]
OVERLOADED = ("Exceeds maximum queue size", "Request timeout expired")
"""What Triton says, over gRPC and over HTTP, of a request for which its queue has no room or no time."""


@dataclass(frozen=True)
class ModelSpec:
    """What the server tells about a model.

    C, H, W of an image (H and W are −1 where any will do), which is FP32 [C, H, W] or UINT8 [H, W, C]; the number K of
    classes; the largest batch.
    """

    input_shape: tuple[int, int, int]
    input_type: Literal["FP32", "UINT8"]
    classes: int
    max_batch_size: int


@dataclass(frozen=True, eq=False)
class Prediction:
    """One image's class and certificate (docs/served-graph.md). Radii and bounds: L2, pixels in [0,1].

    `label` is the most probable class and `probability` its probability, `class_name` its name, where the server
    knows it; `probabilities` is float32 [K], `top_k` int64 [k]: the k most probable classes.
    """

    label: int
    class_name: str | None
    probability: float
    probabilities: NDArray[np.float32]
    top_k: NDArray[np.int64]
    l_bound: float
    certified_radius: float
    nominal_radius: float


@dataclass(frozen=True)
class Call:
    """One call of a method of tritonclient's client."""

    method: str
    arguments: Mapping[str, Any]


@dataclass(frozen=True)
class Wire:
    """One protocol to one server: the package of tritonclient that speaks it, and the options that it needs.

    gRPC takes a timeout with every call, HTTP with the connection; only gRPC must be asked for JSON.
    """

    url: str
    package: str
    connection_options: Mapping[str, Any]
    call_options: Mapping[str, Any]
    config_options: Mapping[str, Any]

    def client(self) -> Any:
        """The connection of tritonclient to the server.

        Raises:
            ServingError: tritonclient is not installed.
        """
        try:
            package = importlib.import_module(self.package)
        except ImportError as error:
            raise ServingError(f"the client needs more packages ({error}): pip install 'heatserve[client]'") from None
        return package.InferenceServerClient(self.url.split("://")[-1], **self.connection_options)

    def describe(self, model: str) -> Call:
        """Ask for a model's configuration; `model_spec` reads the answer."""
        return Call("get_model_config", {"model_name": model, **self.config_options, **self.call_options})

    def rank_classes(self, model: str, spec: ModelSpec) -> Call:
        """Have Triton rank all classes of a black image, by name; `class_names` reads the answer."""
        ranking = self._tensors.InferRequestedOutput("probabilities", class_count=spec.classes)
        return self._infer(model, black_image(spec), [ranking])

    def infer(self, model: str, images: Pixels) -> Call:
        """Ask for all outputs of images FP32 [N, C, H, W] or UINT8 [N, H, W, C]; `predictions` reads the answer."""
        return self._infer(model, images, [self._tensors.InferRequestedOutput(name) for name in OUTPUT_NAMES])

    def _infer(self, model: str, images: Pixels, outputs: list[Any]) -> Call:
        image = self._tensors.InferInput("image", images.shape, "UINT8" if images.dtype == np.uint8 else "FP32")
        image.set_data_from_numpy(images)
        return Call("infer", {"model_name": model, "inputs": [image], "outputs": outputs, **self.call_options})

    @property
    def _tensors(self) -> Any:
        return importlib.import_module(self.package.removesuffix(".aio"))

    @contextmanager
    def explained(self) -> Iterator[None]:
        """Turn the errors of tritonclient and of its transports into `ServingError`."""
        from tritonclient.utils import InferenceServerException

        try:
            yield
        except InferenceServerException as error:
            status, message = str(error.status()), error.message().removeprefix("[request id: <id_unknown>] ")
            if any(words in message for words in OVERLOADED):
                raise self._overloaded(message) from None
            if "UNAVAILABLE" in status:
                raise self._unreachable(message) from None
            if "DEADLINE_EXCEEDED" in status:
                raise self._too_late() from None
            raise ServingError(message) from None
        except (TimeoutError, asyncio.TimeoutError):  # one class only since Python 3.11
            raise self._too_late() from None
        except OSError as error:
            raise self._unreachable(str(error)) from None

    def _overloaded(self, reason: str) -> OverloadedError:
        return OverloadedError(
            f"{self.url}: the server has more requests than it can answer and refused this one ({reason}); ask again "
            "later, ask for less at a time, or serve the model with more instances or cores"
        )

    def _too_late(self) -> ServingError:
        return ServingError(f"{self.url}: no answer in time; give the client a larger timeout")

    def _unreachable(self, reason: str) -> ServingError:
        return ServingError(f"{self.url}: no server answers here ({reason}); start one with `heatserve serve`")


def wire(url: str, *, timeout: float, asynchronous: bool) -> Wire:
    """The protocol that a URL names: `grpc://host:port`, `http://host:port`, or `host:port` for gRPC.

    Raises:
        ServingError: another protocol, or no port.
    """
    scheme, address = url.split("://") if url.count("://") == 1 else ("grpc", url)
    if scheme not in ("grpc", "http") or not address.rpartition(":")[2].isdigit():
        raise ServingError(f"url: expected grpc://host:port, http://host:port or host:port; found {url!r}")
    url, package = f"{scheme}://{address}", f"tritonclient.{scheme}{'.aio' if asynchronous else ''}"
    if scheme == "grpc":
        return Wire(url, package, {}, {"client_timeout": timeout}, {"as_json": True})
    names = ("conn_timeout",) if asynchronous else ("connection_timeout", "network_timeout")
    return Wire(url, package, dict.fromkeys(names, timeout), {}, {})


def model_spec(answer: Mapping[str, Any]) -> ModelSpec:
    """Read the server's description of a model: the configuration, which gRPC wraps once more and writes as strings.

    Raises:
        ServingError: it is not a certified model.
    """
    config = answer.get("config", answer)
    outputs = {output["name"]: output for output in config["output"]}
    missing = [name for name in OUTPUT_NAMES if name not in outputs]
    if missing or [tensor["name"] for tensor in config["input"]] != ["image"]:
        raise ServingError(
            f"model {config['name']!r}: expected the input image and the outputs {', '.join(OUTPUT_NAMES)} of a "
            f"certified model; found the outputs {', '.join(outputs)}"
        )
    dims = tuple(map(int, config["input"][0]["dims"]))
    is_uint8 = config["input"][0]["data_type"] == "TYPE_UINT8"
    channels, height, width = (dims[2], *dims[:2]) if is_uint8 else dims
    return ModelSpec(
        input_shape=(channels, height, width),
        input_type="UINT8" if is_uint8 else "FP32",
        classes=int(outputs["probabilities"]["dims"][0]),
        max_batch_size=batch_limit(config),
    )


def black_image(spec: ModelSpec) -> Pixels:
    """One image, all 0."""
    channels, height, width = spec.input_shape
    if spec.input_type == "UINT8":
        return np.zeros((1, abs(height), abs(width), channels), np.uint8)
    return np.zeros((1, channels, height, width), np.float32)


def class_names(answer: Any) -> dict[int, str]:
    """Class names by label, from the answer to `Wire.rank_classes`: entries `probability:label:name`."""
    entries = (entry.decode().split(":", 2) for entry in answer.as_numpy("probabilities").ravel())
    return {int(entry[1]): entry[2] for entry in entries if len(entry) == 3}


def predictions(answer: Any, names: Mapping[int, str]) -> Iterator[Prediction]:
    """The answer to `Wire.infer`, image by image. Triton sends one number per image as [N, 1]."""
    outputs = {name: answer.as_numpy(name) for name in OUTPUT_NAMES}
    for index, label in enumerate(outputs["label"].ravel().tolist()):
        probabilities = outputs["probabilities"][index]
        yield Prediction(
            label=label,
            class_name=names.get(label),
            probability=float(probabilities.max()),
            probabilities=probabilities,
            top_k=outputs["top_k"][index],
            l_bound=float(outputs["l_bound"][index].item()),
            certified_radius=float(outputs["certified_radius"][index].item()),
            nominal_radius=float(outputs["nominal_radius"][index].item()),
        )
