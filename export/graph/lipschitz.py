"""A 1-Lipschitz network as ONNX operators in float64, which round by so little that a radius hardly feels it.

Channels lie last, and a convolution is a matrix product with the patches of the image: ONNX Runtime has no convolution
in float64 on CPUs. The kernels are stored in float16, whose numbers float64 holds as they are.
"""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from heatserve.certification.radius import Float32Array
from heatserve.export.graph.build import IR_VERSION, OPSET

Float16Array = NDArray[np.float16]
_STEP = "step"

_CHANNEL_AXIS = 3


class LipschitzGraph:
    """The graph from `image` FP32 [N, C, size, size] in [0,1] on, to which one layer after the other is added."""

    def __init__(self, *, channels: int, size: int, mean: Float32Array) -> None:
        """Begin with x − mean, in float64; `mean` [C]."""
        self.channels, self.size = channels, size
        self._layers = 0
        self._nodes: list[onnx.NodeProto] = []
        self._initializers: list[onnx.TensorProto] = []
        self._image = helper.make_tensor_value_info("image", onnx.TensorProto.FLOAT, ["N", channels, size, size])
        rows = self._add("Transpose", "image", perm=[0, 2, 3, 1])
        pixels = self._add("Cast", rows, to=onnx.TensorProto.DOUBLE)
        self._x = self._add("Sub", pixels, self._constant("mean", mean.astype(np.float64)))

    def space_to_depth(self) -> None:
        """2×2 pixels of a channel become four channels of one pixel, as torch's PixelUnshuffle orders them."""
        half = self.size // 2
        blocks = self._reshape(self._x, [half, 2, half, 2, self.channels])
        apart = self._add("Transpose", blocks, perm=[0, 1, 3, 5, 2, 4])
        self.size, self.channels = half, 4 * self.channels
        self._x = self._reshape(apart, [half, half, self.channels])

    def first_channels(self, count: int) -> None:
        """The first channels, and zeros where there are fewer."""
        if count <= self.channels:
            bounds = [self._constant(name, np.array([value])) for name, value in (("start", 0), ("end", count))]
            self._x = self._add("Slice", self._x, *bounds, self._constant("axis", np.array([_CHANNEL_AXIS])))
        else:
            added = np.array([0, 0, 0, 0, 0, 0, 0, count - self.channels])
            self._x = self._add("Pad", self._x, self._constant("added", added))
        self.channels = count

    def potential(self, kernel: Float16Array, bias: Float32Array, step: float) -> None:
        """x − step·Wᵀ ReLU(Wx + bias) of a zero-padded convolution W, `kernel` [C, C, k, k]."""
        self._layers += 1
        shifts = [*product(range(kernel.shape[2]), repeat=2)]
        stored = self._constant("kernel", np.stack([kernel[:, :, i, j].T for i, j in shifts]))  # [k², in, out]
        taps = self._add("Cast", stored, to=onnx.TensorProto.DOUBLE)
        out, into = kernel.shape[:2]
        forward = self._add("Reshape", taps, self._constant("rows", np.array([-1, out])))
        mirrored = self._add("Transpose", self._reversed(taps), perm=[0, 2, 1])  # [k², out, in]
        back = self._add("Reshape", mirrored, self._constant("columns", np.array([-1, into])))
        moved = self._add("MatMul", self._patches(self._x, kernel.shape[2]), forward)
        shifted = self._add("Add", moved, self._constant("bias", bias.astype(np.float64)))
        hidden = self._add("Relu", shifted)
        gradient = self._add("MatMul", self._patches(hidden, kernel.shape[2]), back)
        scaled = self._add("Mul", gradient, self._constant(_STEP, np.array(step)))
        self._x = self._add("Sub", self._x, scaled)

    def max_min(self) -> None:
        """The larger and the smaller of the two halves of the channels."""
        first, second = (f"{self._name('half')}_{which}" for which in ("first", "second"))
        self._nodes.append(helper.make_node("Split", [self._x], [first, second], axis=_CHANNEL_AXIS, num_outputs=2))
        sides = [self._add(operator, first, second) for operator in ("Max", "Min")]
        self._x = self._add("Concat", *sides, axis=_CHANNEL_AXIS)

    def logits(self, classes: int) -> onnx.ModelProto:
        """The graph, whose first `classes` numbers are `logits`, DOUBLE [N, K].

        Raises:
            onnx.checker.ValidationError: see `onnx.checker`.
        """
        self.first_channels(classes)
        shape = self._constant("shape", np.array([-1, classes]))
        self._nodes.append(helper.make_node("Reshape", [self._x, shape], ["logits"]))
        logits = helper.make_tensor_value_info("logits", onnx.TensorProto.DOUBLE, ["N", classes])
        graph = helper.make_graph(self._nodes, "lipschitz", [self._image], [logits], self._initializers)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
        model.producer_name = "heatserve"
        onnx.checker.check_model(model, full_check=True)
        return model

    def _patches(self, x: str, side: int) -> str:
        """For each pixel its side×side neighbours, zeros beyond the border, one after the other along the channels."""
        if side == 1:
            return x
        reach = side // 2
        padded = self._add("Pad", x, self._constant("border", np.array([0, reach, reach, 0, 0, reach, reach, 0])))
        axes = self._constant("axes", np.array([1, 2]))
        parts = []
        for i, j in product(range(side), repeat=2):
            start = self._constant("from", np.array([i, j]))
            end = self._constant("to", np.array([i + self.size, j + self.size]))
            parts.append(self._add("Slice", padded, start, end, axes))
        return self._add("Concat", *parts, axis=_CHANNEL_AXIS)

    def _reversed(self, taps: str) -> str:
        """[k², …] in the opposite order: what a tap moved by (i, j), its transpose moves by (−i, −j)."""
        bounds = [np.array([value]) for value in (-1, np.iinfo(np.int64).min, 0, -1)]  # start, end, axis, step
        return self._add("Slice", taps, *(self._constant("opposite", value) for value in bounds))

    def _reshape(self, x: str, sizes: list[int]) -> str:
        return self._add("Reshape", x, self._constant("shape", np.array([-1, *sizes])))

    def _add(self, operator: str, *inputs: str, **attributes: Any) -> str:
        output = self._name(operator.lower())
        self._nodes.append(helper.make_node(operator, inputs, [output], **attributes))
        return output

    def _constant(self, name: str, value: NDArray[Any]) -> str:
        unique = self._name(name)
        self._initializers.append(numpy_helper.from_array(value, unique))
        return unique

    def _name(self, name: str) -> str:
        return f"layer_{self._layers}.{len(self._nodes)}.{len(self._initializers)}.{name}"


def served_steps(graph: onnx.GraphProto) -> list[float]:
    """The step of each layer in a served graph, in their order."""
    steps = [tensor for tensor in graph.initializer if tensor.name.endswith(f".{_STEP}")]
    return [float(numpy_helper.to_array(tensor)) for tensor in steps]
