"""Sentences on the side that their numbers decide."""

from __future__ import annotations

from dataclasses import dataclass, field

from heatserve.benchmarks.report.document import Judgement


@dataclass
class Sides:
    """Sentences, sorted by what their numbers say."""

    better: list[str] = field(default_factory=list)
    worse: list[str] = field(default_factory=list)
    unsettled: list[str] = field(default_factory=list)
    sources: dict[str, None] = field(default_factory=dict)
    """Files of results, in the order in which they were used."""

    def by(self, *, ours: float, theirs: float, more_is_better: bool, sentence: str) -> None:
        """A sentence about two numbers, on the side that they decide."""
        if ours == theirs:
            self.unsettled.append(sentence)
        else:
            (self.better if (ours > theirs) is more_is_better else self.worse).append(sentence)

    def used(self, *files: str) -> None:
        """Numbers of these files are in the sentences."""
        self.sources |= dict.fromkeys(files)

    def judgement(self, than: str) -> Judgement | None:
        """None: there is nothing to say."""
        if not (self.better or self.worse):
            return None
        return Judgement(than, self.better, self.worse, self.unsettled, [*self.sources])
