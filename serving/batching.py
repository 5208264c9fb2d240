"""The largest request of a served model, in images and in bytes, and how requests are grouped under it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

PICTURES_BYTES = 2**28
"""The most bytes of pixels in one request to a model that takes pictures of any size: one of 9459×9459 in RGB."""


def batch_limit(config: Mapping[str, Any]) -> int:
    """The most images that one request may hold, from a model's configuration as Triton reports it (JSON).

    A parameter states it, and Triton's own `max_batch_size`, by which Triton's core refuses larger batches.
    """
    parameter = config.get("parameters", {}).get("max_batch_size")
    return int(parameter["string_value"] if parameter else config["max_batch_size"])


def request_bytes(dims: Iterable[int], *, item_bytes: int, limit: int) -> int:
    """The most bytes of pixels that one request may hold.

    Args:
        dims: of one image; −1 where the model takes pictures of any size.
        item_bytes: of one value.
        limit: the most images.
    """
    sizes = tuple(dims)
    return PICTURES_BYTES if -1 in sizes else limit * math.prod(sizes) * item_bytes


def groups(sizes: Sequence[int], limit: int) -> Iterator[list[int]]:
    """Indices of consecutive requests whose sizes add up to at most `limit`; larger requests are left out."""
    group: list[int] = []
    filled = 0
    for index, size in enumerate(sizes):
        if size > limit:
            continue
        if filled + size > limit:
            yield group
            group, filled = [], 0
        group.append(index)
        filled += size
    if group:
        yield group
