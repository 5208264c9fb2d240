"""What `bench networks` finds: which networks become a served graph, and by how much it differs from torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from heatserve.benchmarks.records.record import Record


@dataclass(frozen=True, kw_only=True)
class ExportedNetwork:
    """One network, exported with random weights."""

    input_shape: tuple[int, int, int]
    """C, H, W of its images."""
    parameters: int
    seconds: float
    """To write the served graph."""
    nodes: int | None = None
    """Operators of the served graph, the certificate's among them; None: there is none."""
    errors: Mapping[int, float] | None = None
    """The largest difference between a probability of the served graph and of torch, by the size of the batch; None:
    there is no graph."""
    rounding: float | None = None
    """The largest difference in torch itself, where each pixel is the next number of float32; None: not known."""
    refused: str | None = None
    """Why it is not exported; None: it is."""


@dataclass(frozen=True, kw_only=True)
class NetworksRecord(Record):
    """Networks by their reference, and what is said of those that no graph can be."""

    tolerance: float
    """The largest error of a graph that is exact."""
    networks: Mapping[str, ExportedNetwork]
    refusals: Mapping[str, str]
    """What an export says, by what the network has that no graph can have."""

    @property
    def exact(self) -> int:
        """How many networks are exported without an error above the tolerance."""
        worst = [max(found.errors.values()) for found in self.networks.values() if found.errors and not found.refused]
        return sum(error <= self.tolerance for error in worst)

    @property
    def exported(self) -> int:
        """How many networks are exported: exact, or as close to torch as rounding lets them be."""
        return sum(found.refused is None for found in self.networks.values())
