"""What an engine is to the conformance suite."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

from heatserve.certification.errors import HeatserveError
from heatserve.export.runtime.session import Runner
from heatserve.serving.conformance.probe import Probe

Engine = Callable[[Probe], AbstractContextManager[Runner]]
"""Answers batches of 1 to 64 images with a probe's graph for as long as its context lasts.

An engine that refuses an invalid image, where others answer it, gives it label −1, finite probabilities and radii 0.

Raises:
    EngineMissingError: this machine cannot run it.
    ProbeUnfitError: it is not meant for this probe; the others count.
    HeatserveError: it is here, and refuses the graph or a batch of images: it has failed.
"""


class EngineMissingError(HeatserveError):
    """This machine cannot run an engine; says what is missing."""


class ProbeUnfitError(HeatserveError):
    """An engine cannot run a kind of graph, which is never exported for it; says why."""
