"""The layout of a Triton model repository of certified models.

    <repository>/<name>/config.pbtxt
                        labels.txt
                        warmup/image             what Triton asks each instance for before it serves
                        timing.cache             what TensorRT measured of its kernels, of models with a plan
                        served.json              which version is served, if not the newest (`repository.pins`)
                        attempts.jsonl           every attempt to calibrate it (`heatserve.export.calibration.attempts`)
                        <version>/model.plan         the TensorRT plan that is served instead of the graph, if any
                                  model.onnx         the certified graph that is served
                                  base.onnx          logits of the base classifier, which Certify runs
                                  certificate.json   the card, bound to both graphs by hash
                                  reference.json     what live inputs are compared with (`heatserve.export.reference`)
                                  signature.sigstore.json    of a version that is signed (`heatserve.export.signing`)
                 <name>_confirm/config.pbtxt         a tier of it, and so on (`heatserve.export.repository.tiers`)

Export writes it, the server reads it; nothing here needs torch.
"""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError
from tritonclient.grpc import model_config_pb2 as pb

from heatserve.certification.errors import HeatserveError
from heatserve.certification.files import write_atomically
from heatserve.export.card import BASE_NAME, CARD_NAME, GRAPH_NAME, Card, CardError, verify_card
from heatserve.export.contract import KIND_PARAMETER, OUTPUT_TENSORS
from heatserve.export.promise import stated
from heatserve.export.repository.matching import card_disagreement, external_tensor
from heatserve.export.repository.settings import (
    check_settings,
    default_settings,
    read_config,
    set_warm_up,
    with_settings,
    write_config,
)
from heatserve.export.tiers import TierModel, tier_of

CONFIG_NAME = "config.pbtxt"
LABELS_NAME = "labels.txt"
TIMING_CACHE_NAME = "timing.cache"
ATTEMPTS_NAME = "attempts.jsonl"
SIGNATURE_NAME = "signature.sigstore.json"
MAX_BATCH_SIZE = 64
_NUMBER = re.compile(r"[0-9]{1,18}")
_NAME = re.compile(r"\w[\w.-]{0,199}", re.ASCII)  # with the name of a tier, a folder's may have 255 characters
PROMISE = ("promise", "alpha", "confidence", KIND_PARAMETER)
"""Parameters of `config.pbtxt` that state the promise of the card."""
_STATISTICAL = {KIND_PARAMETER: "statistical"}  # what former configurations leave out
TENSORRT_BATCHES = (1, 8, MAX_BATCH_SIZE)
"""Smallest batch, the one that TensorRT chooses its kernels for, and largest."""


@dataclass(frozen=True)
class ModelVersion:
    """One version of one model in a repository, its card read and verified against its graphs."""

    name: str
    version: int
    path: Path
    card: Card


def version_dirs(model_dir: Path) -> list[Path]:
    """Version folders of a model, oldest first."""
    if not model_dir.is_dir():
        return []
    return sorted(
        (p for p in model_dir.iterdir() if p.is_dir() and _NUMBER.fullmatch(p.name)), key=lambda p: int(p.name)
    )


def check_model_name(name: str) -> None:
    """Refuse a name that no folder should have, or that would be the name of a tier of another model.

    Raises:
        HeatserveError: it is such a name; says what is expected.
    """
    if not _NAME.fullmatch(name):
        raise HeatserveError(
            f"name: expected up to 200 letters, digits, '_', '.', '-', the first no '.' or '-', got {name!r}"
        )
    if tier := tier_of(name):
        ends = ", ".join(f"_{kind.value}" for kind in TierModel)
        raise HeatserveError(
            f"name: expected one that does not end in {ends}, got {name!r}, which names a tier of the model {tier[0]!r}"
        )


def model_names(repository: Path) -> list[str]:
    """Names of the models in a repository: its folders that hold a `config.pbtxt`, without the tiers of a model."""
    return [folder.name for folder in _config_folders(repository) if not tier_of(folder.name)]


