"""What a server answers, read: a model's specification, its class names, and predictions."""

from __future__ import annotations

import struct
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NoReturn, get_args

import numpy as np
from numpy.typing import NDArray

from heatserve.export.contract import (
    KIND_PARAMETER,
    LARGEST_REASON,
    OUTPUT_NAMES,
    OUTPUT_TENSORS,
    RADIUS_NAMES,
    CertificateKind,
    Outputs,
    Reason,
)
from heatserve.export.tiers import tier_of
from heatserve.serving.batching import batch_limit
from heatserve.serving.client.failures import harmless
from heatserve.serving.client.messages import InferResult
from heatserve.serving.errors import ServingError
from heatserve.serving.pixels import Pixels


@dataclass(frozen=True)
class ModelSpec:
    """What the server tells about a model.

    C, H, W of an image (H and W are −1 where any will do), which is FP32 [C, H, W] or UINT8 [H, W, C]; the number K of
    classes; the largest batch. `promise` is what the model's card promises about certified radii, as a sentence; None:
    the server does not say. `certificate_kind` is statistical where a share of the radii may be too large, and they are
    about a smoothed classifier; deterministic where each is proven of the class that is served; None: of another kind,
    which this version of heatserve does not know, and of which only `promise` speaks.
    """

    input_shape: tuple[int, int, int]
    input_type: Literal["FP32", "UINT8"]
    classes: int
    max_batch_size: int
    promise: str | None = None
    certificate_kind: CertificateKind | None = "statistical"


@dataclass(frozen=True, eq=False)
class Prediction:
    """One image's class and certificate (docs/served-graph.md). Radii and bounds: L2, pixels in [0,1].

    `label` is the most probable class and `probability` its probability, `class_name` its name, where the server
    knows it; `probabilities` is float32 [K], `top_k` int64 [k]: the k most probable classes; `reason` says why the
    certified radius is what it is. Of an answer to a request for some outputs, the others are not there: to read one is
    an AttributeError, which says so.
    """

    label: int
    class_name: str | None
    probability: float
    probabilities: NDArray[np.float32]
    top_k: NDArray[np.int64]
    l_bound: float
    certified_radius: float
    nominal_radius: float
    reason: Reason

    if not TYPE_CHECKING:  # for which every name would then be an attribute, a misspelt one too

        def __getattr__(self, name: str) -> NoReturn:
            """Reached where the answer has no such value."""
            if name in self.__dataclass_fields__:
                needed = _OUTPUT_OF.get(name, name)
                raise AttributeError(f"{name}: not asked for; add {needed!r} to `outputs`, or leave `outputs` out")
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def __repr__(self) -> str:
        """What there is."""
        return f"Prediction({', '.join(f'{name}={value!r}' for name, value in vars(self).items())})"


_OUTPUT_OF = {"class_name": "label", "probability": "probabilities"}
"""The output that a value of a prediction is made of, where that has another name."""


def asked_outputs(outputs: Collection[str] | None) -> Sequence[str]:
    """The names of outputs that a caller asks for; None: all. `label` comes with any.

    Raises:
        ServingError: one that no model has, or none.
    """
    if outputs is None:
        return OUTPUT_NAMES
    names: list[Any] = [outputs] if isinstance(outputs, str) or not isinstance(outputs, Collection) else list(outputs)
    unknown = [name for name in names if name not in OUTPUT_NAMES]
    if unknown or not names:
        found = repr(unknown[0])[:80] if unknown else "none"
        raise ServingError(f"outputs: expected some of {', '.join(OUTPUT_NAMES)}, got {found}")
    return [name for name in OUTPUT_NAMES if name in names or name == "label"]


def read_spec(answer: Mapping[str, Any]) -> ModelSpec:
    """A model's specification, from its configuration: gRPC wraps that once more, and writes numbers as strings.

    Raises:
        ServingError: it is not a certified model.
    """
    with configuration_read():
        return _spec(answer.get("config", answer))


@contextmanager
def configuration_read() -> Iterator[None]:
    """Explain what is missing from an answer that is not the configuration of a model.

    Raises:
        ServingError: as said.
    """
    try:
        yield
    except ServingError:
        raise
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise ServingError(
            f"expected the configuration of a model from the server, found another answer ({error!r}); the address may "
            "be that of another service"
        ) from None


