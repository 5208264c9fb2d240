"""The largest batch of a served model: where its configuration states it, and how requests are grouped under it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any


def batch_limit(config: Mapping[str, Any]) -> int:
    """The most images that one request may hold, from a model's configuration as Triton reports it (JSON).

    A parameter states it. Triton's own `max_batch_size` says the same in `config.pbtxt`, but is lifted where our
    backend serves (`heatserve.serving.triton.workspace`), which then explains larger batches itself.
    """
    parameter = config.get("parameters", {}).get("max_batch_size")
    return int(parameter["string_value"] if parameter else config["max_batch_size"])


def groups(sizes: Sequence[int], limit: int) -> Iterator[list[int]]:
    """Indices of consecutive requests that fit into one batch of `limit` images; larger requests are left out."""
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
