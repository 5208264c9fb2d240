"""What the end of an attack or of a spoof means, in a sentence or two for somebody who has never heard of either."""

from __future__ import annotations

from dataclasses import dataclass


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
    """What is proven there: by one pass of a deterministic certificate, by votes of a statistical one; 0: nothing."""
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
        if self.proven_radius <= 0:
            proof = "Votes prove nothing about this picture, so that no change is promised to be harmless."
        elif self.is_inside:
            proof = self._inside()
        else:
            proof = "This is outside the radius that votes prove: nothing was promised there."
        passed = "One pass still answers the same class." if self.is_held else "One pass changed its class."
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


def spoof_sentence(*, served: float, outcome: str | None, radius: float, distance: float) -> str:
    """What a search for a spoofed certificate found.

    Args:
        served: the radius that one pass serves at what was found.
        outcome: what confirm says of it, `yes`, `no` or `undecided`; None: it was not asked.
        radius: what confirm was asked about.
        distance: of what was found from the picture.
    """
    if outcome is None or served <= 0:
        return (
            "The search found no picture near this one with a radius to spoof. Try another picture, or search farther."
        )
    if outcome == "yes":
        return (
            f"The search found a picture with a radius of {served:.3f}, but votes confirm it within {radius:.3f}: here "
            "the radius was right. Try another picture, or search farther."
        )
    said = "votes prove that it is too large" if outcome == "no" else "votes do not prove it"
    return (
        f"Spoofed: at a distance of {distance:.2f} from your picture, one pass serves a radius of {served:.3f}, and "
        f"{said}. The promise of one pass is about pictures like those of its calibration, and somebody made this one; "
        "confirm asks for proof, and refuses."
    )
