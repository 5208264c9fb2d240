"""`heatserve bench load` and `heatserve bench tiers`. Heavy imports stay inside the functions: `--help` is quick."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from heatserve.commands.options import (
    REPOSITORY,
    BackendDirectory,
    Json,
    Out,
    OutWithFigure,
    Repository,
    Root,
    TestImages,
    deliver,
    one_by_one,
    seed_option,
    tell_page,
)

if TYPE_CHECKING:
    from heatserve.benchmarks.load.setting import ServedModels

_LOADED = ("digits", "cifar10", "cifar10-resnet20", "cifar10-resnet34")
_TIERED = ("digits", "cifar10")

_Generators = Annotated[int, typer.Option(min=2, help="Processes that ask; they share the cores.")]


def load(
    models: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="MODEL",
            help="Models of the repository, or classifiers with random weights as for `bench latency`; none: "
            f"{', '.join(_LOADED)}.",
        ),
    ] = None,
    repository: Repository = REPOSITORY,
    root: Root = None,
    seconds: Annotated[float, typer.Option(min=0.1, help="Length of each measurement; there are about 60.")] = 5.0,
    radius: Annotated[float, typer.Option(help="r that confirm and cascade are asked for, L2.")] = 0.125,
    generators: _Generators = 2,
    third_party: Annotated[
        list[str] | None,
        typer.Option(help="Also run this load generator, if it is installed: `wrk` or `hey`; repeat it for both."),
    ] = None,
    backend_directory: BackendDirectory = None,
    seed: Annotated[int, seed_option("random weights, images, and the moments of arrivals")] = 0,
    out: OutWithFigure = None,
    as_json: Json = False,
) -> None:
    """Put a served model under load, and measure its floors in the same run: latency, throughput, errors, CPU, memory.

    Callers that wait for their answers (closed loop), and arrivals that do not, whose latency counts from the moment
    at which they were to start (open loop); gRPC and HTTP, FP32 and UINT8, one image and several; one pass, confirm and
    cascade together. The floors are a model that computes nothing in the same Triton, and ONNX Runtime without a
    server. Run it where nothing else runs.

    **Example:** `heatserve bench load cifar10-resnet20 --out benchmarks/results/load.json`
    """
    from heatserve.benchmarks.load.figure import draw_load
    from heatserve.benchmarks.load.measure import LoadSettings, measure_load
    from heatserve.benchmarks.load.report import REPORT_WIDTH, load_report
    from heatserve.benchmarks.load.third_party import check_third_party
    from heatserve.benchmarks.records.load import LoadRecord, ModelLoad
    from heatserve.benchmarks.records.record import made_now, to_json
    from heatserve.export.calibration.report import progress_bar

    others = tuple(third_party or ())
    for name in others:
        check_third_party(name)
    settings = LoadSettings(seconds, generators, radius, others, seed, backend_directory)
    loaded = {name: model_opener(name, repository, root, seed) for name in models or _LOADED}

    def measure(name: str) -> ModelLoad:
        with loaded[name]() as served:
            return measure_load(served, settings, progress=progress_bar)

    begun = LoadRecord(**vars(made_now(seed=seed)), seconds=seconds, generators=generators, shapes={})
    record = one_by_one(begun, [*loaded], measure, out)
    deliver(to_json(record), lambda: load_report(record), as_json=as_json, out=out, width=REPORT_WIDTH)
    if out:
        draw_load(record, out.with_suffix(".svg"))
    tell_page(out, "load")


def tiers(
    models: Annotated[
        list[str] | None,
        typer.Argument(metavar="MODEL", help=f"Models of the repository; none: {', '.join(_TIERED)}."),
    ] = None,
    repository: Repository = REPOSITORY,
    root: Root = None,
    images: TestImages = 500,
    seconds: Annotated[float, typer.Option(min=0.1, help="Length of each measurement of speed.")] = 5.0,
    generators: _Generators = 2,
    seed: Annotated[int, seed_option("which images are taken; the noise of the tiers is fresh")] = 0,
    out: Out = None,
    as_json: Json = False,
) -> None:
    """What each tier proves, and what it costs: one pass, cascade, confirm and certify on the same test images.

    Asks a real server through heatserve's client: certified accuracy at three radii, passes, the latency of one caller
    and images a second. Run it where nothing else runs.

    **Example:** `heatserve bench tiers digits cifar10 --root cifar10 --out benchmarks/results/tiers.json`
    """
    from heatserve.benchmarks.load.report import tiers_report
    from heatserve.benchmarks.load.setting import repository_models
    from heatserve.benchmarks.load.tiers import measure_tiers
    from heatserve.benchmarks.records.record import made_now, to_json
    from heatserve.benchmarks.records.tiers import TieredModel, TiersRecord
    from heatserve.export.calibration.report import progress_bar
    from heatserve.export.calibration.sampling import sample
    from heatserve.export.repository.smoothed import SmoothedWork, open_smoothed

    opened = {name: open_smoothed(repository, name, SmoothedWork.TIERS) for name in models or _TIERED}
    data = {
        name: sample(model.card.trained_on, "test", root=root, count=images, seed=seed)
        for name, model in opened.items()
    }

    def measure(name: str) -> TieredModel:
        model, found = opened[name], data[name]
        with repository_models(model, found.images, found.dataset) as served:
            return measure_tiers(
                served, model, found, seconds=seconds, generators=generators, seed=seed, progress=progress_bar
            )

    record = one_by_one(TiersRecord(**vars(made_now(seed=seed)), seconds=seconds, shapes={}), [*opened], measure, out)
    deliver(to_json(record), lambda: tiers_report(record), as_json=as_json, out=out)
    tell_page(out, "tiers")


def model_opener(
    name: str, repository: Path, root: Path | None, seed: int
) -> Callable[[], AbstractContextManager[ServedModels]]:
    """What serves a model of this name: what is missing is said before anything is measured."""
    from heatserve.benchmarks.load.setting import TAKEN_IN_TURN, is_random, random_models, repository_models
    from heatserve.export.calibration.sampling import sample
    from heatserve.export.repository.layout import open_model

    if is_random(name, repository):
        return lambda: random_models(name, seed=seed)
    model = open_model(repository, name)
    data = sample(model.card.trained_on, "test", root=root, count=TAKEN_IN_TURN, seed=seed)
    return lambda: repository_models(model, data.images, f"{data.dataset}, test split")
