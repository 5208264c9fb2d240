"""What the audit makes of a network's operators: pieces whose constant is known, or can be proven."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from heatserve.certification.errors import HeatserveError
from heatserve.certification.radius import Float64Array

Places = NDArray[np.int64]
"""For each number of a tensor of one image, which number of an earlier one it is; below 0: the constant 0."""


class UnprovenError(HeatserveError):
    """An operator, or a form of one, of which the audit does not know that no constant is above 1."""


def at_most_once(*places: Places) -> bool:
    """Whether no number is taken twice, so that taking them has the constant 1 (L2)."""
    everything = np.concatenate([part.ravel() for part in places])
    numbers = everything[everything >= 0]
    return len(np.unique(numbers)) == len(numbers)


def taken(x: Float64Array, places: Places) -> Float64Array:
    """The numbers of x [N, n] at `places` [...], as [N, ...]."""
    padded = np.concatenate([x, np.zeros((len(x), 1), x.dtype)], axis=1)
    return np.take(padded, np.where(places < 0, x.shape[1], places), axis=1)


@dataclass(frozen=True)
class Weights:
    """A matrix W, as the patches that a `MatMul` multiplies: row (p, o) of W has `values`[j, o] at `places`[p, j]."""

    places: Places
    """[P, k], into the n numbers of the vector."""
    values: Float64Array
    """[k, O]."""
    numbers: int
    """n."""

    def matrix(self) -> Any:
        """W, a sparse matrix of scipy [P·O, n]; it is large, and made anew each time."""
        from scipy import sparse

        patches, (terms, out) = len(self.places), self.values.shape
        rows = np.arange(patches * terms)
        there = self.places.ravel() >= 0
        chosen = sparse.csr_matrix(
            (np.ones(there.sum()), (rows[there], self.places.ravel()[there])), (len(rows), self.numbers)
        )
        blocks = sparse.kron(sparse.eye(patches, format="csr"), np.ascontiguousarray(self.values.T), format="csr")
        assert blocks.shape == (patches * out, len(rows))
        return (blocks @ chosen).tocsr()

    def __call__(self, x: Float64Array) -> Float64Array:
        """Wx for each of x [N, n], [N, P·O]."""
        return np.asarray(
            (taken(x, self.places) @ self.values).reshape(len(x), len(self.places) * self.values.shape[1])
        )


@dataclass(frozen=True)
class Centred:
    """x − mean: the numbers of the image at `places`, minus `mean`; both [n]."""

    places: Places
    mean: Float64Array

    def __call__(self, x: Float64Array) -> Float64Array:
        """For images [N, d]."""
        return np.asarray(taken(x, self.places) - self.mean)


@dataclass(frozen=True)
class Sorted:
    """The larger of each of m pairs of numbers, then the smaller of each; `first` and `second` [m] say where."""

    first: Places
    second: Places

    def __call__(self, x: Float64Array) -> Float64Array:
        """For vectors [N, n]."""
        pair = taken(x, self.first), taken(x, self.second)
        return np.concatenate([np.maximum(*pair), np.minimum(*pair)], axis=1)


@dataclass(frozen=True)
class Potential:
    """x − step·V ReLU(Wx + bias); 1-Lipschitz where V = Wᵀ and step ≤ 2/‖W‖² (Meunier et al. 2022)."""

    places: Places
    """[n], where the vector has the numbers of x: each once, so that x is no further away than the vector is."""
    forward: Weights
    """W."""
    bias: Float64Array
    """[m], for every row of W."""
    back: Weights
    """V."""
    step: float
    shape: tuple[int, ...]
    """Of x, as the graph has it."""

    def __call__(self, x: Float64Array) -> Float64Array:
        """For vectors [N, n]."""
        x = taken(x, self.places)
        hidden = np.maximum(self.forward(x) + self.bias, 0)
        return np.asarray(x - self.step * self.back(hidden))


@dataclass(frozen=True)
class ReadNetwork:
    """What the operators of a graph compute, piece by piece, in float64: images → logits."""

    pieces: tuple[Centred | Sorted | Potential, ...]
    """Each of them gets what the one before answers."""
    logits: Places
    """[K], into what the last piece answers."""

    @property
    def centred(self) -> Centred:
        """The first piece."""
        first = self.pieces[0]
        assert isinstance(first, Centred)  # nothing else begins a network
        return first

    @property
    def potentials(self) -> tuple[Potential, ...]:
        """The layers that have weights."""
        return tuple(piece for piece in self.pieces if isinstance(piece, Potential))

    def __call__(self, images: NDArray[np.floating[Any]]) -> Float64Array:
        """Logits [N, K] for images [N, C, H, W] in [0,1]."""
        x = images.reshape(len(images), math.prod(images.shape[1:])).astype(np.float64)
        for piece in self.pieces:
            x = piece(x)
        return taken(x, self.logits)
