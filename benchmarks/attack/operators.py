"""ONNX's operators on torch's tensors, with gradients where they have any.

Each takes the attributes of a node and its inputs, None where one is left out. Shapes and indices are int64 tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch
from onnx import helper, numpy_helper
from torch import Tensor
from torch.nn import functional

from heatserve.export.runtime.session import GraphError

_Attributes = Mapping[str, Any]


def _ints(tensor: Tensor) -> list[int]:
    return [int(value) for value in tensor.reshape(-1).tolist()]


def _spread(x: Tensor, pads: Sequence[int], value: float = 0.0) -> Tensor:
    """Pad the last axes of x by ONNX's [begins, ends]."""
    half = len(pads) // 2
    pairs = [(pads[axis], pads[axis + half]) for axis in reversed(range(half))]
    return functional.pad(x, [side for pair in pairs for side in pair], value=value) if any(pads) else x


def _conv(a: _Attributes, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    spatial = weight.dim() - 2
    convolve = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}[spatial]
    pads = a.get("pads", [0] * 2 * spatial)
    even = pads[:spatial] == pads[spatial:]
    return convolve(
        x if even else _spread(x, pads),
        weight,
        bias,
        stride=a.get("strides", [1] * spatial),
        padding=pads[:spatial] if even else 0,
        dilation=a.get("dilations", [1] * spatial),
        groups=a.get("group", 1),
    )


def _gemm(a: _Attributes, x: Tensor, y: Tensor, z: Tensor | None = None) -> Tensor:
    product: Tensor = (x.mT if a.get("transA") else x) @ (y.mT if a.get("transB") else y)
    product = product * a.get("alpha", 1.0)
    return product if z is None else product + a.get("beta", 1.0) * z


def _max_pool(a: _Attributes, x: Tensor) -> Tensor:
    padded = _spread(x, a.get("pads", [0, 0]), value=-torch.inf)
    ceil = bool(a.get("ceil_mode", 0))
    dilation = a.get("dilations", 1)
    return functional.max_pool2d(padded, a["kernel_shape"], a.get("strides", 1), dilation=dilation, ceil_mode=ceil)


def _average_pool(a: _Attributes, x: Tensor) -> Tensor:
    if any(a.get("pads", [])) and not a.get("count_include_pad"):
        raise GraphError("AveragePool: no gradient for padding that is not counted")
    padded = _spread(x, a.get("pads", [0, 0]))
    return functional.avg_pool2d(padded, a["kernel_shape"], a.get("strides", 1), ceil_mode=bool(a.get("ceil_mode", 0)))


def _reduce(reduction: Callable[[Tensor, list[int], bool], Tensor]) -> Callable[..., Tensor]:
    """A reduction over the axes of the second input; over all where there is none."""

    def reduce(a: _Attributes, x: Tensor, axes: Tensor | None = None) -> Tensor:
        chosen = list(range(x.dim())) if axes is None else _ints(axes)
        return reduction(x, chosen, bool(a.get("keepdims", 1)))

    return reduce


def _reshape(a: _Attributes, x: Tensor, shape: Tensor) -> Tensor:
    sizes = _ints(shape)
    copied = sizes if a.get("allowzero") else [size or x.shape[axis] for axis, size in enumerate(sizes)]
    return x.reshape(copied)


def _slice(
    _: _Attributes,
    x: Tensor,
    starts: Tensor,
    ends: Tensor,
    axes: Tensor | None = None,
    steps: Tensor | None = None,
) -> Tensor:
    chosen = list(range(starts.numel())) if axes is None else _ints(axes)
    strides = [1] * len(chosen) if steps is None else _ints(steps)
    if min(strides) < 1:
        raise GraphError(f"Slice: no gradient for steps {strides}")
    cuts = [slice(None)] * x.dim()
    for axis, start, end, step in zip(chosen, _ints(starts), _ints(ends), strides, strict=True):
        size = x.shape[axis]  # ONNX takes ends, and starts, of any size
        cuts[axis] = slice(max(-size, min(start, size)), max(-size, min(end, size)), step)
    return x[tuple(cuts)]


