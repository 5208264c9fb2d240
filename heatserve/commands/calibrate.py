"""`heatserve calibrate` and `heatserve calibrate-variant`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Group

from heatserve.commands.options import (
    DATA_HELP,
    KEPT,
    REPOSITORY,
    SAMPLING_HELP,
    Data,
    Json,
    Kept,
    Out,
    Repository,
    Root,
    Seed,
    deliver,
    kept_when_interrupted,
    line,
    tell_page,
)

if TYPE_CHECKING:
    from heatserve.export.calibration.held_out import HeldOut
    from heatserve.export.card_parts import MonteCarlo

PROMISE, IMAGES, CERTIFY = "The promise", "Images", "Certify"
"""Panels of the help."""

CalibrationData = Annotated[
    str | None,
    typer.Option(
        rich_help_panel=IMAGES,
        help=f"In place of --data: {DATA_HELP}, if you vouch that no training of the network saw its test images: they "
        "calibrate and measure. For networks that were trained elsewhere; the card says so.",
    ),
]
Alpha = Annotated[
    float, typer.Option(rich_help_panel=PROMISE, help="α: largest overclaim rate, given a positive radius.")
]
Delta = Annotated[
    float,
    typer.Option(
        rich_help_panel=PROMISE,
        help="δ: the bound holds with confidence 1 − δ, for all attempts on the same images together.",
    ),
]
Radius = Annotated[
    float | None,
    typer.Option(
        min=0, rich_help_panel=PROMISE, help="The radius that matters most (L2, pixels in [0,1]); by default all do."
    ),
]
Alone = Annotated[
    bool,
    typer.Option(
        "--alone",
        rich_help_panel=PROMISE,
        help="Serve --radius or nothing: votes stop as soon as they decide on it, at most n of them. Most images need "
        "few, so a high n costs little.",
    ),
]
Images = Annotated[
    int, typer.Option(min=1, rich_help_panel=IMAGES, help="Calibration images, at most what the split has.")
]
Skip = Annotated[
    int,
    typer.Option(
        min=0, rich_help_panel=IMAGES, help="Calibration images to pass over before them, such as those of attempts."
    ),
]
CardImages = Annotated[
    int,
    typer.Option(
        min=1,
        rich_help_panel=IMAGES,
        help="Test images that the card's figures are measured on, at most half of the split; with --calibration-data, "
        "they and the calibration images leave a sixth of it for an audit.",
    ),
]
TestSkip = Annotated[
    int,
    typer.Option(
        min=0,
        rich_help_panel=IMAGES,
        help="Test images to pass over before them; with --calibration-data they follow the calibration images.",
    ),
]
OtherImages = Annotated[
    int,
    typer.Option(
        min=0,
        rich_help_panel=IMAGES,
        help="Test images to invert, blur, …, for the card to show what such inputs get; 0: none.",
    ),
]
GuessVotes = Annotated[int, typer.Option(min=1, rich_help_panel=CERTIFY, help="n₀: votes to guess the class.")]
Votes = Annotated[
    int | None,
    typer.Option(
        min=1,
        rich_help_panel=CERTIFY,
        help="n: votes to bound its probability; by default 1000, with --alone 10000.",
    ),
]
CertifyAlpha = Annotated[
    float, typer.Option(min=0, max=1, rich_help_panel=CERTIFY, help="Error probability at each image.")
]
Noise = Annotated[str, typer.Option(rich_help_panel=CERTIFY, help=SAMPLING_HELP)]


def calibrate(
    name: Annotated[str, typer.Argument(help="Model in the repository; its newest version is calibrated.")],
    data: Data = None,
    calibration_data: CalibrationData = None,
    root: Root = None,
    repository: Repository = REPOSITORY,
    alpha: Alpha = 0.01,
    delta: Delta = 0.05,
    radius: Radius = None,
    alone: Alone = False,
    images: Images = 2000,
    skip: Skip = 0,
    test_images: CardImages = 500,
    test_skip: TestSkip = 0,
    other_images: OtherImages = 100,
    n0: GuessVotes = 100,
    n: Votes = None,
    certify_alpha: CertifyAlpha = 0.001,
    sampling: Noise = "float32",
    seed: Seed = 0,
    kept: Kept = KEPT,
    as_json: Json = False,
) -> None:
    """Give a served graph the radii that it can back: compare it with Certify on images that training never saw.

    Writes the next version of the model: the same network, calibrated constants, and a card with the promise. Each
    attempt on the same images, of whichever model of the repository, is tested at half of what the earlier ones left of
    δ; they are kept in `attempts.jsonl` in the models' folders.

    **Example:** `heatserve calibrate digits --alpha 0.05`
    """
    from heatserve.export.calibration.calibrate import calibrate_model
    from heatserve.export.calibration.certifier import Certifier
    from heatserve.export.calibration.held_out import held_out
    from heatserve.export.calibration.report import card_report, progress_bar
    from heatserve.export.calibration.sampling import FIGURES_SHARE, check_classes
    from heatserve.export.repository.smoothed import SmoothedWork, open_smoothed

    _check_together(data, calibration_data, test_skip)
    monte_carlo = _monte_carlo(n0, n, certify_alpha, seed, sampling, radius, alone=alone)
    model = open_smoothed(repository, name, SmoothedWork.CALIBRATION)
    data = calibration_data or data or model.card.trained_on
    check_classes(model.card, data, root=root)
    source = held_out(model, root=root, vouched=calibration_data is not None, progress=progress_bar)
    parts = source.parts(
        data,
        images=images,
        test_images=test_images,
        seed=seed,
        skip=skip,
        test_skip=test_skip,
        test_share=FIGURES_SHARE,
    )
    _tell(source)
    with kept_when_interrupted(kept):
        calibrated = calibrate_model(
            model,
            *parts,
            alpha=alpha,
            delta=delta,
            certifier=Certifier(monte_carlo, folder=kept, progress=progress_bar),
            target=radius,
            other_images=other_images,
            vouched=source.vouched,
        )
    deliver(
        calibrated.card.model_dump_json(indent=2),
        lambda: Group(line("wrote", calibrated.path), card_report(calibrated.card)),
        as_json=as_json,
    )


def _check_together(data: str | None, calibration_data: str | None, test_skip: int) -> None:
    """Refuse options that leave one of them without a meaning."""
    if data and calibration_data:
        raise typer.BadParameter("expected it or --data, got both", param_hint="--calibration-data")
    if calibration_data and test_skip:
        raise typer.BadParameter(
            f"expected 0 with --calibration-data, whose test images all come after --skip, got {test_skip}",
            param_hint="--test-skip",
        )


def _monte_carlo(
    n0: int, n: int | None, alpha: float, seed: int, sampling: str, radius: float | None, *, alone: bool
) -> MonteCarlo:
    """How Certify runs, or the decision on the one radius that is served."""
    from heatserve.certification.calibration import servable
    from heatserve.certification.noise import source_of
    from heatserve.export.card_parts import MonteCarlo

    if alone and radius is None:
        raise typer.BadParameter("expected the only radius that is to be served", param_hint="--radius")
    return MonteCarlo(
        n0=n0,
        n=n or (10_000 if alone else 1000),
        alpha=alpha,
        seed=seed,
        sampling=source_of(sampling).key,
        decides=float(servable(radius)) if alone and radius else None,
    )


def _tell(source: HeldOut) -> None:
    """Say on stderr which images were left out, and which training images could not be compared."""
    for note in source.notes:
        typer.echo(note, err=True)


def calibrate_variant(
    variant: Annotated[str, typer.Argument(help="Uncalibrated model, exported from the checkpoint of the other.")],
    name: Annotated[str, typer.Argument(help="Calibrated model that it is a variant of.")],
    root: Root = None,
    repository: Repository = REPOSITORY,
    max_loss: Annotated[
        float,
        typer.Option(min=0, max=1, help="Share of the test images that may lose their certificate, at any radius."),
    ] = 0.05,
    kept: Kept = KEPT,
    out: Out = None,
    as_json: Json = False,
) -> None:
    """Calibrate a variant as a model was (UINT8 input, FP16, INT8), and say what it wins in latency and loses in radii.

    Certify's answers are those of the base, which both share: where they are kept, nothing is certified again.
    Refuses a variant whose certificates have become useless.

    **Example:** `heatserve calibrate-variant cifar10_int8 cifar10 --root data/cifar10`
    """
    from functools import partial

    from heatserve.export.calibration.calibrate import calibrate_model
    from heatserve.export.calibration.certifier import Certifier
    from heatserve.export.calibration.compare import calibrated_parts, check_loss, compare_variant
    from heatserve.export.calibration.held_out import held_out
    from heatserve.export.calibration.report import card_report, comparison_report, progress_bar
    from heatserve.export.calibration.sampling import check_classes
    from heatserve.export.repository.smoothed import SmoothedWork, open_smoothed

    if variant == name:
        raise typer.BadParameter(
            f"expected another model than the calibrated one, got {name} twice", param_hint="VARIANT"
        )
    model, other = (open_smoothed(repository, each, SmoothedWork.CALIBRATION) for each in (name, variant))
    calibration, evaluation = calibrated_parts(model, other)
    for data in dict.fromkeys((calibration.check.dataset, evaluation.data.dataset)):
        check_classes(other.card, data, root=root)
    source = held_out(other, root=root, vouched=calibration.vouched, progress=progress_bar)
    parts = source.again(calibration, evaluation)
    _tell(source)
    calibrated = calibrate_model(
        other,
        *parts,
        alpha=calibration.alpha,
        delta=1 - calibration.confidence,
        certifier=Certifier(calibration.monte_carlo, folder=kept, progress=progress_bar),
        target=calibration.target,
        other_images=max((row.images for row in evaluation.other_inputs), default=0),
        vouched=source.vouched,
        accept=partial(check_loss, expected=evaluation, target=calibration.target, max_loss=max_loss),
    )
    found = compare_variant(calibrated, model)
    deliver(
        found.to_json(),
        lambda: Group(line("wrote", calibrated.path), card_report(calibrated.card), comparison_report(found)),
        as_json=as_json,
        out=out,
    )
    tell_page(out, "calibration")
