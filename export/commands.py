"""`heatserve export`, `calibrate`, `audit`, `certify-dataset`. Heavy imports stay inside: `--help` is quick."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console

from certification.errors import HeatserveError
from certification.files import write_atomically

if TYPE_CHECKING:
    from certification.noise import NoiseSource
    from export.auditing import Audit
    from export.card import InputType, Precision
    from export.exporting import Variant

app = typer.Typer()

FAILED = 3
"""Exit code of an audit that failed; 1 and 2 are errors, where nothing was judged."""

Repository = Annotated[Path, typer.Option(help="Triton model repository.")]
Sampling = Annotated[
    str,
    typer.Option(help="Noise of Certify: `float32`, or `grid`: sound, for 8-bit images only."),
]
Kept = Annotated[
    Path,
    typer.Option(
        "--certificates",
        help="Folder of what Certify found: interrupted work goes on, and models of one base share it.",
    ),
]
INT8_IMAGES = 256
"""Training images that set the ranges of INT8 activations."""
KEPT = Path("runs/certificates")
Json = Annotated[bool, typer.Option("--json", help="Write the certificate card to stdout, not a table.")]


@app.command()
def export(
    checkpoint: Annotated[Path, typer.Argument(help="Checkpoint of the single-pass model v, from `heatserve train`.")],
    name: Annotated[str, typer.Option(help="Name of the served model.")],
    repository: Repository = Path("model_repository"),
    base: Annotated[
        Path | None,
        typer.Option(help="Checkpoint of the base classifier f that Monte Carlo certifies; by default v itself."),
    ] = None,
    sigma: Annotated[
        float | None, typer.Option(help="σ of the smoothing noise, pixels in [0,1]; by default v's own.")
    ] = None,
    input_type: Annotated[
        Literal["FP32", "UINT8"],
        typer.Option("--input", case_sensitive=False, help="FP32 [N,C,H,W] in [0,1], or UINT8 [N,H,W,C]."),
    ] = "FP32",
    resize: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="With UINT8: take pictures of any size, bring their shorter side to as many pixels, and cut out the "
            "centre. Radii are about what is cut out.",
        ),
    ] = None,
    precision: Annotated[
        Literal["fp32", "fp16", "int8"],
        typer.Option(help="Of the network; fp16 is for GPUs, int8 for CPUs. The certificate is FP32 always."),
    ] = "fp32",
    root: Annotated[
        Path | None, typer.Option(help="Folder of the data set that v was trained on; int8 finds its ranges there.")
    ] = None,
    backend: Annotated[
        Literal["auto", "onnxruntime-cuda", "onnxruntime-tensorrt", "tensorrt"],
        typer.Option(
            help="`auto`: ONNX Runtime on the CPU, in whatever Triton is at hand. `tensorrt`: a plan, built here for "
            "the GPU of this machine. `onnxruntime-…`: ONNX Runtime's providers, which may round to TF32. A model is "
            "calibrated where it is served: on that GPU."
        ),
    ] = "auto",
    tf32: Annotated[
        bool, typer.Option("--tf32", help="Let a plan's convolutions round their inputs to ten bits of mantissa.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Turn a checkpoint into one certified ONNX graph that Triton serves, with its certificate card.

    The graph holds normalisation, softmax, certificate and input checks. It serves radius 0 until it is calibrated.

    Export a checkpoint again, under another name, as another variant: with `--input uint8`, or in another precision.
    Each is calibrated by itself: `heatserve calibrate-variant VARIANT NAME` says what it wins and what it loses.

    **Example:** `heatserve export runs/heat.safetensors --name digits`
    """
    from export.exporting import export_checkpoint

    variant = _variant(input_type, precision, resize, checkpoint, root)
    model = export_checkpoint(
        checkpoint,
        repository=repository,
        name=name,
        base=base,
        sigma=sigma,
        variant=variant,
        backend=backend,
        tf32=tf32,
    )
    if as_json:
        typer.echo(model.card.model_dump_json(indent=2))
        return
    console = Console(highlight=False)
    console.print(f"wrote   {model.path}", soft_wrap=True)
    console.print(f"graph   sha256 {model.card.graph_sha256}", soft_wrap=True)
    where = " --root FOLDER" if model.card.training["dataset"] in ("cifar10", "imagenet") else ""
    console.print(f"Certified radii are 0 until: heatserve calibrate {name}{where}")


