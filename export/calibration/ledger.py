"""The ledger: what Certify found for each image of a data set, kept in a file as it is found.

The file is append-only JSON lines: first the recipe, then an entry for each image, in any order. An image's entry
depends on nothing but the recipe and the image: its noise has a stream of its own, and its batches hold no other's.
"""

from __future__ import annotations

import glob
import hashlib
import json
import math
import os
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from scipy.special import ndtri

from heatserve.certification.binomial import lower_bound
from heatserve.certification.errors import HeatserveError
from heatserve.certification.files import append_text, write_atomically
from heatserve.certification.monte_carlo import ABSTAIN
from heatserve.certification.noise import FORMER_KEYS
from heatserve.certification.radius import Float32Array
from heatserve.export.runtime.answers import ModelImages


class LedgerError(HeatserveError):
    """A ledger that belongs to another recipe or to other images, or is damaged."""


@dataclass(frozen=True)
class CertifyRecipe:
    """Everything that an image's entry depends on, besides the image. Any model of the same base shares it."""

    base_sha256: str
    sigma: float
    n0: int
    n: int
    alpha: float
    top_k: int
    seed: int
    sampling: str
    """The `key` of the `NoiseSource`."""
    dataset: str
    split: str
    decides: float | None = None
    """The one radius that is proven or not, by `sequential.decide`; None: Certify."""


@dataclass(frozen=True)
class LedgerEntry:
    """What Certify found at one image, see `monte_carlo.Certificate`; or a decision, whose radius is all or nothing."""

    index: int
    """Index of the image in the permutation that drew it; its noise has the stream of this number."""
    image: str
    """The first 16 hex digits of the SHA-256 of the image's float32 bytes."""
    label: int
    """Its true class."""
    predicted: int
    """The class of the smoothed classifier, or ABSTAIN."""
    radius: float
    p_lower: float
    guess: int
    classes: tuple[int, ...]

    @property
    def right(self) -> bool:
        """Certified, and the true class is among those certified."""
        return self.predicted != ABSTAIN and self.label in self.classes


def ledger_in(folder: Path, recipe: CertifyRecipe, data: ModelImages) -> Path:
    """The path of the ledger of a recipe and of these images, in a folder of many.

    It is the one that is named by a hash of the ledger's first line, as it is or was formerly written, and of the first
    of these images; or another one of the recipe, whose images are other parts of the same permutation: none of its
    entries is about another image at the same index. So all parts of one permutation share a ledger.
    """
    first = image_digest(data.images[0]) if len(data) else ""
    headers = _headers(recipe)
    keys = [hashlib.sha256((header + first).encode()).hexdigest()[:16] for header in headers]
    path, *former = (folder / f"{data.split}-{key}.jsonl" for key in keys)
    named = next((other for other in (*former, path) if other.exists()), None)
    return named or next((other for other in _of_recipe(folder, headers, data) if _agrees(other, data)), path)


def _of_recipe(folder: Path, headers: list[str], data: ModelImages) -> Iterator[Path]:
    """The ledgers of a folder that have one of some first lines."""
    for path in sorted(folder.glob(f"{glob.escape(data.split)}-*.jsonl")):
        with path.open(errors="replace") as file:
            if file.readline() in headers:
                yield path


def _agrees(path: Path, data: ModelImages) -> bool:
    """Whether no entry is about another image than that of `data` at its index; a torn last line says nothing."""
    lines = [line for line in path.read_text(errors="replace").splitlines(keepends=True)[1:] if line.endswith("\n")]
    entries = (_parse(path, number, line) for number, line in enumerate(lines, start=2))
    return all(
        entry.image == image_digest(data.images[at]) for entry in entries if (at := _position(entry, data)) is not None
    )


def _position(entry: LedgerEntry, data: ModelImages) -> int | None:
    """Where `data` has the image of an entry; None: it has not."""
    position = entry.index - data.first
    return position if 0 <= position < len(data) else None


