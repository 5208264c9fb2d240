"""Adding a version to a model repository, whole or not at all: export's, calibration's, or one under another name."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Collection, Iterable
from contextlib import ExitStack
from pathlib import Path

import onnx

from heatserve.certification.files import write_atomically
from heatserve.export.card import (
    BASE_NAME,
    CONTRACT_FIELDS,
    GRAPH_NAME,
    PLAN_NAME,
    Card,
    CardError,
    read_card,
    verify_card,
)
from heatserve.export.card_parts import Attack
from heatserve.export.contract import OUTPUT_NAMES
from heatserve.export.reference import InputReference, read_reference
from heatserve.export.repository.layout import (
    ModelVersion,
    carry_attempts,
    check_model_name,
    open_model,
    verified_version,
    version_dirs,
    write_model_config,
)
from heatserve.export.repository.settings import WARM_UP_PATH
from heatserve.export.repository.tiers import read_tier_configs, write_tier_configs
from heatserve.export.tiers import TierModel


def publish(
    repository: Path,
    card: Card,
    *,
    graph: bytes,
    base: bytes | None,
    plan: bytes | None = None,
    reference: InputReference | None = None,
    warm_up: bytes | None = None,
    tiers: Collection[TierModel] = tuple(TierModel),
) -> ModelVersion:
    """Add a model version with its graphs, its plan, if any, and card: complete, or not at all.

    The folder is filled under a temporary name and then renamed, so a running Triton never sees half of it.

    Args:
        repository: a Triton model repository; made if absent.
        card: bound to both graphs by hash.
        graph: the certified graph, serialised.
        base: the graph of the base classifier, serialised; None where the certificate is deterministic.
        plan: the TensorRT plan, for a card that names one.
        reference: what live inputs are compared with.
        warm_up: an image as the bytes of the model's input tensor, to run once before serving. None: the one that is
            there already, or a black one.
        tiers: of a model that is new; beside one that has a version, those that are there stay, and no others. A
            deterministic certificate has none.

    Raises:
        CardError: the card is not that of the graphs, the graph has other outputs than the contract, or callers of the
            model could not go on to ask: its newest version takes another input, or answers with other classes.
        HeatserveError: the name is that of a tier, or a `config.pbtxt` of the model or of its tiers cannot be read.
    """
    check_model_name(card.model)
    model_dir, former = repository / card.model, read_tier_configs(repository, card.model)
    _check_same_contract(model_dir, card)
    wanted = tuple(former) if version_dirs(model_dir) else tuple(tiers)
    kinds = () if card.is_deterministic else wanted
    folders = [model_dir, *(repository / kind.beside(card.model) for kind in kinds)]
    with ExitStack() as undo:
        undo.callback(_discard_without_version, model_dir, [folder for folder in folders if not folder.exists()])
        model_dir.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=model_dir, prefix=".new-"))
        undo.callback(shutil.rmtree, temporary, ignore_errors=True)
        write_atomically(temporary / GRAPH_NAME, graph)
        if base is not None:
            write_atomically(temporary / BASE_NAME, base)
        if plan is not None:
            write_atomically(temporary / PLAN_NAME, plan)
        if reference is not None:
            reference.write(temporary)
        card.write(temporary)
        verified_version(temporary)
        _check_outputs(temporary, card.model)
        temporary.chmod(0o755)
        # Last, since what is served already should keep its settings where the disk has no room for the graphs.
        if warm_up is not None:
            write_atomically(model_dir / WARM_UP_PATH, warm_up)
        write_model_config(repository, card)
        write_tier_configs(repository, card, kinds)
        number = max((int(p.name) for p in version_dirs(model_dir)), default=0) + 1
        os.rename(temporary, model_dir / str(number))
        undo.pop_all()
    return open_model(repository, card.model)


def _check_same_contract(model_dir: Path, card: Card) -> None:
    """Refuse a version that callers of the model could not go on to ask: they rely on what they know."""
    versions = version_dirs(model_dir)
    if not versions:
        return
    former = read_card(versions[-1])
    if (kind := former.certificate_kind) != card.certificate_kind:
        raise CardError(
            f"{card.model}: expected a {kind} certificate, as the model has, got a {card.certificate_kind} one; export "
            "under another --name"
        )
    for field in CONTRACT_FIELDS:
        theirs, ours = getattr(former, field), getattr(card, field)
        if theirs != ours:
            raise CardError(
                f"{card.model}: {field}: expected {theirs!s:.200}, as version {versions[-1].name} has, which callers "
                f"rely on, got {ours!s:.200}; export under another --name, or remove {model_dir} and what is beside it"
            )


def _discard_without_version(model_dir: Path, folders: Iterable[Path]) -> None:
    if not version_dirs(model_dir):  # none that another process published meanwhile
        for folder in folders:
            shutil.rmtree(folder, ignore_errors=True)


def _check_outputs(path: Path, name: str) -> None:
    """Refuse a graph of a former version, which answers less than `config.pbtxt` will say."""
    outputs = [output.name for output in onnx.load(path / GRAPH_NAME, load_external_data=False).graph.output]
    if outputs != [*OUTPUT_NAMES]:
        raise CardError(
            f"{name}: expected a graph with the outputs {', '.join(OUTPUT_NAMES)}, got {', '.join(outputs)}; "
            "calibrate the model again"
        )


def republish(model: ModelVersion, repository: Path, name: str) -> ModelVersion:
    """Add a model version under another name, in this or another repository: the same graphs, so the same card.

    The attempts to calibrate the model go with it, and where the name is new, so do the tiers that the model has.

    Raises:
        CardError: a graph is no longer the one that its card belongs to.
        HeatserveError: see `publish`.
    """
    check_model_name(name)
    card = verify_card(model.path).renamed(name)
    graph = (model.path / GRAPH_NAME).read_bytes()
    base = None if card.is_deterministic else (model.path / BASE_NAME).read_bytes()
    plan = (model.path / PLAN_NAME).read_bytes() if card.plan else None
    warm_up = model.path.parent / WARM_UP_PATH
    carry_attempts(model.path.parent, repository, name)
    return publish(
        repository,
        card,
        graph=graph,
        base=base,
        plan=plan,
        reference=read_reference(model.path, card),
        warm_up=warm_up.read_bytes() if warm_up.is_file() else None,
        tiers=tuple(read_tier_configs(model.path.parents[1], model.name)),
    )


def record_attack(model: ModelVersion, attack: Attack) -> ModelVersion:
    """Write what an attack on a version found on its card: the card's file is replaced, atomically, and nothing else.

    Raises:
        CardError: a graph is not the one of the card, or the version was published again since it was opened.
    """
    card = verify_card(model.path)
    if (card.graph_sha256, card.base_sha256) != (model.card.graph_sha256, model.card.base_sha256):
        raise CardError(f"{model.path}: other graphs than those that were attacked; attack the model again")
    card.attacked(attack).write(model.path)
    return ModelVersion(model.name, model.version, model.path, verify_card(model.path))
