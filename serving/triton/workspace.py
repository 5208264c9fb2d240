"""The temporary folder that Triton is started on: the verified models, our backend and its environment."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

from heatserve.serving.batching import request_bytes
from heatserve.serving.errors import ServingError
from heatserve.serving.triton.debris import SHARED_MEMORY
from heatserve.serving.triton.installation import Triton, find_libpython
from heatserve.serving.triton.offers import BACKEND, OFFERS_NAME, Offer, make_offer
from heatserve.serving.triton.voters import VoterPlan

if TYPE_CHECKING:
    from heatserve.export.repository.layout import ModelVersion
    from heatserve.serving.triton.offers import Tiers

_OURS = {"module": "heatserve.serving.backend.model", "name": "TritonPythonModel"}
_ANSWER_BYTES_OF_CLASS = 32  # more than all outputs of one image take, divided by its two classes or more
# Triton's allocator leaves gaps. Where pictures of any size are taken, it is also how many full requests may meet.
_REGION_FACTOR = 4
_REGION_SLACK = 16 * 2**20
_FIRST_REGION_BYTES = 2**20  # of an instance's region, before it grows
# Where this says PREDICTION, Triton opens another HTTP server at 0.0.0.0 in place of the usual ones. That of 2.51 hands
# requests on to the closed APIs: the index of the repository and shared memory were open to callers (fixed in 2.67).
_VERTEX_AI = "AIP_MODE"


@dataclass(frozen=True)
class Workspace:
    """What Triton is started with."""

    triton: Triton
    repository: Path
    """Links to the offers of exactly the verified models, so that Triton sees no others."""
    backends: Path
    environment: dict[str, str]
    file_bytes: int
    """The largest file that Triton may write, and so the largest region of shared memory; 0: any size."""
    modules: tuple[str, ...]
    """Where Python looks for modules, whatever its current folder is."""
    offers: dict[str, Offer]
    """What each model is served from, by its name."""
    numbers: Iterator[int]
    """Of the folders of offers that are yet to be made."""
    audits: bool
    """Whether models that are calibrated have a voter also without tiers, for the shadow audit."""

    @property
    def tiers(self) -> dict[str, Tiers]:
        """The tiers of each model by its name."""
        return {name: offer.tiers for name, offer in self.offers.items()}

    @property
    def voters(self) -> tuple[VoterPlan, ...]:
        """What the voters of all models are started on."""
        return tuple(offer.voter for offer in self.offers.values() if offer.voter)

    def offer(self, model: ModelVersion) -> Offer:
        """Make the folder of an offer; Triton sees it once it is shown (`Offer.show`).

        Raises:
            CardError: see `prepare`.
            ServingError: see `prepare`.
        """
        from heatserve.export.repository.tiers import served_tiers

        _check_engine(self.triton, model)
        tiers = served_tiers(model)
        _check_python(self.triton, {model.name: tiers})
        _check_shared_memory([model], {model.name: tiers}, has_native=self.triton.has_native_onnxruntime)
        folder = self.repository.with_name(OFFERS_NAME) / str(next(self.numbers))
        return make_offer(self.triton, model, tiers, folder, modules=self.modules, audits=self.audits)


def prepare(triton: Triton, models: Sequence[ModelVersion], folder: Path, *, audits: bool = False) -> Workspace:
    """Fill the empty `folder` with what `triton` needs to serve `models`.

    Args:
        triton: which is to be started.
        models: to be served.
        folder: of the server.
        audits: see `Workspace.audits`.

    Raises:
        CardError: the configuration or the labels of a model are not those of its card.
        ServingError: the backend that this Triton needs does not run with this Python, or it lacks one that a model was
            calibrated under.
    """
    from heatserve.export.repository.tiers import served_tiers

    for model in models:
        _check_engine(triton, model)
    tiers = {model.name: served_tiers(model) for model in models}
    _check_python(triton, tiers)
    if audits:
        _check_audit(triton)
    _check_shared_memory(models, tiers, has_native=triton.has_native_onnxruntime)
    repository = folder / "models"
    repository.mkdir()
    modules, numbers, offers = tuple(_module_folders()), count(), dict[str, Offer]()
    for model in models:
        offer_folder = folder / OFFERS_NAME / str(next(numbers))
        offer = offers[model.name] = make_offer(
            triton, model, tiers[model.name], offer_folder, modules=modules, audits=audits
        )
        offer.show(repository)
    backends, file_bytes = triton.backends, 0
    if not triton.has_native_onnxruntime:
        backends = _our_backend(triton, folder, modules)
        file_bytes = _REGION_FACTOR * max(map(_batch_bytes, models)) + _REGION_SLACK
    if any(tiers.values()) or not triton.has_native_onnxruntime:
        _link_libpython(folder)
    environment = _environment(triton, folder)
    return Workspace(triton, repository, backends, environment, file_bytes, modules, offers, numbers, audits)


def _check_engine(triton: Triton, model: ModelVersion) -> None:
    """Refuse to serve a model by something else than what its promise was measured on."""
    plan = model.card.plan
    if plan and not (triton.has_tensorrt and triton.has_native_onnxruntime):
        needs = f"backends `tensorrt` (TensorRT {plan.tensorrt}, for a plan built on {plan.gpu}) and `onnxruntime`"
    elif model.card.accelerator and not triton.has_native_onnxruntime:
        needs = f"backend `onnxruntime`, for its provider {model.card.accelerator}"
    else:
        return
    found = ", ".join(sorted(path.name for path in triton.backends.iterdir()))
    raise ServingError(
        f"{model.name}: expected a Triton with NVIDIA's own {needs}, found {triton.binary} with {found}; serve it in "
        "NVIDIA's container of Triton, or export and calibrate it again with `--backend auto`"
    )


def _check_python(triton: Triton, tiers: Mapping[str, Tiers]) -> None:
    names = [kind.beside(model) for model, kinds in tiers.items() for kind in kinds]
    if names and not triton.has_python_backend:
        raise ServingError(
            f"{names[0]}: expected a Triton with the backend `python`, on which tiers run, found {triton.binary} "
            f"without it; install it, or remove the folders {', '.join(names)} to serve single passes only"
        )


def _check_audit(triton: Triton) -> None:
    """Refuse to promise an audit of answers that no process of ours sees."""
    if triton.has_native_onnxruntime:
        raise ServingError(
            f"audit share: expected a Triton whose single passes our backend answers, found {triton.binary} with "
            "NVIDIA's `onnxruntime`, whose answers nobody sees before the caller; leave `--audit-share` out there, and "
            "run `heatserve audit` on images that you keep"
        )


def _check_shared_memory(models: Iterable[ModelVersion], tiers: Mapping[str, Tiers], *, has_native: bool) -> None:
    """Refuse to start where a full batch would find no shared memory: containers have 64 MiB, unless one asks for more.

    Instances that NVIDIA's own backend runs (`has_native`) take none.
    """
    from heatserve.export.repository.layout import served_config

    needed = sum(
        max(1, group.count) * (_FIRST_REGION_BYTES + _batch_bytes(model))
        for model in models
        for config in (*tiers[model.name].values(), *([] if has_native else [served_config(model)]))
        for group in config.instance_group
    )
    try:
        room = shutil.disk_usage(SHARED_MEMORY)
    except OSError as error:
        raise ServingError(f"{SHARED_MEMORY}: expected shared memory, found: {error.strerror}; mount it") from None
    if room.free < needed:
        most = -(-(room.used + needed) // 2**20)
        raise ServingError(
            f"{SHARED_MEMORY}: expected {-(-needed // 2**20)} MiB free for one full batch of each model instance, "
            f"found {room.free // 2**20} MiB; give it more (docker run --shm-size={most}m), or serve fewer models or "
            "instances"
        )


def _batch_bytes(model: ModelVersion) -> int:
    """What one full request and its answer take of an instance's region of shared memory."""
    from heatserve.export.repository.layout import MAX_BATCH_SIZE, triton_config

    image = triton_config(model.card).input[0]
    item_bytes = 1 if model.card.input_type == "UINT8" else 4
    requests = request_bytes(image.dims, item_bytes=item_bytes, limit=MAX_BATCH_SIZE)
    return requests + MAX_BATCH_SIZE * _ANSWER_BYTES_OF_CLASS * len(model.card.class_names)


