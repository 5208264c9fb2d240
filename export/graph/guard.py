"""The guard (`certification/guard.py`) as ONNX operators on the pixels, before any of them is rounded by the network.

Some 20 operators, all FP32. There is no matrix product and no convolution among them, which an engine might round to
TF32. Sums go over rows first and then over what is left, so that float32 loses little in a large image. The threshold
is lower than the guard's by more than float32 can lose in any order of summation: rounding can only refuse more.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from heatserve.certification.guard import Guard, blocks
from heatserve.certification.radius import Float32Array, Float64Array

_NODES = """
    half_rows = AveragePool<kernel_shape = [1, {width}], strides = [1, {across}]>({pixels})
    quarters = AveragePool<kernel_shape = [{height}, 1], strides = [{down}, 1]>(half_rows)
    means = Flatten<axis = 1>(quarters)
    {differences}
    row_squares = ReduceSumSquare<keepdims = 0>({last}, axis_3)
    squares = ReduceSum<keepdims = 0>(row_squares, axis_2)
    statistics = Concat<axis = 1>(means, squares)
    apart = Sub(statistics, guard_center)
    apart_row = Unsqueeze(apart, axis_1)
    products = Mul(apart_row, guard_whitening)
    whitened = ReduceSum<keepdims = 0>(products, axis_2)
    distance = ReduceSumSquare<keepdims = 0>(whitened, axis_1)
    like = LessOrEqual(distance, guard_threshold)
"""
_DIFFERENCES = """
    kept_{axis} = Slice({last}, from_0, to_last, axis_{axis})
    next_{axis} = Slice({last}, from_1, to_end, axis_{axis})
    change_{axis} = Sub(next_{axis}, kept_{axis})
    changes_{axis} = Concat<axis = 1>(kept_{axis}, change_{axis})
"""

_SLACK = 1.01
"""For all that is of second order in the roundoff."""


def guard_nodes(guard: Guard, *, pixels: str) -> str:
    """The operators from `pixels` FP32 [N, C, H, W] to `like`, BOOL [N], in ONNX's text format."""
    _, height, width = guard.image_shape
    last, differences = pixels, ""
    for axis, size in ((2, height), (3, width)):
        if size > 1:
            differences += _DIFFERENCES.format(last=last, axis=axis)
            last = f"changes_{axis}"
    (high, down), (wide, across) = blocks(height), blocks(width)
    return _NODES.format(
        pixels=pixels, height=high, down=down, width=wide, across=across, differences=differences, last=last
    )


def guard_constants() -> dict[str, NDArray[Any]]:
    """What the operators need besides the guard itself."""
    return {
        "axis_3": np.array([3]),
        "from_1": np.array([1]),
        "to_last": np.array([-1]),
        "to_end": np.array([np.iinfo(np.int64).max]),
    }


def guard_tensors(guard: Guard, *, roundoff: float) -> list[onnx.TensorProto]:
    """The initializers `guard_center`, `guard_whitening` and `guard_threshold`, on sums of squares, not means."""
    terms = _terms(guard)
    reach = guard.threshold - guard_margin(guard, roundoff=roundoff)
    squared = reach**2 * (1 - (len(terms) + 4) * roundoff) if reach > 0 else -1.0  # −1 refuses everything
    below = np.nextafter(np.float32(squared), np.float32(-np.inf))
    tensors: dict[str, Float32Array] = {
        "guard_center": (np.array(guard.center) * terms).astype(np.float32),
        "guard_whitening": (guard.matrix / terms).astype(np.float32),
        "guard_threshold": np.asarray(below, np.float32),
    }
    return [numpy_helper.from_array(value, name) for name, value in tensors.items()]


def guard_margin(guard: Guard, *, roundoff: float) -> float:
    """What float32 may take from the distance of an image that is not refused, in any order of summation.

    Such an image has statistics of at most center + threshold · deviation. Each is off by its terms' share of itself;
    a difference of pixels by 3 units of roundoff, and so the mean square m of differences by 6·√m of them.
    """
    _, height, width = guard.image_shape
    rows, size = guard.matrix, len(guard.center)
    deviation = np.sqrt(np.square(np.linalg.inv(rows)).sum(1))
    apart = _SLACK * guard.threshold * deviation
    largest = np.abs(guard.center) + apart
    off = (height + width + 6) * largest + apart
    off[size // 2 :] += 6 * np.sqrt(largest[size // 2 :]) + 9 * roundoff
    lost: Float64Array = roundoff * np.abs(rows) @ (off + (size + 3) * apart)
    return float(_SLACK * np.linalg.norm(lost))


def serves_guard(graph: onnx.GraphProto, guard: Guard | None, *, roundoff: float) -> bool:
    """Whether `graph` refuses exactly what `guard` does up to rounding, or nothing where there is none."""
    served = {tensor.name: tensor for tensor in graph.initializer if tensor.name.startswith("guard_")}
    expected = {tensor.name: tensor for tensor in guard_tensors(guard, roundoff=roundoff)} if guard else {}
    return served.keys() == expected.keys() and all(
        np.array_equal(numpy_helper.to_array(served[name]), numpy_helper.to_array(tensor))
        for name, tensor in expected.items()
    )


def _terms(guard: Guard) -> Float64Array:
    """How many pixels each statistic of the graph sums where the guard has their mean: 1 for a mean, [F]."""
    _, height, width = guard.image_shape
    half = len(guard.center) // 2
    return np.repeat([1.0, max(1, height - 1) * max(1, width - 1)], half)
