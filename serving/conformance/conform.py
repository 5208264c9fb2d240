"""Does an engine mean what the certificate says? Its answers to probes, compared with float64 numpy."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from heatserve.certification.errors import HeatserveError
from heatserve.certification.guard import Guard, fit_guard
from heatserve.certification.progress import Progress, unseen
from heatserve.certification.radius import RadiusMap
from heatserve.export.contract import Outputs
from heatserve.export.graph.certificate import NOT_CALIBRATED
from heatserve.export.runtime.session import Runner
from heatserve.serving.conformance.cases import (
    around_guard,
    hard_logits,
    nonsense_logits,
    signed_map,
    with_invalid_pixels,
)
from heatserve.serving.conformance.engine import Engine, EngineMissingError, ProbeUnfitError
from heatserve.serving.conformance.findings import Findings
from heatserve.serving.conformance.probe import FP16, FP32, UINT8, Encoding, Probe, pixels_of, probe
from heatserve.serving.conformance.promises import check_contract, check_promises, check_same, deviation, rows_of
from heatserve.serving.conformance.proven import hard_images, proven_logits, proven_probes

CLASSES = (2, 10, 1000)
BATCH = 64
"""Images that an engine is asked about at a time."""
_BY_THEMSELVES = 32  # images of a probe that are asked about one at a time, too


def standard_probes(*, seed: int) -> list[Probe]:
    """For each K: a map in steps of σ/10 as it is served, one with weights of any sign, and none. Then the variants.

    Each variant also comes with a guard. Then those of deterministic certificates.
    """
    probes = []
    for classes in CLASSES:
        signed = signed_map(classes, np.random.default_rng((seed, classes)))
        for sigma, radius_map in ((0.25, _served_map(0.25)), (1.0, signed), (0.1, NOT_CALIBRATED)):
            probes.append(probe(FP32, classes=classes, sigma=sigma, radius_map=radius_map))
    for encoding, guarded in ((UINT8, False), (FP16, False), (FP32, True), (UINT8, True), (FP16, True)):
        guard = _guard(encoding, 10, np.random.default_rng((seed, 0))) if guarded else None
        probes.append(probe(encoding, classes=10, sigma=0.25, radius_map=_served_map(0.25), guard=guard))
    return [*probes, *proven_probes(seed=seed)]


def conform_all(
    engines: Mapping[str, Engine], *, examples: int, seed: int, progress: Progress = unseen
) -> tuple[dict[str, Findings], dict[str, str]]:
    """Examine engines on the standard probes: what was found of each, and why the others could not be run here.

    Args:
        engines: by name.
        examples: hard cases for each probe.
        seed: decides the hard cases.
        progress: is told of the probes of each engine.

    Raises:
        EngineMissingError: none of them can be run here, so that nothing was found.
    """
    findings, absent, probes = dict[str, Findings](), dict[str, str](), standard_probes(seed=seed)
    for name, engine in engines.items():
        try:
            findings[name] = conform(engine, progress(probes, len(probes), name), examples=examples, seed=seed)
        except EngineMissingError as error:
            absent[name] = str(error)
    if not findings:
        raise EngineMissingError("; ".join(f"{name} could not be run here. {why}" for name, why in absent.items()))
    return findings, absent


def conform(engine: Engine, probes: Iterable[Probe], *, examples: int, seed: int) -> Findings:
    """Compare an engine with float64 on each of `probes`, up to the first that it refuses.

    Args:
        engine: what answers.
        probes: the graphs that it answers with.
        examples: hard cases for each of them, beside the invalid ones.
        seed: decides the hard cases.

    Raises:
        EngineMissingError: this machine cannot run the engine.
    """
    findings = Findings()
    for index, one in enumerate(probes):
        try:
            with engine(one) as runner:
                examine(findings, runner, one, examples=examples, rng=np.random.default_rng((seed, index)))
        except EngineMissingError:
            raise
        except ProbeUnfitError as error:
            findings.skipped = str(error)
        except HeatserveError as error:
            findings.ended_by = str(error)
            break
    return findings


def examine(findings: Findings, runner: Runner, one: Probe, *, examples: int, rng: np.random.Generator) -> None:
    """Ask about hard cases, about some of them one at a time, and about invalid images among valid ones.

    Args:
        findings: are told of every answer.
        runner: what answers with the graph of the probe.
        one: the probe.
        examples: hard cases.
        rng: draws them.
    """
    images, broken, decode = _cases(one, examples, rng)
    together = _ask(findings, runner, one, images, decode(images))

    chosen = rng.choice(len(images), min(_BY_THEMSELVES, len(images)), replace=False)
    for row in chosen[:, None]:
        by_itself = _ask(findings, runner, one, images[row], decode(images[row]))
        findings.add(check_same("alone as in a batch", by_itself, rows_of(together, row)), one)

    invalid = with_invalid_pixels(images, one.encoding.invalid)
    bad = np.concatenate([broken, invalid])
    if not len(bad):  # every image is valid, and has logits
        return
    good = np.arange(len(bad)) % len(images)
    unknown = np.full((len(invalid), one.classes), np.nan)
    logits = _alternating(np.concatenate([decode(broken), unknown]), decode(images[good]))
    beside = rows_of(_ask(findings, runner, one, _alternating(bad, images[good]), logits), slice(1, None, 2))
    findings.add(check_same("beside invalid images as without", beside, rows_of(together, good)), one)


def _cases(
    one: Probe, examples: int, rng: np.random.Generator
) -> tuple[NDArray[Any], NDArray[Any], Callable[[NDArray[Any]], NDArray[np.floating[Any]]]]:
    """Hard images; images with which a broken network would answer no numbers; and their logits, as a function."""
    encode, decode = one.encoding.encode, one.encoding.decode
    nonsense = encode(nonsense_logits(one.classes))
    if one.bound:
        images = hard_images(one, count=examples, rng=rng)
        # A logit of −∞, the last of the nonsense, is a number to softmax; no layer that is exported answers it.
        return images, nonsense[:-1] if one.is_encoded else images[:0], partial(proven_logits, one)
    images = encode(hard_logits(one.radius_map, classes=one.classes, count=examples, rng=rng))
    if one.guard and one.encoding.input_type == "FP32":
        images = np.concatenate([images, around_guard(one.guard, images, rng)])
    return images, nonsense, decode


def _ask(
    findings: Findings, runner: Runner, one: Probe, images: NDArray[Any], logits: NDArray[np.floating[Any]]
) -> Outputs:
    """The outputs for all images, asked for in batches; `findings` are told how they compare with `logits`."""
    batches = [images[start : start + BATCH] for start in range(0, len(images), BATCH)]
    parts = [runner(batch) for batch in batches]
    for batch, part in zip(batches, parts, strict=True):
        check_contract(one, len(batch), part)
    outputs = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    for check in check_promises(one, images, logits, outputs):
        findings.add(check, one)
    findings.widen(deviation(one, logits, outputs))
    return outputs


def _served_map(sigma: float) -> RadiusMap:
    """σ·min(Φ⁻¹(p₍₁₎) − 0.4, 3), in steps of σ/10."""
    radii = (np.arange(1, 31) * sigma / 10).astype(np.float32).astype(float)
    return RadiusMap(NOT_CALIBRATED.weights, tuple((0.4 + radii / sigma).tolist()), tuple(radii.tolist()))


def _guard(encoding: Encoding, classes: int, rng: np.random.Generator) -> Guard:
    """A guard that refuses about one in ten of the images of a probe."""
    logits = hard_logits(_served_map(0.25), classes=classes, count=400, rng=rng)
    return fit_guard(pixels_of(encoding.encode(logits)), level=0.1)


def _alternating(first: NDArray[Any], second: NDArray[Any]) -> NDArray[Any]:
    return np.asarray(np.stack([first, second], axis=1).reshape(-1, *first.shape[1:]))
