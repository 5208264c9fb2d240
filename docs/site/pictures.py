"""Draw the pictures of the pages, docs/images/*.svg: `python docs/site/pictures.py [--root DATA]`.

Those of digits take seconds. Those of terminals show what `heatserve predict` prints of the first test image of each
class of CIFAR-10, and are drawn where --root names its folder (`{train,test}/<class>/<image>`).
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import numpy.typing as npt
import onnxruntime

from heatserve import FREE_PORTS, TritonServer
from heatserve.certification import certify
from heatserve.export.repository.layout import open_model
from heatserve.training.data import load_data

ROOT = Path(__file__).parents[2]
IMAGES = ROOT / "docs" / "images"
TERMINALS: dict[str, tuple[str, ...]] = {"predict.svg": (), "confirm.svg": ("--confirm", "0.125")}
"""Pictures of terminals, and the options that they show."""
SIGMA = 0.25
_VOTES = 2000
_POINTS = 61
Array = npt.NDArray[np.float32]


def main() -> None:
    """Draw all pictures that can be drawn here."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", type=Path, help="folder of CIFAR-10, for the pictures of terminals")
    parser.add_argument("--out", type=Path, default=IMAGES)
    options = parser.parse_args()
    matplotlib.use("svg")
    matplotlib.rcParams.update({"svg.hashsalt": "heatserve", "svg.fonttype": "none", "font.family": "sans-serif"})
    first, second = nearest_of_two_classes()
    draw_line(first, second, options.out / "line.svg")
    draw_sizes(first, second, options.out / "sizes.svg")
    if options.root:
        draw_terminals(options.root, options.out)


def nearest_of_two_classes() -> tuple[Array, Array]:
    """A test digit to which the served model gives a large radius, and the nearest one of another class: [1, 8, 8]."""
    images, labels = load_data("digits", "test").arrays()
    served = np.asarray(answers(images)["certified_radius"])
    first = int(np.argsort(-served, kind="stable")[len(images) // 4])
    distances = np.linalg.norm((images - images[first]).reshape(len(images), -1), axis=1)
    second = int(np.argmin(np.where(labels == labels[first], np.inf, distances)))
    return images[first], images[second]


def answers(images: Array) -> dict[str, Any]:
    """What the served graph of `digits` answers to images [N, 1, 8, 8]."""
    session = _session("model.onnx")
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, {"image": images}), strict=True))


def draw_line(first: Array, second: Array, out: Path) -> None:
    """Along the line from one digit to another: the single pass, the votes, and the radii of the first digit."""
    from matplotlib import pyplot

    steps = np.linspace(0, 1, _POINTS, dtype=np.float32)
    line = first + steps[:, None, None, None] * (second - first)
    distance = steps * np.linalg.norm(second - first)
    served, base = answers(line), _session("base.onnx")
    noise = np.random.default_rng(0).normal(scale=SIGMA, size=(_VOTES, *first.shape)).astype(np.float32)
    voted = np.stack([np.argmax(base.run(None, {"image": image + noise})[0], axis=1) for image in line])
    here, there = (int(served["label"].ravel()[at]) for at in (0, -1))
    (proof,) = certify(
        lambda images: base.run(None, {"image": images})[0], first[None], sigma=SIGMA, n0=100, n=10_000, alpha=0.001
    )
    figure, axes = pyplot.subplots(figsize=(7.2, 3.6), layout="constrained")
    axes.plot(distance, served["probabilities"][:, here], label=f"single pass v: probability of {here}", color="C0")
    axes.plot(distance, (voted == here).mean(axis=1), label=f"base f under noise: votes for {here}", color="C1")
    axes.plot(distance, (voted == there).mean(axis=1), "--", label=f"votes for {there}", color="C2")
    radius = float(served["certified_radius"].ravel()[0])
    axes.axvspan(0, radius, alpha=0.25, color="C0", label=f"certified radius of one pass: {radius:.2f}")
    axes.axvline(proof.radius, color="C1", linestyle=":", label=f"proven by 10,000 votes: {proof.radius:.2f}")
    axes.axhline(0.5, color="grey", linewidth=0.5)
    axes.set(xlabel=f"L2 distance from a digit {here}, on the line to a digit {there}", ylabel="probability, votes")
    axes.legend(fontsize="small", loc="center left", framealpha=1)
    _save(figure, out)


def draw_sizes(first: Array, second: Array, out: Path) -> None:
    """What changes of some L2 norms look like, next to the noise of σ."""
    from matplotlib import pyplot

    direction = (second - first) / np.linalg.norm(second - first)
    noisy = first + np.random.default_rng(0).normal(scale=SIGMA, size=first.shape)
    shown = {"the digit": first, **{f"changed by {r:g}": first + r * direction for r in (0.125, 0.25, 0.5, 1)}}
    shown[f"noise of σ = {SIGMA:g}\n(norm {np.linalg.norm(noisy - first):.1f})"] = noisy
    figure, axes = pyplot.subplots(1, len(shown), figsize=(8.4, 1.9), layout="constrained")
    for axis, (title, image) in zip(axes, shown.items(), strict=True):
        axis.imshow(np.clip(image[0], 0, 1), cmap="gray", vmin=0, vmax=1)
        axis.set_title(title, fontsize="small")
        axis.set_axis_off()
    _save(figure, out)


def draw_terminals(root: Path, out: Path) -> None:
    """What `heatserve predict` prints of CIFAR-10, from a server of the committed model."""
    pictures = [str(sorted(folder.iterdir())[0].relative_to(root)) for folder in sorted((root / "test").iterdir())]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "100"}
    with TritonServer(ROOT / "model_repository", models=["cifar10"], endpoints=FREE_PORTS) as server:
        for name, options in TERMINALS.items():
            command = [sys.executable, "-m", "heatserve", "predict", *pictures, "--model", "cifar10", *options]
            subprocess.run(
                [*command, "--url", server.endpoints.grpc_url, "--svg", str(out.resolve() / name)],
                cwd=root,
                env=environment,
                check=True,
            )


def _session(graph: str) -> Any:
    return onnxruntime.InferenceSession(open_model(ROOT / "model_repository", "digits").path / graph)


def _save(figure: Any, out: Path) -> None:
    figure.savefig(out, metadata={"Date": None, "Creator": None}, facecolor="white")


if __name__ == "__main__":
    main()
