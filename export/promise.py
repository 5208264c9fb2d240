"""Promises in words, of a card and of each tier: what a radius means, what is bounded, how surely, for which images."""

from __future__ import annotations

import math
from decimal import ROUND_CEILING, ROUND_FLOOR, Context

from heatserve.export.tiers import TierModel

NOTHING = "Nothing is promised about these radii."
VOUCHED = (
    " That no training saw the calibration images is the word of the user who calibrated the model; it is not known."
)


def stated(share: float, *, up: bool) -> str:
    """A share to six digits, rounded to the side that promises less: a confidence of 0.9999996 is not 1.

    Args:
        share: between 0 and 1.
        up: whether a smaller share promises more.
    """
    digits = Context(prec=6, rounding=ROUND_CEILING if up else ROUND_FLOOR)
    return f"{float(digits.create_decimal(f'{share:.15g}')):g}"


def radius_text(radius: float, digits: int = 4) -> str:
    """A radius to so many digits, rounded down: what is shown is no more than what is held (but for 10⁻⁹)."""
    unit = 10**digits
    return f"{math.floor(radius * unit + 1e-9 * unit) / unit:.{digits}f}"


def promise_text(
    *, sigma: float, alpha: float, confidence: float, looks: int, reference: str, error: float, vouched: bool = False
) -> str:
    """The promise that the numbers of a card make, in whole sentences.

    Args:
        sigma: σ of the smoothed classifier, pixels in [0,1].
        alpha: α, the largest rate of overclaims; 1 promises nothing.
        confidence: that the rate is at most α; 0 promises nothing.
        looks: attempts that the confidence counts.
        reference: what an overclaim is judged by, such as `Certify (n0 = 100, n = 1000, alpha = 0.001)`.
        error: the probability with which that is wrong at an image.
        vouched: whether it is only a user's word that no training saw the calibration images.
    """
    if alpha >= 1 or confidence <= 0:
        return NOTHING
    chosen = (
        "; no earlier attempt of its model repository counts against it"
        if looks == 1
        else f", for whichever model is chosen of the {looks} attempts that count: those of its model repository on "
        "the same images, and failed ones of this network or its base"
    )
    return (
        "A radius r says that the smoothed classifier, which answers the class that the base network votes for most "
        f"often under Gaussian noise of sigma = {sigma:g}, answers the class that is served for every image within L2 "
        "distance r (pixels in [0,1]). The class that the single pass serves may itself change within r. "
        f"At most a share {stated(alpha, up=True)} of the answers with a positive radius overclaim, counted over all "
        f"radii and classes together, not for each: their radius is above what {reference} proves at that image, or "
        "their class is another than it names; it is itself wrong with probability at most "
        f"{stated(error, up=True)} for each image. "
        f"This holds with confidence {stated(confidence, up=False)} over the draw of the calibration images{chosen}. "
        "It holds for images drawn like the calibration images only, and for none that an adversary makes."
        + (VOUCHED if vouched else "")
    )


def tier_promise(kind: TierModel, *, model: str, sigma: float, cut_out: bool = False) -> str:
    """What an answer of a tier means, in whole sentences.

    Args:
        kind: which tier.
        model: the name of the model that it is beside.
        sigma: σ of the smoothed classifier, pixels in [0,1].
        cut_out: whether the network sees an image that is cut out of a picture of any size.
    """
    image = "that is cut out of the picture" if cut_out else "that was sent"
    return f"{_MEANING[kind].format(model=model, sigma=sigma, image=image)} {_RIGOUR}"


_SMOOTHED = (
    "the smoothed classifier, which answers the class that the base network votes for most often under Gaussian noise "
    "of sigma = {sigma:g}, answers the class `label` for every image within L2 distance `proven_radius` (pixels in "
    "[0,1]) of the one {image}"
)
_CONFIRM = (
    f"The outcome yes says that {_SMOOTHED}; the class is that of the single pass of {{model}}, and the radius the one "
    "that was asked for. The outcome no says that the base network votes for that class too seldom for this radius. "
    "`certified_radius` is what the single pass serves, and holds only as the card of {model} promises."
)
_CERTIFY = (
    f"The outcome yes says that {_SMOOTHED}. With top_k above 1 it says instead that within that distance the base "
    "network votes for one of `classes` with probability above one half."
)
_MEANING = {
    TierModel.CONFIRM: _CONFIRM,
    TierModel.CERTIFY: f"{_CERTIFY} It is found by Certify of Cohen et al. (2019), with n0 + n votes.",
    TierModel.CERTIFY_STREAM: (
        f"{_CERTIFY} A stream answers one image several times, with bounds that tighten: all of these answers hold "
        "together with probability at least 1 - alpha, whenever the caller stops."
    ),
    TierModel.CASCADE: (
        "An answer whose `tier` is `one pass` proves nothing: the single pass of {model} serves a smaller radius than "
        f"was asked for, and no votes were taken. For an answer whose `tier` is `confirm`: {_CONFIRM}"
    ),
}
_RIGOUR = (
    "The outcome undecided says nothing. Another outcome is wrong with probability at most `alpha`, for each image of "
    "each request by itself, whatever the image is, also where an adversary made it: the noise of each request is "
    "drawn afresh and kept secret. Where the clean image is certifiable at r, an adversary within r can make the "
    "system abstain, but never confirm another class (but for alpha). Over many images, in one request or in several, "
    "the probability of any wrong confirmation is at most their number times alpha. Where `sampling` is `grid`, the "
    "noise is sampled soundly in floating point; where it is `float32`, all of this rests on the assumption that noise "
    "of float32 numbers does as well as exact noise."
)
