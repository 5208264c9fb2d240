"""What a signature is about: everything of a model version that decides what is answered, in a folder of its own.

    NAME/VERSION/…          all files of the version, but the signature: card, graphs, plan
    NAME/settings.json      what the operator set in the `config.pbtxt` of the model and of its tiers

The rest of these configurations, and `labels.txt`, follow from the card and are written anew for the copy. So the
signature of a version stays valid when the next one is published. It is about its name and number as well: the paths
say them. The images that warm an instance up are not signed, since no answer depends on them.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from google.protobuf import json_format
from tritonclient.grpc import model_config_pb2 as pb

from heatserve.certification.errors import HeatserveError
from heatserve.certification.files import write_atomically
from heatserve.export.card import Card, read_card
from heatserve.export.repository.layout import (
    CONFIG_NAME,
    LABELS_NAME,
    PROMISE,
    SIGNATURE_NAME,
    ModelVersion,
    check_model_name,
    open_model,
    set_engine,
    triton_config,
    version_dirs,
)
from heatserve.export.repository.settings import WARM_UP_PATH, read_config, set_warm_up, write_config
from heatserve.export.repository.tiers import OF_TIER, adapted, check_parameters, read_tier_configs
from heatserve.export.tiers import TierModel

SETTINGS_NAME = "settings.json"
_OF_CARD = ("name", "backend", "input", "output")
_WARM_UP = "model_warmup"
_LARGEST_WARM_UP = 2**26  # bytes


@dataclass(frozen=True)
class Contents:
    """A copy of what a signature of one version is about."""

    folder: Path
    """A model repository that holds this version of this model, and nothing else."""
    source: Path
    """The version's folder that it was copied from."""
    config: pb.ModelConfig
    """The configuration of the model, of whichever version it was written for."""
    tiers: Mapping[TierModel, pb.ModelConfig]
    """Those of the tiers that are on."""

    @property
    def name(self) -> str:
        """`NAME/VERSION`, as the paths of what is signed begin."""
        return f"{self.source.parent.name}/{self.source.name}"

    def open(self) -> ModelVersion:
        """The version in the copy, configured as its card says and as the operator set, and verified as any other.

        Raises:
            HeatserveError: see `open_model`, `served_config` and `served_tiers`.
        """
        model_dir = self.folder / self.source.parent.name
        card = read_card(model_dir / self.source.name)
        self._copy_warm_up(model_dir)
        write_atomically(model_dir / LABELS_NAME, ("\n".join(card.class_names) + "\n").encode())
        write_config(model_dir / CONFIG_NAME, _configured(self.config, card, model_dir))
        for kind, config in self.tiers.items():
            path = self.folder / kind.beside(model_dir.name) / CONFIG_NAME
            check_parameters(config, path, kind)
            write_config(path, adapted(config, card, kind))
        return open_model(self.folder, model_dir.name)

    def _copy_warm_up(self, model_dir: Path) -> None:
        samples = (tensor for sample in self.config.model_warmup for tensor in sample.inputs.values())
        for name in {WARM_UP_PATH.name, *(Path(tensor.input_data_file).name for tensor in samples)}:
            path = self.source.parent / WARM_UP_PATH.parent / name
            if name and path.is_file() and path.stat().st_size <= _LARGEST_WARM_UP:
                write_atomically(model_dir / WARM_UP_PATH.parent / name, path.read_bytes())


