"""The tiers beside a served model in its repository: what their `config.pbtxt` says, and whose each part of it is.

    <repository>/<name>/                 the model
                 <name>_confirm/config.pbtxt
                 <name>_certify/config.pbtxt
                 <name>_certify_stream/config.pbtxt
                 <name>_cascade/config.pbtxt

A tier has no other file: it is answered with the graphs of the model. What it *is* (its tensors, what an answer means)
follows from the card of the model. Its limits (`TierLimits`), metric tags and metrics belong to the operator, and stay
when the next version is published. A tier whose file is removed is switched off.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as pb

from heatserve.certification.errors import HeatserveError
from heatserve.export.card import Card, CardError
from heatserve.export.promise import tier_promise
from heatserve.export.repository.layout import (
    CONFIG_NAME,
    MAX_BATCH_SIZE,
    ModelVersion,
    check_tier_folder,
    is_newest,
    triton_config,
    version_dirs,
)
from heatserve.export.repository.settings import read_config, write_config
from heatserve.export.tiers import TierLimits, TierModel, codes_of, limit_names, parse_limits, tier_tensors

OF_TIER = ("tier", "model", "promise", "codes", "base_sha256")
"""Parameters of a tier's `config.pbtxt` that follow from the card: its kind, the model that it is beside, what its
answers mean, what their numbers stand for, and the hash of the graph of the base classifier that votes."""
_OPERATORS = ("metric_tags", "model_metrics")
"""Fields of it that belong to the operator, beside the limits."""
_ADVICE = "restore it, or remove the file to switch this tier off"


def tier_config(card: Card, kind: TierModel) -> pb.ModelConfig:
    """What `config.pbtxt` says of one tier beside the model of a card, with the limits that the exporter writes.

    The stream answers one image a request.
    """
    streams = kind is TierModel.CERTIFY_STREAM
    config = pb.ModelConfig(
        name=kind.beside(card.model), backend="python", max_batch_size=1 if streams else MAX_BATCH_SIZE
    )
    config.input.add().CopyFrom(triton_config(card).input[0])
    for tensor in tier_tensors(kind):
        data_type = pb.DataType.Value(f"TYPE_{tensor.datatype}")
        output = config.output.add(name=tensor.name, data_type=data_type, dims=[-1 if tensor.is_list else 1])
        if not tensor.is_list:  # one value per image: [N], which Triton states as [1] reshaped to []
            output.reshape.SetInParent()
    config.instance_group.add(count=1, kind=pb.ModelInstanceGroup.KIND_CPU)
    if streams:
        config.model_transaction_policy.decoupled = True
    promise = tier_promise(kind, model=card.model, sigma=card.sigma, cut_out=card.resize is not None)
    values, defaults = (kind.value, card.model, promise, codes_of(kind), card.base_sha256), TierLimits()
    stated = dict(zip(OF_TIER, values, strict=True))
    for name, value in {**stated, **{name: getattr(defaults, name) for name in limit_names(kind)}}.items():
        config.parameters[name].string_value = str(value)
    return config


def tier_limits(config: pb.ModelConfig) -> TierLimits:
    """The limits that the operator set in the configuration of a tier.

    Raises:
        HeatserveError: see `parse_limits`.
    """
    return parse_limits({name: parameter.string_value for name, parameter in config.parameters.items()})


def served_tiers(model: ModelVersion) -> dict[TierModel, pb.ModelConfig]:
    """The configurations of the tiers that are on disk beside a model, checked; a tier that is not there is off.

    Of a version that is not the newest they are made of its card, with what the operator set.

    Raises:
        HeatserveError: a file is no configuration of Triton.
        CardError: a configuration is not that of a tier of this model, has Triton load, run or keep something else, or
            states invalid limits. Names the file, what was expected and found, and what to do.
    """
    repository = model.path.parents[1]
    found = read_tier_configs(repository, model.name)
    if found and model.card.is_deterministic:
        raise CardError(
            f"{_path(repository, model.name, next(iter(found)))}: expected no tier beside a deterministic certificate, "
            "which has no base network that could vote; remove its folder"
        )
    newest = is_newest(model)
    for kind, config in found.items():
        if not newest:
            check_parameters(config, _path(repository, model.name, kind), kind)
            found[kind] = adapted(config, model.card, kind)
        _check(found[kind], tier_config(model.card, kind), _path(repository, model.name, kind), kind)
    return found


def read_tier_configs(repository: Path, name: str) -> dict[TierModel, pb.ModelConfig]:
    """The configurations of the tiers that are on disk beside the model of that name, whatever they say.

    Raises:
        HeatserveError: a file is no configuration of Triton.
        CardError: a folder that has the name of a tier holds a model.
    """
    found: dict[TierModel, pb.ModelConfig] = {}
    for kind in TierModel:
        path = _path(repository, name, kind)
        if version_dirs(path.parent):
            check_tier_folder(path.parent)
        if path.is_file():
            found[kind] = read_config(path)
    return found


def write_tier_configs(repository: Path, card: Card, kinds: Collection[TierModel] = tuple(TierModel)) -> None:
    """Write the `config.pbtxt` of tiers beside the model of a card, each atomically.

    What an operator set in one that is there is kept.

    Args:
        repository: a Triton model repository.
        card: of the model.
        kinds: which tiers.

    Raises:
        HeatserveError: see `read_tier_configs`.
    """
    former = read_tier_configs(repository, card.model)
    for kind in kinds:
        config = adapted(former[kind], card, kind) if kind in former else tier_config(card, kind)
        write_config(_path(repository, card.model, kind), config)


def _path(repository: Path, name: str, kind: TierModel) -> Path:
    return repository / kind.beside(name) / CONFIG_NAME


def adapted(former: pb.ModelConfig, card: Card, kind: TierModel) -> pb.ModelConfig:
    """The configuration of a tier beside the model of a card, with what the operator set in another one."""
    config = tier_config(card, kind)
    for field in _OPERATORS:
        config.MergeFrom(_only(former, field))
    for name in limit_names(kind):
        if name in former.parameters:
            config.parameters[name].CopyFrom(former.parameters[name])
        else:  # the operator left it to the default
            del config.parameters[name]
    return config


def _only(config: pb.ModelConfig, field: str) -> pb.ModelConfig:
    """A configuration with one field of another, and nothing else."""
    only = pb.ModelConfig()
    only.CopyFrom(config)
    for other, _ in config.ListFields():
        if other.name != field:
            only.ClearField(other.name)
    return only


def _check(config: pb.ModelConfig, expected: pb.ModelConfig, path: Path, kind: TierModel) -> None:
    """Refuse a configuration that is not that of the tier, or whose limits are invalid."""
    for name in OF_TIER:
        value = config.parameters[name].string_value if name in config.parameters else None
        wanted = expected.parameters[name].string_value
        if value != wanted:
            found = "none" if value is None else repr(value)
            raise CardError(f"{path}: the parameter {name}: expected {wanted!r}, found {found}; {_ADVICE}")
    for field in sorted({field.name for message in (config, expected) for field, _ in message.ListFields()}):
        theirs, ours = _said(config, field), _said(expected, field)
        if field not in (*_OPERATORS, "parameters") and theirs != ours:
            what = _ADVICE if ours else "remove it"
            raise CardError(f"{path}: {field}: expected {ours or 'none'}, found {theirs or 'none'}; {what}")
    check_parameters(config, path, kind)
    try:
        tier_limits(config)
    except HeatserveError as error:
        raise CardError(f"{path}: the parameter {error}; change it") from None


def check_parameters(config: pb.ModelConfig, path: Path, kind: TierModel) -> None:
    """Refuse a parameter that a tier does not have: `adapted` would leave out a limit that is misspelt.

    Raises:
        CardError: it has one; names it.
    """
    known = (*OF_TIER, *limit_names(kind))
    if unknown := sorted(set(config.parameters) - set(known)):
        raise CardError(
            f"{path}: expected no parameters but {', '.join(known)}, found {', '.join(unknown)}; remove what is not one"
        )


def _said(config: pb.ModelConfig, field: str) -> str:
    """A field of a configuration as text, on one line; nothing where it is not there."""
    text: str = text_format.MessageToString(_only(config, field), as_one_line=True)
    return text.strip()