def _our_backend(triton: Triton, folder: Path, modules: Sequence[str]) -> Path:
    """A folder of backends that holds Triton's `python` and our `onnxruntime`, which runs on it."""
    backends = folder / "backends"
    # Copies: Triton refuses backend files that lead out of their folder.
    shutil.copytree(triton.backends / "python", backends / "python", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(triton.stub(), backends / "python")
    (backends / "onnxruntime").mkdir()
    (backends / "onnxruntime" / "model.py").write_text(BACKEND.format(path=list(modules), **_OURS))
    return backends


def _link_libpython(folder: Path) -> None:
    library = find_libpython()
    if library.is_absolute():
        (folder / "lib").mkdir()
        (folder / "lib" / library.name).symlink_to(library)


def _module_folders() -> list[str]:
    """The folders and archives of `sys.path` that are there, as absolute paths: the server runs in another folder."""
    return [os.path.abspath(entry) for entry in sys.path if os.path.exists(entry or os.curdir)]


def _environment(triton: Triton, folder: Path) -> dict[str, str]:
    """Our environment, with Triton's libraries, and with this Python first on PATH: the one that its stub takes."""
    libraries = [str(folder / "lib"), str(triton.libraries or ""), os.environ.get("LD_LIBRARY_PATH", "")]
    inherited = {name: value for name, value in os.environ.items() if name != _VERTEX_AI}
    return {
        "ORT_DISABLE_TELEMETRY": "1",  # by default it sends events to its makers; the caller may decide otherwise
        **inherited,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
        "LD_LIBRARY_PATH": os.pathsep.join(filter(None, libraries)),
    }
