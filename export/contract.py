"""The contract of a served model: its outputs in their order, with names, types and shapes (docs/served-graph.md).

The graph, the configuration of the repository, the client, the backend and the conformance suite take them from here.
Needs numpy only, which is all that a client has.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Outputs = Mapping[str, NDArray[Any]]
"""What a served model answers to N images: `OUTPUT_TENSORS` by name, each with N as its first axis."""

INVALID_LABEL = -1
"""`label` of an image that is invalid, or to which the network answers NaN. All its radii are 0."""

CertificateKind = Literal["statistical", "deterministic"]
"""What a certificate is: statistical, about a smoothed classifier, where a stated share of the radii may be too large;
or deterministic, proven of the class that is served itself, for every image."""

KIND_PARAMETER = "certificate_kind"
"""The parameter of a model's `config.pbtxt` that names the kind; without it the certificate is statistical."""

LARGEST_REASON = 255
"""The largest number that `reason` may have in this version of the contract or in a later one."""

_LONGEST_TOP_K = 5


class Reason(IntEnum):
    """Why the certified radius of an image is what it is: `reason` of a served model.

    A number up to `LARGEST_REASON` that has no name here is one of a later version: its name is UNKNOWN. What a radius
    promises does not depend on its reason.
    """

    CALIBRATED = 0
    NOT_CALIBRATED = 1
    INVALID = 2
    UNSURE = 3
    UNLIKE = 4
    WITHDRAWN = 5
    PROVEN = 6

    @classmethod
    def _missing_(cls, value: object) -> Reason | None:
        if not isinstance(value, int) or not 0 <= value <= LARGEST_REASON:
            return None
        unknown = int.__new__(cls, value)
        unknown._name_, unknown._value_ = "UNKNOWN", value
        return unknown

    @property
    def explanation(self) -> str:
        """The reason, for somebody who reads an answer."""
        known = {
            Reason.CALIBRATED: "the radius is what the calibration supports",
            Reason.NOT_CALIBRATED: "radius 0: the model is not calibrated",
            Reason.INVALID: "radius 0: the image is invalid",
            Reason.UNSURE: "radius 0: the single pass is not sure enough of the class",
            Reason.UNLIKE: "radius 0: the image is unlike those that the model was calibrated on",
            Reason.WITHDRAWN: "radius 0: the promise was withdrawn, since Certify speaks against it on live images",
            Reason.PROVEN: "the radius is proven: no image within it is answered with another class",
        }
        return known.get(self, "a reason that this version of heatserve does not know; the radius is the server's")


def top_k_of(num_classes: int) -> int:
    """k = min(5, K): how many classes the output `top_k` names."""
    return min(_LONGEST_TOP_K, num_classes)


@dataclass(frozen=True)
class OutputTensor:
    """One output of a served model."""

    name: str
    datatype: Literal["INT64", "FP32"]
    """As Triton names it."""
    axes: tuple[Literal["K", "k"], ...] = ()
    """Those after N: K classes, or the k = `top_k_of(K)` most probable; none where an image has one number."""

    @property
    def onnx_type(self) -> str:
        """As ONNX's text format names it."""
        return {"INT64": "int64", "FP32": "float"}[self.datatype]

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type as numpy names it."""
        return np.dtype({"INT64": np.int64, "FP32": np.float32}[self.datatype])

    def shape(self, num_classes: int) -> tuple[int, ...]:
        """The shape of one image's row, for K classes: [], [K] or [k]."""
        sizes = {"K": num_classes, "k": top_k_of(num_classes)}
        return tuple(sizes[axis] for axis in self.axes)


OUTPUT_TENSORS = (
    OutputTensor("label", "INT64"),
    OutputTensor("probabilities", "FP32", ("K",)),
    OutputTensor("top_k", "INT64", ("k",)),
    OutputTensor("l_bound", "FP32"),
    OutputTensor("certified_radius", "FP32"),
    OutputTensor("nominal_radius", "FP32"),
    OutputTensor("reason", "INT64"),
)
"""The outputs, in the order of the graph."""

OUTPUT_NAMES = tuple(tensor.name for tensor in OUTPUT_TENSORS)

RADIUS_NAMES = ("l_bound", "certified_radius", "nominal_radius")
"""The outputs that are L2 distances, pixels in [0,1]."""
