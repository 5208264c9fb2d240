"""`python -m heatserve.benchmarks.gpu PART`: the command line, of the standard library, since there is no typer."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import torch

from heatserve.benchmarks.classifiers import CLASSIFIERS
from heatserve.benchmarks.gpu.certify import GPU_BATCH_SIZES, measure_gpu_certify
from heatserve.benchmarks.gpu.heat_step import measure_gpu_steps
from heatserve.benchmarks.gpu.machine import GpuMachine, TimeUp
from heatserve.benchmarks.gpu.speed import measure_gpu_speed
from heatserve.benchmarks.gpu.trainings import (
    GPU_SYSTEMS,
    PAPER_ARCHITECTURE,
    PAPER_EPOCHS,
    GpuRecipe,
    lipschitz_on_gpu,
    train_on_gpu,
)
from heatserve.benchmarks.records.record import Record
from heatserve.certification.errors import HeatserveError
from heatserve.training.loop.optimisation import PRECISIONS
from heatserve.training.loop.trainer import EpochMetrics
from heatserve.training.recipes import LIPSCHITZ

UNFINISHED = 75
"""Exit code where the time was used before all was done: EX_TEMPFAIL, try again."""
INTERRUPTED = 130
"""Exit code where somebody stopped it before."""
_MEASURED = ("cifar10-resnet34", "cifar10-resnet20", "imagenet-resnet50")
_GRACE = 150.0
"""Seconds after `--minutes` in which a cell may end that was begun before: a compiler takes minutes, and keeps what it
has."""
_MOST_MINUTES = 100_000
_SHOWN_EVERY = 10.0
"""Seconds between two lines about a training."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one part. Returns the exit code: 0, 1 after an explained error, 130 where it was stopped, or `UNFINISHED`."""
    asked = _parser().parse_args(arguments)
    part: Callable[[argparse.Namespace, GpuMachine], Record] = asked.part
    ends = time.monotonic() + 60 * asked.minutes
    try:
        machine = GpuMachine(asked.device, ends=ends)
        with machine.stopping(grace=_GRACE):
            record = part(asked, machine)
    except (TimeUp, KeyboardInterrupt):
        if time.monotonic() < ends:  # a signal of somebody's: a loop that asks again until all is done ends, too
            _say("interrupted; the same command goes on")
            return INTERRUPTED
        _say(f"unfinished after {asked.minutes:g} minutes; the same command goes on")
        return UNFINISHED
    except HeatserveError as error:
        _say(str(error))
        return 1
    except OSError as error:
        if error.filename is None:
            raise
        _say(f"{error.filename}: expected to be able to write into {asked.out}, got: {error.strerror}")
        return 1
    _say(f"done: {asked.name} on {record.device_name or record.machine.processor} in {asked.out}/")  # type: ignore[attr-defined]
    return 0


def _speed(asked: argparse.Namespace, machine: GpuMachine) -> Record:
    return measure_gpu_speed(asked.shape, asked.out / "speed.json", machine, rounds=asked.rounds, seed=asked.seed)


def _certify(asked: argparse.Namespace, machine: GpuMachine) -> Record:
    return measure_gpu_certify(
        asked.shape,
        asked.out / "certify.json",
        machine,
        batch_sizes=asked.batch_size,
        passes=asked.passes,
        runs=asked.rounds,
        seed=asked.seed,
    )


def _heat_step(asked: argparse.Namespace, machine: GpuMachine) -> Record:
    return measure_gpu_steps(
        asked.shape, asked.out / "heat-step.json", machine, kappa=asked.kappa, runs=asked.rounds, seed=asked.seed
    )


def _train(asked: argparse.Namespace, machine: GpuMachine) -> Record:
    return train_on_gpu(asked.system, _recipe(asked), machine)


def _lipschitz(asked: argparse.Namespace, machine: GpuMachine) -> Record:
    return lipschitz_on_gpu(_recipe(asked), machine)


def _recipe(asked: argparse.Namespace) -> GpuRecipe:
    torch.backends.cudnn.benchmark = True  # the shapes of a training are few: each is tried once
    return GpuRecipe(
        folder=asked.out,
        root=asked.root,
        architecture=asked.architecture,
        epochs=asked.epochs,
        precision=asked.precision,
        seed=asked.seed,
        progress=_followed,
    )


