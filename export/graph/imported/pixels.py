"""From `image` FP32 [N, C, H, W] in [0,1] to the tensor that somebody's network takes: layout, scale, type."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from heatserve.certification.errors import HeatserveError
from heatserve.certification.radius import Float32Array
from heatserve.export.graph.imported.errors import OnnxFileError, quoted

AxisOrder = Literal["NCHW", "NHWC"]

_INTEGERS = (TensorProto.UINT8, TensorProto.INT32, TensorProto.INT64)
_TYPES = (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, *_INTEGERS)
_COLOURS = (1, 3)
_UINT8_WHITE = 255.0


@dataclass(frozen=True)
class Preprocessing:
    """How the pixels of an image become what a network takes: (white · pixel − mean) / std, for pixels in [0,1].

    Attributes:
        input_shape: C, H, W of an image; None: that of the file, which must then have it.
        layout: the order of the axes, also of those that are flattened; None: as the shape in the file tells.
        white: the number for white; None: 1, or 255 where the network takes UINT8.
        mean: subtracted, one number or one a channel, in the network's order and scale.
        std: divided by, likewise.
        bgr: the network takes blue first, as those that were trained with Caffe or OpenCV.
    """

    input_shape: tuple[int, int, int] | None = None
    layout: AxisOrder | None = None
    white: float | None = None
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    bgr: bool = False

    def __post_init__(self) -> None:
        """Refuse numbers that no preprocessing has, or that speak of another scale.

        Raises:
            HeatserveError: names the number.
        """
        if self.white is not None and not 0 < self.white < math.inf:
            raise HeatserveError(f"white: expected a number above 0, got {self.white:g}")
        if self.input_shape is not None and min(self.input_shape) < 1:
            raise HeatserveError(f"input shape: expected C, H and W of at least 1, got {self.input_shape}")
        if not all(map(math.isfinite, (*self.mean, *self.std))) or min(self.std) <= 0:
            raise HeatserveError(f"mean, std: expected numbers, std above 0, got {self.mean} and {self.std}")

    def check(self, named: str, channels: int, white: float) -> None:
        """Refuse numbers that are not for so many channels, or that speak of another scale than that of `white`.

        Raises:
            OnnxFileError: names the number.
        """
        if self.bgr and channels != 3:
            raise OnnxFileError(f"{named}: expected three channels, of which blue comes first, got {channels}")
        for name, numbers in (("mean", self.mean), ("std", self.std)):
            if len(numbers) not in (1, channels):
                raise OnnxFileError(
                    f"{named}: {name}: expected one number or {channels}, one a channel, got {len(numbers)}"
                )
            if max(map(abs, numbers)) > white:
                raise OnnxFileError(
                    f"{named}: {name}: expected at most {white:g}, which is white, got {max(numbers):g}; statistics of "
                    "pixels from 0 to 255 go with --white 255"
                )


@dataclass(frozen=True)
class NetworkInput:
    """The tensor that a network takes, and what makes it of an image."""

    name: str
    element: int
    """The type of its elements, a number of `TensorProto`."""
    rank: int
    """4: [N, C, H, W] or [N, H, W, C]; 3: [N, H, W]; 2: [N, C·H·W]."""
    layout: AxisOrder
    image_shape: tuple[int, int, int]
    batch: int | None
    """The one size of batch that the file declares; None: any."""
    white: float
    preprocessing: Preprocessing

    @property
    def described(self) -> str:
        """The tensor, for a sentence."""
        channels, height, width = self.image_shape
        whole = (channels, height, width) if self.layout == "NCHW" else (height, width, channels)
        axes = {4: list(whole), 3: [height, width], 2: [math.prod(whole)]}[self.rank]
        batch = "N" if self.batch is None else self.batch
        type_name = TensorProto.DataType.Name(self.element)
        return f"{quoted(self.name)}: {type_name} [{', '.join(map(str, [batch, *axes]))}], white is {self.white:g}"

    def tensor(self, images: Float32Array) -> NDArray[Any]:
        """Images FP32 [N, C, H, W] in [0,1] as the network takes them, computed by numpy."""
        given = self.preprocessing
        if given.bgr:
            images = images[:, ::-1]
        values = images * np.float32(self.white) - _a_channel(given.mean)
        values = values / _a_channel(given.std)
        if self.element in _INTEGERS:
            values = np.rint(values)
        if self.element == TensorProto.UINT8:
            values = values.clip(0, 255)
        if self.layout == "NHWC":
            values = values.transpose(0, 2, 3, 1)
        shape = {4: values.shape, 3: (-1, *self.image_shape[1:]), 2: (len(images), -1)}[self.rank]
        return np.ascontiguousarray(values.reshape(shape)).astype(helper.tensor_dtype_to_np_dtype(self.element))

    def steps(self) -> Iterator[tuple[str, list[NDArray[Any]], dict[str, Any]]]:
        """The operators from `image` to the tensor, each with its constants and attributes; see `assembly.Step`."""
        given = self.preprocessing
        if given.bgr:
            yield "Gather", [np.array([2, 1, 0])], {"axis": 1}
        if self.white != 1:
            yield "Mul", [np.array(self.white, np.float32)], {}
        if any(given.mean):
            yield "Sub", [_a_channel(given.mean)], {}
        if any(number != 1 for number in given.std):
            yield "Div", [_a_channel(given.std)], {}
        if self.element in _INTEGERS:
            yield "Round", [], {}
        if self.element == TensorProto.UINT8:
            yield "Clip", [np.array(0, np.float32), np.array(255, np.float32)], {}
        if self.layout == "NHWC" and self.rank != 3:
            yield "Transpose", [], {"perm": [0, 2, 3, 1]}
        if self.rank == 3:
            yield "Squeeze", [np.array([1])], {}
        if self.rank == 2:
            yield "Flatten", [], {"axis": 1}
        if self.element != TensorProto.FLOAT:
            yield "Cast", [], {"to": self.element}


def _a_channel(numbers: tuple[float, ...]) -> Float32Array:
    """One number, or one a channel, as a tensor that goes with [N, C, H, W]."""
    return np.array(numbers, np.float32).reshape(-1, 1, 1)


def find_input(path: object, model: onnx.ModelProto, given: Preprocessing) -> NetworkInput:
    """The one input of a network, and how an image becomes it.

    Raises:
        OnnxFileError: several inputs, or one that no image fits, or that could be read in two ways.
    """
    if len(model.graph.input) != 1:
        names = ", ".join(quoted(value.name) for value in model.graph.input) or "none"
        raise OnnxFileError(f"{path}: expected one input, the image, and all else in the file, got {names}")
    (value,) = model.graph.input
    tensor, named = value.type.tensor_type, f"{path}: input {quoted(value.name)}"
    if tensor.elem_type not in _TYPES or not tensor.HasField("shape") or len(tensor.shape.dim) not in (2, 3, 4):
        raise OnnxFileError(
            f"{named}: expected a tensor of {', '.join(map(TensorProto.DataType.Name, _TYPES))} with 2, 3 or 4 axes, "
            f"got {_type_of(value)}"
        )
    batch, *sizes = (dim.dim_value for dim in tensor.shape.dim)
    layout, shape = _layout_and_shape(named, sizes, given)
    white = given.white
    if white is None and tensor.elem_type in _INTEGERS and tensor.elem_type != TensorProto.UINT8:
        raise OnnxFileError(f"{named}: expected the number that stands for white (--white), since it takes integers")
    if white is None:
        white = _UINT8_WHITE if tensor.elem_type == TensorProto.UINT8 else 1.0
    given.check(named, shape[0], white)
    return NetworkInput(value.name, tensor.elem_type, len(sizes) + 1, layout, shape, batch or None, white, given)


def _type_of(value: onnx.ValueInfoProto) -> str:
    tensor = value.type.tensor_type
    sizes = [dim.dim_value or dim.dim_param or "?" for dim in tensor.shape.dim] if tensor.HasField("shape") else "?"
    return f"{TensorProto.DataType.Name(tensor.elem_type)} {sizes}"


def _layout_and_shape(named: str, sizes: Sequence[int], given: Preprocessing) -> tuple[AxisOrder, tuple[int, int, int]]:
    """The order of the axes and C, H, W, by the sizes after the batch (0: any will do) and what the user says."""
    if len(sizes) == 3:
        readings: dict[AxisOrder, tuple[int, int, int]] = {
            "NCHW": (sizes[0], sizes[1], sizes[2]),
            "NHWC": (sizes[2], sizes[0], sizes[1]),
        }
        possible = {layout: shape for layout, shape in readings.items() if given.layout in (None, layout)}
        if given.input_shape is None and given.layout is None:
            possible = {layout: shape for layout, shape in possible.items() if shape[0] in _COLOURS}
    else:
        flat: tuple[int, int, int] = (1, sizes[0], sizes[1]) if len(sizes) == 2 else (0, 0, 0)
        possible = {given.layout or "NCHW": flat}
    if given.input_shape is not None:
        wanted = given.input_shape
        possible = {
            layout: wanted
            for layout, shape in possible.items()
            if all(size in (0, expected) for size, expected in zip(shape, wanted, strict=True))
            and (len(sizes) > 1 or sizes[0] in (0, math.prod(wanted)))
        }
    shown = ["?" if size == 0 else size for size in sizes]
    if len(possible) != 1:
        what = f"the layout (--layout NCHW or NHWC) of {shown}" if possible else f"images of a shape that fits {shown}"
        told = f", got {given.input_shape}" if given.input_shape else ", which does not say it by itself (--layout)"
        raise OnnxFileError(f"{named}: expected {what}{told}")
    ((layout, shape),) = possible.items()
    if min(shape) < 1:
        raise OnnxFileError(
            f"{named}: expected the shape C,H,W of an image (--input-shape), since {shown} does not tell"
        )
    return layout, shape
