"""From nothing to certified answers in a minute: every step, on scikit-learn's real digits.

It trains and exports only where there is no model yet; then it needs torch.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image
from rich.console import Console

from heatserve.export.calibration.calibrate import calibrate_model
from heatserve.export.calibration.certifier import Certifier
from heatserve.export.calibration.report import card_report, progress_bar
from heatserve.export.card_parts import MonteCarlo
from heatserve.export.repository.layout import ModelVersion, open_model, version_dirs
from heatserve.serving.client.answers import Prediction
from heatserve.serving.client.client import Client
from heatserve.serving.triton.endpoints import Endpoints
from heatserve.tables import predictions_table, text_art

NAME = "quickstart_digits"
SIGMA = 0.25
ALPHA, DELTA = 0.05, 0.05
MONTE_CARLO = MonteCarlo(n0=50, n=500, alpha=0.001, seed=0)
SEED = 0
CHANGED_IMAGES = 50
"""Test images that are inverted, darkened, and so on, for the card to show what such inputs are answered."""
ALL = 1000
"""More images than the splits `calibration` and `test` of the digits have."""
SHOWN = 4
"""Test images that are sent over each protocol."""


def make_model(repository: Path, runs: Path, console: Console) -> ModelVersion:
    """The calibrated digits model: found in `repository`, or trained, smoothed, exported and calibrated into it.

    Args:
        repository: model repository, made if absent.
        runs: folder for the two checkpoints.
        console: told what happens and how long it takes.

    Raises:
        CardError: there is a model of that name, but its card does not match its graphs.
    """
    if version_dirs(repository / NAME):
        model = open_model(repository, NAME)
        if model.card.calibration is not None:
            console.print(
                f"found    {model.path}, calibrated; delete {repository / NAME}* to start afresh", soft_wrap=True
            )
            return model
    return _calibrate(_smooth(repository, runs, console), console)


def _smooth(repository: Path, runs: Path, console: Console) -> ModelVersion:
    """The uncalibrated model: trained, smoothed and exported."""
    from heatserve.export.exporting import export_checkpoint
    from heatserve.training import train_baseline, train_from
    from heatserve.training.data import load_data
    from heatserve.training.loop import Run, training_bar
    from heatserve.training.methods import HeatParameters

    data, run = load_data("digits", "train"), Run(progress=training_bar)
    with _step(console, f"train    a small convolutional network on {len(data)} handwritten digits"):
        baseline = train_baseline(data, "digits_cnn", out=runs / "digits_baseline.safetensors", seed=SEED, run=run)
    with _step(console, f"smooth   it with the heat loss: one epoch, no labels, σ = {SIGMA}"):
        smoothed = train_from(
            baseline, data, HeatParameters(sigma=SIGMA), out=runs / "digits_heat.safetensors", seed=SEED, run=run
        )
    with _step(console, "export   one ONNX graph: normalisation, network, softmax, certificate, input checks"):
        return export_checkpoint(smoothed, repository=repository, name=NAME)


def _calibrate(model: ModelVersion, console: Console) -> ModelVersion:
    """The next version of the model, with the radii that its calibration supports; prints its card."""
    from heatserve.export.calibration.held_out import held_out
    from heatserve.export.calibration.sampling import FIGURES_SHARE

    with _step(console, f"certify  with Monte Carlo, n = {MONTE_CARLO.n}, and calibrate the single pass"):
        calibrated = calibrate_model(
            model,
            *held_out(model).parts("digits", images=ALL, test_images=ALL, seed=SEED, test_share=FIGURES_SHARE),
            alpha=ALPHA,
            delta=DELTA,
            certifier=Certifier(MONTE_CARLO, progress=progress_bar),
            other_images=CHANGED_IMAGES,
        )
    console.print()
    console.print(card_report(calibrated.card))
    console.print()
    return calibrated


@contextmanager
def _step(console: Console, what: str) -> Iterator[None]:
    """Say what happens now, and afterwards how long it took."""
    console.print(what, soft_wrap=True)
    start = time.perf_counter()
    yield
    console.print(f"         {time.perf_counter() - start:.1f} s", style="dim")


def ask(endpoints: Endpoints, runs: Path, console: Console) -> None:
    """Send real test images to the running server, over gRPC and over HTTP, and print the answers.

    The images are also written to `picture(runs, i)`, so that there is something to call `heatserve predict` on.
    """
    from heatserve.training.data import load_data

    images, _ = load_data("digits", "test").arrays(range(SHOWN))
    for protocol, url in (("gRPC", endpoints.grpc_url), ("HTTP", endpoints.http_url)):
        rows: list[tuple[str, Prediction, float]] = []
        with Client(url, model=NAME) as client:
            client.predict(images[:1])  # connect
            for image in images:
                start = time.perf_counter()
                (prediction,) = client.predict(image)
                rows.append((text_art(image), prediction, time.perf_counter() - start))
        console.print(f"\n{SHOWN} test images over {protocol}, {url}\n")
        console.print(predictions_table(rows))
    for index, image in enumerate(images):
        Image.fromarray(np.rint(image[0] * 255).astype(np.uint8)).save(picture(runs, index))
    console.print(f"\nThese images are {picture(runs, 0)} to {picture(runs, SHOWN - 1)}.\n", soft_wrap=True)


def picture(runs: Path, index: int) -> Path:
    """Where the test image of that index is written, 0 to `SHOWN` − 1."""
    return runs / f"image_{index}.png"