def _variant(
    input_type: InputType, precision: Precision, resize: int | None, checkpoint: Path, root: Path | None
) -> Variant:
    from export.exporting import Variant
    from export.sampling import sample
    from training.checkpoint import load_checkpoint

    if precision != "int8":
        return Variant(input_type, precision, resize=resize)
    dataset = load_checkpoint(checkpoint).metadata.dataset
    return Variant(input_type, precision, sample(dataset, "train", root=root, count=INT8_IMAGES), resize)


@app.command()
def calibrate(
    name: Annotated[str, typer.Argument(help="Model in the repository; its newest version is calibrated.")],
    data: Annotated[
        str | None,
        typer.Option(help="`digits`, `cifar10`, `imagenet` or `imagefolder:PATH`; by default what v was trained on."),
    ] = None,
    root: Annotated[Path | None, typer.Option(help="Folder of the data set; cifar10 and imagenet need it.")] = None,
    repository: Repository = Path("model_repository"),
    alpha: Annotated[float, typer.Option(help="α: largest overclaim rate, given a positive radius.")] = 0.01,
    delta: Annotated[float, typer.Option(help="δ: the bound holds with confidence 1 − δ.")] = 0.05,
    images: Annotated[int, typer.Option(min=1, help="Calibration images, at most what the split has.")] = 2000,
    test_images: Annotated[int, typer.Option(min=1, help="Test images that the card's figures are measured on.")] = 500,
    n0: Annotated[int, typer.Option(min=1, help="n₀ of Certify: votes to guess the class.")] = 100,
    n: Annotated[
        int | None,
        typer.Option(min=1, help="n of Certify: votes to bound its probability; by default 1000, with --alone 10000."),
    ] = None,
    certify_alpha: Annotated[float, typer.Option(min=0, max=1, help="Error probability of each Certify.")] = 0.001,
    radius: Annotated[
        float | None, typer.Option(min=0, help="The radius that matters most (L2, pixels in [0,1]); by default all do.")
    ] = None,
    alone: Annotated[
        bool,
        typer.Option(
            "--alone",
            help="Serve --radius or nothing: votes stop as soon as they decide on it, at most n of them. Most images "
            "need few, so a high n costs little.",
        ),
    ] = False,
    seed: Annotated[int, typer.Option(help="Decides the noise of Certify, and which images are taken.")] = 0,
    sampling: Sampling = "float32",
    kept: Kept = KEPT,
    as_json: Json = False,
) -> None:
    """Give a served graph the radii that it can back: run it against Certify on images that training never saw.

    Writes the next version of the model: the same network, calibrated constants, and a card with the promise.

    **Example:** `heatserve calibrate digits --alpha 0.05`
    """
    from certification.calibration import servable
    from export.calibrating import calibrate_model
    from export.card import MonteCarlo
    from export.report import card_report, progress_bar
    from export.repository import open_model
    from export.sampling import sample

    if alone and radius is None:
        raise typer.BadParameter("expected the radius that is served alone", param_hint="--radius")
    monte_carlo = MonteCarlo(
        n0=n0,
        n=n or (10_000 if alone else 1000),
        alpha=certify_alpha,
        seed=seed,
        sampling=_noise(sampling).sampling,
        decides=float(servable(radius)) if alone and radius else None,
    )
    model = open_model(repository, name)
    data = data or str(model.card.training["dataset"])
    console = Console(stderr=as_json, highlight=False)
    calibrated = calibrate_model(
        model,
        sample(data, "calibration", root=root, count=images, seed=seed),
        sample(data, "test", root=root, count=test_images, seed=seed),
        alpha=alpha,
        delta=delta,
        monte_carlo=monte_carlo,
        target=radius,
        kept=kept,
        progress=progress_bar,
    )
    if as_json:
        typer.echo(calibrated.card.model_dump_json(indent=2))
    else:
        console.print(f"wrote   {calibrated.path}", soft_wrap=True)
        console.print(card_report(calibrated.card))


