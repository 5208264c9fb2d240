"""An ONNX graph as a torch module, so that an attack has gradients of the very bytes that are served.

It computes what ONNX Runtime computes, up to float32 rounding; whoever draws a conclusion from it evaluates the
inputs that it found with ONNX Runtime itself.

onnx2torch 1.5.15 cannot convert these graphs (opset 18; measured with torch 2.13.0 and onnx 1.23.2). It has no
converter for Pad and ReduceMean of opset 18, which a CIFAR ResNet has before its logits, nor for the comparisons and
reductions of a certificate (GreaterOrEqual and LessOrEqual of opset 16; ReduceL1, ReduceMax and ReduceMin of opset
18), and it refuses a Reshape with `allowzero`, which PyTorch's exporter writes. Of the committed models it converts
only the digits' logits, and those only without that attribute (then equal to within 2·10⁻⁶, with gradients). onnx's
version converter cannot bring Pad down to an older opset.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, cast

import onnx
import torch
from onnx import helper, numpy_helper
from torch import Tensor, nn
from torch.nn import functional

from heatserve.export.runtime.session import GraphError

_Attributes = Mapping[str, Any]


class TorchGraph(nn.Module):
    """The function from a graph's one input to named values in it, which need not be its outputs, in their order.

    Raises:
        GraphError: an operator or a form of it that no graph of heatserve's has, or a value that is not there.
    """

    def __init__(self, model: onnx.ModelProto, outputs: Sequence[str]) -> None:
        super().__init__()
        constants = {tensor.name: torch.tensor(numpy_helper.to_array(tensor)) for tensor in model.graph.initializer}
        self._constants = constants
        self._input = model.graph.input[0].name
        self._outputs = tuple(outputs)
        self._steps = [_step(node) for node in _needed(model.graph.node, {*outputs}, {self._input, *constants})]

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """The named values for images FP32 [N, C, H, W]."""
        values = {**self._constants, self._input: images}
        for operator, inputs, outputs, attributes in self._steps:
            results = operator(attributes, *(values[name] if name else None for name in inputs))
            results = results if isinstance(results, tuple) else (results,)
            values.update(zip(outputs, results, strict=False))  # trailing outputs are optional
        return tuple(values[name] for name in self._outputs)


class Logits(nn.Module):
    """From images [N, C, H, W] to the logits [N, K] of a graph of heatserve's, served or base."""

    def __init__(self, model: onnx.ModelProto) -> None:
        super().__init__()
        self._graph = TorchGraph(model, ["logits"])

    def forward(self, images: Tensor) -> Tensor:
        """Logits [N, K]."""
        (logits,) = self._graph(images)
        return cast(Tensor, logits)


def _needed(nodes: Sequence[onnx.NodeProto], wanted: set[str], given: set[str]) -> list[onnx.NodeProto]:
    """The nodes that the wanted values depend on, in the graph's order."""
    chosen = []
    for node in reversed(nodes):
        if wanted & {*node.output}:
            chosen.append(node)
            wanted = (wanted - {*node.output}) | {name for name in node.input if name}
    if missing := sorted(wanted - given):
        raise GraphError(f"expected a graph that computes {', '.join(missing)}, found no such value")
    return chosen[::-1]


def _step(node: onnx.NodeProto) -> tuple[Callable[..., Any], list[str], list[str], _Attributes]:
    attributes = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    if node.op_type not in _OPERATORS or attributes.get("auto_pad", b"NOTSET") != b"NOTSET":
        raise GraphError(f"{node.name or node.op_type}: no gradient for the operator {node.op_type} of this form")
    return _OPERATORS[node.op_type], [*node.input], [*node.output], attributes


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
    _: _Attributes, x: Tensor, starts: Tensor, ends: Tensor, axes: Tensor, steps: Tensor | None = None
) -> Tensor:
    strides = [1] * len(_ints(axes)) if steps is None else _ints(steps)
    if min(strides) < 1:
        raise GraphError(f"Slice: no gradient for steps {strides}")
    cuts = [slice(None)] * x.dim()
    for axis, start, end, step in zip(_ints(axes), _ints(starts), _ints(ends), strides, strict=True):
        cuts[axis] = slice(start, end, step)
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


def _elementwise(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda _, *inputs: function(*inputs)


_ELEMENTWISE: Mapping[str, Any] = {
    "Add": torch.add,
    "Sub": torch.sub,
    "Mul": torch.mul,
    "Div": torch.div,
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
}

_OPERATORS: Mapping[str, Callable[..., Any]] = MappingProxyType(
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
        "Concat": lambda a, *parts: torch.cat(parts, a["axis"]),
        "Softmax": lambda a, x: x.softmax(a.get("axis", -1)),
        "Flatten": lambda a, x: x.reshape(x.shape[: a.get("axis", 1)].numel(), -1),
        "ReduceMean": _reduce(lambda x, axes, keep: x.mean(axes, keepdim=keep)),
        "ReduceSum": _reduce(lambda x, axes, keep: x.sum(axes, keepdim=keep)),
        "ReduceSumSquare": _reduce(lambda x, axes, keep: x.square().sum(axes, keepdim=keep)),
        "ReduceMax": _reduce(lambda x, axes, keep: x.amax(axes, keepdim=keep)),
        "ReduceMin": _reduce(lambda x, axes, keep: x.amin(axes, keepdim=keep)),
        "ReduceL1": _reduce(lambda x, axes, keep: x.abs().sum(axes, keepdim=keep)),
        **{name: _elementwise(function) for name, function in _ELEMENTWISE.items()},
    }
)
