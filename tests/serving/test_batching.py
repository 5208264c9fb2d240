"""Requests are grouped into batches that the graph may be run on."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from heatserve.serving.batching import batch_limit, groups


@given(st.lists(st.integers(1, 20)), st.integers(1, 15))
def test_every_request_that_fits_is_in_one_group_in_order(sizes: list[int], limit: int) -> None:
    found = list(groups(sizes, limit))
    assert [index for group in found for index in group] == [i for i, size in enumerate(sizes) if size <= limit]
    assert all(group and sum(sizes[i] for i in group) <= limit for group in found)


def test_the_parameter_states_the_limit_where_tritons_own_is_lifted() -> None:
    lifted = {"max_batch_size": 2**31 - 1, "parameters": {"max_batch_size": {"string_value": "64"}}}
    assert batch_limit(lifted) == 64
    assert batch_limit({"max_batch_size": 8}) == 8