@app.command()
def calibrate_variant(
    variant: Annotated[str, typer.Argument(help="Uncalibrated model, exported from the checkpoint of the other.")],
    name: Annotated[str, typer.Argument(help="Calibrated model that it is a variant of.")],
    root: Annotated[Path | None, typer.Option(help="Folder of the data set; cifar10 and imagenet need it.")] = None,
    repository: Repository = Path("model_repository"),
    max_loss: Annotated[
        float,
        typer.Option(min=0, max=1, help="Share of the test images that may lose their certificate, at any radius."),
    ] = 0.05,
    kept: Kept = KEPT,
    out: Annotated[Path | None, typer.Option(help="Write the comparison there, as JSON.")] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Write the comparison to stdout as JSON, not tables.")
    ] = False,
) -> None:
    """Calibrate a variant as a model was (UINT8 input, FP16, INT8), and say what it wins in latency and loses in radii.

    Certify's answers are those of the base, which both share: where they are kept, nothing is certified again.
    Refuses a variant whose certificates have become useless.

    **Example:** `heatserve calibrate-variant cifar10_int8 cifar10 --root data/cifar10`
    """
    from functools import partial

    from export.calibrating import calibrate_model
    from export.comparing import calibrated_parts, check_loss, compare
    from export.report import card_report, comparison_report, progress_bar
    from export.repository import open_model
    from export.sampling import sample

    model, other = open_model(repository, name), open_model(repository, variant)
    calibration, evaluation = calibrated_parts(model, other)
    checked, tested = calibration.check, evaluation.data
    images = calibration.fit.images + checked.images
    calibrated = calibrate_model(
        other,
        sample(checked.dataset, checked.split, root=root, count=images, seed=checked.seed),
        sample(tested.dataset, tested.split, root=root, count=tested.images, seed=tested.seed),
        alpha=calibration.alpha,
        delta=1 - calibration.confidence,
        monte_carlo=calibration.monte_carlo,
        test_monte_carlo=evaluation.monte_carlo,
        target=calibration.target,
        accept=partial(check_loss, expected=evaluation, target=calibration.target, max_loss=max_loss),
        kept=kept,
        progress=progress_bar,
    )
    found = compare(calibrated, model)
    if out:
        write_atomically(out, found.to_json().encode())
    if as_json:
        typer.echo(found.to_json())
        return
    console = Console(highlight=False)
    console.print(f"wrote   {calibrated.path}", soft_wrap=True)
    console.print(card_report(calibrated.card))
    console.print(comparison_report(found))


