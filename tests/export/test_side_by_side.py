"""Batches that are attacked in several processes: the same answers, and none that is lost or left behind."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from heatserve.benchmarks.attack.autoattack import AutoAttackL2, Effort
from heatserve.certification.errors import HeatserveError
from heatserve.export.audit.proven.crafted import Found
from heatserve.export.audit.proven.side_by_side import ImagesToAttack, attack_batches

DRAW = np.random.default_rng(0)


@dataclass(frozen=True)
class _Busy:
    """An attack that says in which process it is; on an image of ones it does something else."""

    on_ones: str = ""
    name = "busy"
    batch = 2
    processes = 2

    def attack(
        self, images: NDArray[np.float32], labels: NDArray[np.int64], radii: NDArray[np.float64]
    ) -> Iterator[Found]:
        if images.min() == 1 and self.on_ones == "dies":
            os.kill(os.getpid(), signal.SIGKILL)
        if images.min() == 1 and self.on_ones == "takes long":
            time.sleep(600)
        time.sleep(0.5)  # in which the other process may begin
        yield Found(f"{os.getpid()}, {torch.get_num_threads()}", labels, images * np.float32(radii[0]))

    def raise_radius(self, images: NDArray[np.float32], labels: NDArray[np.int64]) -> NDArray[np.float32]:
        assert len(labels) == len(images)
        return images


def batches(*values: float) -> list[ImagesToAttack]:
    return [(np.full((2, 1, 2, 2), value, np.float32), np.arange(2), np.full(2, 2.0)) for value in values]


def test_batches_come_back_in_order_from_two_processes_of_one_thread() -> None:
    values = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8]
    found = [[*each] for each in attack_batches(_Busy(), batches(*values), len(values))]
    assert [float(one.images[0, 0, 0, 0]) for (one,) in found] == pytest.approx([2 * value for value in values])
    told = {one.attack for (one,) in found}
    assert len(told) == 2
    assert all(each.endswith(", 1") and not each.startswith(f"{os.getpid()},") for each in told)
    assert not multiprocessing.active_children()


def test_one_batch_is_attacked_here() -> None:
    ((one,),) = ([*each] for each in attack_batches(_Busy(), batches(0.5), 1))
    assert one.attack.startswith(f"{os.getpid()},")


def test_autoattack_finds_the_same_in_processes_as_here() -> None:
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 5))
    images = DRAW.random((6, 1, 4, 4), dtype=np.float32)
    labels = network(torch.from_numpy(images)).argmax(1).numpy()
    parts: list[ImagesToAttack] = [(images[rows], labels[rows], np.full(3, 2.0)) for rows in (slice(3), slice(3, 6))]

    def found(processes: int) -> list[list[Found]]:
        attacker = AutoAttackL2(
            network, classes=5, pixels=16, seed=3, effort=Effort(steps=5, targets=2, queries=20), processes=processes
        )
        return [[*each] for each in attack_batches(attacker, parts, 2)]

    here, there = found(1), found(2)
    assert [[one.attack for one in each] for each in here] == [[one.attack for one in each] for each in there]
    assert here[0]
    for one, other in zip(chain(*here), chain(*there), strict=True):
        np.testing.assert_array_equal(one.rows, other.rows)
        np.testing.assert_allclose(one.images, other.images, atol=1e-5)


def test_a_process_that_ends_is_told() -> None:
    def attack() -> Iterable[Iterable[Found]]:
        return attack_batches(_Busy(on_ones="dies"), batches(0.5, 1, 0.5), 3)

    with pytest.raises(HeatserveError, match="expected 2 processes to attack some images each, found that one ended"):
        [*attack()]
    assert not multiprocessing.active_children()


def test_who_interrupts_waits_for_no_batch() -> None:
    begun = time.monotonic()
    attacks = attack_batches(_Busy(on_ones="takes long"), batches(0.5, 0.5, 1, 1), 4)
    next(attacks)
    attacks.close()
    assert time.monotonic() - begun < 60
    assert not multiprocessing.active_children()
