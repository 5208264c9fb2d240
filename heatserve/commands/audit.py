"""`heatserve audit`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from heatserve.certification.errors import HeatserveError
from heatserve.certification.files import write_atomically
from heatserve.commands.options import (
    KEPT,
    REPOSITORY,
    Data,
    Json,
    Kept,
    Repository,
    Root,
    TestImages,
    deliver,
    kept_when_interrupted,
)

if TYPE_CHECKING:
    from heatserve.export.audit.audit import Audit


FAILED = 3
"""Exit code of an audit that failed; 1 and 2 are errors, where nothing was judged."""


def audit(
    name: Annotated[str, typer.Argument(help="Model in the repository; its newest version is audited.")],
    data: Data = None,
    root: Root = None,
    repository: Repository = REPOSITORY,
    images: TestImages = 1000,
    seed: Annotated[
        int | None,
        typer.Option(min=0, help="Decides the noise of Certify; by default one that the card does not name."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Write the audit there: `.html`, one page with figures, or `.json`, all of it.")
    ] = None,
    kept: Kept = KEPT,
    as_json: Json = False,
) -> None:
    """Can this be deployed? Compare the served file with Certify, on test images and with noise that made no map.

    They are those of the split `test` whose pixels no training of the network saw and no calibration of the repository
    used, not even for the figures of a card; each is taken once.

    Judges the promise on the card, with the card's n₀, n and alpha of Certify: PASS, unless the data speak against it
    or are too few to. A model that is not calibrated promises nothing, and fails.

    **Exit codes:** 0 PASS, 3 FAIL, 1 an error that is explained (nothing was audited).

    **Example:** `heatserve audit digits --out audit.html`
    """
    from heatserve.export.audit.audit import audit_model, unused_seed, unused_test_images
    from heatserve.export.audit.report import audit_report
    from heatserve.export.calibration.held_out import held_out_of_all
    from heatserve.export.calibration.report import progress_bar
    from heatserve.export.calibration.sampling import check_classes
    from heatserve.export.repository.layout import open_model

    as_written = _audit_format(out)
    model = open_model(repository, name)
    data = data or model.card.trained_on
    check_classes(model.card, data, root=root)
    unused = unused_test_images(model, data, root=root)
    source = held_out_of_all(model, root=root, progress=progress_bar)
    drawn = source.draw(data, "test", images, seed=unused.seed, first=unused.first)
    for note in source.notes:
        typer.echo(note, err=True)
    with kept_when_interrupted(kept):
        audited = audit_model(
            model,
            drawn,
            seed=unused_seed(model.card) if seed is None else seed,
            folder=kept,
            progress=progress_bar,
        )
    if out:
        write_atomically(out, as_written(audited).encode())
    deliver(audited.to_json(), lambda: audit_report(audited), as_json=as_json)
    if not audited.verdict.passed:
        raise typer.Exit(FAILED)


def _audit_format(out: Path | None) -> Callable[[Audit], str]:
    """What `out` is to hold, by its suffix. It is asked before the work, so that a missing library is told at once."""
    from heatserve.export.audit.audit import Audit

    if out is None or out.suffix == ".json":
        return Audit.to_json
    if out.suffix == ".html":
        from heatserve.export.audit.page import audit_page

        return audit_page
    raise HeatserveError(f"out: expected a file that ends in .html or .json, got {out}")
