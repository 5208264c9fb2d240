"""Every metric of heatserve: its name, what it says, its labels, and the buckets of a histogram.

Names, units and types follow the conventions of Prometheus: base units (seconds, ratios), and counters that end in
`_total`. A radius is an L2 distance with pixels in [0,1], which has no unit. No label has a value that a caller chose.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["counter", "gauge", "histogram"]


@dataclass(frozen=True)
class Family:
    """One metric: a number for each combination of the values of its labels."""

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()
    """Upper bounds of a histogram's buckets, increasing; above the last one lies +Inf."""


def _counter(name: str, text: str, *labels: str) -> Family:
    return Family(f"heatserve_{name}_total", "counter", text, labels)


def _gauge(name: str, text: str, *labels: str) -> Family:
    return Family(f"heatserve_{name}", "gauge", text, labels)


def _histogram(name: str, text: str, *labels: str, buckets: tuple[float, ...]) -> Family:
    return Family(f"heatserve_{name}", "histogram", text, labels, buckets)


_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0)
_RADII = (0.0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.75, 1.0, 1.5, 2.0, 4.0)

# Requests, where the model answers them. `tier` is one_pass, confirm, certify, certify_stream or cascade.
REQUESTS = _counter(
    "requests",
    "Requests to a model by what became of them: answered, invalid, overloaded, unavailable, cancelled or failed",
    *("model", "tier", "outcome"),
)
REQUEST_SECONDS = _histogram(
    "request_duration_seconds",
    "Time from a request's arrival at the model, after Triton's queue, to its answer",
    *("model", "tier"),
    buckets=_SECONDS,
)

# Images, as the single pass answers them.
CERTIFIED_RADIUS = _histogram(
    "certified_radius",
    "Certified radius of the images answered (L2, pixels in [0,1])",
    "model",
    buckets=_RADII,
)
ANSWERS = _counter(
    "answers", "Images answered by the single pass, by the reason of their certified radius", *("model", "reason")
)
INVALID_INPUTS = _counter(
    "invalid_inputs", "Requests refused since their input is invalid, by what is wrong", *("model", "reason")
)
CLASS_ANSWERS = _counter(
    "class_answers",
    "Images answered by the single pass, by class; above 100 classes, by ranges of their indices",
    *("model", "class"),
)

# Images, as the tiers answer them.
TIER_ANSWERS = _counter(
    "tier_answers",
    "Images answered by a tier, by outcome (yes: proven; no: disproven; undecided) and reason",
    *("model", "tier", "outcome", "reason"),
)
VOTES_TAKEN = _counter(
    "votes", "Noisy passes of the base classifier taken for the images that a tier answered", *("model", "tier")
)

# The front, which answers HTTP.
FRONT_REQUESTS = _counter("front_requests", "Requests to the front by route and HTTP status", *("route", "code"))
FRONT_SECONDS = _histogram(
    "front_request_duration_seconds",
    "Time from a request's headers at the front to the end of its answer",
    "route",
    buckets=_SECONDS,
)
FRONT_REJECTED = _counter(
    "front_rejected", "Requests and connections that the front refused, by the limit they broke", "reason"
)
FRONT_CONNECTIONS = _gauge("front_connections", "Connections that are open at the front")

# The server as a whole.
READY = _gauge("ready", "1 while every model answers and the server takes requests, 0 otherwise")
RESTARTS = _counter(
    "restarts", "Processes that the server started again, by process and reason", *("process", "reason")
)
SWITCHES = _counter("switches", "Versions of a model that were tried, by outcome", *("model", "outcome"))
LOG_DROPPED = _counter("log_lines_dropped", "Lines of the log that nobody took in time", "process")

# The shadow audit, which judges a share of the answers by Certify.
SHADOW_JUDGED = _counter("shadow_judged", "Answers with a positive radius that Certify judged", "model")
SHADOW_OVERCLAIMS = _counter(
    "shadow_overclaims", "Judged answers whose radius or class Certify does not prove", "model"
)
SHADOW_DROPPED = _counter(
    "shadow_dropped", "Answers chosen for judgement that were dropped, since the voter was busy", "model"
)
SHADOW_RATE = _gauge("shadow_overclaim_rate", "Share of the judged answers that overclaim", "model")
SHADOW_RATE_LOWER = _gauge(
    "shadow_overclaim_rate_lower", "Lower bound of the confidence sequence for the share that overclaims", "model"
)
SHADOW_RATE_UPPER = _gauge(
    "shadow_overclaim_rate_upper", "Upper bound of the confidence sequence for the share that overclaims", "model"
)
SHADOW_ALARM = _gauge("shadow_alarm", "1 where the judged answers speak against the promise of the card", "model")
DRIFT_EVIDENCE = _gauge(
    "drift_evidence", "Logarithm of the e-value against inputs that are drawn like the calibration images", "model"
)
DRIFT_ALARM = _gauge("drift_alarm", "1 where the inputs are unlike the calibration images", "model")

# What cards say of the models that are served. A file of facts holds these, and no process counts them.
MODEL_INFO = _gauge(
    "model_info",
    "1 for each model version that is served, with what its card says",
    *("model", "version", "graph", "certificate_kind", "sigma", "alpha", "confidence", "engine", "date"),
)
CARD_ALPHA = _gauge("card_alpha_ratio", "Share of the positive radii that may overclaim, as the card promises", "model")
CARD_POSITIVE = _gauge(
    "card_positive_ratio", "Share of the card's test images that were answered with a positive radius", "model"
)

OF_PROMISE = (SHADOW_RATE, SHADOW_RATE_LOWER, SHADOW_RATE_UPPER, SHADOW_ALARM, DRIFT_EVIDENCE, DRIFT_ALARM)
"""Gauges about the promise of a card."""

FAMILIES = tuple(value for value in tuple(globals().values()) if isinstance(value, Family))
"""All of them, in the order of the page."""
