"""AutoAttack (L2, its standard version) within a radius of its own for each image.

Its four attacks are those of pyautoattack, the authors' code: APGD on the cross entropy, targeted APGD on the
difference of logits ratio (DLR), targeted FAB, and Square with 5,000 queries. Its own driver takes one ε for all; here
each attack is given one for each image, [N, 1, 1, 1], which their arithmetic spreads. As in the standard version, an
image for which an attack succeeded is not attacked further.

Reference: Croce and Hein, "Reliable evaluation of adversarial robustness with an ensemble of diverse parameter-free
attacks", ICML 2020.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pyautoattack.autopgd_base import APGDAttack, APGDAttack_targeted
from pyautoattack.fab_pt import FABAttack_PT
from pyautoattack.square import SquareAttack
from torch import Tensor, nn

from heatserve.benchmarks.attack.proven_network import ProvenNetwork
from heatserve.certification.radius import Float32Array, Float64Array
from heatserve.export.audit.proven.crafted import Found
from heatserve.export.audit.proven.pieces import ReadNetwork

_LOGGER = logging.getLogger(__name__)
_RAISE_STEPS, _RAISE_BY = 60, 0.1  # of ‖x‖₂ √d


@dataclass(frozen=True)
class Effort:
    """How hard to try; the defaults are those of the standard version."""

    steps: int = 100
    """Of APGD and FAB, for each target."""
    targets: int = 9
    """Classes that the targeted attacks aim at, at most."""
    queries: int = 5000
    """Of Square."""


class AutoAttackL2:
    """The attacks on one network; see `crafted.Attacker`."""

    def __init__(
        self,
        network: nn.Module,
        *,
        classes: int,
        pixels: int,
        seed: int,
        effort: Effort | None = None,
        processes: int = 1,
    ) -> None:
        """Attack a network from images [N, C, H, W], of so many numbers each, to logits; on a GPU if there is one.

        On a CPU, as many `processes` attack a batch each; a program that asks for more than one has a main guard.
        """
        self.effort = effort or Effort()
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        self._network = network.to(self._device).eval().requires_grad_(False)
        self._targets = min(self.effort.targets, classes - 1)
        self._pixels = pixels
        self._seed = seed
        self._processes = processes

    @classmethod
    def on(cls, network: ReadNetwork, *, seed: int, effort: Effort | None = None, processes: int = 1) -> AutoAttackL2:
        """Attack the network of an audit."""
        classes, pixels = len(network.logits), len(network.centred.places)
        attacked = ProvenNetwork(network)
        return cls(attacked, classes=classes, pixels=pixels, seed=seed, effort=effort, processes=processes)

    @property
    def name(self) -> str:
        """See `crafted.Attacker.name`."""
        effort = self.effort
        kind = "standard version" if effort == Effort() else "shortened"
        return (
            f"AutoAttack L2, {kind} (pyautoattack {version('pyautoattack')}): APGD-CE, APGD-T and FAB-T with "
            f"{effort.steps} steps and {self._targets} targets, Square with {effort.queries} queries"
        )

    @property
    def batch(self) -> int:
        """See `crafted.Attacker.batch`: as many as make good use of a GPU, or as a core attacks in ten minutes."""
        return 512 if self._device == "cuda" else max(16, min(256, 3 * 2**16 // self._pixels))

    @property
    def processes(self) -> int:
        """See `crafted.Attacker.processes`."""
        return 1 if self._device == "cuda" else self._processes

    def attack(self, images: Float32Array, labels: NDArray[np.int64], radii: Float64Array) -> Iterator[Found]:
        """See `crafted.Attacker.attack`."""
        x, y = torch.from_numpy(images).to(self._device), torch.from_numpy(labels).to(self._device)
        epsilon = torch.from_numpy(radii.astype(np.float32)).to(self._device).view(-1, 1, 1, 1)
        left = np.flatnonzero((self._classes(x) == y).cpu().numpy())  # of others float32 decides otherwise anyway
        if len(left) < len(images):
            others = np.setdiff1d(np.arange(len(images)), left)
            yield Found("none", others, images[others])
        for attack in (self._apgd, self._targeted_apgd, self._fab, self._square):
            fooled: set[int] = set()
            for name, rows, found in attack(x[left], y[left], epsilon[left]):
                yield Found(name, left[rows], found.detach().cpu().numpy())
                distance = (found - x[left[rows]]).flatten(1).norm(dim=1)
                other = (self._classes(found) != y[left[rows]]) & (distance <= epsilon[left[rows]].view(-1))
                fooled |= {*left[rows][other.cpu().numpy()].tolist()}
            left = np.array([row for row in left if row not in fooled], np.int64)
            if not len(left):
                return

    def raise_radius(self, images: Float32Array, labels: NDArray[np.int64]) -> Float32Array:
        """See `crafted.Attacker.raise_radius`: steepest ascent of the margin in steps of one length."""
        x, y = torch.from_numpy(images).to(self._device), torch.from_numpy(labels).to(self._device)
        best, most = x.clone(), torch.full((len(x),), -torch.inf, device=self._device)
        for _ in range(_RAISE_STEPS):
            x = x.detach().requires_grad_()
            margin = self._margin(x, y)
            (gradient,) = torch.autograd.grad(margin.sum(), x)
            better = margin.detach() > most
            best, most = torch.where(better.view(-1, 1, 1, 1), x.detach(), best), torch.maximum(most, margin.detach())
            length = gradient.flatten(1).norm(dim=1).clamp(min=1e-12).view(-1, 1, 1, 1)
            x = (x.detach() + _RAISE_BY * gradient / length).clamp(0, 1)
        return np.asarray(best.cpu().numpy(), np.float32)

    def _classes(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            classes: Tensor = self._network(x).argmax(1)
        return classes

    def _margin(self, x: Tensor, y: Tensor) -> Tensor:
        logits = self._network(x)
        own = logits.gather(1, y[:, None])[:, 0]
        margin: Tensor = own - logits.scatter(1, y[:, None], -torch.inf).amax(1)
        return margin

    def _apgd(self, x: Tensor, y: Tensor, epsilon: Tensor) -> Iterator[tuple[str, NDArray[np.int64], Tensor]]:
        settings: dict[str, Any] = {"n_iter": self.effort.steps, "norm": "L2", "seed": self._seed, "logger": _LOGGER}
        attack = APGDAttack(self._network, eps=epsilon, device=self._device, **settings)
        torch.manual_seed(self._seed)
        yield from _single_run("APGD-CE", attack, x, y)

    def _targeted_apgd(self, x: Tensor, y: Tensor, epsilon: Tensor) -> Iterator[tuple[str, NDArray[np.int64], Tensor]]:
        order = self._ranked(x)
        if order.shape[1] < 4:  # the loss compares with the fourth-best class
            return
        settings: dict[str, Any] = {"n_iter": self.effort.steps, "norm": "L2", "seed": self._seed, "logger": _LOGGER}
        attack = APGDAttack_targeted(self._network, eps=epsilon, device=self._device, **settings)
        torch.manual_seed(self._seed)
        for target in range(1, self._targets + 1):
            attack.y_target = order[:, target]
            yield from _single_run("APGD-T", attack, x, y)

    def _fab(self, x: Tensor, y: Tensor, epsilon: Tensor) -> Iterator[tuple[str, NDArray[np.int64], Tensor]]:
        """FAB looks for the nearest image of another class; ε is for random starts, of which it has none."""
        settings: dict[str, Any] = {"n_iter": self.effort.steps, "norm": "L2", "targeted": True}
        attack = FABAttack_PT(self._network, eps=epsilon, device=self._device, **settings)
        torch.manual_seed(self._seed)
        for target in range(1, self._targets + 1):
            attack.target_class = target + 1
            found = attack.attack_single_run(x, y, is_targeted=True)
            yield "FAB-T", np.arange(len(x)), found

    def _square(self, x: Tensor, y: Tensor, epsilon: Tensor) -> Iterator[tuple[str, NDArray[np.int64], Tensor]]:
        """Until it succeeds for one of the images, which is then left out: it drops such rows, but not their ε."""
        rows = np.arange(len(x))
        while len(rows):
            watched = _Watched(self._network, y[rows])
            attack = SquareAttack(
                watched,
                norm="L2",
                n_queries=self.effort.queries,
                eps=epsilon[rows],
                resc_schedule=False,
                device=self._device,
            )
            attack.init_hyperparam(x[rows])
            torch.manual_seed(self._seed)
            try:
                _, found = attack.attack_single_run(x[rows], y[rows])
            except _SucceededError as success:
                won = success.rows.cpu().numpy()
                yield "Square", rows[won], success.images[success.rows]
                rows = rows[~won]
            else:
                yield "Square", rows, found
                return

    def _ranked(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            order: Tensor = self._network(x).argsort(1, descending=True)
        return order


def _single_run(name: str, attack: Any, x: Tensor, y: Tensor) -> Iterator[tuple[str, NDArray[np.int64], Tensor]]:
    """Where APGD's loss was largest, and the last point that was of another class."""
    attack.init_hyperparam(x)
    highest, _, _, other = attack.attack_single_run(x, y)
    yield name, np.arange(len(x)), highest
    yield name, np.arange(len(x)), other


class _SucceededError(Exception):
    """Square found images of another class."""

    def __init__(self, rows: Tensor, images: Tensor) -> None:
        super().__init__()
        self.rows, self.images = rows, images


class _Watched:
    """A network that tells when an image gets another class than its own."""

    def __init__(self, network: nn.Module, labels: Tensor) -> None:
        self._network, self._labels = network, labels

    def __call__(self, x: Tensor) -> Tensor:
        logits: Tensor = self._network(x)
        rows = torch.arange(len(x), device=x.device)
        others = logits.clone()
        others[rows, self._labels] = -torch.inf
        won = logits[rows, self._labels] <= others.amax(1)
        if won.any():
            raise _SucceededError(won, x)
        return logits
