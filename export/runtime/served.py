"""Run what is served: the plan of a version where it has one, else its graph, as its card says."""

from __future__ import annotations

import hashlib
from functools import partial
from pathlib import Path

from heatserve.export.card import GRAPH_NAME, PLAN_NAME, Card, CardError
from heatserve.export.repository.layout import ModelVersion, tensorrt_options
from heatserve.export.runtime.session import Runner, as_levels, open_session, run
from heatserve.export.runtime.tensorrt import open_plan


def open_served(model: ModelVersion) -> Runner:
    """What a version answers with. The files are hashed as they are read: what runs is what the card names.

    Raises:
        CardError: a file is no longer the one of the card.
        HeatserveError: what runs it is not here: TensorRT, or the GPU that built the plan.
    """
    card = model.card
    graph = read_verified(model.path / GRAPH_NAME, card.graph_sha256)
    return open_bytes(card, graph, read_verified(model.path / PLAN_NAME, card.plan.sha256) if card.plan else None)


def open_bytes(card: Card, graph: bytes, plan: bytes | None) -> Runner:
    """What a version with this card, and these serialised files, answers with.

    Raises:
        HeatserveError: see `open_served`, or a graph or plan that does not load.
    """
    if card.plan and plan is not None:
        answer = open_plan(plan, card.plan)
        return (lambda images: answer(as_levels(images))) if card.input_type == "UINT8" else answer
    options = tensorrt_options(card) if card.accelerator == "tensorrt" else {}
    return partial(run, open_session(graph, accelerator=card.accelerator, options=options))


def read_verified(path: Path, sha256: str) -> bytes:
    """The content of a file that a card names.

    Raises:
        CardError: it is another one.
    """
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != sha256:
        raise CardError(f"{path}: expected sha256 {sha256}, found another file")
    return content
