"""Searches for images that break a class or a radius: gradients of the very files that are served.

What a search finds is a candidate. What it is worth, the running server says: `app` asks it.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from heatserve.certification.errors import HeatserveError
from heatserve.export.tiers import TierModel
from heatserve.playground.refusals import Refused
from heatserve.playground.server import Offered
from heatserve.playground.wire import Image
from heatserve.playground.working import Emit

if TYPE_CHECKING:
    from torch import Tensor, nn

    from heatserve.benchmarks.attack.spoofing import Victim
    from heatserve.certification.confirming import Confirmation
    from heatserve.export.contract import Outputs

STEPS = 40
"""Of one ascent."""
STARTS = 2
"""Ascents: from the image, and from a random point near it."""
TRUTH_VOTES, TRUTH_ALPHA = 10_000, 1e-6
"""Most votes that judge a radius which confirm leaves open, and the probability that they judge wrongly."""
INSIDE = 1 - 1e-6
"""Share of the distance that is allowed which a search uses, so that rounding does not bring it outside."""

_TOLERANCES = {"probabilities": 1e-4, "nominal_radius": 1e-3, "certified_radius": 1e-2}
"""Between the files and the server, which may round otherwise: a radius may fall to another side of its step."""
_NEEDED = ("torch", "onnx", "onnxruntime")


@dataclass(frozen=True)
class Attacked:
    """A model opened for gradients."""

    network: nn.Module
    """From images [N, C, H, W] to logits [N, K] of the class that is served."""
    victim: Victim | None
    """Of a statistical certificate: what `spoof` climbs."""
    serve: Callable[[NDArray[np.float32]], Outputs]
    """What the files answer to images."""

    def check(self, image: Image, served: Mapping[str, Any]) -> None:
        """Compare the files with what the server answers to an image, of which `served` is the record.

        Raises:
            Refused: the server serves other files.
        """
        found = self.serve(image[None])
        off = {name: np.abs(found[name][0] - np.asarray(served[name])).max() for name in _TOLERANCES}
        if not all(off[name] <= most for name, most in _TOLERANCES.items()):
            raise Refused(
                422,
                "The files in the playground's model repository answer otherwise than the server, so that an attack "
                "on them says nothing about it: start the playground with --repository FOLDER, that of this server.",
            )


@dataclass(frozen=True)
class Step:
    """Where an attack is."""

    number: int
    of: int
    label: int
    """The class there, as torch has it."""
    margin: float
    """Logit of the class that is attacked, above the largest other one: below 0, it is another class."""
    image: Image


def attack_missing(repository: Path, model: Offered) -> str | None:
    """Why this model cannot be attacked from here, and what to do; None: it can."""
    lacking = [name for name in _NEEDED if find_spec(name) is None]
    if lacking:
        return (
            f"An attack follows gradients, and needs {', '.join(lacking)} where this page runs: "
            "pip install 'heatserve[train]'."
        )
    if not (repository / model.name).is_dir():
        return (
            "An attack follows gradients, and needs the files of the model, which are not in the playground's model "
            "repository: start it with --repository FOLDER."
        )
    if model.spec.input_type != "FP32" or -1 in model.spec.input_shape:
        return (
            "An attack moves pixels little by little, and this model takes pictures of 8 bits or of any size: choose "
            "the model that it is a variant of."
        )
    return None


def spoof_missing(repository: Path, model: Offered) -> str | None:
    """Why no certificate of this model can be spoofed from here; None: it can be tried."""
    if model.spec.certificate_kind == "deterministic":
        return "There is nothing to spoof here: each radius of this model is proven, whoever made the picture."
    if TierModel.CONFIRM not in model.tiers:
        return "The server does not offer the tier confirm of this model, which would refuse what was spoofed."
    return attack_missing(repository, model)


class Attacks:
    """The models of a repository, opened for gradients when they are first attacked."""

    def __init__(self, repository: Path) -> None:
        """Describe them."""
        self._repository = repository
        self._opened = dict[str, tuple[Offered, Attacked]]()
        self._opening = threading.Lock()  # ONNX Runtime is not to be started in two threads

    def opened(self, model: Offered, image: Image) -> Attacked:
        """A model for gradients.

        Args:
            model: as the server offers it.
            image: any that it takes; torch must answer it as ONNX Runtime does.

        Raises:
            Refused: its files cannot be opened; the terminal says more.
        """
        if sentence := attack_missing(self._repository, model):
            raise Refused(422, sentence)
        with self._opening:
            described, opened = self._opened.get(model.name, (None, None))
            if opened is None or described is not model:  # it has been another version, or of another server
                opened = self._open(model, image)
                self._opened[model.name] = model, opened
        return opened

    def _open(self, model: Offered, image: Image) -> Attacked:
        try:
            return _open(self._repository, model.name, image)
        except (HeatserveError, OSError) as error:
            sys.stderr.write(f"playground: {model.name}: {error}\n")
            raise Refused(
                422, "The files of this model cannot be attacked; the terminal of the playground says why."
            ) from None


def _open(repository: Path, name: str, image: Image) -> Attacked:
    from heatserve.benchmarks.attack.proven_network import ProvenNetwork
    from heatserve.benchmarks.attack.target import open_target
    from heatserve.export.audit.proven.reading import read_graph
    from heatserve.export.card import GRAPH_NAME
    from heatserve.export.images import LabelledImages
    from heatserve.export.repository.pins import open_pinned
    from heatserve.export.runtime.served import open_served

    version = open_pinned(repository, name)
    if version.card.is_deterministic:
        network = ProvenNetwork(read_graph((version.path / GRAPH_NAME).read_bytes()).network)
        return Attacked(network.eval(), None, open_served(version))
    data = LabelledImages(image[None], np.zeros(1, np.int64), dataset="playground", split="test", seed=0)
    target = open_target(version, data, seed=0)
    return Attacked(target.single_pass, target.victim, target.serve)


def descend(network: nn.Module, image: Image, label: int, *, epsilon: float) -> Iterator[Step]:
    """Projected gradient descent on the margin of a class within L2 distance ε, step by step (Madry et al. 2018).

    Args:
        network: logits of images.
        image: where it starts.
        label: the class that is attacked.
        epsilon: ε, pixels in [0,1].
    """
    import torch

    from heatserve.benchmarks.attack.spoofing import project

    _take_one_core()
    x, reach = torch.from_numpy(image[None]), epsilon * INSIDE
    for start in range(STARTS):
        point = x if start == 0 else project(x + reach * _unit(torch.randn_like(x)), x, reach)
        for step in range(STEPS):
            leaf = point.detach().requires_grad_()
            logits = network(leaf)[0]
            others = logits.masked_fill(torch.arange(len(logits)) == label, -torch.inf)
            margin = logits[label] - others.max()
            found = leaf.detach().numpy()[0].copy()
            yield Step(start * STEPS + step + 1, STARTS * STEPS, int(logits.argmax()), margin.item(), found)
            (gradient,) = torch.autograd.grad(margin, leaf)
            point = project(leaf - 2.5 * reach / STEPS * _unit(gradient), x, reach)


def spoofed(victim: Victim, image: Image, *, epsilon: float, emit: Emit) -> Image:
    """What a search finds within ε whose served radius is farthest above what can be proven (`spoofing.spoof`).

    Args:
        victim: see `Victim`.
        image: where it starts.
        epsilon: ε, L2.
        emit: gets an event at each step.
    """
    import torch

    from heatserve.benchmarks.attack.settings import Search
    from heatserve.benchmarks.attack.spoofing import spoof

    _take_one_core()
    search = Search(steps=25, samples=16, targets=3)
    steps, of = 0, search.targets * (search.steps + 1)

    def admit(point: Tensor, x: Tensor, reach: float) -> Tensor:  # noqa: ARG001
        nonlocal steps
        steps += 1
        emit({"number": steps, "of": of, "epsilon": epsilon})
        return point

    generator = torch.Generator()
    generator.seed()
    found = spoof(
        victim,
        torch.from_numpy(image[None]),
        epsilon=epsilon * INSIDE,
        generator=generator,
        search=search,
        admit=admit,
    )
    result: Image = found.numpy()[0]
    return result


def judged(victim: Victim, image: Image, *, label: int, radius: float, emit: Emit) -> Confirmation:
    """Whether a class has a radius at an image: a test of both answers on votes of the files, which is not given up.

    Confirm on the server gives up where a proof would cost too much, and that refutes nothing.

    Args:
        victim: whose base network votes.
        image: x, [C, H, W].
        label: the class.
        radius: r, L2.
        emit: gets an event at each batch.

    Returns:
        DISPROVEN or PROVEN, each wrong with probability at most `TRUTH_ALPHA`, or VOTES: `TRUTH_VOTES` do not tell.
    """
    import torch

    from heatserve.certification.confirming import PLAIN, confirmation, threshold
    from heatserve.certification.monte_carlo import alpha_left
    from heatserve.certification.noise import FLOAT32, GRID, NoiseSource
    from heatserve.certification.polls import STEP, results_in_order

    _take_one_core()
    noise: NoiseSource = GRID if GRID.suits(image) else FLOAT32
    left = alpha_left(TRUTH_ALPHA, shape=image.shape, votes=TRUTH_VOTES, sigma=victim.sigma, noise=noise)
    p = threshold(radius, sigma=victim.sigma)
    test = confirmation(label=label, p=p, n=TRUTH_VOTES, alpha=left, rule=PLAIN)

    def votes(copies: NDArray[np.float32]) -> NDArray[np.float32]:
        emit({})
        with torch.no_grad():
            logits: NDArray[np.float32] = victim.base(torch.from_numpy(copies)).numpy()
        return logits

    fill = noise.copies(image, sigma=victim.sigma, entropy=np.random.SeedSequence())
    return next(iter(results_in_order(votes, [(fill, test)], shape=image.shape, batch_size=STEP)))


def _take_one_core() -> None:
    """Have torch compute in the thread that calls it: the server, on the same machine, needs the others.

    On two cores with other work, threads that wait for each other took 11 to 21 s for the steps of one attack on a
    network of 8×8 images, and one thread 1 s.
    """
    import torch

    torch.set_num_threads(1)


def _unit(direction: Tensor) -> Tensor:
    found: Tensor = direction / direction.flatten(1).norm(dim=1).clamp_min(1e-12).view(-1, 1, 1, 1)
    return found
