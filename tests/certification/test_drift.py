"""Inputs compared with a reference: honest ones raise no alarm; brighter, compressed and other ones do, and soon."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from heatserve.certification.drift import CELLS, STATISTICS, DriftWatch, counts_of, input_cells
from heatserve.certification.guard import Guard, fit_guard
from heatserve.certification.radius import Float32Array, Float64Array

LEVEL = 0.001


def pictures(count: int, *, seed: int) -> Float32Array:
    """Pictures [count, 3, 32, 32] of 8 bits with shapes, edges and grain, each of its own brightness and contrast."""
    rng = np.random.default_rng(seed)
    coarse = rng.random((count, 3, 5, 5)).repeat(8, axis=2).repeat(8, axis=3)[:, :, :32, :32]
    plane = np.linspace(-1, 1, 32)[:, None] * rng.normal(size=(count, 3, 1, 1))
    raw = 0.5 + rng.uniform(0.2, 0.6, (count, 1, 1, 1)) * (coarse - 0.5) + 0.1 * plane
    raw += rng.normal(scale=0.04, size=raw.shape) + rng.normal(scale=0.05, size=(count, 1, 1, 1))
    return np.asarray(np.rint(np.clip(raw, 0, 1) * 255) / 255, np.float32)


def scores(images: Float32Array) -> Float64Array:
    """What a network might be sure of: it falls with the distance of an image from grey."""
    return np.asarray(3 - 4 * np.abs(images.mean(axis=(1, 2, 3), dtype=np.float64) - 0.5))


def compressed(images: Float32Array) -> Float32Array:
    """As JPEG files of quality 30."""
    return np.stack([_jpeg(image) for image in images])


def _jpeg(image: Float32Array) -> Float32Array:
    file = io.BytesIO()
    Image.fromarray(np.rint(image.transpose(1, 2, 0) * 255).astype(np.uint8)).save(file, "JPEG", quality=30)
    return (np.asarray(Image.open(file)).transpose(2, 0, 1) / 255).astype(np.float32)


@pytest.fixture(scope="module")
def guard() -> Guard:
    return fit_guard(pictures(300, seed=1))


@pytest.fixture(scope="module")
def watch(guard: Guard) -> Callable[[int], DriftWatch]:
    """A new watch with chance of its own, on the reference of 600 pictures."""
    images = pictures(600, seed=2)
    reference = counts_of(input_cells(scores(images), images, guard=guard))
    return lambda seed: DriftWatch(reference, level=LEVEL, rng=np.random.default_rng(seed))


def alarm_at(watch: DriftWatch, images: Float32Array, guard: Guard, answered: Float64Array | None = None) -> int | None:
    """After how many images it alarms; None: it does not."""
    for cells in input_cells(scores(images) if answered is None else answered, images, guard=guard):
        watch.see(cells)
        if watch.alarmed:
            return watch.seen
    return None


def test_honest_inputs_raise_no_alarm_in_ten_runs(watch: Callable[[int], DriftWatch], guard: Guard) -> None:
    for seed in range(10):
        assert alarm_at(watch(seed), pictures(400, seed=100 + seed), guard) is None


@pytest.mark.parametrize(
    ("change", "most"),
    [
        (lambda images: np.clip(images + np.float32(0.15), 0, 1), 60),
        (lambda images: images * np.float32(0.7), 60),
        (compressed, 120),
        (lambda images: images[:, :, ::-1, :] * np.float32(0.5) + images * np.float32(0.5), 60),
    ],
    ids=["brighter", "darker", "jpeg", "mirrored-over-itself"],
)
def test_inputs_that_changed_raise_an_alarm_soon(
    watch: Callable[[int], DriftWatch],
    guard: Guard,
    change: Callable[[Float32Array], Float32Array],
    most: int,
) -> None:
    found = [alarm_at(watch(seed), change(pictures(200, seed=200 + seed)), guard) for seed in range(5)]
    assert sum(at is not None and at <= most for at in found) >= 4, found


def test_other_answers_to_the_same_images_raise_an_alarm(watch: Callable[[int], DriftWatch], guard: Guard) -> None:
    """A swapped network: the pixels are as before, but it is surer."""
    images, swapped = pictures(200, seed=300), watch(0)
    assert alarm_at(swapped, images, guard, scores(images) + 1) is not None
    assert max(swapped.by_statistic, key=lambda name: swapped.by_statistic[name]) == "score"


def test_a_watch_goes_on_where_it_was(watch: Callable[[int], DriftWatch], guard: Guard) -> None:
    images = pictures(80, seed=400)
    whole, first, second = watch(7), watch(7), watch(8)
    cells = input_cells(scores(images), images, guard=guard)
    for at, cell in enumerate(cells):
        whole.see(cell)
        if at < 40:
            first.see(cell)
    second.resume(first.state)
    assert (second.seen, second.evidence, second.alarmed) == (first.seen, first.evidence, first.alarmed)
    for cell in cells[40:]:
        second.see(cell)
    assert second.seen == whole.seen
    assert second.evidence == pytest.approx(whole.evidence, abs=1.5)  # other chance among equal values


@pytest.mark.parametrize("pixel", [0.0, 1.0])
def test_any_image_has_cells(guard: Guard, pixel: float) -> None:
    flat = np.full((2, 3, 32, 32), pixel, np.float32)
    for score in (-np.inf, np.nan, 1e30):
        cells = input_cells([score, 0.0], flat, guard=guard)
        assert cells.shape == (2, len(STATISTICS))
        assert ((cells >= 0) & (cells < CELLS)).all()
    grey = fit_guard(np.random.default_rng(0).random((20, 1, 1, 5)).astype(np.float32))
    assert input_cells([0.0], np.ones((1, 1, 1, 5), np.float32), guard=grey).shape == (1, len(STATISTICS))
