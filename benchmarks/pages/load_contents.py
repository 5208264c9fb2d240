"""What the pages of load and tiers show, by the names that their templates use; None: there are no such results yet."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from heatserve.benchmarks.front import BYTES, GRPC
from heatserve.benchmarks.load.fleet import FleetDemand, plan_fleet
from heatserve.benchmarks.load.report import described, one_caller_cells, saturated_cell
from heatserve.benchmarks.load.targets import only
from heatserve.benchmarks.pages.kept import KeptResults
from heatserve.benchmarks.records.attack_tiers import TierAttackRecord
from heatserve.benchmarks.records.load import Heard, LoadRow, ModelLoad
from heatserve.benchmarks.records.tiers import TieredModel, TierRow, TiersRecord
from heatserve.benchmarks.soak.report import fault_lines, held_lines, soak_lines
from heatserve.benchmarks.switching.report import SWITCH_HEADINGS, command_lines, heard_meanwhile


def load_page(kept: KeptResults) -> dict[str, object] | None:
    """Each model under load, its floors and what was reached."""
    record = kept.load
    if record is None:
        return None
    return {
        "record": record,
        "best": {name: max(found.raw, key=lambda row: row.images_per_second) for name, found in record.shapes.items()},
        "tables": {name: _tables(found) for name, found in record.shapes.items()},
        "busiest": {name: _busiest(found) for name, found in record.shapes.items()},
        "plans": {name: plan_fleet(record, name, _demand(found)) for name, found in record.shapes.items()},
        "demands": {name: _demand(found) for name, found in record.shapes.items()},
    }


def _demand(found: ModelLoad) -> FleetDemand:
    """The demand of the example of `heatserve plan`; no tier where the model was measured without."""
    return FleetDemand(rate=2000.0, tiers={"confirm": 20.0} if found.mixes else {})


def tiers_page(kept: KeptResults) -> dict[str, object] | None:
    """Each tier of each model."""
    return (
        None
        if kept.tiers is None
        else {
            "record": kept.tiers,
            "cells": one_caller_cells,
            "saturated": saturated_cell,
            **_tiers_table(kept, kept.tiers),
        }
    )


def switch_page(kept: KeptResults) -> dict[str, object] | None:
    """A server that was switched under load."""
    record = kept.switch
    if record is None:
        return None
    return {
        "record": record,
        "headings": SWITCH_HEADINGS,
        "heard": [*heard_meanwhile(record)],
        "commands": [*command_lines(record)],
    }


def soak_page(kept: KeptResults) -> dict[str, object] | None:
    """A server under load for long, and after faults."""
    record = kept.soak
    if record is None:
        return None
    return {
        "record": record,
        "heard": soak_lines(record),
        "held": held_lines(record),
        "faults": fault_lines(record),
    }


def readme_tiers(kept: KeptResults) -> dict[str, object] | None:
    """The table of tiers, and what stands below it."""
    if kept.tiers is None:
        return None
    models = [*kept.tiers.shapes.values()]
    alphas = [row.alpha for found in models for row in found.tiers.values() if row.alpha is not None]
    return {
        "images": " and ".join(str(count) for count in dict.fromkeys(found.data.images for found in models)),
        "sigma": models[0].sigma,
        "alpha": max(alphas),
        **_tiers_table(kept, kept.tiers),
    }


def _tables(found: ModelLoad) -> dict[str, list[list[str]]]:
    tables = {"callers": _lines(found.closed), "arrivals": _lines(found.opened)}
    if found.mixes:
        tables[f"mixes, r = {found.radius:g}; +: at the same time"] = [
            cells for row in found.mixes.values() for cells in _cells(row)
        ]
    return tables


def _lines(rows: Sequence[LoadRow]) -> list[list[str]]:
    """In order of the kinds of requests, and of how much of each was asked."""
    ordered = sorted(rows, key=lambda row: _order(only(row)))
    return [cells for row in ordered for cells in _cells(row)]


def _order(heard: Heard) -> tuple[str, str, str, int, float]:
    much = heard.rate if heard.rate is not None else float(heard.callers or 0)
    return heard.tier, heard.protocol, heard.input, heard.images, much


def _cells(row: LoadRow) -> Iterator[list[str]]:
    for index, heard in enumerate(row.heard):
        times = heard.milliseconds
        quantiles = [f"{value:.2f}" for value in (times.p50, times.p90, times.p99, times.p999)] if times else ["–"] * 4
        cpu = row.cpu_milliseconds
        own = sum(use.rss_mib - use.shared_mib for use in row.server.values())
        shared = ["–" if cpu is None else f"{cpu:.2f}", f"{own:,.0f}", f"{row.generator_cores:.2f}"]
        errors = ", ".join(f"{count} {kind}" for kind, count in heard.errors.items()) or "none"
        yield [
            f"+ {described(heard)}" if index else described(heard),
            f"{heard.images_per_second:,.0f}",
            *quantiles,
            *(shared if index == 0 else ["", "", ""]),
            errors,
        ]


def _busiest(found: ModelLoad) -> tuple[str, object]:
    """The load of one image a request, of the model itself, that was answered the most, and the processes under it."""
    rows = [row for row in found.closed if only(row).tier == "one pass" and only(row).images == 1]
    row = max(rows, key=lambda row: only(row).images_per_second)
    return described(only(row)), row.server


def _tiers_table(kept: KeptResults, record: TiersRecord) -> dict[str, object]:
    radii = [row.radius for row in _any_row(record).at]
    lines = [
        [f"`{name}`", tier, *_tier_cells(row), _overclaims(kept, name, tier)]
        for name, found in record.shapes.items()
        for tier, row in found.tiers.items()
    ]
    return {"radii": radii, "first": radii[0], "lines": lines}


def _any_row(record: TiersRecord) -> TierRow:
    found: TieredModel = next(iter(record.shapes.values()))
    return next(iter(found.tiers.values()))


def _tier_cells(row: TierRow) -> list[str]:
    passes = row.at[0].passes
    return [
        *(f"{100 * one.certified_accuracy:.1f}" for one in row.at),
        *(f"{value:,.0f}" for value in (passes.median, passes.mean, passes.p99)),
        one_caller_cells(row)[0],
        saturated_cell(row),
    ]


def _overclaims(kept: KeptResults, model: str, tier: str) -> str:
    """Images near which `attack-tiers` found an overclaim, and its questions, where that is kept."""
    record: TierAttackRecord | None = getattr(kept, f"attack_tiers_{model}", None)
    if record is None or tier not in record.totals:
        return "–"
    total = record.totals[tier]
    return f"{total.images:,} of {record.data.images:,} ({total.overclaims:,} of {total.questions:,})"


def front_page(kept: KeptResults) -> dict[str, object] | None:
    """What the front adds to a request; None: it was not measured yet."""
    return None if kept.front is None else {"record": kept.front, "target": f"{BYTES} − {GRPC}"}
