"""The mathematics of certified radii: closed forms, Monte Carlo, calibration, and the audit of a promise.

    from heatserve.certification import certify

    for found in certify(classifier, images, sigma=0.25):
        print(found.label, found.radius)

Everything is a function of arrays. A classifier is any function from images float32 [N, C, H, W] in [0,1] to scores
[N, K]; radii are L2 distances on pixels in [0,1]. Nothing here knows torch, a file format or a server.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from heatserve._lazy import lazy_names

if TYPE_CHECKING:
    from heatserve.certification.anytime import (
        Evidence,
        Ranks,
        RateWatch,
        anytime_lower_bound,
        anytime_upper_bound,
        rank_bets,
        rate_bets,
    )
    from heatserve.certification.audit import AuditError, Verdict, certified_accuracy, judge_promise
    from heatserve.certification.binomial import lower_bound, upper_bound
    from heatserve.certification.calibration import (
        Calibrated,
        CalibrationError,
        Overclaims,
        Reference,
        calibrate,
        count_overclaims,
        radius_grid,
    )
    from heatserve.certification.confirming import Confirmation, confirm, votes_needed
    from heatserve.certification.errors import HeatserveError
    from heatserve.certification.guard import Guard, fit_guard
    from heatserve.certification.monte_carlo import (
        ABSTAIN,
        Certificate,
        alpha_left,
        certify,
        largest_provable,
        predict,
    )
    from heatserve.certification.noise import FLOAT32, GRID, NoiseError, NoiseSource, grey_levels, source_of
    from heatserve.certification.outcome import Ending, Outcome
    from heatserve.certification.polls import Answer, Failure, Polls, Test, Want, results_in_order
    from heatserve.certification.progress import Progress, unseen
    from heatserve.certification.radius import RadiusMap, certified_l_bound, l_bound, nominal_radius, top_score
    from heatserve.certification.sequential import Decision, EarlyPrediction, decide, predict_early, provable
    from heatserve.certification.tightening import Bound, certificate
    from heatserve.certification.voting import Classifier, DependentVotesError, MonteCarloError, each_by_itself

__all__ = [
    "ABSTAIN",
    "Answer",
    "AuditError",
    "Bound",
    "Calibrated",
    "CalibrationError",
    "Certificate",
    "Classifier",
    "Confirmation",
    "Decision",
    "DependentVotesError",
    "EarlyPrediction",
    "Ending",
    "Evidence",
    "FLOAT32",
    "Failure",
    "GRID",
    "Guard",
    "HeatserveError",
    "MonteCarloError",
    "NoiseError",
    "NoiseSource",
    "Outcome",
    "Overclaims",
    "Polls",
    "Progress",
    "RadiusMap",
    "Ranks",
    "RateWatch",
    "Reference",
    "Test",
    "Verdict",
    "Want",
    "alpha_left",
    "anytime_lower_bound",
    "anytime_upper_bound",
    "calibrate",
    "certificate",
    "certified_accuracy",
    "certified_l_bound",
    "certify",
    "confirm",
    "count_overclaims",
    "decide",
    "each_by_itself",
    "fit_guard",
    "grey_levels",
    "judge_promise",
    "l_bound",
    "largest_provable",
    "lower_bound",
    "nominal_radius",
    "predict",
    "predict_early",
    "provable",
    "radius_grid",
    "rank_bets",
    "rate_bets",
    "results_in_order",
    "source_of",
    "top_score",
    "unseen",
    "upper_bound",
    "votes_needed",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "ABSTAIN": "heatserve.certification.monte_carlo",
        "Answer": "heatserve.certification.polls",
        "AuditError": "heatserve.certification.audit",
        "Bound": "heatserve.certification.tightening",
        "Calibrated": "heatserve.certification.calibration",
        "CalibrationError": "heatserve.certification.calibration",
        "Certificate": "heatserve.certification.monte_carlo",
        "Classifier": "heatserve.certification.voting",
        "Confirmation": "heatserve.certification.confirming",
        "Decision": "heatserve.certification.sequential",
        "DependentVotesError": "heatserve.certification.voting",
        "EarlyPrediction": "heatserve.certification.sequential",
        "Ending": "heatserve.certification.outcome",
        "Evidence": "heatserve.certification.anytime",
        "FLOAT32": "heatserve.certification.noise",
        "Failure": "heatserve.certification.polls",
        "GRID": "heatserve.certification.noise",
        "Guard": "heatserve.certification.guard",
        "HeatserveError": "heatserve.certification.errors",
        "MonteCarloError": "heatserve.certification.voting",
        "NoiseError": "heatserve.certification.noise",
        "NoiseSource": "heatserve.certification.noise",
        "Outcome": "heatserve.certification.outcome",
        "Overclaims": "heatserve.certification.calibration",
        "Polls": "heatserve.certification.polls",
        "Progress": "heatserve.certification.progress",
        "RadiusMap": "heatserve.certification.radius",
        "Ranks": "heatserve.certification.anytime",
        "RateWatch": "heatserve.certification.anytime",
        "Reference": "heatserve.certification.calibration",
        "Test": "heatserve.certification.polls",
        "Verdict": "heatserve.certification.audit",
        "Want": "heatserve.certification.polls",
        "alpha_left": "heatserve.certification.monte_carlo",
        "anytime_lower_bound": "heatserve.certification.anytime",
        "anytime_upper_bound": "heatserve.certification.anytime",
        "calibrate": "heatserve.certification.calibration",
        "certificate": "heatserve.certification.tightening",
        "certified_accuracy": "heatserve.certification.audit",
        "certified_l_bound": "heatserve.certification.radius",
        "certify": "heatserve.certification.monte_carlo",
        "confirm": "heatserve.certification.confirming",
        "count_overclaims": "heatserve.certification.calibration",
        "decide": "heatserve.certification.sequential",
        "each_by_itself": "heatserve.certification.voting",
        "fit_guard": "heatserve.certification.guard",
        "grey_levels": "heatserve.certification.noise",
        "judge_promise": "heatserve.certification.audit",
        "l_bound": "heatserve.certification.radius",
        "largest_provable": "heatserve.certification.monte_carlo",
        "lower_bound": "heatserve.certification.binomial",
        "nominal_radius": "heatserve.certification.radius",
        "predict": "heatserve.certification.monte_carlo",
        "predict_early": "heatserve.certification.sequential",
        "provable": "heatserve.certification.sequential",
        "radius_grid": "heatserve.certification.calibration",
        "rank_bets": "heatserve.certification.anytime",
        "rate_bets": "heatserve.certification.anytime",
        "results_in_order": "heatserve.certification.polls",
        "source_of": "heatserve.certification.noise",
        "top_score": "heatserve.certification.radius",
        "unseen": "heatserve.certification.progress",
        "upper_bound": "heatserve.certification.binomial",
        "votes_needed": "heatserve.certification.confirming",
    },
)