def _spec(config: Mapping[str, Any]) -> ModelSpec:
    outputs = {output["name"]: output for output in config["output"]}
    missing = [name for name in OUTPUT_NAMES if name not in outputs]
    tier = tier_of(config["name"])
    if missing and tier:
        raise ServingError(
            f"model {config['name']!r}: expected the name of a model, got that of its tier {tier[1].value}; name "
            f"{tier[0]!r}, and ask the tier with `confirm`, `certify`, `certify_fixed` or `cascade`"
        )
    if missing or [tensor["name"] for tensor in config["input"]] != ["image"]:
        raise ServingError(
            f"model {config['name']!r}: expected the input image and the outputs {', '.join(OUTPUT_NAMES)} of a "
            f"certified model; found the outputs {harmless(', '.join(outputs))}"
        )
    dims = tuple(map(int, config["input"][0]["dims"]))
    is_uint8 = config["input"][0]["data_type"] == "TYPE_UINT8"
    channels, height, width = (dims[2], *dims[:2]) if is_uint8 else dims
    return ModelSpec(
        input_shape=(channels, height, width),
        input_type="UINT8" if is_uint8 else "FP32",
        classes=int(outputs["probabilities"]["dims"][0]),
        max_batch_size=batch_limit(config),
        promise=harmless(config.get("parameters", {}).get("promise", {}).get("string_value") or "") or None,
        certificate_kind=_kind(config),
    )


def _kind(config: Mapping[str, Any]) -> CertificateKind | None:
    stated = config.get("parameters", {}).get(KIND_PARAMETER, {}).get("string_value", "statistical")
    return next((kind for kind in get_args(CertificateKind) if kind == stated), None)


def read_outputs(
    answer: InferResult, *, images: int, classes: int, names: Collection[str] = OUTPUT_NAMES
) -> dict[str, NDArray[Any]]:
    """Outputs of one request, with the shapes of the contract: Triton sends one number per image as [N, 1].

    Args:
        answer: to a request for these outputs.
        images: N, how many were sent.
        classes: K of the model.
        names: those that were asked for.

    Raises:
        ServingError: an output is missing, or not of the type and shape of the contract; names it.
    """
    outputs = {}
    for tensor in OUTPUT_TENSORS:
        if tensor.name not in names:
            continue
        value = raw_tensor(answer, tensor.name)
        shape = (images, *(tensor.shape(classes) or (1,)))
        if value.shape != shape or value.dtype != tensor.dtype:
            raise ServingError(
                f"{tensor.name}: expected {tensor.datatype} {list(shape)} from the server, "
                f"found {value.dtype} {list(value.shape)}"
            )
        outputs[tensor.name] = value if tensor.axes else value[:, 0]
    false = [code for code in outputs.get("reason", np.zeros(0)).tolist() if not 0 <= code <= LARGEST_REASON]
    if false:
        raise ServingError(f"reason: expected a number from 0 to {LARGEST_REASON} from the server, found {false[0]}")
    return outputs


def raw_tensor(answer: InferResult, name: str) -> NDArray[Any]:
    """One output as the server sent it.

    Raises:
        ServingError: it is not there, or its bytes do not fit its type and shape.
    """
    try:
        value = answer.as_numpy(name)
    except (ValueError, TypeError, LookupError, OverflowError, struct.error) as error:
        raise ServingError(
            f"{name}: expected a tensor from the server, found one that cannot be read: {error}"
        ) from None
    if value is None:
        raise ServingError(f"{name}: expected this output from the server, found an answer without it")
    return value


def read_predictions(outputs: Outputs, names: Mapping[int, str]) -> list[Prediction]:
    """The outputs, image by image; `names` are the class names by label, and may lack some."""
    return [
        _prediction({name: column[index] for name, column in outputs.items()}, names)
        for index in range(len(outputs["label"]))
    ]


def _prediction(row: Mapping[str, Any], names: Mapping[int, str]) -> Prediction:
    """One image's values, by output; those that were not asked for are left out."""
    label = int(row["label"])
    values: dict[str, Any] = {"label": label, "class_name": names.get(label)}
    if "probabilities" in row:
        values |= {"probability": float(row["probabilities"].max()), "probabilities": row["probabilities"]}
    values |= {name: row[name] for name in ("top_k",) if name in row}
    values |= {name: float(row[name]) for name in RADIUS_NAMES if name in row}
    if "reason" in row:
        values["reason"] = Reason(int(row["reason"]))
    prediction = object.__new__(Prediction)
    vars(prediction).update(values)
    return prediction


def black_image(spec: ModelSpec) -> Pixels:
    """One image, all 0, as the model takes it."""
    channels, height, width = spec.input_shape
    if spec.input_type == "UINT8":
        return np.zeros((1, abs(height), abs(width), channels), np.uint8)
    return np.zeros((1, channels, height, width), np.float32)


def read_class_names(answer: InferResult) -> dict[int, str]:
    """Class names by label, from a ranking of all classes: entries `probability:label:name` of any image.

    Raises:
        ServingError: the answer holds no such ranking.
    """
    ranking = raw_tensor(answer, "probabilities")
    try:
        entries = [entry.decode().split(":", 2) for entry in ranking.ravel().tolist()]
        return {int(entry[1]): harmless(entry[2]) for entry in entries if len(entry) == 3}
    except (AttributeError, ValueError):
        raise ServingError(
            f"probabilities: expected a ranking of the classes from the server, found {ranking.dtype} "
            f"{list(ranking.shape)}"
        ) from None
