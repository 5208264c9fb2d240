"""An answer of a tier as JSON has it."""

from __future__ import annotations

from dataclasses import asdict
from enum import Enum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from heatserve.serving.client.tier_answers import TierAnswer


def answer_record(image: str, answer: TierAnswer, seconds: float, *, promise: str | None) -> dict[str, Any]:
    """What a tier answers to an image, as JSON has it: without what the tier does not say."""
    said = {name: value for name, value in asdict(answer).items() if value is not None and value != ()}
    values = {name: value.value if isinstance(value, Enum) else value for name, value in said.items()}
    return {
        "image": image,
        **values,
        "explanation": answer.explanation,
        "seconds": seconds,
        "promise": promise,
    }