def open_ledger(path: Path, recipe: CertifyRecipe, data: ModelImages) -> dict[int, LedgerEntry]:
    """The entries of a ledger for `data`, by index; the file is made if absent.

    A last line that was torn when its writer was killed is cut off.

    Raises:
        LedgerError: it holds another recipe or other images, or is damaged.
    """
    content = path.read_bytes() if path.exists() else b""
    headers = [header.encode() for header in _headers(recipe)]
    if any(header.startswith(content) for header in headers):  # absent, empty, torn in its first line, or no entries
        write_atomically(path, headers[0])
        return {}
    whole = content[: content.rfind(b"\n") + 1]
    first, *lines = whole.decode(errors="replace").splitlines() or [""]
    _check_recipe(path, first, recipe)
    if len(whole) < len(content):
        os.truncate(path, len(whole))
    entries: dict[int, LedgerEntry] = {}
    for number, line in enumerate(lines, start=2):
        entry = _parse(path, number, line)
        position = _position(entry, data)
        if position is None:
            continue
        if entries.setdefault(entry.index, entry) != entry:
            raise LedgerError(f"{path}, line {number}: expected one result for image {entry.index}, got another one")
        if (entry.image, entry.label) != (image_digest(data.images[position]), data.labels[position]):
            raise LedgerError(
                f"{path}, line {number}: holds the result of another image {entry.index}; name another file"
            )
        if not _is_possible(entry, recipe):
            raise LedgerError(f"{path}, line {number}: expected what these votes can prove, got {line:.200}")
    return entries


def append_entries(path: Path | None, entries: Iterable[LedgerEntry]) -> Iterator[LedgerEntry]:
    """Pass entries through, each written as a line of the ledger before the next is asked for. None: not written."""
    for entry in entries:
        if path:
            append_text(path, json.dumps(asdict(entry)) + "\n")
        yield entry


def image_digest(image: Float32Array) -> str:
    """The first 16 hex digits of the SHA-256 of an image's float32 bytes; `pixel_digest` is that of 8-bit values."""
    return hashlib.sha256(image.tobytes()).hexdigest()[:16]


def _headers(recipe: CertifyRecipe) -> list[str]:
    """The first line of a ledger: as it is written, then as it was written when a sentence named the noise source."""
    fields = {name: value for name, value in asdict(recipe).items() if value is not None}
    names = [recipe.sampling, *(name for name, key in FORMER_KEYS.items() if key == recipe.sampling)]
    return [json.dumps({"recipe": fields | {"sampling": name}}) + "\n" for name in names]


def _check_recipe(path: Path, header: str, recipe: CertifyRecipe) -> None:
    try:
        found = {"decides": None, **json.loads(header)["recipe"]}
        found["sampling"] = FORMER_KEYS.get(found["sampling"], found["sampling"])
        differences = [
            f"{name} {found[name]}, not {expected}"
            for name, expected in asdict(recipe).items()
            if found[name] != expected
        ]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise LedgerError(f"{path}: expected the results of certify-dataset, got another file") from None
    if differences:
        raise LedgerError(f"{path}: holds results of another recipe: {'; '.join(differences)}; name another file")


def _parse(path: Path, number: int, line: str) -> LedgerEntry:
    try:
        fields = json.loads(line)
        return LedgerEntry(**{**fields, "classes": tuple(fields["classes"])})
    except (ValueError, KeyError, TypeError, RecursionError):
        raise LedgerError(f"{path}, line {number}: expected the result of an image, got {line[:60]!r}") from None


def _is_possible(entry: LedgerEntry, recipe: CertifyRecipe) -> bool:
    """Whether an entry is one that votes of the recipe can give; a file may say anything."""
    whole = (entry.index, entry.label, entry.predicted, entry.guess, *entry.classes)
    if not entry.classes or not all(type(number) is int and abs(number) < 2**63 for number in whole):
        return False
    if not all(type(number) in (int, float) and math.isfinite(number) for number in (entry.radius, entry.p_lower)):
        return False
    if (entry.radius > 0) != (entry.predicted != ABSTAIN) or entry.predicted not in (ABSTAIN, entry.classes[0]):
        return False
    if recipe.decides is not None:
        return entry.radius in (0, recipe.decides)
    most = float(lower_bound(recipe.n, recipe.n, alpha=recipe.alpha))
    proven = recipe.sigma * float(ndtri(entry.p_lower)) if entry.p_lower > 0.5 else 0.0
    return 0 <= entry.p_lower <= most and math.isclose(entry.radius, proven, rel_tol=1e-9, abs_tol=1e-12)
