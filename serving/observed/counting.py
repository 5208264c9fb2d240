"""Counting requests to models and what they are answered, the same way in each process that answers them."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from enum import Enum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from heatserve.export.contract import Reason
from heatserve.serving.observed.families import (
    ANSWERS,
    CERTIFIED_RADIUS,
    CLASS_ANSWERS,
    INVALID_INPUTS,
    REQUEST_SECONDS,
    REQUESTS,
    TIER_ANSWERS,
    VOTES_TAKEN,
)
from heatserve.serving.observed.recorder import Recorder

ONE_PASS = "one_pass"
"""The label `tier` of a single pass; those of the tiers are the values of `TierModel`."""


class RequestOutcome(str, Enum):
    """What becomes of a request: the label `outcome` of `heatserve_requests_total`."""

    ANSWERED = "answered"
    INVALID = "invalid"
    OVERLOADED = "overloaded"
    UNAVAILABLE = "unavailable"
    CANCELLED = "cancelled"
    FAILED = "failed"


INVALID_REASONS = ("shape", "size", "nan", "infinite", "range", "sampling", "parameters", "other")
"""What is wrong with an input: the label `reason` of `heatserve_invalid_inputs_total`."""

_MOST_CLASSES = 100
_LONGEST_NAME = 100


class RequestCounts:
    """The requests to one model or tier."""

    def __init__(self, recorder: Recorder, *, model: str, tier: str = ONE_PASS) -> None:
        """Begin at 0, which Prometheus needs to see before the first one.

        Args:
            recorder: of this process.
            model: the name of the single pass, also for a tier beside it.
            tier: which tier, `ONE_PASS` where it is none.
        """
        self._recorder = recorder
        self._labels = model, tier
        self._model = model
        for outcome in RequestOutcome:
            recorder.add(REQUESTS, *self._labels, outcome.value, by=0)
        for reason in INVALID_REASONS:
            recorder.add(INVALID_INPUTS, model, reason, by=0)

    def count(self, outcome: RequestOutcome, *, came: float, requests: int = 1) -> None:
        """Count requests that are answered now, and the time that they took.

        Args:
            outcome: of all of them.
            came: when they came, by `time.monotonic`.
            requests: how many.
        """
        self._recorder.add(REQUESTS, *self._labels, outcome.value, by=requests)
        self._recorder.observe(REQUEST_SECONDS, time.monotonic() - came, *self._labels, times=requests)

    def count_invalid(self, reasons: Iterable[str]) -> None:
        """Count what is wrong with the input of a request: each reason once."""
        for reason in {*reasons}:
            self._recorder.add(INVALID_INPUTS, self._model, reason if reason in INVALID_REASONS else "other")


class AnswerCounts:
    """The images that one single pass answers: radii, reasons and classes."""

    def __init__(self, recorder: Recorder, *, model: str, class_names: Sequence[str]) -> None:
        """Begin at 0.

        Args:
            recorder: of this process.
            model: its name.
            class_names: of all K classes. Above 100 classes, ranges of their indices are counted.
        """
        self._recorder = recorder
        self._model = model
        self._classes, self._width = class_groups(class_names)
        for reason in Reason:
            if reason is not Reason.INVALID:
                recorder.add(ANSWERS, model, reason.name.lower(), by=0)
        for group in self._classes:
            recorder.add(CLASS_ANSWERS, model, group, by=0)

    def count(self, outputs: Mapping[str, NDArray[Any]]) -> None:
        """Count the images of requests that are answered.

        Args:
            outputs: of the graph, for N images: those of `label`, `certified_radius` and `reason` that are there, [N]
                or [N, 1]; images with label −1 are left out.
        """
        label = outputs.get("label")
        valid = slice(None) if label is None or (label >= 0).all() else (label >= 0).ravel()
        if label is not None:
            for group, images in _counted(label.ravel()[valid] // self._width):
                self._recorder.add(CLASS_ANSWERS, self._model, self._classes[group], by=images)
        if (radius := outputs.get("certified_radius")) is not None:
            self._recorder.observe_all(CERTIFIED_RADIUS, radius.ravel()[valid], self._model)
        if (reason := outputs.get("reason")) is not None:
            for code, images in _counted(reason.ravel()[valid]):
                self._recorder.add(ANSWERS, self._model, Reason(code).name.lower(), by=images)


class TierCounts:
    """The images that one tier answers, and the votes that they took."""

    def __init__(self, recorder: Recorder, *, model: str, tier: str) -> None:
        """Begin at 0.

        Args:
            recorder: of this process.
            model: the name of the single pass.
            tier: which tier.
        """
        self._recorder = recorder
        self._labels = model, tier
        recorder.add(VOTES_TAKEN, *self._labels, by=0)

    def count(self, answers: Iterable[tuple[str, str]], *, votes: int) -> None:
        """Count the images of a request that was answered.

        Args:
            answers: outcome and reason of each image.
            votes: of all of them together.
        """
        for (outcome, reason), images in Counter(answers).items():
            self._recorder.add(TIER_ANSWERS, *self._labels, outcome, reason, by=images)
        self._recorder.add(VOTES_TAKEN, *self._labels, by=votes)


def class_groups(class_names: Sequence[str]) -> tuple[list[str], int]:
    """The values of the label `class`, at most 100, and how many classes each is: names, or ranges of indices."""
    width = -(-len(class_names) // _MOST_CLASSES)
    if width == 1:
        return [name[:_LONGEST_NAME] for name in class_names], 1
    starts = range(0, len(class_names), width)
    return [f"{start}-{min(start + width, len(class_names)) - 1}" for start in starts], width


def faults_of(images: NDArray[Any]) -> set[str]:
    """What is wrong with the pixels of images FP32 [N, …]: some of nan, infinite and range."""
    finite = np.isfinite(images)
    found = {
        "nan": bool(np.isnan(images).any()),
        "infinite": bool(np.isinf(images).any()),
        "range": bool(((images < 0) | (images > 1))[finite].any()),
    }
    return {reason for reason, is_found in found.items() if is_found}


def _counted(codes: NDArray[np.int64]) -> Iterable[tuple[int, int]]:
    """How often each number ≥ 0 comes."""
    if len(codes) == 1:
        return ((int(codes[0]), 1),)
    return ((code, images) for code, images in enumerate(np.bincount(codes).tolist()) if images)
