"""`heatserve bench networks`: which networks become a served graph. Heavy imports stay inside the function."""

from __future__ import annotations

from typing import Annotated

import typer

from heatserve.commands.options import Json, Out, deliver, known_names, seed_option, tell_page


def networks(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="NETWORK", help="Such as `timm:levit_128s`; none: all that docs/results/networks.md has."
        ),
    ] = None,
    seed: Annotated[int, seed_option("the random weights and the images")] = 0,
    out: Out = None,
    as_json: Json = False,
) -> None:
    """Which networks of torchvision, timm and heatserve become a served graph, and how far it is from torch.

    Each is exported with random weights, and the probabilities of the served graph are compared with torch's at batches
    of 1 to 64 images. An interrupted run goes on: what `--out` has of the same seed and versions is not exported again.

    **Example:** `heatserve bench networks timm:levit_128s torchvision:swin_t`
    """
    from dataclasses import replace

    from heatserve.benchmarks.networks.chosen import NETWORKS
    from heatserve.benchmarks.networks.measure import measure_network, measure_refusals
    from heatserve.benchmarks.records.networks import NetworksRecord
    from heatserve.benchmarks.records.record import made_now, read_record, to_json, write_record
    from heatserve.benchmarks.tables import networks_table
    from heatserve.export.calibration.report import progress_bar
    from heatserve.export.runtime.exact import TOLERANCE

    chosen = known_names("network", names, NETWORKS)
    made = made_now("timm", "torchvision", seed=seed)
    record = NetworksRecord(**vars(made), tolerance=TOLERANCE, networks={}, refusals={})
    if out is not None and out.exists():
        before = read_record(out, NetworksRecord)
        if (before.seed, before.versions) == (seed, record.versions):
            record = replace(
                before, networks={name: before.networks[name] for name in chosen if name in before.networks}
            )
    record = replace(record, refusals=record.refusals or measure_refusals(seed=seed))
    left = [name for name in chosen if name not in record.networks]
    for name in progress_bar(left, len(left), "networks"):
        record = replace(record, networks={**record.networks, name: measure_network(name, seed=seed)})
        if out:
            write_record(out, record)
    record = replace(record, networks={name: record.networks[name] for name in chosen})
    deliver(to_json(record), lambda: networks_table(record), as_json=as_json, out=out, width=110)
    tell_page(out, "networks")
