"""What the pages show: numbers taken and computed from the kept results, by the names that the templates use."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import sqrt

from pydantic import TypeAdapter

from heatserve.benchmarks.confirming import CONFIRMED_ALPHAS, CONFIRMED_RADII
from heatserve.benchmarks.pages.kept import KeptResults
from heatserve.benchmarks.records.calibration import CalibrationRecord, PromisedRow, RefusedRow
from heatserve.benchmarks.records.networks import ExportedNetwork
from heatserve.benchmarks.records.record import Record
from heatserve.benchmarks.records.speed import EngineRecord, EngineRow
from heatserve.export.card_parts import CertifiedAccuracy

SHOWN_RADII = (0.0, 0.1, 0.25, 0.5)
"""Columns of the tables of certified accuracy (L2, pixels in [0,1])."""

STEPS = {
    "naive": "Algorithm 1 as printed, v(x) anew for each draw",
    "naive, one v(x)": "the same, v(x) once",
    "heat": "`train heat`",
    "heat, all draws at once": "`train heat --draws-at-once {kappa}`",
    "heat, displacements": "`train heat --estimator displacements`",
    "cross-entropy": "a plain cross-entropy step",
}
"""What the variants of a heat step are, by the names in the results."""

VOTES = {
    "onnxruntime": "bare ONNX Runtime",
    "heatserve": "Certify",
    "heatserve, grid": "Certify, sound sampling",
    "torch loop": "the usual torch loop",
    "art": "ART's votes",
}
"""What the ways to take votes are, by the names in the results."""


def calibration_page(kept: KeptResults) -> dict[str, object]:
    """Every way to calibrate under every promise, and the variants of the committed model."""
    record = kept.calibration
    index = {radius: record.radii.index(radius) for radius in SHOWN_RADII}
    alone = record.promised("conditional", 0.1, "r = 0.25 alone")
    shift = record.promised("conditional", 0.1, "constant shift")
    strict = record.promised("conditional", 0.01, "r = 0.25 alone")
    at = index[0.25]
    only_pass = round((alone.single_pass[at] - alone.backed[at]) * record.test.images)
    only_certify = round((record.certify[at] - alone.backed[at]) * record.test.images)
    difference = (only_pass - only_certify) ** 2 / record.test.images
    return {
        "record": record,
        "radii": SHOWN_RADII,
        "certify": {radius: record.certify[i] for radius, i in index.items()},
        "lines": [_promise_cells(row, record, list(index.values())) for row in record.rows],
        "alone": alone,
        "at": at,
        "shift": shift,
        "strict": strict,
        "only_pass": only_pass,
        "only_certify": only_certify,
        "standard_error": sqrt(only_pass + only_certify - difference) / record.test.images,
        "votes": kept.certify.deciding,
        **_variants(kept),
    }


def _promise_cells(row: PromisedRow | RefusedRow, record: CalibrationRecord, shown: Sequence[int]) -> list[str]:
    start = [row.promise, f"{row.alpha:g}", row.way]
    if isinstance(row, RefusedRow):
        return [*start, *["–"] * len(shown), f"refused: {row.refused}"]
    gaps = [
        f"{100 * (row.single_pass[i] - record.certify[i]):+.1f} ({100 * (row.backed[i] - record.certify[i]):+.1f})"
        if row.single_pass[i]
        else "–"
        for i in shown
    ]
    return [*start, *gaps, f"{row.overclaims} of {row.positive}"]


def _variants(kept: KeptResults) -> dict[str, object]:
    found = {
        "UINT8 input": kept.variant_uint8,
        "INT8, UINT8 input": kept.variant_int8,
        "FP16, on a CPU": kept.variant_fp16,
    }
    committed = next(iter(found.values()))
    rows = [("FP32", 1.0, committed.evaluations[1])]
    rows += [(label, one.milliseconds[1] / one.milliseconds[0], one.evaluations[0]) for label, one in found.items()]
    return {
        "variants": [
            [
                label,
                f"{faster:.2f}",
                f"{100 * evaluation.clean_accuracy:.1f}",
                *_certified_cells(evaluation.certified_accuracy),
                f"{evaluation.calibrated.overclaims} of {evaluation.calibrated.positive}",
            ]
            for label, faster, evaluation in rows
        ],
        "variant_images": committed.evaluations[0].data.images,
        "variants_backed": any(evaluation.certified_accuracy.backed for *_, evaluation in rows),
        "comparisons_made": [TypeAdapter(Record).validate_python(one.provenance) for one in found.values()],
    }


def _certified_cells(found: CertifiedAccuracy) -> list[str]:
    """Certified accuracy of the single pass at `SHOWN_RADII`; in brackets where no overclaim counts, if known."""
    backed = found.backed or [None] * len(found.radii)
    return [
        f"{100 * share:.1f}" + ("" if known is None else f" ({100 * known:.1f})")
        for radius, share, known in zip(found.radii, found.single_pass, backed, strict=True)
        if radius in SHOWN_RADII
    ]


def cost_page(kept: KeptResults) -> dict[str, object]:
    """Latency, engines, votes, training steps and Triton's settings."""
    latency, votes = kept.latency, kept.certify
    training = [kept.training, kept.training_resnet50]
    tune = kept.tune
    best = {way: max(speeds.values()) for way, speeds in votes.speed.passes_per_second.items()}
    return {
        "latency": latency,
        "added": {
            name: 1000 * (found.milliseconds["certified"].p50 - found.milliseconds["plain"].p50)
            for name, found in latency.shapes.items()
        },
        "engines": (engines := kept.export),
        "engine_first": engines.shapes["cifar10-resnet20"][0],
        "engine_lines": list(_engine_cells(engines)),
        "batches": sorted({row.batch for rows in engines.shapes.values() for row in rows}),
        "votes": votes,
        "vote_names": VOTES,
        "sizes": sorted(votes.speed.passes_per_second["heatserve"]),
        "best": best,
        "training": training,
        "steps": STEPS,
        "tune": tune,
        "one_instance": max(
            (t for t in tune.trials if t.setting.instances == 1 and t.meets_target),
            key=lambda trial: trial.load.images_per_second,
        ),
    }


