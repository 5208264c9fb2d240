"""Whether a graph holds what its card says of it: constants, classes and input, of each kind of certificate."""

from __future__ import annotations

import math

import onnx
from google.protobuf.message import Message

from heatserve.export.card import Card
from heatserve.export.card_parts import LipschitzBound
from heatserve.export.graph.build import image_fields, served_classes
from heatserve.export.graph.certificate import (
    FLOAT32_MARGINS,
    NOT_CALIBRATED,
    SIGMA_TOLERANCE,
    served_sigma,
    serves_map,
)
from heatserve.export.graph.guard import serves_guard
from heatserve.export.graph.lipschitz import served_steps
from heatserve.export.graph.proven import served_slack, served_temperature


def external_tensor(message: Message) -> str | None:
    """The name of a tensor whose numbers are in another file, at any depth of a model; None: there is none."""
    if isinstance(message, onnx.TensorProto):
        return message.name or "without a name" if message.data_location == onnx.TensorProto.EXTERNAL else None
    for field, value in message.ListFields():
        if field.message_type is not None:
            for part in [value] if isinstance(value, Message) else value:
                if (found := external_tensor(part)) is not None:
                    return found
    return None


def card_disagreement(model: onnx.ModelProto, card: Card) -> str | None:
    """The first thing that the card says otherwise than its graph, of what is in the graph; None: nothing.

    Raises:
        ValueError: it is not a certified graph, or not with this kind of certificate.
    """
    classes, named = served_classes(model), len(card.class_names)
    if classes != named:
        return f"class_names: expected {classes}, one for each class of the graph, got {named}"
    for field, expected in image_fields(model).items():
        if getattr(card, field) != expected:
            return f"{field}: expected {expected}, which the graph takes, got {getattr(card, field)}"
    return _unproven(model, card.lipschitz) if card.lipschitz else _other_map(model, card)


def _unproven(model: onnx.ModelProto, bound: LipschitzBound) -> str | None:
    """Where a deterministic certificate states another slack, temperature or other steps than the graph has."""
    slack, steps = served_slack(model.graph), served_steps(model.graph)
    if slack != bound.slack:
        return f"slack: expected {slack:.17g}, which the graph takes off each radius, got {bound.slack:.17g}"
    temperature = served_temperature(model.graph)
    if not math.isclose(temperature, bound.temperature, rel_tol=1e-12):
        return (
            f"temperature: expected {temperature:.17g}, which the graph divides logits by, got {bound.temperature:.17g}"
        )
    stated = [layer.step for layer in bound.layers]
    return None if steps == stated else f"layers: expected the {len(steps)} steps of the graph, got others"


def _other_map(model: onnx.ModelProto, card: Card) -> str | None:
    """Where a statistical certificate states another σ, map or guard than the graph has."""
    sigma, classes = served_sigma(model.graph), served_classes(model)
    if not math.isclose(sigma, card.sigma, rel_tol=SIGMA_TOLERANCE):
        return f"sigma: expected {sigma:.7g}, which the graph's constants are made for, got {card.sigma}"
    radius_map = card.calibration.radius_map if card.calibration else NOT_CALIBRATED
    if not serves_map(model.graph, radius_map, num_classes=classes):
        return "radius_map: expected the thresholds and radii of the graph, got others"
    guard = card.calibration.guard if card.calibration else None
    if not serves_guard(model.graph, guard, roundoff=FLOAT32_MARGINS.roundoff):
        return "guard: expected the center, whitening and threshold of the graph, got others"
    return None
