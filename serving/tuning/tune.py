"""How to run a model on the machine at hand: the instances, threads and batching that answer most within a latency.

Each setting runs on a real Triton, under more and more callers in a closed loop. The model's `config.pbtxt` is only
read, until `write_choice`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np

from heatserve.certification.progress import Progress, unseen
from heatserve.serving.errors import OverloadedError, ServingError
from heatserve.serving.triton.endpoints import FREE_PORTS
from heatserve.serving.triton.offers import place_model
from heatserve.serving.triton.server import TritonServer
from heatserve.serving.tuning.closed_loop import LoadResult, closed_loop
from heatserve.serving.tuning.settings import DEFAULT_MULTIPLE, TUNED, ServerSetting, even_splits

if TYPE_CHECKING:
    from heatserve.export.card import Card
    from heatserve.export.repository.layout import ModelVersion
    from heatserve.serving.pixels import Pixels

_CALLERS = (1, 2, 4, 8, 16, 32, 64)
_BATCHES = (1, 4, 16)
_DELAY_SHARE = 0.1
"""The share of the target that a request may wait for others to share its batch."""
_GAIN = 1.05
"""What replaces something simpler answers at least so many times as much; less is noise."""


@dataclass(frozen=True)
class TuningTrial:
    """One setting under one load."""

    setting: ServerSetting
    load: LoadResult
    meets_target: bool


@dataclass(frozen=True)
class TuningResult:
    """What was tried, and the choice: None where nothing met the target."""

    model: str
    version: int
    target: float
    """The target for the 99th percentile, in milliseconds."""
    single: LoadResult
    """One caller, one instance, a thread for each core."""
    trials: tuple[TuningTrial, ...]
    choice: TuningTrial | None


UnderLoad = Callable[[int], LoadResult]
"""What a running server answers so many callers."""


def tune(
    model: ModelVersion,
    *,
    target: float | None = None,
    seconds: float = 2.0,
    backend_directory: Path | None = None,
    progress: Progress = unseen,
) -> TuningResult:
    """Find the setting with the most images a second among those whose 99th percentile is within `target`.

    First how the instances share the cores, then the batch to prefer, then whether to wait for it.

    Args:
        model: its configuration is where each setting starts from; it is not written.
        target: milliseconds; None: `DEFAULT_MULTIPLE` times the median of one request to an idle server.
        seconds: the least length of each measurement.
        backend_directory: Triton's backends, where they are not beside it.
        progress: follows the settings.

    Raises:
        ServingError: Triton does not start, or refuses a request.
    """
    splits, trials = even_splits(), list[TuningTrial]()
    with _running(model, splits[0], seconds, backend_directory) as under_load:
        single = under_load(1)
    limit = DEFAULT_MULTIPLE * single.p50 if target is None else target

    def settings() -> Iterator[ServerSetting]:
        """Each stage varies the best setting of the trials so far."""
        yield from splits
        if best := best_of(trials):
            yield from (replace(best.setting, preferred_batch=size) for size in _BATCHES)
        if best := best_of(trials):
            yield from _waiting(best, microseconds=round(_DELAY_SHARE * limit * 1000))

    for setting in progress(settings(), len(splits) + len(_BATCHES) + 1, f"settings of {model.name}"):
        with _running(model, setting, seconds, backend_directory) as under_load:
            trials += climb(under_load, setting, limit)
    return TuningResult(model.name, model.version, limit, single, tuple(trials), best_of(trials))


def write_choice(model: ModelVersion, tuning: TuningResult) -> Path:
    """Write the setting that was chosen into the model's `config.pbtxt`, atomically, and why it was chosen.

    Raises:
        ServingError: nothing met the target, so there is no choice.
    """
    from heatserve.export.repository.layout import CONFIG_NAME
    from heatserve.export.repository.settings import read_config, write_config

    if tuning.choice is None:
        fastest = min(tuning.trials, key=lambda trial: trial.load.p99)
        raise ServingError(
            f"{model.name}: expected a setting with a 99th percentile of at most {tuning.target:.3g} ms, the quickest "
            f"took {fastest.load.p99:.3g} ms; {CONFIG_NAME} is as it was; allow more with --p99"
        )
    path = model.path.parent / CONFIG_NAME
    config = read_config(path)  # again: only what was varied is to change
    tuning.choice.setting.apply(config)
    config.parameters[TUNED].string_value = _reason(tuning, tuning.choice.load)
    write_config(path, config)
    return path


def _waiting(best: TuningTrial, *, microseconds: int) -> list[ServerSetting]:
    """The setting of `best`, but each instance waits for its share of the callers; none where that is a single one."""
    share = best.load.concurrency // best.setting.instances
    return [replace(best.setting, preferred_batch=share, queue_delay_us=microseconds)] if share > 1 else []


def climb(under_load: UnderLoad, setting: ServerSetting, target: float) -> list[TuningTrial]:
    """One setting under growing loads, until one misses the target or is refused, or more get no more answers."""
    trials: list[TuningTrial] = []
    for callers in _CALLERS:
        try:
            load = under_load(callers)
        except OverloadedError:  # the queue's limit, which is the operator's
            break
        saturated = bool(trials) and load.images_per_second < _GAIN * trials[-1].load.images_per_second
        trials.append(TuningTrial(setting, load, load.p99 <= target))
        if saturated or not trials[-1].meets_target:
            break
    return trials


def best_of(trials: Sequence[TuningTrial]) -> TuningTrial | None:
    """The best trial within the target: one that was tried later wins only if it answers clearly more."""
    best: TuningTrial | None = None
    for trial in trials:
        enough = _GAIN * best.load.images_per_second if best else 0.0
        if trial.meets_target and trial.load.images_per_second > enough:
            best = trial
    return best


@contextmanager
def _running(
    model: ModelVersion, setting: ServerSetting, seconds: float, backend_directory: Path | None
) -> Iterator[UnderLoad]:
    """A Triton that serves `model` with `setting`, from a folder of its own: the model's is not written."""
    from heatserve.export.repository.layout import served_config

    config = served_config(model)
    setting.apply(config)
    image = _random_image(model.card)
    with TemporaryDirectory(prefix="heatserve-tune-") as folder:
        repository = Path(folder)
        place_model(repository / model.name, model, config)
        with TritonServer(
            repository, models=[model.name], endpoints=FREE_PORTS, backend_directory=backend_directory
        ) as server:
            url = server.endpoints.grpc_url
            yield lambda callers: closed_loop(url, model.name, image, concurrency=callers, seconds=seconds)


def _random_image(card: Card) -> Pixels:
    """An image as the model takes it, FP32 [1, C, H, W] or UINT8 [1, H, W, C]; of any size, where any will do."""
    channels, height, width = card.input_shape
    random = np.random.default_rng(0)
    if card.input_type == "UINT8":
        return random.integers(0, 256, (1, height, width, channels)).astype(np.uint8)
    return random.random((1, *card.input_shape), dtype=np.float32)


def _reason(tuning: TuningResult, load: LoadResult) -> str:
    from heatserve.certification.provenance import provenance

    made = provenance()
    machine = made["machine"]
    return (
        f"p99 <= {tuning.target:.3g} ms: {load.images_per_second:.0f} images/s for {load.concurrency} callers, p99 "
        f"{load.p99:.3g} ms; {machine['processor']}, {machine['cores']} cores, {made['date']}"
    )
