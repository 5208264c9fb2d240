"""`heatserve reference`."""

from __future__ import annotations

from typing import Annotated

import typer

from heatserve.commands.options import REPOSITORY, Json, Repository, Root, deliver, line


def reference(
    name: Annotated[str, typer.Argument(help="Calibrated model in the repository; its newest version.")],
    root: Root = None,
    repository: Repository = REPOSITORY,
    as_json: Json = False,
) -> None:
    """Write what live inputs are compared with beside a card that was made without it: `reference.json`.

    `calibrate` writes it by itself. It holds counts of four statistics of the images that tested the radii, which are
    drawn again; card and promise stay as they are. `heatserve serve --audit-share` reads it.

    **Example:** `heatserve reference cifar10 --root data/cifar10`
    """
    from heatserve.export.calibration.held_out import held_out
    from heatserve.export.calibration.referencing import reference_again
    from heatserve.export.calibration.report import progress_bar
    from heatserve.export.repository.smoothed import SmoothedWork, open_smoothed

    model = open_smoothed(repository, name, SmoothedWork.REFERENCE)
    vouched = model.card.calibration is not None and model.card.calibration.vouched
    source = held_out(model, root=root, vouched=vouched, progress=progress_bar)
    found = reference_again(source)
    path = found.write(model.path)
    deliver(found.model_dump_json(indent=2), lambda: line("wrote", path), as_json=as_json)
