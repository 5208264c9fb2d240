"""Trying a version before it is switched to: a Triton of its own serves it, and its answers are compared.

It runs in a process of its own at a lower priority, so that a version that crashes, hangs or takes all memory meets
neither the server nor its callers, who cannot reach it. What it serves is started as the server would be started on it.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import closing, redirect_stdout, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from heatserve.certification.errors import HeatserveError
from heatserve.export.contract import INVALID_LABEL, Outputs
from heatserve.export.repository.layout import ModelVersion, open_model
from heatserve.export.repository.tiers import served_tiers
from heatserve.export.runtime.served import open_served
from heatserve.export.tiers import TierModel
from heatserve.serving.client.client import Client
from heatserve.serving.client.connection import Connection
from heatserve.serving.errors import CrashedError, ServingError, UnavailableError
from heatserve.serving.pixels import Pixels
from heatserve.serving.switching.comparing import disagreement, trial_images
from heatserve.serving.triton import guarded_exec
from heatserve.serving.triton.endpoints import FREE_PORTS
from heatserve.serving.triton.server import TritonServer
from heatserve.serving.triton.watch import question_of, tier_questions

TRIAL_SECONDS = 300.0
"""A version that is not tried within this time stays out."""
_NICE = 5  # a quarter of the share of a core that the server gets
_TRIAL = """\
import sys

sys.path[:] = {path!a}

from heatserve.serving.switching.trial import main

main(sys.argv[1:])
"""
_VOTES, _VOTES_SECONDS = 100, 60.0
_TIMES = 3
_FAILED = 3  # the exit code of a trial that found a fault and says which


@dataclass(frozen=True)
class Trial:
    """What a trial found that a version passed."""

    images: int
    """On which Triton answers as the graph does."""
    same_class: int
    """Images of these that the version which is served answers with the same class."""
    tiers: int
    """Tiers that answer."""


def try_version(model: ModelVersion, served: ModelVersion, *, kept: Path) -> Trial:
    """Try a version in a process of its own.

    Args:
        model: as `open_model` verified it.
        served: what is served under its name now.
        kept: the model's folder, in which images may be kept (`heatserve.serving.switching.comparing`).

    Raises:
        ServingError: it does not start, or it answers otherwise than its graph; says what was expected and found.
    """
    path = [os.path.abspath(entry) for entry in sys.path if os.path.exists(entry or os.curdir)]
    arguments = [*map(str, (model.path.resolve(), served.path.resolve(), kept.resolve()))]
    guard = [sys.executable, "-IS", guarded_exec.__file__, str(os.getpid()), str(int(signal.SIGTERM)), "0"]
    process = subprocess.Popen(
        [*guard, sys.executable, "-I", "-c", _TRIAL.format(path=path), *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        said, errors = process.communicate(timeout=TRIAL_SECONDS)
    except subprocess.TimeoutExpired:
        raise ServingError(
            f"{_named(model)}: expected a trial within {TRIAL_SECONDS:g} s, found that it goes on"
        ) from None
    finally:
        _end(process)
    if process.returncode == 0:
        return Trial(**json.loads(said))
    last = errors.decode(errors="replace").strip().rpartition("\n")[2]
    why = said.decode(errors="replace").strip() if process.returncode == _FAILED else f"the trial ended: {last}"
    raise ServingError(why)


def main(arguments: list[str]) -> None:
    """Try a version; says what it found on standard output, as JSON, or why it failed, and exits with 3."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    os.nice(_NICE)
    version_dir, served_dir, kept = map(Path, arguments)
    with redirect_stdout(sys.stderr):
        try:
            found = json.dumps(asdict(_tried_again(_open(version_dir), _open(served_dir), kept=kept)))
            code = 0
        except HeatserveError as error:
            found, code = str(error), _FAILED
    sys.stdout.write(found)
    sys.stdout.flush()
    sys.exit(code)


def _tried_again(model: ModelVersion, served: ModelVersion, *, kept: Path) -> Trial:
    """Try, and try again where Triton crashed or went away, as it does at times on a busy machine."""
    for _ in range(_TIMES - 1):
        with suppress(CrashedError, UnavailableError):
            return tried(model, served, kept=kept)
    return tried(model, served, kept=kept)


def tried(model: ModelVersion, served: ModelVersion, *, kept: Path) -> Trial:
    """Serve a version by a Triton of its own and compare its answers with those of its graph; see `try_version`.

    Raises:
        HeatserveError: it cannot be served, or answers otherwise; says what was expected and found.
    """
    name, graph, before = model.name, open_served(model), open_served(served)
    question = question_of(model, model.path.parent)
    images = list(trial_images(kept, model.card, question.image))
    expected = [graph(image) for image in images]
    repository, versions = model.path.parents[1], {name: model.version}
    with TritonServer(repository, models=[name], versions=versions, endpoints=FREE_PORTS) as server:
        kinds = list(served_tiers(model))
        with closing(Connection(server.endpoints.grpc_url, timeout=_VOTES_SECONDS)) as connection:
            for number, (image, wanted) in enumerate(zip(images, expected, strict=True)):
                found = connection.infer(name, image, classes=question.classes)
                if problem := disagreement(model.card, wanted, found):
                    raise ServingError(f"{_named(model)}: image {number} of its trial: {problem}")
            _check_refusal(connection, model, images[0])
            for tier in tier_questions(question, kinds):
                tier.ask(connection)
        if TierModel.CONFIRM in kinds:
            _check_votes(server, model, question.image)
    same = sum(_label(before(image)) == _label(wanted) for image, wanted in zip(images, expected, strict=True))
    return Trial(images=len(images), same_class=same, tiers=len(kinds))


def _open(version_dir: Path) -> ModelVersion:
    return open_model(version_dir.parents[1], version_dir.parent.name, version=int(version_dir.name))


def _check_refusal(connection: Connection, model: ModelVersion, image: Pixels) -> None:
    """An image that is invalid must not get a class."""
    if image.dtype == np.uint8:  # every value is valid
        return
    invalid = image.copy()
    invalid.flat[0] = np.nan
    try:
        found = connection.infer(model.name, invalid, classes=len(model.card.class_names))
    except ServingError as error:
        if "image: expected" in str(error):
            return
        raise
    if found["label"][0] != INVALID_LABEL or found["certified_radius"][0] != 0:
        raise ServingError(
            f"{_named(model)}: expected that an image with a NaN is refused, got label {found['label'][0]} and "
            f"certified radius {found['certified_radius'][0]:g}"
        )


def _check_votes(server: TritonServer, model: ModelVersion, image: Pixels) -> None:
    """One confirmation with real votes: the process that votes answers."""
    with Client(server.endpoints.grpc_url, model=model.name, timeout=_VOTES_SECONDS) as client:
        client.confirm(image, radius=model.card.sigma / 100, n=_VOTES)


def _label(outputs: Outputs) -> int:
    return int(outputs["label"][0])


def _named(model: ModelVersion) -> str:
    return f"{model.name} version {model.version}"


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a trial that still runs, with its Triton, which goes with it."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
