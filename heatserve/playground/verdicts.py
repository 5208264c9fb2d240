"""What the end of an attack or of a spoof means, in a sentence or two for somebody who has never heard of either."""

from __future__ import annotations

from dataclasses import dataclass

from heatserve.certification.outcome import Ending, Outcome
from heatserve.export.promise import radius_text
from heatserve.export.tiers import TierReason


@dataclass(frozen=True)
class Held:
    """What an attack was up against, and what became of it. Distances: L2, pixels in [0,1]."""

    kind: str | None
    """Of the certificate."""
    distance: float
    """How far the attack went."""
    certified_radius: float
    """What one pass serves at the image."""
    proven_radius: float
    """What is proven there of its class: by one pass of a deterministic certificate, by votes of a statistical one."""
    is_of_another: bool
    """Whether votes prove another class there than one pass names."""
    is_held: bool
    """Whether one pass still answers the class."""
    is_smoothed_held: bool | None
    """Whether votes at the attacked image prove the same class there; None: they prove none, or were not asked."""

    @property
    def is_inside(self) -> bool:
        """Whether the attack stayed within what is proven."""
        return self.distance <= self.proven_radius

    @property
    def sentence(self) -> str:
        """What it means."""
        return self._of_proven() if self.kind == "deterministic" else self._of_smoothed()

    def _of_proven(self) -> str:
        if self.is_inside and self.is_held:
            return (
                "The class held, as it must: inside the proven radius no change of any kind can change it, however "
                "long anybody searches."
            )
        if self.is_inside:
            return (
                "The class changed inside a radius that is proven. That must not happen: please report it, with this "
                "model and this picture."
            )
        if self.is_held:
            return (
                "The class held, but nobody promised that: this is outside the proven radius, where a longer search "
                "may succeed."
            )
        return "The class broke, outside the proven radius: the promise was about smaller changes, and it stands."

    def _of_smoothed(self) -> str:
        if self.is_of_another:
            proof = (
                "Votes prove that the smoothed classifier answers another class at your picture than one pass does: "
                "nothing is promised about the class that was attacked."
            )
        elif self.proven_radius <= 0:
            proof = "Votes have proven nothing about this picture, so that no change is promised to be harmless."
        elif self.is_inside:
            proof = self._inside()
        else:
            proof = "This is outside the radius that votes prove: nothing was promised there."
        passed = "One pass still answers the same class." if self.is_held else "One pass answers another class."
        return f"{passed} {proof}"

    def _inside(self) -> str:
        if self.is_smoothed_held is False:
            return (
                "The smoothed classifier, of which the proof speaks, answers another class inside the proven radius. "
                "That has the tiny probability that the promise states: please report it if you see it twice."
            )
        kept = (
            "The smoothed classifier, of which the proof speaks, still answers it"
            if self.is_smoothed_held
            else "The proof speaks of the smoothed classifier, which answers the same class everywhere inside"
        )
        if self.is_held:
            return f"{kept}, as it must inside the proven radius."
        return f"{kept}: the two differ, since one pass only imitates the average of many noisy ones."


@dataclass(frozen=True)
class Spoofed:
    """What a search for a spoofed certificate found, and what confirm says of it."""

    served: float
    """The radius that one pass serves there."""
    distance: float
    """From the picture."""
    outcome: Outcome | None
    """Of confirm, asked about the served radius; None: it was not asked."""
    reason: TierReason | None
    """Of that outcome."""
    truth: Ending | None = None
    """What further votes, which are not given up, say of that radius where confirm leaves it open."""
    votes: int = 0
    """How many these are."""

    @property
    def is_open(self) -> bool:
        """Whether confirm had its votes, and left it open: that says nothing of the radius."""
        return self.outcome is Outcome.UNDECIDED and self.reason in (TierReason.HOPELESS, TierReason.VOTES)

    @property
    def is_spoofed(self) -> bool:
        """Whether the radius is refuted: by confirm, or by further votes where it was left open."""
        return self.outcome is Outcome.NO or (self.is_open and self.truth is Ending.DISPROVEN)

    @property
    def sentence(self) -> str:
        """What it means."""
        if self.outcome is None:
            return (
                "The search found no picture near this one with a radius to spoof. Try another picture, or search "
                "farther."
            )
        found = f"The search found a picture with a radius of {radius_text(self.served, 3)}"
        if self.outcome is Outcome.YES:
            return f"{found}, and votes confirm it: here the radius was right. Try another picture, or search farther."
        if self.is_spoofed:
            by = f"{self.votes:,} further votes prove" if self.is_open else "votes prove"
            return (
                f"Spoofed: at a distance of {self.distance:.2f} from your picture, one pass serves a radius of "
                f"{radius_text(self.served, 3)}, and {by} that it is too large. The promise of one pass is about "
                "pictures like those of its calibration, and somebody made this one; confirm asks for proof, and has "
                "none to give."
            )
        if not self.is_open:
            return f"{found}, but the server had no time for the votes that judge it: it is busy. Try again."
        if self.truth is Ending.PROVEN:
            return (
                f"{found}. Confirm gave up, since a proof costs many votes; {self.votes:,} further votes prove the "
                "radius: it was right. Try another picture, or search farther."
            )
        return (
            f"{found}. Confirm does not confirm it, and {self.votes:,} further votes neither prove nor refute it: it "
            "is nearly right. Try another picture, or search farther."
        )