@app.command()
def audit(
    name: Annotated[str, typer.Argument(help="Model in the repository; its newest version is audited.")],
    data: Annotated[
        str | None,
        typer.Option(
            help="`digits`, `cifar10`, `imagenet` or `imagefolder:PATH`, always its split `test`; by default what v "
            "was trained on."
        ),
    ] = None,
    root: Annotated[Path | None, typer.Option(help="Folder of the data set; cifar10 and imagenet need it.")] = None,
    repository: Repository = Path("model_repository"),
    images: Annotated[int, typer.Option(min=1, help="Test images, at most what the split has.")] = 1000,
    seed: Annotated[
        int | None,
        typer.Option(
            min=0, help="Decides the noise of Certify, and which images; by default one that the card has not."
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Write the audit there: `.html`, one page with figures, or `.json`, all of it.")
    ] = None,
    kept: Kept = KEPT,
    as_json: Annotated[bool, typer.Option("--json", help="Write the audit to stdout as JSON, not tables.")] = False,
) -> None:
    """Can this be deployed? Hold the served file against Certify, on images that made neither network nor card.

    Judges the promise on the card, with the card's n₀, n and alpha of Certify: PASS, unless the data speak against it
    or are too few to. A model that is not calibrated promises nothing, and fails.

    **Exit codes:** 0 PASS, 3 FAIL, 1 an error that is explained (nothing was audited).

    **Example:** `heatserve audit digits --out audit.html`
    """
    from export.audit_report import audit_report
    from export.auditing import audit_model, unused_seed
    from export.report import progress_bar
    from export.repository import open_model
    from export.sampling import check_classes, sample

    as_written = _audit_format(out)
    model = open_model(repository, name)
    data = data or str(model.card.training["dataset"])
    seed = unused_seed(model.card) if seed is None else seed
    check_classes(model.card, data, root=root)
    audited = audit_model(
        model, sample(data, "test", root=root, count=images, seed=seed), seed=seed, kept=kept, progress=progress_bar
    )
    if as_json:
        typer.echo(audited.to_json())
    else:
        Console(highlight=False).print(audit_report(audited))
    if out:
        write_atomically(out, as_written(audited).encode())
    if not audited.verdict.passed:
        raise typer.Exit(FAILED)


def _audit_format(out: Path | None) -> Callable[[Audit], str]:
    """What `out` is to hold, by its suffix; asked before the work, so that what is missing is missed at once."""
    from export.auditing import Audit

    if out is None or out.suffix == ".json":
        return Audit.to_json
    if out.suffix == ".html":
        from export.audit_page import audit_page

        return audit_page
    raise HeatserveError(f"out: expected a file that ends in .html or .json, got {out}")


@app.command()
def certify_dataset(
    name: Annotated[str, typer.Argument(help="Model in the repository; the newest version's base is certified.")],
    data: Annotated[
        str | None,
        typer.Option(help="`digits`, `cifar10`, `imagenet` or `imagefolder:PATH`; by default what v was trained on."),
    ] = None,
    root: Annotated[Path | None, typer.Option(help="Folder of the data set; cifar10 and imagenet need it.")] = None,
    repository: Repository = Path("model_repository"),
    results: Annotated[
        Path | None, typer.Option(help="Results file, continued if it exists; by default runs/NAME.certify.jsonl.")
    ] = None,
    images: Annotated[int, typer.Option(min=1, help="Test images, at most what the split has.")] = 500,
    n0: Annotated[int, typer.Option(min=1, help="n₀: votes to guess the class.")] = 100,
    n: Annotated[int, typer.Option(min=1, help="n: votes to bound its probability.")] = 10_000,
    alpha: Annotated[float, typer.Option(min=0, max=1, help="Error probability of each certificate.")] = 0.001,
    top_k: Annotated[int, typer.Option(min=1, help="k: a vote for any of the k most frequent classes counts.")] = 1,
    seed: Annotated[int, typer.Option(help="Decides the noise, and which images are taken.")] = 0,
    sampling: Sampling = "float32",
    ray: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="Ray cluster that does the work, or `local` to start one.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Write the summary to stdout as JSON, not a table.")] = False,
) -> None:
    """Certify a test set with Monte Carlo: certified accuracy over radius. Interrupted, it goes on where it was.

    Each image's result is a line of an append-only file, the same on one machine and on a cluster.

    **Example:** `heatserve certify-dataset digits --n 1000`
    """
    import json

    from export.card import MonteCarlo
    from export.certifying import certify_dataset as run
    from export.report import dataset_report, progress_bar
    from export.repository import open_model
    from export.sampling import sample

    noise = _noise(sampling)
    model = open_model(repository, name)
    summary = run(
        model,
        sample(data or str(model.card.training["dataset"]), "test", root=root, count=images, seed=seed),
        results or Path("runs") / f"{name}.certify.jsonl",
        monte_carlo=MonteCarlo(n0=n0, n=n, alpha=alpha, seed=seed, sampling=noise.sampling),
        top_k=top_k,
        ray_address=ray,
        progress=progress_bar,
    )
    if as_json:
        typer.echo(json.dumps(summary, indent=2))
    else:
        Console(highlight=False).print(dataset_report(summary))


def _noise(sampling: str) -> NoiseSource:
    from certification.errors import HeatserveError
    from certification.noise import SOURCES

    if sampling not in SOURCES:
        raise HeatserveError(f"sampling: expected one of {', '.join(SOURCES)}, got {sampling}")
    return SOURCES[sampling]
