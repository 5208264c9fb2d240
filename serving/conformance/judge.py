"""Does an engine mean what the certificate says? Its answers on probes, held against float64 numpy.

Radii are held against the float64 values of `certification/radius.py` for the engine's *own* probabilities: never above
them, and below by no more than docs/decisions.md states. Everything else is held against the logits themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import erf, softmax

from heatserve.certification.errors import HeatserveError
from heatserve.certification.quantile import POLES
from heatserve.certification.radius import Float64Array, RadiusMap, certified_l_bound, nominal_radius
from heatserve.export.contract import INVALID_LABEL, OUTPUT_TENSORS, RADIUS_NAMES, Outputs
from heatserve.export.graph.certificate import NOT_CALIBRATED
from heatserve.export.runtime.session import Runner
from heatserve.serving.conformance.cases import hard_logits, nonsense_logits, signed_map, with_invalid_pixels
from heatserve.serving.conformance.engines import Engine, EngineMissingError
from heatserve.serving.conformance.probe import FP16, FP32, UINT8, Probe, probe

CLASSES = (2, 10, 1000)
BATCH = 64
"""Images that an engine is asked about at a time."""
_ALONE = 32  # images of a probe that are asked about one at a time, too
_TIE = 1e-6  # relative difference of two probabilities that float32 may order either way
_REPEATED = 1e-6  # what a probability may change by with the rest of its batch

Verdict = tuple[str, NDArray[np.bool_]]
"""A promise, and for which images it was kept."""


class ContractError(HeatserveError):
    """An engine has other outputs than the contract of a served model, or other types or shapes."""


@dataclass
class Tally:
    """How often a promise was checked and broken."""

    cases: int = 0
    failures: int = 0
    first: dict[str, Any] | None = None
    """What was answered where it was first broken, and by which probe."""


@dataclass
class Findings:
    """What is known about one engine."""

    promises: dict[str, Tally] = field(default_factory=dict)
    ended_by: str | None = None
    """What kept the engine from answering all probes as the contract demands."""
    probability_off: float = 0.0
    """Largest difference of a probability from float64."""
    nominal_below: float = 0.0
    """Largest difference, in σ, of a nominal radius from its float64 value."""
    positive: int = 0
    """Answers whose certified radius is positive in float64, …"""
    lower: int = 0
    """… and lower in the engine, where a score is within float32 of its threshold, as many of these cases are."""

    @property
    def cases(self) -> int:
        """Promises checked, image by image."""
        return sum(tally.cases for tally in self.promises.values())

    @property
    def failures(self) -> int:
        """Promises broken, image by image."""
        return sum(tally.failures for tally in self.promises.values())

    @property
    def passed(self) -> bool:
        """Whether every promise was kept, on all probes."""
        return self.failures == 0 and self.ended_by is None

    def to_dict(self) -> dict[str, Any]:
        """Everything, for JSON."""
        return {"passed": self.passed, "cases": self.cases, "failures": self.failures, **asdict(self)}

    def add(self, promise: str, kept: NDArray[np.bool_], one: Probe, outputs: Outputs) -> None:
        """Count a verdict on `outputs`."""
        tally = self.promises.setdefault(promise, Tally())
        broken = np.flatnonzero(~kept)
        tally.cases += len(kept)
        tally.failures += len(broken)
        if len(broken) and tally.first is None:
            tally.first = _described(one, _rows(outputs, broken[:1]))


def standard_probes(*, seed: int) -> list[Probe]:
    """For each K: a map in steps of σ/10 as it is served, one with weights of any sign, and none. Then the variants."""
    probes = []
    for classes in CLASSES:
        signed = signed_map(classes, np.random.default_rng((seed, classes)))
        for sigma, radius_map in ((0.25, _served_map(0.25)), (1.0, signed), (0.1, NOT_CALIBRATED)):
            probes.append(probe(FP32, classes=classes, sigma=sigma, radius_map=radius_map))
    variants = (probe(spelling, classes=10, sigma=0.25, radius_map=_served_map(0.25)) for spelling in (UINT8, FP16))
    return [*probes, *variants]


def conform(
    engine: Engine,
    probes: Sequence[Probe],
    *,
    examples: int,
    seed: int,
    on_probe: Callable[[], object] = lambda: None,
) -> Findings:
    """Hold an engine against float64 on each of `probes`.

    Args:
        engine: what answers.
        probes: the graphs that it answers with.
        examples: hard cases for each of them, beside the invalid ones.
        seed: of the cases.
        on_probe: called after each.

    Raises:
        EngineMissingError: this machine cannot run the engine.
    """
    findings = Findings()
    for index, one in enumerate(probes):
        try:
            with engine(one) as answer:
                examine(findings, answer, one, examples=examples, rng=np.random.default_rng((seed, index)))
        except EngineMissingError:
            raise
        except HeatserveError as error:
            findings.ended_by = str(error)
            break
        on_probe()
    return findings


def examine(findings: Findings, answer: Runner, one: Probe, *, examples: int, rng: np.random.Generator) -> None:
    """Ask about hard cases, about some of them alone, and about invalid images that lie among valid ones."""
    spell, read = one.spelling.spell, one.spelling.read
    images = spell(hard_logits(one.radius_map, classes=one.classes, count=examples, rng=rng))
    together = _ask(findings, answer, one, images, read(images))

    chosen = rng.choice(len(images), min(_ALONE, len(images)), replace=False)
    for row in chosen[:, None]:
        alone = _ask(findings, answer, one, images[row], read(images[row]))
        findings.add("alone as in a batch", _same(alone, _rows(together, row)), one, alone)

    broken = spell(nonsense_logits(one.classes))
    invalid = with_invalid_pixels(images, one.spelling.invalid)
    bad = np.concatenate([broken, invalid])
    good = np.arange(len(bad)) % len(images)
    unknown = np.full((len(invalid), one.classes), np.nan)
    logits = _alternating(np.concatenate([read(broken), unknown]), read(images[good]))
    beside = _rows(_ask(findings, answer, one, _alternating(bad, images[good]), logits), slice(1, None, 2))
    findings.add("beside invalid images as without", _same(beside, _rows(together, good)), one, beside)


def judge(findings: Findings, one: Probe, logits: NDArray[np.floating[Any]], outputs: Outputs) -> None:
    """Compare what an engine answered for a batch with float64.

    Args:
        findings: are told.
        one: the graph.
        logits: [N, K], what its network answered; NaN for an image that is invalid.
        outputs: what the engine answered.
    """
    with np.errstate(invalid="ignore"):
        expected = softmax(logits.astype(np.float64), axis=1)
    valid = np.isfinite(expected).all(1)
    invalid_part, part, expected = _rows(outputs, ~valid), _rows(outputs, valid), expected[valid]
    findings.add("invalid input", _fails_closed(invalid_part), one, invalid_part)
    for promise, kept in (*_of_classes(one, expected, part), *_of_radii(one, part)):
        findings.add(promise, kept, one, part)

    p = part["probabilities"].astype(np.float64)
    nominal, certified = nominal_radius(p, sigma=one.sigma), one.radius_map(p)
    findings.probability_off = max(findings.probability_off, _largest(np.abs(p - expected)))
    findings.nominal_below = max(findings.nominal_below, _largest(nominal - part["nominal_radius"]) / one.sigma)
    findings.positive += int((certified > 0).sum())
    findings.lower += int((part["certified_radius"] < certified).sum())


def _fails_closed(out: Outputs) -> NDArray[np.bool_]:
    nothing = [out[name] == 0 for name in RADIUS_NAMES]
    kept = [out["label"] == INVALID_LABEL, *nothing, np.isfinite(out["probabilities"]).all(1)]
    return np.asarray(np.all(kept, axis=0))


def _of_classes(one: Probe, expected: Float64Array, out: Outputs) -> Iterator[Verdict]:
    """Probabilities, label and top_k of valid images, held against float64 softmax."""
    p, label, top_k = out["probabilities"], out["label"], out["top_k"]
    yield "probabilities", (np.abs(p - expected) <= one.spelling.tolerance).all(1)
    known = ((top_k >= 0) & (top_k < one.classes)).all(1)
    top_k = np.where(known[:, None], top_k, 0)
    chosen = np.take_along_axis(expected, top_k[:, :1], axis=1)[:, 0]
    yield "label", known & (label == top_k[:, 0]) & (chosen >= expected.max(1) * (1 - _TIE))
    distinct = (np.diff(np.sort(top_k, axis=1), axis=1) > 0).all(1)
    ranked, descending = np.take_along_axis(p, top_k, axis=1), -np.sort(-p, axis=1)
    yield "top_k", known & distinct & (ranked == descending[:, : top_k.shape[1]]).all(1)


def _of_radii(one: Probe, out: Outputs) -> Iterator[Verdict]:
    """The radii of valid images, held against float64 on the engine's own probabilities."""
    p = out["probabilities"].astype(np.float64)
    certified, nominal, bound = out["certified_radius"], out["nominal_radius"], out["l_bound"]
    table = np.append(np.array(one.radius_map.radii, np.float32), np.float32(0))
    yield "certified_radius", (certified <= one.radius_map(p)) & np.isin(certified, table)
    yield "certified_radius of use", certified >= _certified_at_least(one, p)
    exact = nominal_radius(p, sigma=one.sigma)
    yield "nominal_radius", (nominal >= 0) & (nominal <= exact)
    yield "nominal_radius of use", nominal >= exact - 1e-5 * exact - (1e-5 + 1e-7 * one.classes) * one.sigma
    largest = certified_l_bound(p, sigma=one.sigma, radius_map=one.radius_map)
    yield "l_bound", (bound >= 0) & (bound <= largest) & (bound <= certified)
    own = one.sigma * np.sqrt(np.pi / 2) * erf(certified / (one.sigma * np.sqrt(2)))
    yield "l_bound of use", bound >= own * (1 - 2e-5)