def _config_folders(repository: Path) -> list[Path]:
    if not repository.is_dir():
        return []
    return sorted(folder for folder in repository.iterdir() if (folder / CONFIG_NAME).is_file())


def check_tier_folder(folder: Path) -> None:
    """Refuse a folder that has the name of a tier and is not the tier of a model.

    Raises:
        CardError: it holds versions of a model itself, or the model whose tier it names is not there.
    """
    tier = tier_of(folder.name)
    if tier and version_dirs(folder):
        raise CardError(
            f"{folder}: expected a tier of the model {tier[0]!r}, with a {CONFIG_NAME} and no versions, found a model; "
            "no model may be named so any more: move it away, and export and calibrate it again under another name"
        )
    if tier and not version_dirs(folder.parent / tier[0]):
        raise CardError(
            f"{folder}: expected the model {tier[0]!r} beside it, whose tier it is, found no version of that; export "
            f"the model, or remove {folder}"
        )


def check_tier_folders(repository: Path) -> None:
    """Refuse a repository in which a folder has the name of a tier and is not the tier of a model (`CardError`)."""
    for folder in _config_folders(repository):
        check_tier_folder(folder)


def open_model(repository: Path, name: str, *, version: int | None = None) -> ModelVersion:
    """A version of a model, the newest unless another is named, its card verified.

    Raises:
        CardError: no such model, no such version, or a card that does not match its graphs by hash and constants.
    """
    versions = version_dirs(repository / name)
    if tier := tier_of(name):
        check_tier_folder(repository / name)
        raise CardError(
            f"{repository / name}: expected the name of a model, got that of a tier of {tier[0]!r}; name {tier[0]}: "
            "its tiers are served with it"
        )
    if not versions:
        raise CardError(
            f"{repository / name}: no model version here; models in {repository}: "
            f"{', '.join(model_names(repository)) or 'none'}"
        )
    path = versions[-1] if version is None else repository / name / str(version)
    if path not in versions:
        found = ", ".join(folder.name for folder in versions)
        raise CardError(f"{path}: expected a version of model {name!r}, found none; its versions are {found}")
    card = verified_version(path)
    if card.model != name:
        raise CardError(f"{path}: the card is for model {card.model!r}, the folder is named {name!r}")
    return ModelVersion(name=name, version=int(path.name), path=path, card=card)


def verified_version(path: Path) -> Card:
    """The card of a version, verified by hash and then by what the graph holds: both files may be wrong together."""
    card = verify_card(path)
    model = _graph_in(path / GRAPH_NAME)
    if not card.is_deterministic:
        _graph_in(path / BASE_NAME)
    try:
        wrong = card_disagreement(model, card)
    except ValueError as error:  # not a certified graph, or not a map
        raise CardError(f"{path / GRAPH_NAME}: {error}") from None
    if wrong:
        raise CardError(f"{path / CARD_NAME}: the card belongs to another graph: {wrong}")
    return card


def _graph_in(path: Path) -> onnx.ModelProto:
    """The graph in a file, with all its numbers: of another file, which an engine would read, no card has the hash."""
    try:
        model = onnx.load(path, load_external_data=False)
    except DecodeError as error:
        raise CardError(f"{path}: expected an ONNX graph: {error}") from None
    if elsewhere := external_tensor(model):
        raise CardError(
            f"{path}: expected all numbers in this file, whose hash is on the card, got the tensor {elsewhere!r} with "
            "external data; export the model again"
        )
    return model


def open_models(repository: Path) -> Iterator[ModelVersion]:
    """Every model of the repository, newest version, cards verified (see `open_model`).

    Raises:
        CardError: as `open_model`, or a folder is named as a tier of a model that is not there.
    """
    check_tier_folders(repository)
    for name in model_names(repository):
        yield open_model(repository, name)