@contextmanager
def _followed(total: int, done: int) -> Iterator[Callable[[EpochMetrics], None]]:
    """A line on stderr now and then: the steps that are done, and the means of the epoch so far."""
    shown, steps = time.monotonic(), done

    def show(metrics: EpochMetrics) -> None:
        nonlocal shown, steps
        steps += 1
        if time.monotonic() >= shown + _SHOWN_EVERY:
            shown = time.monotonic()
            _say(
                f"step {steps} of {total}, epoch {metrics.epoch}: loss {metrics.loss:.4g}, "
                f"{metrics.images_per_second:,.0f} images a second"
            )

    yield show


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")


def _whole(least: int, most: int = 10**9) -> Callable[[str], int]:
    """Of an option: reads a whole number in these bounds."""

    def read(text: str) -> int:
        number = int(text) if text.isascii() and text.isdecimal() else -1
        if not least <= number <= most:
            raise argparse.ArgumentTypeError(f"expected a whole number from {least} to {most}, got {text!r}")
        return number

    return read


def _minutes(text: str) -> float:
    with suppress(ValueError):
        if 0 <= float(text) <= _MOST_MINUTES:
            return float(text)
    raise argparse.ArgumentTypeError(f"expected minutes from 0 to {_MOST_MINUTES}, got {text!r}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m heatserve.benchmarks.gpu", description=__doc__)
    parts = parser.add_subparsers(required=True, dest="name", metavar="PART")
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--out", type=Path, default=Path("gpu"), help="folder of what comes out (gpu)")
    shared.add_argument("--device", default="cuda", help="cuda, cuda:1, …, or cpu to try the command out")
    shared.add_argument("--minutes", type=_minutes, default=5.0, help="then it stops; the same command goes on (5)")
    shared.add_argument("--seed", type=_whole(0, 2**32 - 1), default=0)
    measuring = argparse.ArgumentParser(add_help=False)
    measuring.add_argument(
        "--shape", nargs="+", choices=list(CLASSIFIERS), default=list(_MEASURED), help=f"({' '.join(_MEASURED)})"
    )
    training = argparse.ArgumentParser(add_help=False)
    training.add_argument("--root", type=Path, required=True, help="folder of CIFAR-10")
    training.add_argument("--precision", choices=PRECISIONS, default="bfloat16")

    def add(name: str, part: object, told: str, *parents: argparse.ArgumentParser) -> argparse.ArgumentParser:
        added = parts.add_parser(name, help=told, description=told, parents=[shared, *parents])
        added.set_defaults(part=part)
        return added

    speed = add("speed", _speed, "Table 2: one pass against n₀ noisy passes", measuring)
    speed.add_argument("--rounds", type=_whole(1), default=30, help="counted blocks each way (30)")
    certify = add("certify", _certify, "samples a second of Certify", measuring)
    certify.add_argument("--rounds", type=_whole(1), default=3, help="runs of each, of which the median counts (3)")
    certify.add_argument("--passes", type=_whole(2), default=10_000, help="n₀ + n (10000)")
    certify.add_argument("--batch-size", type=_whole(1), nargs="+", default=list(GPU_BATCH_SIZES))
    heat_step = add("heat-step", _heat_step, "a heat step beside a cross-entropy step", measuring)
    heat_step.add_argument("--rounds", type=_whole(1), default=10, help="runs of each, of which the median counts (10)")
    heat_step.add_argument("--kappa", type=_whole(1), default=10, help="κ, draws in one step (10)")
    train = add("train", _train, "a row of Table 5, as in Appendix E of the paper, after its baseline", training)
    train.add_argument("system", choices=list(GPU_SYSTEMS))
    train.add_argument("--architecture", default=PAPER_ARCHITECTURE)
    train.add_argument("--epochs", type=_whole(1), default=PAPER_EPOCHS, help="of each time step")
    lipschitz = add("lipschitz", _lipschitz, "a 1-Lipschitz network by the recipe for GPUs", training)
    lipschitz.add_argument("--architecture", default=LIPSCHITZ["gpu"][0])
    lipschitz.add_argument("--epochs", type=_whole(1), default=LIPSCHITZ["gpu"][1].epochs)
    return parser


if __name__ == "__main__":
    sys.exit(main())