def _certified_at_least(one: Probe, p: Float64Array) -> NDArray[np.float32]:
    """What is not uselessly low: the answer of thresholds that are higher by what a score may lose in float32."""
    weights = np.abs(one.radius_map.weights)
    lost = 1e-5 * (1 + weights.sum()) + 1e-6 * one.classes * (weights[0] / POLES).sum()
    thresholds = tuple(threshold + lost for threshold in one.radius_map.thresholds)
    higher = RadiusMap(one.radius_map.weights, thresholds, one.radius_map.radii)
    return np.where(p.max(1) > 0.5 + 1e-6 * one.classes, higher(p), np.float32(0))


def _ask(
    findings: Findings, answer: Runner, one: Probe, images: NDArray[Any], logits: NDArray[np.floating[Any]]
) -> Outputs:
    """The outputs for all images, in batches; `findings` are told how they compare with `logits`."""
    batches = [images[start : start + BATCH] for start in range(0, len(images), BATCH)]
    parts = [_checked(one, len(batch), answer(batch)) for batch in batches]
    outputs = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    judge(findings, one, logits, outputs)
    return outputs


def _checked(one: Probe, count: int, outputs: Outputs) -> Outputs:
    promised = {tensor.name: (tensor.dtype.name, (count, *tensor.shape(one.classes))) for tensor in OUTPUT_TENSORS}
    found = {name: (value.dtype.name, value.shape) for name, value in outputs.items()}
    if found != promised:
        raise ContractError(f"outputs: expected {promised}, got {found}")
    return outputs


