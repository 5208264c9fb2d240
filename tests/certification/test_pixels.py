"""One digest for one image, in whatever form it is held."""

from __future__ import annotations

import numpy as np

from heatserve.certification.pixels import pixel_digest

LEVELS = np.random.default_rng(0).integers(0, 256, (3, 5, 4), dtype=np.uint8)


def test_floating_point_and_eight_bits_are_one_image() -> None:
    for dtype in (np.float32, np.float64):
        assert pixel_digest((LEVELS / 255).astype(dtype)) == pixel_digest(LEVELS)


def test_grey_in_three_channels_is_the_grey_image() -> None:
    assert pixel_digest(np.repeat(LEVELS[:1], 3, axis=0)) == pixel_digest(LEVELS[:1])


def test_another_pixel_channel_order_or_layout_is_another_image() -> None:
    changed = LEVELS.copy()
    changed[1, 2, 3] ^= 1
    others = [changed, LEVELS[::-1], LEVELS.transpose(0, 2, 1), LEVELS.reshape(3, 4, 5)]
    assert len({pixel_digest(image) for image in [LEVELS, *others]}) == 5


def test_memory_order_does_not_matter() -> None:
    assert pixel_digest(np.asfortranarray(LEVELS)) == pixel_digest(LEVELS)
