"""Run what is served: the plan of a version where it has one, else its graph, as its card says."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from heatserve.export.card import GRAPH_NAME, PLAN_NAME, Card, read_verified
from heatserve.export.runtime.session import Runner, as_levels, open_session, run

if TYPE_CHECKING:
    from heatserve.export.repository.layout import ModelVersion


def open_served(model: ModelVersion) -> Runner:
    """What a version answers with; see `open_version`."""
    return open_version(model.path, model.card)


def open_version(version_dir: Path, card: Card) -> Runner:
    """What a version with this card answers with. The files are hashed as they are read: what runs is what it names.

    Raises:
        CardError: a file is no longer the one of the card.
        HeatserveError: what runs it is not here: TensorRT, or the GPU that built the plan.
    """
    graph = read_verified(version_dir / GRAPH_NAME, card.graph_sha256)
    return open_bytes(card, graph, read_verified(version_dir / PLAN_NAME, card.plan.sha256) if card.plan else None)


def open_bytes(card: Card, graph: bytes, plan: bytes | None) -> Runner:
    """What a version with this card, and these serialised files, answers with.

    On the CPU neither onnx nor tritonclient is imported, which would double the memory of a small model's process.

    Raises:
        HeatserveError: see `open_version`, or a graph or plan that does not load.
    """
    if card.plan and plan is not None:
        from heatserve.export.runtime.tensorrt import open_plan

        answer = open_plan(plan, card.plan)
        return (lambda images: answer(as_levels(images))) if card.input_type == "UINT8" else answer
    if card.accelerator == "tensorrt":
        from heatserve.export.repository.layout import tensorrt_options

        return partial(run, open_session(graph, accelerator=card.accelerator, options=tensorrt_options(card)))
    return partial(run, open_session(graph, accelerator=card.accelerator))
