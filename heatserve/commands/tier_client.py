"""What the commands that ask a tier share: a client that waits long enough, and an answer as JSON has it."""

from __future__ import annotations

from dataclasses import asdict
from enum import Enum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from heatserve.export.tiers import TierModel
    from heatserve.serving.client.client import Client
    from heatserve.serving.client.tier_answers import TierAnswer

_USUAL_TIMEOUT = 60.0
_ANSWER_SECONDS = 10.0  # after the deadline, for the answer to come


def patient_client(url: str, model: str, kind: TierModel, *, deadline: float | None = None) -> Client:
    """A client that waits longer than the server takes for an answer of a tier.

    Args:
        url: of the server.
        model: its model.
        kind: the tier that will be asked.
        deadline: seconds that will be asked for; None: the server's default.

    Raises:
        ServingError: no server, no such model, or no such tier of it.
    """
    from heatserve.serving.client.client import Client

    if deadline is None:
        with Client(url, model=model) as client:
            deadline = client.tier(kind).limits.deadline_ms / 1000
    return Client(url, model=model, timeout=max(_USUAL_TIMEOUT, deadline + _ANSWER_SECONDS))


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
