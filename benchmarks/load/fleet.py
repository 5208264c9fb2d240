"""How many servers a fleet needs for what it is asked, computed from what `bench load` measured of one of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from heatserve.benchmarks.load.targets import BUSY, heard_of, only, saturation
from heatserve.benchmarks.records.load import Heard, LoadRecord, LoadRow, ModelLoad, RequestKind
from heatserve.certification.errors import HeatserveError

_KEPT_UP = 0.95
"""Arrivals of which a server answered a smaller share within the window were more than it can take."""
_TIERS = ("confirm", "cascade")


class FleetError(HeatserveError):
    """Something that a fleet was to be planned from was not measured, or cannot be had."""


@dataclass(frozen=True, kw_only=True)
class FleetDemand:
    """What all servers of a fleet together are asked at the busiest time."""

    rate: float
    """Images a second that one pass answers."""
    tiers: Mapping[str, float]
    """Images a second by tier, `confirm` and `cascade`, besides."""
    front_microseconds: float = 0.0
    """CPU time of the front for each request of one pass, where it comes over HTTP; 0: over gRPC."""
    images: int = 1
    """In each request of one pass, one of the numbers that were measured."""
    p99: float | None = None
    """Milliseconds within which 99 of 100 requests of one pass are to be answered; None: as at 70 % load."""
    spare: int = 1
    """Servers that may be missing at the busiest time, since one is replaced or its machine is lost."""


@dataclass(frozen=True, kw_only=True)
class FleetStep:
    """One line of the arithmetic: what is computed, from which numbers, and what comes out."""

    what: str
    how: str
    value: float
    unit: str

    @property
    def result(self) -> str:
        """The value with its unit, with a digit behind the point where it is not whole."""
        return f"{self.value:,.{0 if self.value.is_integer() else 1}f} {self.unit}"


@dataclass(frozen=True, kw_only=True)
class FleetPlan:
    """A fleet that takes a demand, and how that was computed."""

    model: str
    servers: int
    cores_each: int
    """Cores that each server may use: those of the machine that was measured."""
    mebibytes_each: int
    """Memory that a server took at most while it was measured."""
    steps: tuple[FleetStep, ...]
    measured: str
    """Where and how the numbers were measured that all of this stands on."""


def plan_fleet(record: LoadRecord, model: str, demand: FleetDemand) -> FleetPlan:
    """The smallest fleet of equal servers that takes a demand.

    A server that answers at most μ images a second of a kind is busy for a share 1/μ of a second with each, so that
    demands of several kinds add up as shares: servers = ⌈Σ λ/(ρ·μ)⌉ + spare, with rates λ, the measured saturations
    μ, and ρ the share of its saturation at which a server still answers soon enough.

    Args:
        record: what `heatserve bench load` measured, on the machine that the servers will have.
        model: one of the models in it.
        demand: what the fleet is asked.

    Raises:
        FleetError: a rate is none; the model, or a kind of request, was not measured, or no load was answered within
            `p99`.
    """
    if model not in record.shapes:
        raise FleetError(f"model: expected one that was measured ({', '.join(record.shapes)}), got {model!r}")
    found = record.shapes[model]
    asked = {"rate": demand.rate, "front_microseconds": demand.front_microseconds, **demand.tiers}
    if endless := [name for name, value in asked.items() if value and not 0 < value < math.inf]:
        raise FleetError(f"{endless[0]}: expected a finite number above 0, got {asked[endless[0]]}")
    steps = [*_one_pass_steps(found, demand)]
    if demand.front_microseconds:
        steps.append(_front_step(steps[-1].value, demand, record.machine.cores))
    usable = {"one pass": steps[-1].value}
    for tier in _TIERS:
        if demand.tiers.get(tier):
            steps += _tier_steps(found, tier)
            usable[tier] = steps[-1].value
    if broken := [kind for kind, value in usable.items() if not 0 < value < math.inf]:
        raise FleetError(f"{broken[0]}: expected a finite number of images a second above 0, got {usable[broken[0]]}")
    rates = {"one pass": demand.rate, **{tier: rate for tier, rate in demand.tiers.items() if rate}}
    shares = " + ".join(f"{rates[kind]:,g} ÷ {usable[kind]:,.1f}" for kind in rates)
    needed = sum(rates[kind] / usable[kind] for kind in rates)
    servers = max(1, math.ceil(needed)) + demand.spare
    steps += [
        FleetStep(what="servers that are busy", how=shares, value=needed, unit="servers"),
        FleetStep(what="servers", how=f"⌈{needed:,.2f}⌉ + {demand.spare} spare", value=float(servers), unit="servers"),
        _cpu_step(found, demand, rates, servers * record.machine.cores),
    ]
    return FleetPlan(
        model=model,
        servers=servers,
        cores_each=record.machine.cores,
        mebibytes_each=max(map(_mebibytes, (*found.closed, *found.opened, *found.mixes.values()))),
        steps=tuple(steps),
        measured=f"{record.machine.processor}, {record.machine.cores} cores, {record.date[:10]}: {record.command}",
    )


def _kind(found: ModelLoad, demand: FleetDemand) -> RequestKind:
    """The kind of request that the demand is about.

    Raises:
        FleetError: it was not measured.
    """
    kind = RequestKind(tier="one pass", protocol="grpc", input=found.input, images=demand.images)
    if not heard_of(found.closed, kind):
        heard = (one for one in map(only, found.closed) if (one.tier, one.protocol) == ("one pass", "grpc"))
        measured = ", ".join(map(str, sorted({one.images for one in heard})))
        raise FleetError(
            f"images: expected a number in each request that was measured over gRPC ({measured}), got {demand.images}"
        )
    return kind


def _one_pass_steps(found: ModelLoad, demand: FleetDemand) -> Sequence[FleetStep]:
    """What one server answers in one pass; the last step is what it may be asked."""
    kind = _kind(found, demand)
    if demand.p99 is None:
        most = saturation(found.closed, kind)
        return (
            FleetStep(what="one pass: saturation", how="most callers", value=most, unit="images/s"),
            FleetStep(
                what="one pass: may be asked of one", how=f"{BUSY:g} × {most:,.1f}", value=BUSY * most, unit="images/s"
            ),
        )
    arrivals = [one for one in heard_of(found.opened, kind) if one.milliseconds is not None]
    if not arrivals:
        raise FleetError(
            f"p99: expected arrivals at a rate to be measured with {demand.images} images a request, found none; leave "
            "--p99 out, or plan for requests of one image"
        )
    soon = [one for one in arrivals if _is_kept_up(one) and one.milliseconds and one.milliseconds.p99 <= demand.p99]
    if not soon:
        least = min(one.milliseconds.p99 for one in arrivals if one.milliseconds)
        raise FleetError(
            f"p99: expected at least {least:.1f} ms, which one server took at the least load that was measured, got "
            f"{demand.p99:g} ms"
        )
    best = max(soon, key=lambda one: one.images_per_second)
    how = f"most arrivals with a 99th percentile of at most {demand.p99:g} ms"
    return (
        FleetStep(
            what="one pass: may be asked of one",
            how=how,
            value=best.images_per_second,
            unit="images/s",
        ),
    )


def _front_step(usable: float, demand: FleetDemand, cores: int) -> FleetStep:
    """What one server may be asked over HTTP: the front takes a share of its cores besides."""
    seconds = demand.front_microseconds / 1e6 / demand.images
    how = f"1 ÷ (1 ÷ {usable:,.1f} + {1e6 * seconds:g} µs ÷ ({BUSY:g} × {cores} cores))"
    value = 1 / (1 / usable + seconds / (BUSY * cores))
    return FleetStep(what="one pass, over HTTP: may be asked of one", how=how, value=value, unit="images/s")


def _is_kept_up(heard: Heard) -> bool:
    """Whether what arrived was answered as fast as it came, and without an error."""
    return not heard.errors and heard.images_per_second >= _KEPT_UP * (heard.rate or 0) * heard.images


def _of_tier(found: ModelLoad, tier: str) -> LoadRow:
    """The row with the most answers of a tier that nothing else was asked beside.

    Raises:
        FleetError: there is none.
    """
    rows = [row for row in found.mixes.values() if len(row.heard) == 1 and only(row).tier == tier]
    if not rows:
        raise FleetError(f"{tier}: expected that it was measured, found no load of it; see `heatserve bench load`")
    return max(rows, key=lambda row: only(row).images_per_second)


def _tier_steps(found: ModelLoad, tier: str) -> Sequence[FleetStep]:
    """What one server answers of a tier that takes votes; the last step is what it may be asked."""
    most = only(_of_tier(found, tier)).images_per_second
    return (
        FleetStep(what=f"{tier} at r = {found.radius:g}: saturation", how="most callers", value=most, unit="images/s"),
        FleetStep(
            what=f"{tier}: may be asked of one", how=f"{BUSY:g} × {most:,.1f}", value=BUSY * most, unit="images/s"
        ),
    )


def _cpu_step(found: ModelLoad, demand: FleetDemand, rates: Mapping[str, float], cores: int) -> FleetStep:
    """The share of all cores that the demand keeps busy, from the CPU time of each image: a check of the rest."""
    kind = _kind(found, demand)
    single = max(
        (row for row in found.closed if only(row) in heard_of(found.closed, kind)),
        key=lambda row: only(row).images_per_second,
    )
    rows = {tier: single if tier == "one pass" else _of_tier(found, tier) for tier in rates}
    each = {tier: row.cpu_milliseconds or 0.0 for tier, row in rows.items()}
    each["one pass"] += demand.front_microseconds / 1000 / demand.images
    busy = sum(rates[tier] * each[tier] / 1000 for tier in rates)
    how = " + ".join(f"{rates[tier]:,g}/s × {each[tier]:.2f} ms" for tier in rates)
    return FleetStep(
        what="cores that are busy, of all", how=f"({how}) ÷ {cores} cores", value=100 * busy / cores, unit="%"
    )


def _mebibytes(row: LoadRow) -> int:
    """Memory of all processes of the server; what they share is counted once, as the largest part of one of them."""
    own = sum(use.rss_mib - use.shared_mib for use in row.server.values())
    return math.ceil(own + max((use.shared_mib for use in row.server.values()), default=0.0))
