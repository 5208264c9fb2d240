"""What a vote costs, by Certify and its peers, interleaved in one run; and how few votes decide a radius.

These are the ways to take the n₀ + n votes of one image, each at several batch sizes, of which its fastest counts.

- `onnxruntime`: the bare classifier in ONNX Runtime, on images that are ready in memory; no noise, no votes. No way
  that uses ONNX Runtime can be faster.
- `heatserve` and `heatserve, grid`: `certify` with float32 noise and with sound noise for 8-bit images.
- `torch loop`: what randomized-smoothing code usually does: repeat the image, `randn_like`, classify, count.
- `art`: PyTorchRandomizedSmoothing of the Adversarial Robustness Toolbox: the two counts of votes that its `certify`
  takes, with our bound, since its own imports statsmodels.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from art.estimators.certification.randomized_smoothing import PyTorchRandomizedSmoothing
from numpy.typing import NDArray
from scipy.special import ndtri
from torch import nn

from heatserve.benchmarks.classifiers import BENCHMARK_SIGMA, CLASSIFIERS, seeded_network
from heatserve.benchmarks.records.votes import CertifySummary, DecidedRadius, DecisionSummary, SamplingVotes, VoteSpeed
from heatserve.benchmarks.torch_votes import torch_votes
from heatserve.certification.binomial import lower_bound
from heatserve.certification.monte_carlo import ABSTAIN, Certificate, certify
from heatserve.certification.noise import LEVELS, SOURCES, NoiseSource
from heatserve.certification.outcome import Outcome
from heatserve.certification.progress import Progress, unseen
from heatserve.certification.sequential import Decision, decide
from heatserve.export.card import BASE_NAME
from heatserve.export.graph.build import logits_graph
from heatserve.export.images import LabelledImages
from heatserve.export.repository.layout import ModelVersion
from heatserve.export.runtime.session import classifier, open_session

VOTE_ALPHA = 0.001
"""α: the error probability of a certificate and of a decision."""
VOTE_BATCH_SIZES = (128, 512, 1000)
"""The last is what the reference implementation of randomized smoothing proposes."""
VOTE_PAUSE = 0.05
"""Seconds between ways, in which the threads of the previous one stop spinning for work."""
N0_SHARE = 0.1
"""Share of an image's votes that guess its class."""

VoteWay = Callable[[int], float]
"""Takes the votes of one image at a batch size. Returns the radius, 0 where there is none."""


_RATIOS = (
    ("heatserve", "onnxruntime"),
    ("heatserve, grid", "onnxruntime"),
    ("heatserve", "torch loop"),
    ("heatserve, grid", "torch loop"),
    ("heatserve", "art"),
)
_SHAPE = CLASSIFIERS["cifar10-resnet20"]


def measure_votes(*, rounds: int, passes: int, seed: int, progress: Progress = unseen) -> VoteSpeed:
    """Noisy passes per second of each way at each batch size, medians over `rounds`, and their ratios.

    Args:
        rounds: runs of each.
        passes: n₀ + n, votes of one image.
        seed: decides the weights, the image and the noise.
        progress: shows the runs.
    """
    ways = _ways(passes, seed)
    seconds = {(name, size): list[float]() for name in ways for size in VOTE_BATCH_SIZES}
    runs = [run for _ in range(rounds) for run in seconds]
    for name, size in progress(runs, len(runs), "noisy passes"):
        time.sleep(VOTE_PAUSE)
        start = time.perf_counter()
        ways[name](size)
        seconds[name, size].append(time.perf_counter() - start)
    speeds = {
        name: {size: passes / float(np.median(seconds[name, size])) for size in VOTE_BATCH_SIZES} for name in ways
    }
    best = {name: max(by_size.values()) for name, by_size in speeds.items()}
    return VoteSpeed(
        architecture=_SHAPE.architecture,
        weights="random",
        rounds=rounds,
        passes=passes,
        torch_threads=torch.get_num_threads(),
        passes_per_second=speeds,
        ratios={f"{name} / {other}": best[name] / best[other] for name, other in _RATIOS},
    )


