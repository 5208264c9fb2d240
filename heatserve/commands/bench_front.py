"""`heatserve bench front`. Heavy imports stay inside the function: `--help` is quick."""

from __future__ import annotations

from typing import Annotated

import typer

from heatserve.commands.options import Json, Out, deliver, known_names, one_by_one, seed_option, tell_page

_SHAPES = ("digits", "cifar10-resnet20")


def front(
    shapes: Annotated[
        list[str] | None,
        typer.Argument(metavar="SHAPE", help=f"As for `bench latency`; none: {', '.join(_SHAPES)}."),
    ] = None,
    requests: Annotated[
        int, typer.Option(min=1, help="Counted requests each way, after warm-up; fewer of slow ones.")
    ] = 600,
    seed: Annotated[int, seed_option("the random weights, the image and the order of the ways")] = 0,
    out: Out = None,
    as_json: Json = False,
) -> None:
    """What the front costs: one image over gRPC and through the front, as bytes and as JSON.

    All ways are interleaved in one run. Run it where nothing else runs.

    **Example:** `heatserve bench front --out benchmarks/results/front.json`
    """
    from heatserve.benchmarks.classifiers import CLASSIFIERS
    from heatserve.benchmarks.front import MOST_ABOVE, measure_front
    from heatserve.benchmarks.records.front import FrontRecord
    from heatserve.benchmarks.records.record import made_now, to_json
    from heatserve.benchmarks.tables import front_table
    from heatserve.export.calibration.report import progress_bar
    from heatserve.export.runtime.timing import rounds_for

    chosen = known_names("shape", shapes or [*_SHAPES], CLASSIFIERS)
    rounds = rounds_for(requests)
    packages = ("uvicorn", "httptools", "uvloop", "orjson", "grpcio")
    record = one_by_one(
        FrontRecord(**vars(made_now(*packages, seed=seed)), most_above=MOST_ABOVE, shapes={}),
        chosen,
        lambda name: measure_front(name, rounds=rounds, seed=seed, progress=progress_bar),
        out,
    )
    deliver(to_json(record), lambda: front_table(record), as_json=as_json, out=out)
    tell_page(out, "front")
