"""σ, the standard deviation of the noise of smoothing, as a user gives it."""

from __future__ import annotations

LARGEST_SIGMA = 2.0
"""Above it nothing is left of an image in [0,1]: whoever asks for more counts pixels from 0 to 255."""


def sigma_problem(sigma: float) -> str | None:
    """What is wrong with a σ in the unit of pixels in [0,1], as "expected …, got …"; None: nothing."""
    if 0 < sigma <= LARGEST_SIGMA:
        return None
    if not LARGEST_SIGMA < sigma < float("inf"):
        return f"expected a number above 0, got {sigma}"
    return (
        f"expected at most {LARGEST_SIGMA:g}, of pixels in [0,1], got {sigma:g}; of pixels from 0 to 255 that is "
        f"{sigma / 255:.3g}"
    )