def votes_to_decide(
    model: ModelVersion,
    data: LabelledImages,
    *,
    radius: float,
    n0: int,
    n: int,
    certify_n: int,
    seed: int,
    progress: Progress = unseen,
) -> DecidedRadius:
    """Votes that `decide` takes where Certify takes n₀ + n, and the radii that Certify proves; by sampling.

    Args:
        model: whose base classifier votes.
        data: 8-bit images.
        radius: r, the radius to decide (L2, pixels in [0,1]).
        n0: n₀ of both.
        n: most votes of a decision.
        certify_n: n of the Certify whose radii are compared.
        seed: decides the noise.
        progress: shows the images.
    """
    base = classifier(open_session(model.path / BASE_NAME))
    samplings = {}
    for name, noise in SOURCES.items():
        sigma, images, count = model.card.sigma, data.images, len(data.images)
        deciding = decide(
            base, images, radius=radius, sigma=sigma, n0=n0, n=n, alpha=VOTE_ALPHA, seed=seed, noise=noise
        )
        certifying = certify(base, images, sigma=sigma, n0=n0, n=certify_n, alpha=VOTE_ALPHA, seed=seed, noise=noise)
        start = time.perf_counter()
        decisions = list(progress(deciding, count, f"{name}: decide"))
        decided = time.perf_counter()
        certificates = list(progress(certifying, count, f"{name}: Certify"))
        seconds = (decided - start, time.perf_counter() - decided)
        samplings[name] = SamplingVotes(
            decide=_decisions(decisions, n0 + n, seconds[0]),
            certify=_certificates(certificates, data, radius, n0 + certify_n, seconds[1]),
        )
    return DecidedRadius(
        model=model.name,
        base_sha256=model.card.base_sha256,
        data=data.source(len(data.images)),
        sigma=model.card.sigma,
        radius=radius,
        alpha=VOTE_ALPHA,
        n0=n0,
        n=n,
        certify_n=certify_n,
        samplings=samplings,
    )


def _decisions(decisions: Sequence[Decision], most: int, seconds: float) -> DecisionSummary:
    samples = np.array([decision.samples for decision in decisions])
    return DecisionSummary(
        **{outcome.value: sum(decision.outcome is outcome for decision in decisions) for outcome in Outcome},
        mean_samples=float(samples.mean()),
        median_samples=float(np.median(samples)),
        times_fewer=most / float(samples.mean()),
        passes_per_second=float(samples.sum()) / seconds,
    )


def _certificates(
    certificates: Sequence[Certificate], data: LabelledImages, radius: float, passes: int, seconds: float
) -> CertifySummary:
    right = [c.label == y and c.radius >= radius for c, y in zip(certificates, data.labels, strict=True)]
    return CertifySummary(
        abstained=sum(c.label == ABSTAIN for c in certificates),
        mean_radius=float(np.mean([c.radius for c in certificates])),
        mean_radius_grey_levels=float(np.mean([c.grey_levels for c in certificates])),
        certified_accuracy=float(np.mean(right)),
        passes_per_second=len(certificates) * passes / seconds,
    )


def _ways(passes: int, seed: int) -> dict[str, VoteWay]:
    network = seeded_network(_SHAPE, seed).eval()
    base = classifier(open_session(logits_graph(network, input_shape=_SHAPE.input_shape).SerializeToString()))
    random = np.random.default_rng(seed)
    image = (random.integers(0, LEVELS + 1, _SHAPE.input_shape) / LEVELS).astype(np.float32)
    ready = random.random((max(VOTE_BATCH_SIZES), *_SHAPE.input_shape), dtype=np.float32)
    tensor = torch.from_numpy(image)[None]
    n0 = max(1, round(passes * N0_SHARE))
    n = passes - n0

    def bare(batch_size: int) -> float:
        for start in range(0, passes, batch_size):
            base(ready[: min(batch_size, passes - start)])
        return 0.0

    def ours(noise: NoiseSource) -> VoteWay:
        def way(batch_size: int) -> float:
            proven = certify(
                base,
                image[None],
                sigma=BENCHMARK_SIGMA,
                n0=n0,
                n=n,
                alpha=VOTE_ALPHA,
                noise=noise,
                batch_size=batch_size,
            )
            return next(proven).radius

        return way

    def torch_counts(count: int, batch_size: int) -> NDArray[Any]:
        found: NDArray[Any] = torch_votes(
            network, tensor, count, sigma=BENCHMARK_SIGMA, num_classes=_SHAPE.num_classes, batch_size=batch_size
        ).numpy()
        return found

    toolbox = PyTorchRandomizedSmoothing(
        model=network,
        loss=nn.CrossEntropyLoss(),
        input_shape=_SHAPE.input_shape,
        nb_classes=_SHAPE.num_classes,
        device_type="cpu",
        sample_size=n0,
        scale=BENCHMARK_SIGMA,
        alpha=VOTE_ALPHA,
    )
    return {
        "onnxruntime": bare,
        **{name: ours(SOURCES[sampling]) for name, sampling in (("heatserve", "float32"), ("heatserve, grid", "grid"))},
        "torch loop": lambda size: _radius(*(torch_counts(count, size) for count in (n0, n))),
        "art": lambda size: _radius(*(toolbox._prediction_counts(image, count, size) for count in (n0, n))),
    }


def _radius(first: NDArray[Any], second: NDArray[Any]) -> float:
    p_lower = float(lower_bound(second[first.argmax()], second.sum(), alpha=VOTE_ALPHA))
    return BENCHMARK_SIGMA * float(ndtri(p_lower)) if p_lower > 0.5 else 0.0