def _engine_cells(engines: EngineRecord) -> Iterator[list[str]]:
    """One line for each classifier, engine and variant: both ratios at each batch size."""
    for name, rows in engines.shapes.items():
        by_variant: dict[tuple[str, str], list[EngineRow]] = {}
        for row in sorted(rows, key=lambda row: row.batch):
            by_variant.setdefault((row.engine, row.variant), []).append(row)
        for (engine, variant), found in by_variant.items():
            slower = [f"{row.certified_to_plain.p50:.3f}" for row in found]
            faster = [f"{row.fp32_to_variant.p50:.2f}" if row.fp32_to_variant else "–" for row in found]
            yield [f"`{name}`", engine, variant, *slower, *faster]


def attack_page(kept: KeptResults) -> dict[str, object]:
    """Both committed models, and their tiers, under the same attacks."""
    records = [kept.attack_digits, kept.attack_cifar10]
    return {
        "records": records,
        "tiers": [record for record in (kept.attack_tiers_digits, kept.attack_tiers_cifar10) if record],
        "searches": [record.spoofing or () for record in records],
        "tested": sum(record.within_proven.tested for record in records),
        "violations": sum(record.within_proven.violations for record in records),
        "changed": sum(record.within_served.changed for record in records),
        "positive": sum(record.within_served.positive for record in records),
    }


def confirm_page(kept: KeptResults) -> dict[str, object]:
    """Every question by the rule that is served, and what each part of the rule saves."""
    record = kept.confirm
    plain, *_, served = record.rules
    return {
        "record": record,
        "served": served,
        "plain": plain,
        "rule": record.rules[served],
        "radii": CONFIRMED_RADII,
        "alphas": CONFIRMED_ALPHAS,
    }


STRICT_ALPHA = 0.01
SPOOFED_WITHIN = (0.25, 1.0)
"""ε of the attacks on single passes that are shown (L2, pixels in [0,1])."""


def kinds_page(kept: KeptResults) -> dict[str, object] | None:
    """What both kinds of certificates keep of the accuracy, and confirm and Certify beside them."""
    if kept.kinds is None:
        return None
    record = kept.calibration
    strict = [
        (row.way, dict(zip(record.radii, row.single_pass, strict=True)))
        for row in record.rows
        if isinstance(row, PromisedRow) and row.promise == "conditional" and row.alpha == STRICT_ALPHA
    ]
    return {
        "record": kept.kinds,
        "lipschitz": kept.lipschitz,
        "strict_alpha": STRICT_ALPHA,
        "strict_model": record.model.name,
        "strict_images": record.test.images,
        "spoofed": {
            record.model: [row for row in record.spoofed if row.epsilon in SPOOFED_WITHIN]
            for record in (kept.attack_tiers_digits, kept.attack_tiers_cifar10)
            if record
        },
        "strict": {way: [shares.get(radius) for radius in kept.kinds.radii] for way, shares in strict},
    }


def conformance_page(kept: KeptResults) -> dict[str, object]:
    """How often each engine kept each promise."""
    record = kept.conformance
    return {"record": record, "promises": list(next(iter(record.engines.values())).promises)}


def shadow_page(kept: KeptResults) -> dict[str, object] | None:
    """Each kind of traffic, and the alarms that it raised."""
    return None if kept.shadow is None else {"record": kept.shadow}


def networks_page(kept: KeptResults) -> dict[str, object] | None:
    """Each network's largest error at each size of batch, and what is said of networks that are refused."""
    record = kept.networks
    if record is None:
        return None
    batches = sorted({batch for found in record.networks.values() for batch in found.errors or ()})
    return {
        "record": record,
        "batches": batches,
        "lines": [_network_cells(name, found, batches) for name, found in record.networks.items()],
        "refused": {name: found.refused for name, found in record.networks.items() if found.refused},
    }


def _network_cells(name: str, found: ExportedNetwork, batches: Sequence[int]) -> list[str]:
    errors = [f"{found.errors[batch]:.1e}" if found.errors else "–" for batch in batches]
    shape = "×".join(map(str, found.input_shape))
    return [
        f"`{name}`",
        shape,
        f"{found.parameters / 1e6:.2f}",
        str(found.nodes or "–"),
        *errors,
        f"{found.rounding:.1e}" if found.rounding else "–",
        f"{found.seconds:.0f}",
        "refused" if found.refused else "yes",
    ]


def fuzz_page(kept: KeptResults) -> dict[str, object] | None:
    """What became of a server under attack."""
    return None if kept.fuzz is None else {"record": kept.fuzz}
