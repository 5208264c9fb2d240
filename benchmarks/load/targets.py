"""What a served model is to reach under load, computed from what was measured of it in one run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType

from heatserve.benchmarks.records.load import (
    Heard,
    LoadRow,
    LoadTarget,
    Protocol,
    RawRow,
    RequestKind,
    TailMilliseconds,
    ThirdPartyRow,
)

RAW_FACTOR, RAW_MILLISECONDS = 1.1, 0.15
"""One caller waits at most so much longer than for nothing: factor × ONNX Runtime + milliseconds."""
SATURATION: Mapping[str, float] = MappingProxyType({"cifar_resnet34": 0.9, "cifar_resnet20": 0.75})
"""Share of ONNX Runtime's best throughput that is to be served, by architecture."""
BUSY = 0.7
"""The share of the saturation at which the tail is judged."""
TAIL = 3.0
"""The 99th percentile there is at most so many times the median."""
BESIDE = 1.5
"""A single pass takes beside confirm at most so many times as long (99th percentile) as without."""
ALONE, BESIDE_CONFIRM = "one pass alone", "one pass beside confirm"
"""Names of the mixes that are compared."""
MOST_DIFFERENCE = 0.15
"""Another generator and ours differ by at most this share."""


def only(row: LoadRow) -> Heard:
    """What was heard in a row of one kind of request."""
    (heard,) = row.heard
    return heard


def heard_of(rows: Sequence[LoadRow], kind: RequestKind) -> list[Heard]:
    """What was heard of one kind of request, in the order of the rows."""
    found = map(only, rows)
    return [one for one in found if all(getattr(one, name) == value for name, value in vars(kind).items())]


def saturation(rows: Sequence[LoadRow], kind: RequestKind) -> float:
    """The most images a second that a kind of request was answered in a closed loop."""
    return max(one.images_per_second for one in heard_of(rows, kind))


def target_at_most(name: str, found: float, limit: float) -> LoadTarget:
    """A target that is met up to its limit."""
    return LoadTarget(name=name, found=found, limit=limit, at_most=True, met=found <= limit)


def target_at_least(name: str, found: float, limit: float) -> LoadTarget:
    """A target that is met from its limit on."""
    return LoadTarget(name=name, found=found, limit=limit, at_most=False, met=found >= limit)


def targets_of(
    *,
    architecture: str,
    kind: RequestKind,
    raw: Sequence[RawRow],
    raw_single: RawRow,
    closed: Sequence[LoadRow],
    opened: Sequence[LoadRow],
    mixes: Mapping[str, LoadRow],
    third_party: Sequence[ThirdPartyRow],
) -> tuple[LoadTarget, ...]:
    """Each target with what was found; those for which something was not measured are left out.

    Args:
        architecture: of the network.
        kind: the single pass as it is judged: over gRPC, one image a request.
        raw: ONNX Runtime at each batch size.
        raw_single: ONNX Runtime at batch 1, interleaved with one caller.
        closed: rows of callers who wait.
        opened: rows of arrivals.
        mixes: rows of several kinds at once, by name.
        third_party: what other generators say.
    """

    def found() -> Iterator[LoadTarget]:
        by_tier = {tier: _median(closed, tier, kind.protocol, kind) for tier in ("one pass", "identity")}
        limit = RAW_FACTOR * raw_single.milliseconds.p50 + RAW_MILLISECONDS
        yield target_at_most("certified − identity, ms, one caller", by_tier["one pass"] - by_tier["identity"], limit)
        if architecture in SATURATION:
            best = max(row.images_per_second for row in raw)
            share = saturation(closed, kind) / best
            yield target_at_least("saturation ÷ best of ONNX Runtime", share, SATURATION[architecture])
        for busy in heard_of(opened, kind):
            if busy.rate and abs(busy.rate / saturation(closed, kind) - BUSY) < 0.001 and busy.milliseconds:
                times = busy.milliseconds
                yield target_at_most(f"p99 ÷ p50 at {BUSY:.0%} of saturation", times.p99 / times.p50, TAIL)
        if ALONE in mixes and BESIDE_CONFIRM in mixes:
            ratio = _single(mixes[BESIDE_CONFIRM]).p99 / _single(mixes[ALONE]).p99
            yield target_at_most("p99 of one pass beside confirm ÷ alone", ratio, BESIDE)
        for row in third_party:
            difference = abs(row.requests_per_second / (row.ours.images_per_second / row.ours.images) - 1)
            yield target_at_most(f"difference to {row.name}", difference, MOST_DIFFERENCE)

    return tuple(found())


def _median(rows: Sequence[LoadRow], tier: str, protocol: Protocol, kind: RequestKind) -> float:
    """Milliseconds of one caller."""
    of_tier = RequestKind(tier=tier, protocol=protocol, input=kind.input, images=kind.images)
    (times,) = (one.milliseconds for one in heard_of(rows, of_tier) if one.callers == 1)
    assert times is not None, f"{tier}: no answer"
    return times.p50


def _single(row: LoadRow) -> TailMilliseconds:
    """The single pass of a mix."""
    (times,) = (one.milliseconds for one in row.heard if one.tier == "one pass")
    assert times is not None, "one pass: no answer"
    return times
