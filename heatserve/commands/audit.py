"""`heatserve audit`."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from heatserve.certification.errors import HeatserveError
from heatserve.certification.files import write_atomically
from heatserve.commands.new_files import new_file
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
    seed_option,
)

if TYPE_CHECKING:
    from rich.console import Group

    from heatserve.export.audit.audit import Audit
    from heatserve.export.audit.proven.audit import ProvenAudit
    from heatserve.export.images import SampledImages
    from heatserve.export.repository.layout import ModelVersion


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
        seed_option("the noise of Certify, or attacks; by default one that the card does not name"),
    ] = None,
    starts: Annotated[
        int,
        typer.Option(min=0, help="Deterministic certificates: other images of each kind that attacks begin at."),
    ] = 20,
    out: Annotated[
        Path | None,
        typer.Option(
            callback=new_file, help="Write the audit there: `.html`, one page with figures, or `.json`, all of it."
        ),
    ] = None,
    kept: Kept = KEPT,
    as_json: Json = False,
) -> None:
    """Can this be deployed? Compare the served file with Certify, on images and noise that its calibration did not use.

    They are those of the split `test` whose pixels no training of the network saw and no calibration of the repository
    used, not even for the figures of a card; each is taken once. A deterministic certificate is no calibration's, and
    is audited on any test images.

    Judges the promise on the card, with the card's n₀, n and alpha of Certify: PASS, unless the data speak against it
    or are too few to. A model that is not calibrated promises nothing, and fails.

    **Exit codes:** 0 PASS, 3 FAIL, 1 an error that is explained (nothing was audited).

    **Example:** `heatserve audit digits --out audit.html`
    """
    from heatserve.export.repository.layout import open_model

    as_written = _audit_format(out)
    model = open_model(repository, name)
    data = data or model.card.trained_on
    audited: Audit | ProvenAudit
    if model.card.calibration is None and not model.card.is_deterministic:
        audited, report = _audited_nothing(model)
    else:
        drawn = _draw(model, data, images, root)
        with kept_when_interrupted(kept):
            kind = _audited_proof if model.card.is_deterministic else _audited_promise
            audited, report = kind(model, drawn, seed=seed, starts=starts, kept=kept)
    if out:
        write_atomically(out, as_written(audited).encode())
    deliver(audited.to_json(), report, as_json=as_json)
    if not audited.verdict.passed:
        raise typer.Exit(FAILED)


def _draw(model: ModelVersion, data: str, images: int, root: Path | None) -> SampledImages:
    """Test images that no training of the model saw, nor any calibration, where that is what is judged."""
    from heatserve.export.audit.audit import unused_test_images
    from heatserve.export.calibration.held_out import held_out, held_out_of_all
    from heatserve.export.calibration.report import progress_bar
    from heatserve.export.calibration.sampling import check_classes

    check_classes(model.card, data, root=root)
    if model.card.is_deterministic:
        source, seed, first = held_out(model, root=root, vouched=True, progress=progress_bar), 0, 0
    else:
        unused = unused_test_images(model, data, root=root)
        source, seed, first = held_out_of_all(model, root=root, progress=progress_bar), unused.seed, unused.first
    drawn = source.draw(data, "test", images, seed=seed, first=first)
    for note in source.notes:
        typer.echo(note, err=True)
    return drawn


def _audited_nothing(model: ModelVersion) -> tuple[Audit, Callable[[], Group]]:
    """A model that is not calibrated: no image would change the verdict, so none is drawn."""
    from heatserve.export.audit.audit import audit_uncalibrated
    from heatserve.export.audit.report import audit_report

    audited = audit_uncalibrated(model)
    return audited, lambda: audit_report(audited)


def _audited_promise(
    model: ModelVersion, drawn: SampledImages, *, seed: int | None, starts: int, kept: Path
) -> tuple[Audit, Callable[[], Group]]:
    """A statistical certificate, compared with Certify; `starts` is for the other kind."""
    from heatserve.export.audit.audit import audit_model, unused_seed
    from heatserve.export.audit.report import audit_report
    from heatserve.export.calibration.report import progress_bar

    del starts
    noise = unused_seed(model.card) if seed is None else seed
    audited = audit_model(model, drawn, seed=noise, folder=kept, progress=progress_bar)
    return audited, lambda: audit_report(audited)


def _audited_proof(
    model: ModelVersion, drawn: SampledImages, *, seed: int | None, starts: int, kept: Path
) -> tuple[ProvenAudit, Callable[[], Group]]:
    """A deterministic certificate, proven again and attacked, on each core some images."""
    import torch

    from heatserve.benchmarks.attack.autoattack import AutoAttackL2
    from heatserve.commands.attack import use_threads
    from heatserve.export.audit.proven.audit import audit_proven
    from heatserve.export.audit.proven.report import proven_report
    from heatserve.export.calibration.report import progress_bar

    processes = torch.get_num_threads()
    use_threads(math.prod(model.card.input_shape), None)
    audited = audit_proven(
        model,
        drawn,
        attacker=lambda network: AutoAttackL2.on(network, seed=seed or 0, processes=processes),
        starts=starts,
        seed=seed or 0,
        folder=kept,
        progress=progress_bar,
    )
    return audited, lambda: proven_report(audited)


def _audit_format(out: Path | None) -> Callable[[Audit | ProvenAudit], str]:
    """What `out` is to hold, by its suffix. It is asked before the work, so that a missing library is told at once."""
    from heatserve.export.audit.audit import Audit

    if out is None or out.suffix == ".json":
        return lambda audited: audited.to_json()
    if out.suffix == ".html":
        from heatserve.export.audit.page import audit_page
        from heatserve.export.audit.proven.page import proven_page

        return lambda audited: audit_page(audited) if isinstance(audited, Audit) else proven_page(audited)
    raise HeatserveError(f"out: expected a file that ends in .html or .json, got {out}")
