"""The bound on what rounding does to a network of convex potential layers is above what it does, in any order."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from heatserve.certification.rounding import FLOAT32_UNIT, FLOAT64_UNIT, PotentialLayer, gamma, logits_error

WIDTH, DEPTH = 48, 6
Weights = list[tuple[NDArray[Any], NDArray[Any], np.float32]]
REACH = 0.5 * WIDTH**0.5  # of x − ½


@pytest.fixture(scope="module")
def network() -> Weights:
    """Weights, biases and steps of dense layers."""
    draw = np.random.default_rng(0)
    found = []
    for _ in range(DEPTH):
        weight = draw.standard_normal((WIDTH, WIDTH)).astype(np.float32)
        step = np.nextafter(np.float32(2 / np.linalg.norm(weight.astype(np.float64), 2) ** 2), np.float32(0))
        found.append((weight, draw.standard_normal(WIDTH).astype(np.float32), step))
    return found


def layers_of(network: Weights) -> list[PotentialLayer]:
    found = []
    for weight, bias, step in network:
        wide = weight.astype(np.float64)
        found.append(
            PotentialLayer(
                norm=float(np.linalg.norm(wide, 2)),
                absolute_norm=float(np.linalg.norm(abs(wide), 2)),
                step=float(step),
                terms=WIDTH + 1,
                bias=float(np.linalg.norm(bias.astype(np.float64))),
            )
        )
    return found


def one_by_one(matrix: NDArray[Any], x: NDArray[Any], order: NDArray[Any]) -> NDArray[Any]:
    """A product whose sums are taken one term after the other, in the type of the matrix."""
    total: NDArray[Any] = np.zeros(len(matrix), matrix.dtype)
    for index in order:
        total = total + matrix[:, index] * x[index]
    return total


def logits(network: Weights, image: NDArray[Any], dtype: type) -> NDArray[Any]:
    x: NDArray[Any] = image.astype(dtype) - dtype(0.5)
    for number, (weight, bias, step) in enumerate(network):
        order = np.random.default_rng(number).permutation(WIDTH)
        matrix: NDArray[Any] = weight.astype(dtype)
        hidden = np.maximum(one_by_one(matrix, x, order) + bias.astype(dtype), dtype(0))
        x = x - dtype(step) * one_by_one(np.ascontiguousarray(matrix.T), hidden, order)
    return x


def test_it_is_above_what_float32_does(network: Weights) -> None:
    bound = logits_error(layers_of(network), reach=REACH, unit=FLOAT32_UNIT)
    images = np.random.default_rng(1).random((40, WIDTH), np.float32)
    images = np.concatenate([images, images.round(), np.array([[0] * WIDTH, [1] * WIDTH], np.float32)])
    errors = [
        np.linalg.norm(logits(network, image, np.float32) - logits(network, image, np.float64)) for image in images
    ]
    assert 0 < max(errors) < bound
    assert bound < 10_000 * max(errors)  # it is a bound on this, not on everything


def test_it_grows_with_all_that_can_go_wrong(network: Weights) -> None:
    layers = layers_of(network)
    least = logits_error(layers, reach=REACH, unit=FLOAT32_UNIT)
    assert logits_error([*layers, layers[0]], reach=REACH, unit=FLOAT32_UNIT) > least
    assert logits_error(layers, reach=2 * REACH, unit=FLOAT32_UNIT) > least
    for name in ("norm", "absolute_norm", "step", "terms", "bias"):
        worse = replace(layers[0], **{name: 2 * getattr(layers[0], name) + 1})
        assert logits_error([worse, *layers[1:]], reach=REACH, unit=FLOAT32_UNIT) > least, name


def test_gamma_of_one_operation_is_the_unit_roundoff() -> None:
    assert gamma(1, FLOAT32_UNIT) == pytest.approx(2.0**-24)
    assert gamma(1, FLOAT64_UNIT) == pytest.approx(2.0**-53)
