"""The temporary folder that Triton is started on: the verified models, our backend and its environment."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from heatserve.serving.batching import request_bytes
from heatserve.serving.errors import ServingError
from heatserve.serving.tiers.protocol import socket_folder
from heatserve.serving.triton.debris import SHARED_MEMORY
from heatserve.serving.triton.installation import Triton, find_libpython
from heatserve.serving.triton.voters import VoterPlan

if TYPE_CHECKING:
    from tritonclient.grpc import model_config_pb2 as pb

    from heatserve.export.repository.layout import ModelVersion
    from heatserve.export.tiers import TierModel

    Tiers = Mapping[TierModel, pb.ModelConfig]


# Triton's stub is an isolated Python: it ignores PYTHONPATH, and looks for modules in its current folder first. So the
# backend is told to look where this process does, and Triton is not started in a folder of the user's.
_BACKEND = """\
import sys

sys.path[:] = {path!a} + [folder for folder in sys.path if folder]

from heatserve.serving.allocator import keep_freed_memory
from {module} import {name} as TritonPythonModel

keep_freed_memory()
"""
_OURS = {"module": "heatserve.serving.backend.model", "name": "TritonPythonModel"}
_TIER = {"module": "heatserve.serving.tiers.model", "name": "TierInstance"}
_STUB_NAME = "triton_python_backend_stub"
_ANSWER_BYTES_OF_CLASS = 32  # more than all outputs of one image take, divided by its two classes or more
# Triton's allocator leaves gaps. Where pictures of any size are taken, it is also how many full requests may meet.
_REGION_FACTOR = 4
_REGION_SLACK = 16 * 2**20
_FIRST_REGION_BYTES = 2**20  # of an instance's region, before it grows


@dataclass(frozen=True)
class Workspace:
    """What Triton is started with."""

    repository: Path
    """Links to exactly the verified models, so that Triton sees no others."""
    backends: Path
    environment: dict[str, str]
    file_bytes: int
    """The largest file that Triton may write, and so the largest region of shared memory; 0: any size."""
    modules: tuple[str, ...]
    """Where Python looks for modules, whatever its current folder is."""
    tiers: Mapping[str, Tiers]
    """The tiers of each model by its name."""
    voters: tuple[VoterPlan, ...]


def prepare(triton: Triton, models: Sequence[ModelVersion], folder: Path, *, audits: bool = False) -> Workspace:
    """Fill the empty `folder` with what `triton` needs to serve `models`.

    Args:
        triton: which is to be started.
        models: to be served.
        folder: of the server.
        audits: whether models that promise something get a voter also without tiers, for the shadow audit.

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
    voted = {model.name for model in models if tiers[model.name] or (audits and model.card.calibration)}
    repository = folder / "models"
    repository.mkdir()
    modules = _module_folders()
    for model in models:
        _offer(triton, model, repository / model.name)
        if model.name in voted:
            socket_folder(folder, model.name).mkdir(parents=True)
        for kind, config in tiers[model.name].items():
            _offer_tier(triton, model, config, repository / kind.beside(model.name), modules)
    backends, file_bytes = triton.backends, 0
    _check_shared_memory(models, tiers, has_native=triton.has_native_onnxruntime)
    if not triton.has_native_onnxruntime:
        backends = _our_backend(triton, folder, modules)
        file_bytes = _REGION_FACTOR * max(map(_batch_bytes, models)) + _REGION_SLACK
    if any(tiers.values()) or not triton.has_native_onnxruntime:
        _link_libpython(folder)
    voters = tuple(_voter_plan(model, tiers[model.name]) for model in models if model.name in voted)
    return Workspace(repository, backends, _environment(triton, folder), file_bytes, tuple(modules), tiers, voters)


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


