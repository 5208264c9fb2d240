"""Attacks on several batches at a time, each in a process of one thread: on a CPU they do more than threads on one."""

from __future__ import annotations

import multiprocessing
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

import numpy as np
from numpy.typing import NDArray

from heatserve.certification.errors import HeatserveError
from heatserve.certification.radius import Float32Array, Float64Array
from heatserve.export.audit.proven.crafted import Attacker, Found

ImagesToAttack = tuple[Float32Array, NDArray[np.int64], Float64Array]
"""Images [N, C, H, W], their labels [N] and their radii [N]."""


def attack_batches(
    attacker: Attacker, batches: Iterable[ImagesToAttack], count: int
) -> Generator[Iterable[Found], None, None]:
    """What attacks find for each of `count` batches, in their order; to close it ends the processes.

    Raises:
        HeatserveError: a process ended before its batch was attacked: the machine had no memory left, for instance.
    """
    processes = min(attacker.processes, count)
    if processes < 2:
        yield from (attacker.attack(*batch) for batch in batches)
        return
    others = {*multiprocessing.active_children()}
    context = multiprocessing.get_context("spawn")
    try:
        with ProcessPoolExecutor(processes, context, _begin, (attacker,)) as pool:
            try:
                yield from _in_turn(pool, batches, processes)
            except BaseException:  # whoever interrupts does not wait for the batches that are attacked
                for child in {*multiprocessing.active_children()} - others:
                    child.terminate()
                raise
    except BrokenProcessPool:
        raise HeatserveError(
            f"attacks: expected {processes} processes to attack some images each, found that one ended before; is "
            "there memory for as many? OMP_NUM_THREADS says how many"
        ) from None


def _in_turn(pool: ProcessPoolExecutor, batches: Iterable[ImagesToAttack], processes: int) -> Iterator[list[Found]]:
    """No process waits for a batch, and no more results are held than processes."""
    running = deque[Future[list[Found]]]()
    for batch in batches:
        running.append(pool.submit(_attack, *batch))
        if len(running) > processes:
            yield running.popleft().result()
    while running:
        yield running.popleft().result()


_attacker: list[Attacker] = []
"""Of a process: the one that it attacks with."""


def _begin(attacker: Attacker) -> None:
    import torch

    torch.set_num_threads(1)
    _attacker[:] = [attacker]


def _attack(images: Float32Array, labels: NDArray[np.int64], radii: Float64Array) -> list[Found]:
    return [*_attacker[0].attack(images, labels, radii)]
