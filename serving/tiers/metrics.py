"""What a tier counts, as Prometheus reads it beside Triton's own metrics."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Sequence
from functools import cache
from typing import Any

import triton_python_backend_utils as triton

from heatserve.export.tiers import TierReason
from heatserve.serving.tiers.answering import ImageAnswer


class TierCounts:
    """Counters of one tier: images answered, by outcome and reason; votes that they took; requests refused, by why.

    Answers leave from several threads, and Triton 2.51 dies of a segmentation fault where two of them add to one
    counter at once: each call writes into the same shared memory, and frees it.
    """

    def __init__(self, model: str) -> None:
        """Count from 0.

        Args:
            model: the name of the tier, which each counter has as its label `model`.
        """
        self._model = model
        self._families = {
            name: triton.MetricFamily(name=f"heatserve_tier_{name}", description=text, kind=triton.MetricFamily.COUNTER)
            for name, text in (
                ("images", "Number of images answered by a tier"),
                ("votes", "Number of noisy passes taken for these images"),
                ("refusals", "Number of requests to a tier that were answered with an error"),
            )
        }
        self._metric = cache(self._new_metric)
        self._one_at_a_time = threading.Lock()

    def count(self, answers: Sequence[ImageAnswer]) -> None:
        """Count the images of a request that was answered."""
        found = Counter((answer.outcome.value, answer.reason) for answer in answers)
        with self._one_at_a_time:
            for (outcome, reason), images in found.items():
                self._metric("images", outcome=outcome, reason=TierReason(reason).value).increment(images)
            self._metric("votes").increment(sum(answer.votes for answer in answers))

    def count_refusal(self, reason: str) -> None:
        """Count a request that was answered with an error."""
        with self._one_at_a_time:
            self._metric("refusals", reason=reason).increment(1)

    def _new_metric(self, name: str, **labels: str) -> Any:
        return self._families[name].Metric(labels={"model": self._model, **labels})