def _served_map(sigma: float) -> RadiusMap:
    """σ·min(Φ⁻¹(p₍₁₎) − 0.4, 3), in steps of σ/10."""
    radii = (np.arange(1, 31) * sigma / 10).astype(np.float32).astype(float)
    return RadiusMap(NOT_CALIBRATED.weights, tuple((0.4 + radii / sigma).tolist()), tuple(radii.tolist()))


def _same(some: Outputs, others: Outputs) -> NDArray[np.bool_]:
    """Whether images were answered alike; that their radii suit their probabilities is judged elsewhere."""
    apart = np.abs(some["probabilities"] - others["probabilities"])
    return np.asarray(apart.max(1, initial=0.0) <= _REPEATED)


def _alternating(first: NDArray[Any], second: NDArray[Any]) -> NDArray[Any]:
    return np.asarray(np.stack([first, second], axis=1).reshape(-1, *first.shape[1:]))


def _rows(outputs: Outputs, rows: Any) -> Outputs:
    return {name: value[rows] for name, value in outputs.items()}


def _largest(values: NDArray[Any]) -> float:
    return float(values.max(initial=0.0))


def _described(one: Probe, outputs: Outputs) -> dict[str, Any]:
    """The answer to one image."""
    answered = {name: value[0].tolist() for name, value in outputs.items() if name != "probabilities"}
    largest = -np.sort(-outputs["probabilities"][0])[:3]
    return {"classes": one.classes, "sigma": one.sigma, **answered, "largest_probabilities": largest.tolist()}