def triton_config(card: Card) -> pb.ModelConfig:
    """What `config.pbtxt` says of a certified model itself, for the backend of its card, as Triton's message."""
    backend = "tensorrt" if card.plan else "onnxruntime"
    config = pb.ModelConfig(name=card.model, backend=backend, max_batch_size=MAX_BATCH_SIZE)
    config.parameters["max_batch_size"].string_value = str(MAX_BATCH_SIZE)  # see `heatserve.serving.batching`
    for parameter, value in promise_parameters(card).items():
        config.parameters[parameter].string_value = value
    data_type = pb.TYPE_UINT8 if card.input_type == "UINT8" else pb.TYPE_FP32
    config.input.add(name="image", data_type=data_type, dims=_image_dims(card))
    for tensor in OUTPUT_TENSORS:
        data_type, shape = pb.DataType.Value(f"TYPE_{tensor.datatype}"), tensor.shape(len(card.class_names))
        output = config.output.add(name=tensor.name, data_type=data_type, dims=shape or (1,))
        if not shape:  # one number per image: [N], which Triton states as [1] reshaped to []
            output.reshape.SetInParent()
        if tensor.name == "probabilities":
            output.label_filename = LABELS_NAME
    return config


def promise_parameters(card: Card) -> dict[str, str]:
    """The parameters of `config.pbtxt` in `PROMISE`, from which a client learns what is promised, and how surely."""
    if card.lipschitz:
        proven = {"promise": card.lipschitz.promise, "alpha": "0", "confidence": "1"}
        return {KIND_PARAMETER: card.certificate_kind, **proven}
    if card.calibration is None:
        return {**_STATISTICAL, "promise": "none: the model is not calibrated, and every certified radius is 0"}
    part = card.calibration
    return {
        **_STATISTICAL,
        "promise": part.promise,
        "alpha": stated(part.alpha, up=True),
        "confidence": stated(part.confidence, up=False),
    }


def _image_dims(card: Card) -> tuple[int, int, int]:
    """The dimensions of one image as the graph takes it; −1 where any size will do."""
    channels, height, width = card.input_shape
    if card.resize:
        return -1, -1, channels
    return (height, width, channels) if card.input_type == "UINT8" else card.input_shape


def tensorrt_options(card: Card) -> dict[str, str]:
    """Options of ONNX Runtime's TensorRT provider, which Triton's backend knows by the same names.

    The precision is the graph's; the provider may round to TF32, and has no option against it. Timings of kernels are
    cached in the folder where the server was started. Engines are not cached: no card would be bound to one.
    """
    shape = "x".join(map(str, _image_dims(card)))
    profile = {
        f"trt_profile_{which}_shapes": f"image:{batch}x{shape}"
        for which, batch in zip(("min", "opt", "max"), TENSORRT_BATCHES, strict=True)
    }
    return {**profile, "trt_timing_cache_enable": "true"}


def set_engine(config: pb.ModelConfig, card: Card) -> None:
    """Have Triton run the model on the kind of device that it was calibrated on, CPU or GPU, and on no other."""
    on_gpu = card.plan or card.accelerator
    for group in config.instance_group:
        group.kind = pb.ModelInstanceGroup.KIND_GPU if on_gpu else pb.ModelInstanceGroup.KIND_CPU
    if config.HasField("optimization"):
        config.optimization.ClearField("execution_accelerators")
    if card.accelerator == "tensorrt":
        accelerators = config.optimization.execution_accelerators.gpu_execution_accelerator
        accelerators.add(name="tensorrt", parameters=tensorrt_options(card))


def is_newest(model: ModelVersion) -> bool:
    """Whether `config.pbtxt` and `labels.txt`, and those of the tiers, are of this version: publishing writes them."""
    return model.path == version_dirs(model.path.parent)[-1]


