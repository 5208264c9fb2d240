"""A walk along the operators of a graph, which finds out what its network is, or that it is nothing that is known.

It knows no name of a value but that of the input and of the outputs. Each tensor of one image is followed as `Places`,
which number of an earlier vector stands where, through operators that only move numbers; nothing ever moves along the
axis of the batch. Three forms compute: x − mean, the maxima and minima of pairs, and x − step·V ReLU(Wx + b). What is
followed in a list, one form after the other, is 1-Lipschitz where every form is. Anything else is refused.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from heatserve.export.audit.proven.pieces import (
    Centred,
    Places,
    Potential,
    ReadNetwork,
    Sorted,
    UnprovenError,
    Weights,
    at_most_once,
)

Constant = NDArray[Any]
_FLOAT, _DOUBLE = onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE
_PIXELS, _HIDDEN = "pixels", "hidden"
_ADDED = np.iinfo(np.int64).min
_MOST_NUMBERS = 2**28
"""Of a tensor of one image: a few bytes of a file may say to pad or to repeat until no memory is left."""


@dataclass(frozen=True)
class _Vector:
    """A vector of each image; one that is `of` a number of pieces is a 1-Lipschitz function of the image."""

    of: int | str
    numbers: int


@dataclass(frozen=True)
class _Moved:
    """Numbers of a vector, or zeros, in some order."""

    vector: _Vector
    places: Places
    is_double: bool


@dataclass(frozen=True)
class _Product:
    """Wx, and with `bias` Wx + b, of a vector x; with `step`, step·Wx."""

    vector: _Vector
    weights: Weights
    shape: tuple[int, ...]
    bias: NDArray[np.float64] | None = None
    step: float | None = None


_Value = _Moved | _Product | Constant


class Walk:
    """The operators that were read so far, and what their values are."""

    def __init__(self, graph: onnx.GraphProto, *, image_shape: tuple[int, ...], image: str) -> None:
        """Begin at the FP32 image called `image`, of `image_shape` without the batch."""
        numbers = math.prod(image_shape)
        _check_size(numbers)
        places = np.arange(numbers).reshape(image_shape)
        self.pieces: list[Centred | Sorted | Potential] = []
        self._values: dict[str, _Value] = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
        self._values[image] = _Moved(_Vector(_PIXELS, numbers), places, is_double=False)
        self._hidden: list[_Product] = []
        self._pairs: dict[frozenset[str], _Vector] = {}
        self._zeros = 0

    def zeros(self, count: int) -> Places:
        """So many zeros, each with a number of its own, below 0."""
        self._zeros += count
        return -np.arange(self._zeros - count, self._zeros) - 1

    def read(self, node: onnx.NodeProto) -> None:
        """Follow one operator.

        Raises:
            UnprovenError: it is none that is known.
        """
        attributes = {item.name: helper.get_attribute_value(item) for item in node.attribute}
        where = f"{node.op_type} that writes {[*node.output]}"
        form = _OPERATORS.get(node.op_type)
        if form is None or node.domain:
            raise UnprovenError(f"{where}: expected one of {', '.join(sorted(_OPERATORS))}, got another operator")
        try:
            inputs = [self._values[name] for name in node.input]
            self._values.update(zip(node.output, form(self, attributes, inputs, [*node.input]), strict=True))
        except UnprovenError as error:
            raise UnprovenError(f"{where}: {error}") from None
        except (ArithmeticError, LookupError, TypeError, ValueError) as error:
            raise UnprovenError(f"{where}: expected another form of it: {error}") from None

    def network(self, logits: str) -> ReadNetwork:
        """All that was read, up to the logits [K], a value of the graph.

        Raises:
            UnprovenError: they are not what the last form answers.
        """
        value = self._values[logits]
        if not isinstance(value, _Moved) or value.vector.of != len(self.pieces) or value.places.ndim != 1:
            raise UnprovenError("logits: expected numbers of what the last layer answers, [K], got others")
        if not value.is_double or not at_most_once(value.places) or (value.places < 0).any():
            raise UnprovenError("logits: expected numbers of the last layer in float64, each once, got others")
        return ReadNetwork(tuple(self.pieces), value.places)

    def add(self, piece: Centred | Sorted | Potential, numbers: int, shape: tuple[int, ...]) -> _Moved:
        """What a piece answers; it must be about what the one before answered."""
        self.pieces.append(piece)
        places = np.arange(numbers).reshape(shape)
        return _Moved(_Vector(len(self.pieces), numbers), places, is_double=True)

    def is_last(self, vector: _Vector) -> bool:
        """Whether a vector is what the last piece answered; of the pixels, whether there is none yet."""
        return vector.of == (len(self.pieces) or _PIXELS)

    def hide(self, product: _Product) -> _Moved:
        """ReLU(Wx + b)."""
        self._hidden.append(product)
        numbers = math.prod(product.shape)
        vector = _Vector(f"{_HIDDEN} {len(self._hidden) - 1}", numbers)
        return _Moved(vector, np.arange(numbers).reshape(product.shape), is_double=True)

    def hidden(self, vector: _Vector) -> _Product | None:
        """The Wx + b that a vector is the ReLU of."""
        if isinstance(vector.of, str) and vector.of.startswith(_HIDDEN):
            return self._hidden[int(vector.of.split()[1])]
        return None

    def pair(self, names: Sequence[str], first: _Moved, second: _Moved) -> _Moved:
        """The larger numbers of two tensors, and behind them the smaller ones, which may be asked for later."""
        key, half = frozenset(names), first.places.size
        if key not in self._pairs:
            ordered = first.vector == second.vector and first.places.shape == second.places.shape
            if not ordered or not first.is_double or not second.is_double or len(key) != 2:
                raise UnprovenError("expected two halves of one float64 vector, got others")
            if not at_most_once(first.places, second.places) or not self.is_last(first.vector):
                raise UnprovenError("expected pairs without a number in common, got others")
            piece = Sorted(first.places.ravel(), second.places.ravel())
            self._pairs[key] = self.add(piece, 2 * half, (2, half)).vector
        return _Moved(self._pairs[key], np.arange(2 * half).reshape(2, *first.places.shape), is_double=True)


_Attributes = Mapping[str, Any]
_Inputs = list[Any]
_Form = Callable[[Walk, _Attributes, _Inputs, list[str]], Sequence[_Value]]


def _ints(value: Any) -> list[int]:
    if not isinstance(value, np.ndarray) or value.dtype != np.int64 or value.ndim > 1:
        raise UnprovenError("expected constants of int64")
    return [int(number) for number in value.reshape(-1)]


def _image_axis(axis: int, rank: int) -> int:
    """An axis of a tensor as one of what it holds of each image."""
    axis = axis + rank if axis < 0 else axis
    if not 1 <= axis < rank:
        raise UnprovenError(f"expected an axis from 1 to {rank - 1}, got {axis}: images of a batch must not mix")
    return axis - 1


def _check_size(numbers: int) -> None:
    if numbers > _MOST_NUMBERS:
        raise UnprovenError(f"expected at most {_MOST_NUMBERS:,} numbers of an image, got {numbers:,}")


def _moving(move: Callable[[Walk, _Attributes, Places, _Inputs], Any], constant: Any = None) -> _Form:
    """An operator that moves numbers, by what it makes of places; and of constants, where it may."""

    def form(walk: Walk, attributes: _Attributes, inputs: _Inputs, __: list[str]) -> Sequence[_Value]:
        value, *others = inputs
        if isinstance(value, _Moved):
            found = move(walk, attributes, value.places, others)
            return [replace(value, places=places) for places in (found if isinstance(found, list) else [found])]
        if isinstance(value, np.ndarray) and constant:
            return [constant(attributes, value, others)]
        raise UnprovenError("expected numbers that are moved, got computed ones")

    return form


def _transpose(_: Walk, a: _Attributes, places: Places, __: _Inputs) -> Places:
    order = a.get("perm", [])
    if sorted(order) != list(range(places.ndim + 1)) or order[0] != 0:
        raise UnprovenError(f"expected an order of axes that begins with 0, got {order}")
    return places.transpose([axis - 1 for axis in order[1:]])


def _reshape(_: Walk, __: _Attributes, places: Places, others: _Inputs) -> Places:
    first, *rest = _ints(others[0])
    if first != -1 or min(rest, default=0) < 1 or math.prod(rest) != places.size:
        raise UnprovenError(f"expected a shape [-1, …] of {places.size} numbers an image, got {[first, *rest]}")
    return places.reshape(rest)


def _cuts(rank: int, others: _Inputs) -> list[tuple[int, slice]]:
    """For each axis that is cut, which part of it is kept."""
    starts, ends, *more = (_ints(value) for value in others)
    axes = more[0] if more else list(range(len(starts)))
    steps = more[1] if len(more) > 1 else [1] * len(starts)
    found = []
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        is_backward = (start, step) == (-1, -1) and end <= -(2**31)  # from the last number to the first, included
        if step < 1 and not is_backward:  # numpy finds nothing where ONNX clips a start before the first number
            raise UnprovenError(f"expected steps forward, or a whole axis backward, got {start}, {end} and {step}")
        found.append((axis + rank if axis < 0 else axis, slice(start, None if is_backward else end, step)))
    return found


def _slice(_: Walk, __: _Attributes, places: Places, others: _Inputs) -> Places:
    kept = [slice(None)] * places.ndim
    for axis, part in _cuts(places.ndim + 1, others):
        kept[_image_axis(axis, places.ndim + 1)] = part
    return places[tuple(kept)]


def _pad(walk: Walk, a: _Attributes, places: Places, others: _Inputs) -> Places:
    value = others[1] if len(others) > 1 else None
    zero = value is None or (isinstance(value, np.ndarray) and value.size == 1 and not value.any())
    counts, rank = _ints(others[0]), places.ndim + 1
    if a.get("mode", b"constant") != b"constant" or not zero or len(others) > 2 or len(counts) != 2 * rank:
        raise UnprovenError("expected zeros around every axis, got other padding")
    before, after = counts[:rank], counts[rank:]
    if before[0] or after[0] or min(counts) < 0:
        raise UnprovenError(f"expected no padding of the batch and none below 0, got {counts}")
    _check_size(math.prod(sum(sizes) for sizes in zip(before[1:], after[1:], places.shape, strict=True)))
    padded = np.pad(places, [*zip(before[1:], after[1:], strict=True)], constant_values=_ADDED)
    padded[padded == _ADDED] = walk.zeros(int((padded == _ADDED).sum()))
    return padded


def _split(_: Walk, a: _Attributes, places: Places, others: _Inputs) -> list[Places]:
    axis, parts = _image_axis(a.get("axis", 0), places.ndim + 1), a.get("num_outputs")
    if others or not parts or places.shape[axis] % parts:
        raise UnprovenError("expected equal parts")
    return np.split(places, parts, axis)


def _constant_transpose(a: _Attributes, value: Constant, _: _Inputs) -> Constant:
    return value.transpose(a.get("perm", list(reversed(range(value.ndim)))))


def _constant_reshape(_: _Attributes, value: Constant, others: _Inputs) -> Constant:
    sizes = _ints(others[0])
    if 0 in sizes:
        raise UnprovenError(f"expected sizes other than 0, got {sizes}")
    return value.reshape(sizes)


def _constant_slice(_: _Attributes, value: Constant, others: _Inputs) -> Constant:
    kept = [slice(None)] * value.ndim
    for axis, part in _cuts(value.ndim, others):
        kept[axis] = part
    return value[tuple(kept)]


def _cast(_: Walk, a: _Attributes, inputs: _Inputs, __: list[str]) -> Sequence[_Value]:
    (value,) = inputs
    if a.get("to") != _DOUBLE:
        raise UnprovenError("expected a cast to float64, which rounds nothing")
    if isinstance(value, _Moved):
        return [replace(value, is_double=True)]
    if isinstance(value, np.ndarray) and value.dtype in (np.float16, np.float32):
        return [value.astype(np.float64)]
    raise UnprovenError("expected float16 or float32, got another type")


def _concat(_: Walk, a: _Attributes, inputs: _Inputs, __: list[str]) -> Sequence[_Value]:
    first = inputs[0]
    alike = [(part.vector, part.is_double) for part in inputs if isinstance(part, _Moved)]
    if len(alike) != len(inputs) or len(set(alike)) != 1:
        raise UnprovenError("expected numbers of one vector, got others")
    axis = _image_axis(a["axis"], first.places.ndim + 1)
    _check_size(sum(part.places.size for part in inputs))
    return [replace(first, places=np.concatenate([part.places for part in inputs], axis))]


def _numbers(value: Any, shape: tuple[int, ...]) -> NDArray[np.float64]:
    """A constant of finite float64 numbers, spread over what each image has."""
    if not isinstance(value, np.ndarray) or value.dtype != np.float64 or not np.isfinite(value).all():
        raise UnprovenError("expected a constant of finite float64 numbers")
    try:
        return np.ascontiguousarray(np.broadcast_to(value, shape)).ravel()
    except ValueError:
        raise UnprovenError(f"expected a constant that spreads over {list(shape)}, got {list(value.shape)}") from None


def _matmul(walk: Walk, _: _Attributes, inputs: _Inputs, __: list[str]) -> Sequence[_Value]:
    value, constant = inputs
    known = isinstance(value, _Moved) and value.is_double and value.places.ndim
    if not known or not isinstance(constant, np.ndarray) or constant.ndim != 2:
        raise UnprovenError("expected a float64 tensor times a constant matrix")
    if not walk.is_last(value.vector) and walk.hidden(value.vector) is None:
        raise UnprovenError("expected numbers of what the last layer answers, or of its ReLU")
    patches = value.places.reshape(-1, value.places.shape[-1])
    ordered = np.sort(patches, axis=1)
    if ((np.diff(ordered, axis=1) == 0) & (ordered[:, 1:] >= 0)).any():
        raise UnprovenError("expected each number once in a sum")
    _check_size(len(patches) * constant.shape[1])
    weights = Weights(patches, _numbers(constant, constant.shape).reshape(constant.shape), value.vector.numbers)
    return [_Product(value.vector, weights, (*value.places.shape[:-1], constant.shape[1]))]


def _add(walk: Walk, _: _Attributes, inputs: _Inputs, __: list[str]) -> Sequence[_Value]:
    product, constant = sorted(inputs, key=lambda value: isinstance(value, np.ndarray))
    if not isinstance(product, _Product) or product.bias is not None or product.step is not None:
        raise UnprovenError("expected a product with weights, and a bias")
    if not walk.is_last(product.vector):
        raise UnprovenError("expected a product with what the last layer answers")
    return [replace(product, bias=_numbers(constant, product.shape))]


def _relu(walk: Walk, _: _Attributes, inputs: _Inputs, __: list[str]) -> Sequence[_Value]:
    (product,) = inputs
    if not isinstance(product, _Product) or product.bias is None:
        raise UnprovenError("expected a product with a bias")
    return [walk.hide(product)]


def _mul(walk: Walk, _: _Attributes, inputs: _Inputs, __: list[str]) -> Sequence[_Value]:
    product, constant = sorted(inputs, key=lambda value: isinstance(value, np.ndarray))
    if not isinstance(product, _Product) or walk.hidden(product.vector) is None or product.step is not None:
        raise UnprovenError("expected what a ReLU was multiplied with, times a step")
    if not isinstance(constant, np.ndarray) or constant.ndim or constant.dtype != np.float64 or not constant >= 0:
        raise UnprovenError("step: expected one float64 number of at least 0")
    if float(np.float32(constant)) != constant:  # ONNX Runtime makes one operator of both, whose factor is float32
        raise UnprovenError(f"step: expected a number that float32 holds as it is, got {float(constant):.17g}")
    return [replace(product, step=float(constant))]


def _sub(walk: Walk, _: _Attributes, inputs: _Inputs, __: list[str]) -> Sequence[_Value]:
    """x − mean, or x − step·V ReLU(Wx + b)."""
    x, taken_off = inputs
    if not isinstance(x, _Moved) or not x.is_double or not walk.is_last(x.vector) or not at_most_once(x.places):
        raise UnprovenError("expected float64 numbers of what the last layer answers, each once")
    shape, flat = x.places.shape, x.places.ravel()
    if isinstance(taken_off, np.ndarray):
        if x.vector.of != _PIXELS or (flat < 0).any():
            raise UnprovenError("expected a mean to be taken off pixels only, and of all of them")
        return [walk.add(Centred(flat, _numbers(taken_off, shape)), flat.size, shape)]
    into = walk.hidden(taken_off.vector) if isinstance(taken_off, _Product) else None
    if into is None or taken_off.step is None or taken_off.shape != shape or into.vector != x.vector:
        raise UnprovenError("expected x − step·V·ReLU(Wx + b), with one x")
    if x.vector.of == _PIXELS:
        raise UnprovenError("expected the mean to be taken off first")
    assert into.bias is not None  # or there would be no ReLU of it
    forward = replace(into.weights, places=_within(flat, into.weights.places), numbers=flat.size)
    piece = Potential(flat, forward, into.bias, taken_off.weights, taken_off.step, shape)
    return [walk.add(piece, flat.size, shape)]


def _within(x: Places, patches: Places) -> Places:
    """Where x has what patches [P, k] of its vector have; zeros that x has not stay zeros."""
    order = np.argsort(x)
    if (np.diff(x[order]) == 0).any():
        raise UnprovenError("expected each number of x once")
    found = order[np.minimum(np.searchsorted(x, patches, sorter=order), len(x) - 1)]
    has = x[found] == patches
    if (~has & (patches >= 0)).any():
        raise UnprovenError("expected W to take numbers of x only")
    return np.where(has, found, -1)


def _of_pairs(half: int) -> _Form:
    def form(walk: Walk, _: _Attributes, inputs: _Inputs, names: list[str]) -> Sequence[_Value]:
        if len(inputs) != 2 or not all(isinstance(value, _Moved) for value in inputs):
            raise UnprovenError("expected two tensors, got others")
        both = walk.pair(names, *inputs)
        return [replace(both, places=both.places[half])]

    return form


_OPERATORS: Mapping[str, _Form] = {
    "Transpose": _moving(_transpose, _constant_transpose),
    "Reshape": _moving(_reshape, _constant_reshape),
    "Slice": _moving(_slice, _constant_slice),
    "Pad": _moving(_pad),
    "Split": _moving(_split),
    "Concat": _concat,
    "Cast": _cast,
    "Sub": _sub,
    "MatMul": _matmul,
    "Add": _add,
    "Relu": _relu,
    "Mul": _mul,
    "Max": _of_pairs(0),
    "Min": _of_pairs(1),
}
