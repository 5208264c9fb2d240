"""What a vote costs: Certify beside its peers on one classifier, interleaved in one run; and how few votes decide.

Ways to take the n₀ + n votes of one image, each at several batch sizes, of which its fastest counts:

- `onnxruntime`: the bare classifier in ONNX Runtime, on images that lie ready, no noise and no votes: the floor.
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
from torch import Tensor, nn

from heatserve.certification.binomial import lower_bound
from heatserve.certification.monte_carlo import ABSTAIN, certify
from heatserve.certification.noise import LEVELS, SOURCES, NoiseSource
from heatserve.certification.sequential import Outcome, decide
from heatserve.certification.voting import Classifier
from heatserve.export.graph.build import logits_graph
from heatserve.export.images import LabelledImages
from heatserve.export.runtime.session import classifier, open_session
from heatserve.training.architectures import build_network

SIGMA, ALPHA = 0.25, 0.001
ARCHITECTURE, SHAPE, CLASSES = "cifar_resnet20", (3, 32, 32), 10
BATCH_SIZES = (128, 512, 1000)
"""The last is what the reference implementation of randomized smoothing proposes."""
PAUSE = 0.05
"""Seconds between ways, in which the threads of the previous one stop spinning for work."""
N0_SHARE = 0.1
"""Share of an image's votes that guess its class."""

Way = Callable[[int], float]
"""Takes the votes of one image at a batch size. Returns the radius, 0 where there is none."""


def measure(*, rounds: int, passes: int, seed: int, on_way: Callable[[], object] = lambda: None) -> dict[str, Any]:
    """Noisy passes per second of each way at each batch size, medians over `rounds`, and their ratios.

    Args:
        rounds: runs of each.
        passes: n₀ + n, votes of one image.
        seed: of the weights, the image and the noise.
        on_way: called after each run of a way.
    """
    ways = _ways(passes, seed)
    seconds = {(name, size): list[float]() for name in ways for size in BATCH_SIZES}
    for _ in range(rounds):
        for (name, size), times in seconds.items():
            time.sleep(PAUSE)
            start = time.perf_counter()
            ways[name](size)
            times.append(time.perf_counter() - start)
            on_way()
    speeds = {
        name: {str(size): passes / float(np.median(seconds[name, size])) for size in BATCH_SIZES} for name in ways
    }
    best = {name: max(by_size.values()) for name, by_size in speeds.items()}
    return {
        "architecture": ARCHITECTURE,
        "weights": "random",
        "rounds": rounds,
        "passes": passes,
        "torch_threads": torch.get_num_threads(),
        "passes_per_second": speeds,
        "ratios": {
            "heatserve / onnxruntime": best["heatserve"] / best["onnxruntime"],
            "heatserve, grid / onnxruntime": best["heatserve, grid"] / best["onnxruntime"],
            "heatserve / torch loop": best["heatserve"] / best["torch loop"],
            "heatserve, grid / torch loop": best["heatserve, grid"] / best["torch loop"],
            "heatserve / art": best["heatserve"] / best["art"],
        },
    }


def runs(rounds: int) -> int:
    """How often `measure` calls `on_way`."""
    return rounds * len(BATCH_SIZES) * 5


def samples_to_decide(
    base: Classifier,
    data: LabelledImages,
    *,
    sigma: float,
    radius: float,
    n0: int,
    n: int,
    certify_n: int,
    seed: int,
    progress: Callable[[Sequence[str]], Any] = lambda samplings: samplings,
) -> dict[str, Any]:
    """Votes that `decide` takes where Certify takes n₀ + n, and the radii that Certify proves; by sampling.

    Args:
        base: the base classifier.
        data: 8-bit images.
        sigma: σ.
        radius: r, the radius to decide.
        n0: n₀ of both.
        n: cap of `decide`.
        certify_n: n of the Certify whose radii are compared.
        seed: of the noise.
        progress: wraps the names of the two samplings.
    """
    return {
        "data": {"dataset": data.dataset, "split": data.split, "images": len(data.images), "seed": data.seed},
        "sigma": sigma,
        "radius": radius,
        "alpha": ALPHA,
        "n0": n0,
        "n": n,
        "certify_n": certify_n,
        "samplings": {
            name: _decided(base, data, SOURCES[name], sigma, radius, n0, n, certify_n, seed)
            for name in progress(tuple(SOURCES))
        },
    }


