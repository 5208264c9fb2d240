"""The attempts to calibrate, kept so that the confidence on a card counts all of them.

An *attempt* is a test of maps on the images `check` of a calibration. It is a line of `<repository>/<model>/
attempts.jsonl`, written before the test is made, and a second line says how it ended. The attempts of all models of a
repository count together. An attempt *fails* if nothing is published: no map passed, the figures that would stand on
the card reject α (`rejected`), or whoever called it did not accept them.

What is spent. The k-th attempt is tested at a level lₖ: a map whose rate of overclaims is above α passes it with
probability at most lₖ over the draw of its images. An earlier attempt *counts* against a later one if

- one of the images that the later one tests on was used by the earlier one, to fit, to test or for the figures of its
  card, whatever network it was of; or
- it failed, and was of the same network or of another one beside the same base, on whichever images of whichever data
  set: who tries until a test passes must pay for each try, and new images for each try would pass in the end with
  certainty. Precision, input type and σ make no other base, and copies of images are new ones to a machine.

With s the sum of the levels of the earlier ones that count, the later one is tested at l = (δ − s)/2: δ/2, δ/4, … where
all ask for one δ. By the union bound, the probability that any of them passes although its rate is above α is at most
the sum of the levels, hence at most δ, however many there are and whichever of their models is chosen.

What that does not cover: which is chosen of attempts that passed on images of their own; networks, settings or images
of a later attempt that were chosen by what an earlier one found on the images that both test on, other than by whether
it passed (where a first failure leads to a second attempt that was fixed beforehand, the union bound holds); a choice
by figures on test images; images that were used in another repository, or before attempts were recorded; attempts whose
lines somebody removed.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from io import StringIO
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import onnx
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from heatserve.certification.calibration import METHOD, require_images, require_shares
from heatserve.certification.errors import HeatserveError
from heatserve.certification.provenance import now, versions
from heatserve.export.card import GRAPH_NAME, read_verified
from heatserve.export.card_parts import MonteCarlo, OverclaimCount, Split
from heatserve.export.graph.build import with_map
from heatserve.export.graph.certificate import NOT_CALIBRATED
from heatserve.export.repository.layout import ATTEMPTS_NAME, ModelVersion, add_attempts, locked
from heatserve.export.runtime.answers import ModelImages
from heatserve.training.named import parse_named


class AttemptsError(HeatserveError):
    """δ is spent, or a file of attempts is damaged."""


_Open = Annotated[float, Field(gt=0, lt=1)]


class _Line(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    key: str
    """A hash of all that decides the outcome: attempts of one key are one attempt."""
    date: str


class Attempt(_Line):
    """One test of maps on calibration images; digests are `pixel_digest`s."""

    model: str
    network_sha256: str
    """Of the graph without a map: that of a network, calibrated or not."""
    base_sha256: str
    form: Literal["images", "pictures"]
    fit: Split
    check: Split
    test: Split
    """Images that the figures of the card are measured on."""
    alpha: _Open
    delta: _Open
    target: float | None
    monte_carlo: MonteCarlo
    level: _Open
    spent: Annotated[float, Field(ge=0)]
    looks: Annotated[int, Field(ge=1)]
    fit_pixels: tuple[str, ...]
    check_pixels: tuple[str, ...]
    test_pixels: tuple[str, ...]


class AttemptOutcome(_Line):
    """How the attempt of that key ended."""

    passed: bool
    """Whether a version was published. Lines of before say so where a map passed, whatever came after."""
    rejected: OverclaimCount | None = None
    """Overclaims on the test images, where they reject α."""


@dataclass(frozen=True)
class AttemptTerms:
    """What an attempt is tested at, and what the earlier ones that count have spent."""

    level: float
    spent: float
    looks: int
    """Attempts that count, the one to come included."""


@dataclass(frozen=True)
class Attempts:
    """All attempts of a repository, in the order of their files and lines."""

    lines: tuple[Attempt | AttemptOutcome, ...]

    @cached_property
    def recorded(self) -> tuple[Attempt, ...]:
        """The lines that record an attempt; one that was made again has several."""
        return tuple(line for line in self.lines if isinstance(line, Attempt))

    @cached_property
    def made(self) -> dict[str, Attempt]:
        """Each attempt once, by key: the line with the largest level, where copies of a model were apart for a time."""
        found: dict[str, Attempt] = {}
        for line in self.recorded:
            if line.key not in found or line.level > found[line.key].level:
                found[line.key] = line
        return found

    @cached_property
    def passed(self) -> frozenset[str]:
        """Keys of the attempts that passed; one that was interrupted did not, nor one that test images rejected."""
        passed = (line.key for line in self.lines if isinstance(line, AttemptOutcome) and line.passed)
        return frozenset(passed) - self.rejected.keys()

    @cached_property
    def rejected(self) -> dict[str, OverclaimCount]:
        """The attempts of which test images rejected α, by key, and the overclaims on these images."""
        outcomes = (line for line in self.lines if isinstance(line, AttemptOutcome))
        return {line.key: line.rejected for line in outcomes if line.rejected is not None}

    @cached_property
    def pixels(self) -> frozenset[str]:
        """Digests of all images that an attempt used: to fit, to test, or for figures."""
        parts = (part for a in self.recorded for part in (a.fit_pixels, a.check_pixels, a.test_pixels))
        return frozenset(digest for part in parts for digest in part)

    def unused_from(self, dataset: str, split: str, seed: int) -> int:
        """The first index of a permutation after which no attempt has used an image; 0 if none has used any."""
        parts = (part for a in self.recorded for part in (a.fit, a.check, a.test))
        named = (part for part in parts if (part.dataset, part.split, part.seed) == (dataset, split, seed))
        return max((part.end for part in named), default=0)

    def counting(self, asked: Asked) -> list[Attempt]:
        """The earlier attempts that count against one that is to be made."""
        return [a for a in self.made.values() if a.key != asked.key and (_shares(a, asked) or self._retries(a, asked))]

    def _retries(self, earlier: Attempt, asked: Asked) -> bool:
        """Whether an attempt of the same network, or of another form of it, failed: all forms have one base."""
        same = earlier.base_sha256 == asked.base_sha256 or earlier.network_sha256 == asked.network_sha256
        return same and earlier.key not in self.passed


@dataclass(frozen=True)
class Asked:
    """An attempt that is to be made; the fields are those of `Attempt`."""

    key: str
    model: str
    network_sha256: str
    base_sha256: str
    form: Literal["images", "pictures"]
    fit: Split
    check: Split
    test: Split
    alpha: float
    delta: float
    target: float | None
    monte_carlo: MonteCarlo
    level: float | None
    """Asked for; None: half of what is left of δ."""
    fit_pixels: tuple[str, ...]
    check_pixels: tuple[str, ...]
    test_pixels: tuple[str, ...]


def _shares(earlier: Attempt, asked: Asked) -> bool:
    """Whether an image that is tested on was used by an earlier attempt, to fit, to test, or for figures.

    Pictures of any size and images that were brought to one size cannot be compared by pixels, nor can images that the
    options of a data set, such as `resize`, make of the same files: of one split they are taken to be the same.
    """
    if not {*earlier.fit_pixels, *earlier.check_pixels, *earlier.test_pixels}.isdisjoint(asked.check_pixels):
        return True
    return any(
        (earlier.form, used.dataset) != (asked.form, asked.check.dataset)
        and (parse_named(used.dataset).name, used.split) == (parse_named(asked.check.dataset).name, asked.check.split)
        for used in (earlier.fit, earlier.check, earlier.test)
    )


def read_attempts(repository: Path) -> Attempts:
    """All attempts of the models of a repository.

    Raises:
        AttemptsError: a file is damaged; names file and line.
    """
    folders = sorted(repository.iterdir()) if repository.is_dir() else []
    files = [folder / ATTEMPTS_NAME for folder in folders]
    return Attempts(tuple(line for file in files if os.path.lexists(file) for line in _read(file)))


def _read(path: Path) -> Iterable[Attempt | AttemptOutcome]:
    try:
        content = path.read_bytes().decode(errors="replace")
    except OSError as error:
        raise AttemptsError(
            f"{path}: expected the attempts to calibrate a model, got a file that cannot be read ({error.strerror}); "
            "what was spent of δ cannot be known without it"
        ) from None
    keys = set[str]()
    for number, text in enumerate(StringIO(content, newline="\n") if content else [""], start=1):
        try:
            line = _LINE.validate_json(text)
        except ValidationError:
            line = None
        if line is None or not text.endswith("\n") or (isinstance(line, AttemptOutcome) and line.key not in keys):
            raise AttemptsError(
                f"{path}, line {number}: expected the record of an attempt to calibrate, got {text[:60]!r}; restore "
                "the file from a copy: what was spent of δ cannot be known without it"
            )
        keys.add(line.key)
        yield line


_LINE: TypeAdapter[Attempt | AttemptOutcome] = TypeAdapter(Attempt | AttemptOutcome)


def ask(
    model: ModelVersion,
    images: ModelImages,
    test: ModelImages,
    *,
    fit_images: int,
    alpha: float,
    delta: float,
    target: float | None,
    monte_carlo: MonteCarlo,
    level: float | None,
) -> Asked:
    """The attempt to calibrate `model` on `images`, of which the first `fit_images` fit the maps.

    The other arguments are those of `calibrate_model`.
    """
    fit, check = images[:fit_images], images[fit_images:]
    network = network_sha256(read_verified(model.path / GRAPH_NAME, model.card.graph_sha256))
    recipe = {
        "network": network,
        "base": model.card.base_sha256,
        "plan": model.card.plan.model_dump() if model.card.plan else None,
        "accelerator": model.card.accelerator,
        "images": hashlib.sha256(images.images.tobytes()).hexdigest(),
        "first": images.first,
        "fit": fit_images,
        "asked": [alpha, delta, target, level],
        "monte_carlo": monte_carlo.model_dump(),
        "method": METHOD,
        "versions": versions("numpy", "scipy", "onnxruntime"),
    }
    return Asked(
        key=hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()[:16],
        model=model.name,
        network_sha256=network,
        base_sha256=model.card.base_sha256,
        form="images" if isinstance(images.sent, np.ndarray) else "pictures",
        fit=fit.source(len(fit)),
        check=check.source(len(check)),
        test=test.source(len(test)),
        alpha=alpha,
        delta=delta,
        target=target,
        monte_carlo=monte_carlo,
        level=level,
        fit_pixels=fit.pixel_digests,
        check_pixels=check.pixel_digests,
        test_pixels=test.pixel_digests,
    )


def network_sha256(graph: bytes) -> str:
    """Hex SHA-256 of a certified graph without its map, so that each calibration of a network has the same."""
    bare = with_map(onnx.load_from_string(graph), NOT_CALIBRATED)
    return hashlib.sha256(bare.SerializeToString(deterministic=True)).hexdigest()


def terms_of(asked: Asked, attempts: Attempts) -> AttemptTerms:
    """What an attempt is tested at, after `attempts`. One that was made before is no new look: it keeps its terms.

    Raises:
        AttemptsError: nothing is left of δ (says what was spent, and by which models), or test images rejected it.
        CalibrationError: α or δ outside (0, 1), or no count could pass on so few images at what is left.
    """
    require_shares(alpha=asked.alpha, delta=asked.delta)
    if asked.level is not None:
        require_shares(level=asked.level)
    found = attempts.rejected.get(asked.key)
    if found:
        raise AttemptsError(
            f"calibration: expected one that no test images have rejected, got one of which {found.overclaims} of "
            f"{found.positive} positive radii overclaimed; calibrate on other images (--images, --skip, --data), or "
            "with a larger α"
        )
    made = attempts.made.get(asked.key)
    if made:
        return AttemptTerms(made.level, made.spent, made.looks)
    counting = attempts.counting(asked)
    spent = sum(earlier.level for earlier in counting)
    level = (asked.delta - spent) / 2 if asked.level is None else asked.level
    if level <= 0:
        raise AttemptsError(
            f"delta: expected more than the {spent:g} that earlier attempts have spent ({len(counting)}, of "
            f"{', '.join(sorted({earlier.model for earlier in counting}))}), got {asked.delta:g}; calibrate on images "
            "that no attempt has used (--skip, --data), another base where this one failed, or with a larger δ"
        )
    require_images(asked.check.images, alpha=asked.alpha, delta=level)
    return AttemptTerms(level, spent, len(counting) + 1)


def record_attempt(repository: Path, asked: Asked) -> AttemptTerms:
    """Write down an attempt that is about to be made, which spends its level, and give its terms; see `terms_of`."""
    with locked(repository):
        terms = terms_of(asked, read_attempts(repository))
        attempt = Attempt(**{**vars(asked), **vars(terms)}, date=now())
        add_attempts(repository, asked.model, [attempt.model_dump_json()])
    return terms


def record_outcome(repository: Path, asked: Asked, *, passed: bool, rejected: OverclaimCount | None = None) -> None:
    """Write down how an attempt ended."""
    with locked(repository):
        read_attempts(repository)
        line = AttemptOutcome(key=asked.key, date=now(), passed=passed, rejected=rejected)
        add_attempts(repository, asked.model, [line.model_dump_json(exclude_none=True)])


def further_attempt(repository: Path, asked: Asked, split_size: int | None) -> str:
    """For an error message: what a further attempt costs after one that failed, and which images are unused."""
    attempts = read_attempts(repository)
    counting = [*attempts.counting(asked), attempts.made[asked.key]]
    spent = sum(earlier.level for earlier in counting)
    level = (asked.delta - spent) / 2
    price = f"tested at level {level:g}" if level > 0 else "refused"
    return (
        f"{spent:g} of δ = {asked.delta:g} is spent (attempts that count: {len(counting)}), so a further one on these "
        f"images, or of a network of this base, is {price}{_unused(asked.check, attempts, split_size)}"
    )


def _unused(check: Split, attempts: Attempts, split_size: int | None) -> str:
    """How many images of the split no attempt has used, as far as one permutation tells."""
    if split_size is None:
        return ""
    parts = (part for a in attempts.recorded for part in (a.fit, a.check, a.test))
    seeds = {part.seed for part in parts if (part.dataset, part.split) == (check.dataset, check.split)}
    if seeds != {check.seed}:
        return (
            "; other attempts drew from this split with another --seed, so --skip cannot leave out all that they used"
        )
    unused = attempts.unused_from(check.dataset, check.split, check.seed)
    left = f"; {max(0, split_size - unused)} images of split {check.split!r} of {check.dataset} are unused"
    if unused < split_size:
        left += f" (--skip {unused}), and there a network of another base has all of δ"
    return left