def served_config(model: ModelVersion) -> pb.ModelConfig:
    """The `config.pbtxt` of a model, where that and `labels.txt` are of this model.

    Its settings belong to the operator, who may not have Triton load other files; name, backend, tensors and names of
    classes must be those of the card. Of a version that is not the newest they are taken from its card.

    Raises:
        HeatserveError: `config.pbtxt` is missing, no configuration of Triton, or names something else to load.
        CardError: it, or `labels.txt`, is not what the card says; names the file.
    """
    path, labels = (model.path.parent / name for name in (CONFIG_NAME, LABELS_NAME))
    config, expected = read_config(path), triton_config(model.card)
    if not is_newest(model):
        config = _configured(model.card, config, path.parent)
        check_settings(config, path.parent, largest_batch=expected.max_batch_size)
        return config
    for field in ("name", "backend", "input", "output"):
        if getattr(config, field) != getattr(expected, field):
            raise CardError(
                f"{path}: expected the {field} of model {model.name!r} as on its card; export or calibrate it again"
            )
    found_promise = {name: config.parameters[name].string_value for name in PROMISE if name in config.parameters}
    if _STATISTICAL | found_promise != promise_parameters(model.card):
        raise CardError(
            f"{path}: expected the parameters {', '.join(PROMISE)} of model {model.name!r} as on its card; export or "
            f"calibrate it again"
        )
    check_settings(config, path.parent, largest_batch=expected.max_batch_size)
    found = labels.read_text(errors="replace").splitlines() if labels.is_file() else None
    if found != list(model.card.class_names):
        what = "no such file" if found is None else f"{len(found)} lines, {found[:3]}"
        raise CardError(
            f"{labels}: expected the {len(model.card.class_names)} class names of the card, one a line, found {what}; "
            "export the model again"
        )
    return config


def write_model_config(repository: Path, card: Card) -> None:
    """Write `config.pbtxt` and `labels.txt` of a model, each atomically.

    How the model was run so far (see `repository.settings`) is kept, unless it was for another backend.

    Raises:
        HeatserveError: the `config.pbtxt` that is there cannot be read.
    """
    model_dir = repository / card.model
    path = model_dir / CONFIG_NAME
    config = _configured(card, read_config(path) if path.exists() else None, model_dir)
    write_atomically(model_dir / LABELS_NAME, labels_of(card))
    write_config(path, config)


def labels_of(card: Card) -> bytes:
    """What `labels.txt` holds: the names of the classes, one a line."""
    return ("\n".join(card.class_names) + "\n").encode()


def _configured(card: Card, settings: pb.ModelConfig | None, model_dir: Path) -> pb.ModelConfig:
    """What `config.pbtxt` says of the model of a card, run with these settings of the operator as far as they fit."""
    model = triton_config(card)
    if settings is None or settings.backend != model.backend:
        settings = default_settings(MAX_BATCH_SIZE)
    for name in PROMISE:
        settings.parameters.pop(name, None)  # of another version
    config = with_settings(model, settings)
    set_engine(config, card)
    set_warm_up(config, model_dir)
    return config


@contextmanager
def locked(repository: Path) -> Iterator[None]:
    """Hold the lock of a repository, which is made if absent: one process at a time reads and adds attempts."""
    repository.mkdir(parents=True, exist_ok=True)
    folder = os.open(repository, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def add_attempts(repository: Path, name: str, lines: Iterable[str]) -> None:
    """Add the lines to the attempts of a model, those that are there already left out; the lock must be held."""
    path = repository / name / ATTEMPTS_NAME
    known = _lines(path) if path.exists() else []
    new = [line for line in lines if line not in known]
    write_atomically(path, "".join(f"{line}\n" for line in [*known, *new]).encode())


def carry_attempts(source: Path, repository: Path, name: str) -> None:
    """Add the attempts that a model's folder `source` holds, if any, to those of a model of another repository."""
    path = source / ATTEMPTS_NAME
    if path.exists():
        with locked(repository):
            add_attempts(repository, name, _lines(path))


def _lines(path: Path) -> list[str]:
    """The lines of a file; a last one that was torn is one of them, for its reader to refuse."""
    return path.read_bytes().decode().removesuffix("\n").split("\n")
