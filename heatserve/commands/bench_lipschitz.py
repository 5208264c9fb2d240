"""`heatserve bench lipschitz`. Heavy imports stay inside the function: `--help` is quick."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from heatserve.commands.options import Json, OutWithFigure, Root, deliver, seed_option, tell_page


def lipschitz(
    checkpoint: Annotated[Path, typer.Argument(help="Of `train lipschitz`, with its log beside it.")],
    root: Root = None,
    images: Annotated[int, typer.Option(min=1, help="Test images.")] = 10_000,
    seed: Annotated[int, seed_option("the images")] = 0,
    out: OutWithFigure = None,
    as_json: Json = False,
) -> None:
    """What hours of training brought a 1-Lipschitz network, and what it proves about test images in the end.

    **Example:** `heatserve bench lipschitz runs/lipschitz.safetensors --out lipschitz.json`
    """
    from heatserve.benchmarks.lipschitz import draw_lipschitz_training, measure_lipschitz_training
    from heatserve.benchmarks.records.record import to_json
    from heatserve.benchmarks.tables import lipschitz_table
    from heatserve.export.calibration.report import progress_bar

    record = measure_lipschitz_training(checkpoint, root=root, images=images, seed=seed, progress=progress_bar)
    deliver(to_json(record), lambda: lipschitz_table(record), as_json=as_json, out=out, width=100)
    if out:
        draw_lipschitz_training(record, out.with_suffix(".svg"))
    tell_page(out, "kinds")
