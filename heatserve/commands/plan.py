"""`heatserve plan`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from heatserve.commands.options import Json, deliver

if TYPE_CHECKING:
    from rich.console import Group

    from heatserve.benchmarks.load.fleet import FleetPlan


def plan(
    model: Annotated[str, typer.Argument(help="A model that was measured.")],
    rate: Annotated[float, typer.Option(min=0.001, help="Images a second of one pass, at the busiest time.")],
    load: Annotated[Path, typer.Option(help="What `heatserve bench load` measured on such a machine.")] = Path(
        "benchmarks/results/load.json"
    ),
    confirm: Annotated[float, typer.Option(min=0, help="Images a second to confirm, besides.")] = 0.0,
    cascade: Annotated[float, typer.Option(min=0, help="Images a second for the cascade, besides.")] = 0.0,
    front_us: Annotated[
        float,
        typer.Option(min=0, help="Microseconds of CPU that the front takes for a request over HTTP; 0: over gRPC."),
    ] = 0.0,
    images: Annotated[int, typer.Option(min=1, help="Images in each request of one pass.")] = 1,
    p99: Annotated[
        float | None,
        typer.Option(
            min=0.001, help="Milliseconds within which 99 of 100 requests are answered; by default as at 70 % load."
        ),
    ] = None,
    spare: Annotated[int, typer.Option(min=0, help="Servers that may be missing at the busiest time.")] = 1,
    as_json: Json = False,
) -> None:
    """How many servers a fleet needs, from what was measured of one: the arithmetic, line by line.

    Nothing is measured. The numbers are those of the machine that the load was measured on, which is to be like those
    of the fleet: measure it there first.

    **Example:** `heatserve plan cifar10 --rate 2000 --confirm 20`
    """
    from heatserve.benchmarks.load.fleet import FleetDemand, plan_fleet
    from heatserve.benchmarks.records.load import LoadRecord
    from heatserve.benchmarks.records.record import read_record

    demand = FleetDemand(
        rate=rate,
        tiers={"confirm": confirm, "cascade": cascade},
        front_microseconds=front_us,
        images=images,
        p99=p99,
        spare=spare,
    )
    found = plan_fleet(read_record(load, LoadRecord), model, demand)
    deliver(asdict(found), lambda: _report(found), as_json=as_json, width=110)


def _report(found: FleetPlan) -> Group:
    """The arithmetic as a table, and what comes out of it."""
    from rich.box import SIMPLE
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE, show_edge=False, pad_edge=False, collapse_padding=True)
    table.add_column("what")
    table.add_column("how")
    table.add_column(justify="right")
    for step in found.steps:
        table.add_row(step.what, step.how, step.result)
    return Group(
        table,
        Text(
            f"\n{found.model}: {found.servers} servers of {found.cores_each} cores and {found.mebibytes_each:,} MiB, "
            f"together {found.servers * found.cores_each} cores",
            style="bold",
        ),
        Text(f"measured on {found.measured}"),
    )
