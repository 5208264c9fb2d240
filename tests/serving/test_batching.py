"""Requests are grouped into batches that the graph may be run on."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from heatserve.serving.batching import batch_limit, groups, request_bytes


@given(st.lists(st.integers(1, 20)), st.integers(1, 15))
def test_every_request_that_fits_is_in_one_group_in_order(sizes: list[int], limit: int) -> None:
    found = list(groups(sizes, limit))
    assert [index for group in found for index in group] == [i for i, size in enumerate(sizes) if size <= limit]
    assert all(group and sum(sizes[i] for i in group) <= limit for group in found)


def test_a_request_to_a_model_of_pictures_of_any_size_is_limited_in_bytes() -> None:
    assert request_bytes((3, 32, 32), item_bytes=4, limit=64) == 64 * 3 * 32 * 32 * 4
    assert request_bytes((-1, -1, 3), item_bytes=1, limit=64) == 256 * 2**20


def test_the_parameter_states_the_limit() -> None:
    assert batch_limit({"max_batch_size": 64, "parameters": {"max_batch_size": {"string_value": "64"}}}) == 64
    assert batch_limit({"max_batch_size": 8}) == 8
