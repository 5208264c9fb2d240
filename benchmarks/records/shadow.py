"""What `bench shadow` measures: after how many inputs the shadow audit raises an alarm, and how often without cause."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from heatserve.benchmarks.records.record import Record
from heatserve.export.card_parts import Split


@dataclass(frozen=True, kw_only=True)
class ShadowRow:
    """One kind of traffic, sent to a new audit in each run."""

    traffic: str
    inputs: int
    """Most inputs of a run; a run ends where both alarms were raised."""
    judged: int
    """Answers that Certify judged, in all runs."""
    overclaims: int
    """Those of them that overclaim."""
    rate_alarms: tuple[int | None, ...]
    """For each run, after how many judged answers the alarm of the rate was raised; None: it was not."""
    drift_alarms: tuple[int | None, ...]
    """For each run, after how many inputs the alarm of the inputs was raised; None: it was not."""


def alarms_text(alarms: Sequence[int | None]) -> str:
    """In how many of the runs an alarm was raised, and after how many: the median, and the least and the most."""
    found = [alarm for alarm in alarms if alarm is not None]
    text = f"{len(found)} of {len(alarms)}"
    return f"{text}, after {median(found):.0f} ({min(found)} to {max(found)})" if found else text


@dataclass(frozen=True, kw_only=True)
class ShadowModel:
    """One model; its traffic is made of test images."""

    graph_sha256: str
    alpha: float
    """The rate of overclaims that its card promises."""
    data: Split
    reference: int
    """Images of its reference."""
    rows: tuple[ShadowRow, ...]


@dataclass(frozen=True, kw_only=True)
class ShadowRecord(Record):
    """The shadow audit of several models. `seed` decides the images of each run; the noise of Certify is fresh."""

    level: float
    """Of each alarm."""
    judged: int
    """Most answers that are judged in a run."""
    models: Mapping[str, ShadowModel]