def _offer(triton: Triton, model: ModelVersion, link: Path) -> None:
    """Link a model, configured for the device that it was calibrated on.

    Where our backend serves, an image gets one more axis in front. Triton's core takes N = 0 for one image without the
    axis N, and Triton's python backend adds up the first axes of a batch, of which that image's would be its height.
    """
    from heatserve.export.repository.layout import served_config, set_engine
    from heatserve.export.repository.settings import keep_to_quota

    config = served_config(model)
    set_engine(config, model.card)
    keep_to_quota(config)
    if not triton.has_native_onnxruntime:
        config.input[0].reshape.shape.extend([1, *config.input[0].dims])
    link_model(link, model, config)


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


def _offer_tier(triton: Triton, model: ModelVersion, tier: pb.ModelConfig, link: Path, modules: Sequence[str]) -> None:
    """Make the folder of a tier, with links to what its single pass needs; for the image's axis see `_offer`."""
    from heatserve.export.card import CARD_NAME, GRAPH_NAME, PLAN_NAME
    from heatserve.export.repository.layout import CONFIG_NAME
    from heatserve.export.repository.settings import write_config

    version = link / str(model.version)
    version.mkdir(parents=True)
    for name in (GRAPH_NAME, PLAN_NAME, CARD_NAME):
        if (model.path / name).exists():
            (version / name).symlink_to((model.path / name).resolve())
    (version / "model.py").write_text(_BACKEND.format(path=list(modules), **_TIER))
    if triton.has_native_onnxruntime:  # its folder of backends is used as it is, with a stub for another Python
        shutil.copy(triton.stub(), link / _STUB_NAME)
    config = type(tier)()
    config.CopyFrom(tier)
    config.input[0].reshape.shape.extend([1, *config.input[0].dims])
    write_config(link / CONFIG_NAME, config)


def _voter_plan(model: ModelVersion, tiers: Tiers) -> VoterPlan:
    from heatserve.export.repository.layout import served_config
    from heatserve.export.repository.settings import vote_settings
    from heatserve.export.repository.tiers import tier_limits

    settings = vote_settings(served_config(model))
    most_open = sum(tier_limits(config).queue for config in tiers.values())
    return VoterPlan(model.name, model.path.resolve(), settings.batch_size, settings.threads, most_open)


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


def link_model(link: Path, model: ModelVersion, config: pb.ModelConfig) -> None:
    """Make the folder `link`: links to the files of one model version and its warm-up, and a configuration.

    Nothing else of the model's folder, where Triton would run what it finds: a `libtriton_onnxruntime.so` beside a
    graph takes the place of the backend.
    """
    from heatserve.export.card import BASE_NAME, CARD_NAME, GRAPH_NAME, PLAN_NAME
    from heatserve.export.repository.layout import CONFIG_NAME, LABELS_NAME
    from heatserve.export.repository.settings import WARM_UP_PATH, write_config

    version = link / str(model.version)
    version.mkdir(parents=True)
    for name in (GRAPH_NAME, BASE_NAME, PLAN_NAME, CARD_NAME):
        if (model.path / name).exists():
            (version / name).symlink_to((model.path / name).resolve())
    for name in (LABELS_NAME, WARM_UP_PATH.parent.name):
        if (model.path.parent / name).exists():
            (link / name).symlink_to((model.path.parent / name).resolve())
    write_config(link / CONFIG_NAME, config)


def _our_backend(triton: Triton, folder: Path, modules: Sequence[str]) -> Path:
    """A folder of backends that holds Triton's `python` and our `onnxruntime`, which runs on it."""
    backends = folder / "backends"
    # Copies: Triton refuses backend files that lead out of their folder.
    shutil.copytree(triton.backends / "python", backends / "python", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(triton.stub(), backends / "python")
    (backends / "onnxruntime").mkdir()
    (backends / "onnxruntime" / "model.py").write_text(_BACKEND.format(path=list(modules), **_OURS))
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
    return {
        "ORT_DISABLE_TELEMETRY": "1",  # by default it sends events to its makers; the caller may decide otherwise
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
        "LD_LIBRARY_PATH": os.pathsep.join(filter(None, libraries)),
    }