def copy_contents(repository: Path, name: str, folder: Path, *, version: int | None = None) -> Contents:
    """Copy what a signature of a model version is about into the folder, which is made.

    Links are followed, since what counts is what the copy holds.

    Args:
        repository: a model repository.
        name: of the model.
        folder: where to.
        version: its number; None: the newest.

    Raises:
        HeatserveError: no such version, a configuration that cannot be read, or something in its folder that is neither
            a file nor a folder, or has a name that cannot be printed; or its files would take more than half of the
            space that is free.
    """
    source = find_version(repository, name, version)
    target = folder / name / source.name
    target.mkdir(parents=True)
    paths = _paths_in(source)
    needed, free = sum(path.stat().st_size for path in paths if path.is_file()), shutil.disk_usage(target).free
    if needed > free / 2:  # whoever may write there must not fill a disk before anything of it is verified
        raise HeatserveError(
            f"{source}: expected at most half of the {free:,} bytes that are free where it is copied to be verified "
            f"(TMPDIR), got {needed:,}"
        )
    for path in paths:
        copy = target / path.relative_to(source)
        if not path.name.isprintable():  # no signature can be about bytes that are no text, nor a terminal show them
            raise HeatserveError(f"{source}: expected names of printable characters, got {path.name!a}; rename it")
        if path.is_dir() and not path.is_symlink():
            copy.mkdir()
        elif not path.is_file():
            raise HeatserveError(f"{path}: expected a file, got a link, a pipe or a device; remove it")
        elif path != source / SIGNATURE_NAME:
            shutil.copyfile(path, copy)
    config, tiers = read_config(source.parent / CONFIG_NAME), read_tier_configs(repository, name)
    (folder / name / SETTINGS_NAME).write_bytes(_settings(config, tiers))
    return Contents(folder, source, config, tiers)


def _paths_in(folder: Path) -> list[Path]:
    """All that is in a folder, whatever it is, folders before what they hold; links are not followed.

    Raises:
        OSError: a folder cannot be read, where `Path.rglob` would leave out what it holds.
    """

    def refuse(error: OSError) -> NoReturn:
        raise error

    walked = os.walk(folder, onerror=refuse)
    return sorted(Path(parent, name) for parent, folders, files in walked for name in (*folders, *files))


def find_version(repository: Path, name: str, version: int | None = None) -> Path:
    """The folder of a version; None: of the newest.

    Raises:
        HeatserveError: there is none.
    """
    check_model_name(name)
    found = {int(path.name): path for path in version_dirs(repository / name)}
    number = max(found, default=None) if version is None else version
    if number not in found:
        numbers = ", ".join(map(str, found)) or "none"
        raise HeatserveError(
            f"{repository / name}: expected a version{'' if version is None else f' {version}'}, found {numbers}"
        )
    return found[number]


def _settings(config: pb.ModelConfig, tiers: Mapping[TierModel, pb.ModelConfig]) -> bytes:
    """What the operator set, as JSON with sorted keys, the same for the same settings."""
    settings = {
        "model": _as_fields(_without_card(config, PROMISE)),
        "tiers": {kind.value: _as_fields(_without_card(tier, OF_TIER)) for kind, tier in tiers.items()},
    }
    return (json.dumps(settings, sort_keys=True, indent=1) + "\n").encode()


def _as_fields(config: pb.ModelConfig) -> dict[str, Any]:
    fields: dict[str, Any] = json_format.MessageToDict(config, preserving_proto_field_name=True)
    return {name: value for name, value in fields.items() if name != _WARM_UP}


def _without_card(config: pb.ModelConfig, parameters: tuple[str, ...]) -> pb.ModelConfig:
    """A configuration without what follows from a card."""
    rest = pb.ModelConfig()
    rest.CopyFrom(config)
    for field in _OF_CARD:
        rest.ClearField(field)
    for parameter in parameters:
        rest.parameters.pop(parameter, None)
    return rest


def _configured(config: pb.ModelConfig, card: Card, model_dir: Path) -> pb.ModelConfig:
    """The settings of a configuration for the model of a card."""
    settings, model = _without_card(config, PROMISE), triton_config(card)
    for field in _OF_CARD:
        value = getattr(model, field)
        if isinstance(value, str):
            setattr(settings, field, value)
        else:
            getattr(settings, field).extend(value)
    for parameter in PROMISE:
        if parameter in model.parameters:
            settings.parameters[parameter].CopyFrom(model.parameters[parameter])
    set_engine(settings, card)
    set_warm_up(settings, model_dir)
    return settings