def _pad(a: _Attributes, x: Tensor, pads: Tensor, value: Tensor | None = None, axes: Tensor | None = None) -> Tensor:
    if a.get("mode", b"constant") != b"constant" or axes is not None:
        raise GraphError("Pad: no gradient for this mode")
    return _spread(x, _ints(pads), 0.0 if value is None else float(value))


def _clip(_: _Attributes, x: Tensor, low: Tensor | None = None, high: Tensor | None = None) -> Tensor:
    return x if low is None and high is None else x.clamp(low, high)


def _top_k(a: _Attributes, x: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
    axis = a.get("axis", -1)  # equal values in the order of their indices, as ONNX has it and torch's topk has not
    values, order = x.sort(dim=axis, descending=bool(a.get("largest", 1)), stable=True)
    return values.narrow(axis, 0, int(k)), order.narrow(axis, 0, int(k))


def _gather(a: _Attributes, x: Tensor, index: Tensor) -> Tensor:
    axis = a.get("axis", 0) % x.dim()
    shape = [*x.shape[:axis], *index.shape, *x.shape[axis + 1 :]]
    return x.index_select(axis, index.reshape(-1).remainder(x.shape[axis])).reshape(shape)


def _unsqueeze(_: _Attributes, x: Tensor, axes: Tensor) -> Tensor:
    rank = x.dim() + axes.numel()
    for axis in sorted(axis % rank for axis in _ints(axes)):
        x = x.unsqueeze(axis)
    return x


def _squeeze(_: _Attributes, x: Tensor, axes: Tensor | None = None) -> Tensor:
    return x.squeeze() if axes is None else x.squeeze(_ints(axes))


def _transpose(a: _Attributes, x: Tensor) -> Tensor:
    return x.permute(a.get("perm", list(reversed(range(x.dim())))))


def _split(a: _Attributes, x: Tensor, sizes: Tensor | None = None) -> tuple[Tensor, ...]:
    axis = a.get("axis", 0)
    if sizes is None:
        return torch.tensor_split(x, a["num_outputs"], axis)
    return torch.split_with_sizes(x, _ints(sizes), axis)


def _layer_norm(a: _Attributes, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    axis = a.get("axis", -1) % x.dim()
    return functional.layer_norm(x, x.shape[axis:], weight, bias, a.get("epsilon", 1e-5))


def _batch_norm(a: _Attributes, x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, var: Tensor) -> Tensor:
    return functional.batch_norm(x, mean, var, weight, bias, eps=a.get("epsilon", 1e-5))


def _scatter_nd(a: _Attributes, x: Tensor, indices: Tensor, updates: Tensor) -> Tensor:
    if a.get("reduction", b"none") != b"none":
        raise GraphError("ScatterND: no gradient for this reduction")
    return x.index_put(tuple(indices.movedim(-1, 0)), updates)


def _gather_nd(a: _Attributes, x: Tensor, indices: Tensor) -> Tensor:
    if a.get("batch_dims", 0):
        raise GraphError("GatherND: no gradient for axes that indices share")
    return x[tuple(indices.movedim(-1, 0))]


def _shape(a: _Attributes, x: Tensor) -> Tensor:
    return torch.tensor(x.shape[a.get("start", 0) : a.get("end", x.dim())], dtype=torch.int64)


def _filled(a: _Attributes, shape: Tensor) -> Tensor:
    value = torch.tensor(numpy_helper.to_array(a["value"])) if "value" in a else torch.zeros(1)
    return value.expand(_ints(shape)).clone()


def _expand(_: _Attributes, x: Tensor, shape: Tensor) -> Tensor:
    rank = max(x.dim(), shape.numel())
    sizes = [1] * (rank - shape.numel()) + _ints(shape)
    return x.expand([-1 if size == 1 and axis >= rank - x.dim() else size for axis, size in enumerate(sizes)])


def _cast(a: _Attributes, x: Tensor) -> Tensor:
    return x.to(torch.from_numpy(helper.tensor_dtype_to_np_dtype(a["to"]).type([0])).dtype)


def _divide(x: Tensor, y: Tensor) -> Tensor:
    """Of integers the quotient, rounded towards 0, as ONNX has it."""
    return torch.div(x, y, rounding_mode=None if x.is_floating_point() else "trunc")


def _elementwise(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda _, *inputs: function(*inputs)


_ELEMENTWISE: Mapping[str, Any] = {
    "Add": torch.add,
    "Sub": torch.sub,
    "Mul": torch.mul,
    "Div": _divide,
    "MatMul": torch.matmul,
    "Relu": torch.relu,
    "Log": torch.log,
    "Erf": torch.erf,
    "Equal": torch.eq,
    "Greater": torch.gt,
    "GreaterOrEqual": torch.ge,
    "LessOrEqual": torch.le,
    "And": torch.logical_and,
    "Where": torch.where,
    "Or": torch.logical_or,
    "Not": torch.logical_not,
    "Less": torch.lt,
    "Pow": torch.pow,
    "Sqrt": torch.sqrt,
    "Reciprocal": torch.reciprocal,
    "Exp": torch.exp,
    "Neg": torch.neg,
    "Abs": torch.abs,
    "Floor": torch.floor,
    "Sin": torch.sin,
    "Cos": torch.cos,
    "Tanh": torch.tanh,
    "Sigmoid": torch.sigmoid,
    "Softplus": functional.softplus,
    "HardSwish": functional.hardswish,
    "Identity": lambda x: x,
    "Range": torch.arange,
}

OPERATORS: Mapping[str, Callable[..., Any]] = MappingProxyType(
    {
        "Conv": _conv,
        "Gemm": _gemm,
        "MaxPool": _max_pool,
        "AveragePool": _average_pool,
        "Reshape": _reshape,
        "Slice": _slice,
        "Pad": _pad,
        "Clip": _clip,
        "TopK": _top_k,
        "Gather": _gather,
        "Unsqueeze": _unsqueeze,
        "Squeeze": _squeeze,
        "Transpose": _transpose,
        "Split": _split,
        "LayerNormalization": _layer_norm,
        "BatchNormalization": _batch_norm,
        "ScatterND": _scatter_nd,
        "GatherND": _gather_nd,
        "Shape": _shape,
        "ConstantOfShape": _filled,
        "Expand": _expand,
        "Cast": _cast,
        "Tile": lambda _, x, repeats: x.tile(_ints(repeats)),
        "Gelu": lambda a, x: functional.gelu(x, approximate=a.get("approximate", b"none").decode()),
        "LeakyRelu": lambda a, x: functional.leaky_relu(x, a.get("alpha", 0.01)),
        "Elu": lambda a, x: functional.elu(x, a.get("alpha", 1.0)),
        "HardSigmoid": lambda a, x: (a.get("alpha", 0.2) * x + a.get("beta", 0.5)).clamp(0, 1),
        "GlobalAveragePool": lambda _, x: x.mean(list(range(2, x.dim())), keepdim=True),
        "Concat": lambda a, *parts: torch.cat(parts, a["axis"]),
        "Softmax": lambda a, x: x.softmax(a.get("axis", -1)),
        "Flatten": lambda a, x: x.reshape(x.shape[: a.get("axis", 1)].numel(), -1),
        "ReduceMean": _reduce(lambda x, axes, keep: x.mean(axes, keepdim=keep)),
        "ReduceSum": _reduce(lambda x, axes, keep: x.sum(axes, keepdim=keep)),
        "ReduceSumSquare": _reduce(lambda x, axes, keep: x.square().sum(axes, keepdim=keep)),
        "ReduceMax": _reduce(lambda x, axes, keep: x.amax(axes, keepdim=keep)),
        "ReduceMin": _reduce(lambda x, axes, keep: x.amin(axes, keepdim=keep)),
        "ReduceL2": _reduce(lambda x, axes, keep: torch.linalg.vector_norm(x, dim=axes, keepdim=keep)),
        "ReduceL1": _reduce(lambda x, axes, keep: x.abs().sum(axes, keepdim=keep)),
        **{name: _elementwise(function) for name, function in _ELEMENTWISE.items()},
    }
)
