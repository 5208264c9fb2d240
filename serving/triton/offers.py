"""One version of a model as Triton serves it: a folder of its own, which Triton sees once links lead there.

    <server's folder>/models/NAME           → ../offers/0/NAME
                             NAME_confirm   → ../offers/0/NAME_confirm
                      offers/0/NAME/         configuration, names of classes, warm-up, VERSION/ with the graphs
                               NAME_confirm/
                               votes/NAME/   where the voter of this version listens

Triton looks at `models` every second (`--model-control-mode=poll`), and loads what has changed beside what it serves.
It calls a model changed where any of its files has a newer date, also behind a link, and where one is linked or closed
to others (`st_ctime`). So an offer is of copies: nothing that becomes of the repository reaches them.
"""

from __future__ import annotations

import os
import py_compile
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from heatserve.export.tiers import TierModel
from heatserve.serving.triton.installation import Triton
from heatserve.serving.triton.voters import VoterPlan
from heatserve.serving.vote_protocol import socket_folder

if TYPE_CHECKING:
    from tritonclient.grpc import model_config_pb2 as pb

    from heatserve.export.repository.layout import ModelVersion

    Tiers = Mapping[TierModel, pb.ModelConfig]

OFFERS_NAME = "offers"
"""In the folder of a server: the folders of its offers."""
# Triton's stub is an isolated Python: it ignores PYTHONPATH, and looks for modules in its current folder first. So the
# backend is told to look where this process does, and Triton is not started in a folder of the user's.
BACKEND = """\
import sys

sys.path[:] = {path!a} + [folder for folder in sys.path if folder]

from heatserve.serving.allocator import keep_freed_memory
from {module} import {name} as TritonPythonModel

keep_freed_memory()
"""
"""A `model.py` of Triton's Python backend; where Python looks for modules, and what serves, are to be filled in."""
_TIER = {"module": "heatserve.serving.tiers.model", "name": "TierInstance"}
_STUB_NAME = "triton_python_backend_stub"


@dataclass(frozen=True)
class Offer:
    """One version of a model, its tiers and its voter, as Triton may serve them."""

    model: ModelVersion
    folder: Path
    tiers: Tiers
    voter: VoterPlan | None

    @property
    def names(self) -> tuple[str, ...]:
        """Of the model and of its tiers, as Triton knows them."""
        return (self.model.name, *(kind.beside(self.model.name) for kind in self.tiers))

    def show(self, repository: Path) -> None:
        """Have the links in Triton's `repository` lead here, each at once; tiers that this offer lacks disappear."""
        for kind in TierModel:
            if kind not in self.tiers:
                (repository / kind.beside(self.model.name)).unlink(missing_ok=True)
        for name in self.names:
            link = self.folder / f"{name}.link"
            link.symlink_to(os.path.relpath(self.folder / name, repository))
            link.replace(repository / name)

    @property
    def sockets(self) -> Path:
        """Where its voter listens, and its tiers count the requests that are not answered yet."""
        return socket_folder(self.folder, self.model.name)


def make_offer(
    triton: Triton, model: ModelVersion, tiers: Tiers, folder: Path, *, modules: Sequence[str], audits: bool = False
) -> Offer:
    """Fill the new `folder` with what `triton` needs to serve a version, which was checked to be served by it.

    It has a voter where it has tiers, and where it promises a rate of overclaims and the server `audits` its answers.

    Raises:
        CardError: the server audits, and the reference of inputs is not that of the version.
    """
    from heatserve.export.reference import read_reference

    if audits:
        read_reference(model.path, model.card)
    folder.mkdir(parents=True)
    _place(triton, model, folder / model.name)
    has_voter = bool(tiers) or (audits and model.card.calibration is not None)
    if has_voter:
        socket_folder(folder, model.name).mkdir(parents=True)
    for kind, config in tiers.items():
        _place_tier(triton, model, config, folder / kind.beside(model.name), modules)
    return Offer(model, folder, tiers, _voter_plan(model, tiers, folder) if has_voter else None)


def _place(triton: Triton, model: ModelVersion, folder: Path) -> None:
    """Place a model, configured for the device that it was calibrated on.

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
    place_model(folder, model, config)


def place_model(folder: Path, model: ModelVersion, config: pb.ModelConfig) -> None:
    """Make a folder of one model version: its graphs, its warm-up, the names of its classes, and a configuration.

    Nothing else of the model's own folder, where Triton would run what it finds: a `libtriton_onnxruntime.so` beside a
    graph takes the place of the backend.
    """
    from heatserve.export.card import BASE_NAME, CARD_NAME, GRAPH_NAME, PLAN_NAME
    from heatserve.export.reference import REFERENCE_NAME
    from heatserve.export.repository.layout import CONFIG_NAME, LABELS_NAME, labels_of
    from heatserve.export.repository.settings import WARM_UP_PATH, write_config

    version = folder / str(model.version)
    version.mkdir(parents=True)
    for name in (GRAPH_NAME, BASE_NAME, PLAN_NAME, CARD_NAME, REFERENCE_NAME):
        if (model.path / name).exists():
            shutil.copyfile(model.path / name, version / name)
    (folder / LABELS_NAME).write_bytes(labels_of(model.card))
    warm_up = model.path.parent / WARM_UP_PATH.parent
    if warm_up.exists():
        shutil.copytree(warm_up, folder / warm_up.name, copy_function=shutil.copyfile)
    write_config(folder / CONFIG_NAME, config)


def _place_tier(
    triton: Triton, model: ModelVersion, tier: pb.ModelConfig, folder: Path, modules: Sequence[str]
) -> None:
    """Make the folder of a tier, with what its single pass needs; for the image's axis see `_place`."""
    from heatserve.export.card import CARD_NAME, GRAPH_NAME, PLAN_NAME
    from heatserve.export.repository.layout import CONFIG_NAME
    from heatserve.export.repository.settings import write_config

    version = folder / str(model.version)
    version.mkdir(parents=True)
    own = folder.with_name(model.name) / str(model.version)
    for name in (GRAPH_NAME, PLAN_NAME, CARD_NAME):
        if (own / name).exists():  # the same file under another name, before Triton sees either
            (version / name).hardlink_to(own / name)
    module = version / "model.py"
    module.write_text(BACKEND.format(path=list(modules), **_TIER))
    # Python would write it when the tier starts, and Triton take the tier for changed, and load it again.
    py_compile.compile(str(module), doraise=True, invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH)
    if triton.has_native_onnxruntime:  # its folder of backends is used as it is, with a stub for another Python
        shutil.copy(triton.stub(), folder / _STUB_NAME)
    config = type(tier)()
    config.CopyFrom(tier)
    config.input[0].reshape.shape.extend([1, *config.input[0].dims])
    write_config(folder / CONFIG_NAME, config)


def _voter_plan(model: ModelVersion, tiers: Tiers, folder: Path) -> VoterPlan:
    from heatserve.export.repository.layout import served_config
    from heatserve.export.repository.settings import vote_settings
    from heatserve.export.repository.tiers import tier_limits

    settings = vote_settings(served_config(model))
    return VoterPlan(
        model=model.name,
        version_dir=(folder / model.name / str(model.version)).resolve(),
        sockets=socket_folder(folder, model.name),
        batch_size=settings.batch_size,
        threads=settings.threads,
        most_open=sum(tier_limits(config).queue for config in tiers.values()),
    )