def _decided(
    base: Classifier,
    data: LabelledImages,
    noise: NoiseSource,
    sigma: float,
    radius: float,
    n0: int,
    n: int,
    certify_n: int,
    seed: int,
) -> dict[str, Any]:
    common: dict[str, Any] = {"sigma": sigma, "n0": n0, "alpha": ALPHA, "seed": seed, "noise": noise}
    start = time.perf_counter()
    decisions = list(decide(base, data.images, radius=radius, n=n, **common))
    decided = time.perf_counter()
    certificates = list(certify(base, data.images, n=certify_n, **common))
    done = time.perf_counter()
    samples = np.array([decision.samples for decision in decisions])
    certified = [c for c in certificates if c.label != ABSTAIN]
    return {
        "decide": {
            **{outcome.value: sum(decision.outcome is outcome for decision in decisions) for outcome in Outcome},
            "mean_samples": float(samples.mean()),
            "median_samples": float(np.median(samples)),
            "times_fewer": (n0 + n) / float(samples.mean()),
            "passes_per_second": float(samples.sum()) / (decided - start),
        },
        "certify": {
            "abstained": len(certificates) - len(certified),
            "mean_radius": float(np.mean([c.radius for c in certificates])),
            "mean_radius_grey_levels": float(np.mean([c.grey_levels for c in certificates])),
            "certified_accuracy": float(
                np.mean([c.label == y and c.radius >= radius for c, y in zip(certificates, data.labels, strict=True)])
            ),
            "passes_per_second": len(certificates) * (n0 + certify_n) / (done - decided),
        },
    }


def _ways(passes: int, seed: int) -> dict[str, Way]:
    network = _random_network(seed)
    session = open_session(logits_graph(network, input_shape=SHAPE).SerializeToString())
    base = classifier(session)
    random = np.random.default_rng(seed)
    image = (random.integers(0, LEVELS + 1, SHAPE) / LEVELS).astype(np.float32)
    ready = random.random((max(BATCH_SIZES), *SHAPE), dtype=np.float32)
    tensor = torch.from_numpy(image)
    n0 = max(1, round(passes * N0_SHARE))
    n = passes - n0

    def bare(batch_size: int) -> float:
        for start in range(0, passes, batch_size):
            base(ready[: min(batch_size, passes - start)])
        return 0.0

    def ours(noise: NoiseSource) -> Way:
        def way(batch_size: int) -> float:
            settings: dict[str, Any] = {"sigma": SIGMA, "n0": n0, "n": n, "alpha": ALPHA, "noise": noise}
            return next(certify(base, image[None], batch_size=batch_size, **settings)).radius

        return way

    toolbox = PyTorchRandomizedSmoothing(
        model=network,
        loss=nn.CrossEntropyLoss(),
        input_shape=SHAPE,
        nb_classes=CLASSES,
        device_type="cpu",
        sample_size=n0,
        scale=SIGMA,
        alpha=ALPHA,
    )
    return {
        "onnxruntime": bare,
        **{name: ours(SOURCES[sampling]) for name, sampling in (("heatserve", "float32"), ("heatserve, grid", "grid"))},
        "torch loop": lambda size: _radius(*(_torch_counts(network, tensor, count, size) for count in (n0, n))),
        "art": lambda size: _radius(*(toolbox._prediction_counts(image, count, size) for count in (n0, n))),
    }


def _radius(first: NDArray[Any], second: NDArray[Any]) -> float:
    p_lower = float(lower_bound(second[first.argmax()], second.sum(), alpha=ALPHA))
    return SIGMA * float(ndtri(p_lower)) if p_lower > 0.5 else 0.0


@torch.no_grad()
def _torch_counts(network: nn.Module, x: Tensor, count: int, batch_size: int) -> NDArray[Any]:
    counts = np.zeros(CLASSES, np.int64)
    for start in range(0, count, batch_size):
        batch = x.repeat((min(batch_size, count - start), 1, 1, 1))
        votes = network(batch + torch.randn_like(batch) * SIGMA).argmax(1)
        counts += np.bincount(votes.numpy(), minlength=CLASSES)
    return counts


def _random_network(seed: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = build_network(
            ARCHITECTURE, num_classes=CLASSES, input_shape=SHAPE, mean=(0.5,) * SHAPE[0], std=(0.25,) * SHAPE[0]
        )
    return network.eval()
