"""What attacks found, kept image by image, so that an audit that takes hours goes on where it was interrupted."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from heatserve.certification.errors import HeatserveError
from heatserve.certification.files import append_text, write_atomically
from heatserve.export.audit.proven.crafted import AttackedImage, Counterexample


class KeptAttacks:
    """The records of one graph and one way to attack it, in a file of JSON lines; None: nothing is kept."""

    def __init__(self, folder: Path | None, *, graph_sha256: str, attack: str, seed: int) -> None:
        """Read what there is.

        Raises:
            HeatserveError: a damaged file.
        """
        recipe = json.dumps({"graph_sha256": graph_sha256, "attack": attack, "seed": seed})
        key = hashlib.sha256(recipe.encode()).hexdigest()[:16]
        self._path = folder / f"attacked-{key}.jsonl" if folder else None
        self._records: dict[tuple[str, str], AttackedImage] = {}
        if self._path is None:
            return
        if not self._path.exists():
            write_atomically(self._path, f'{{"recipe": {recipe}}}\n'.encode())
        content = self._path.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]  # the last line was torn when its writer was killed
        if len(whole) < len(content):
            os.truncate(self._path, len(whole))
        for number, line in enumerate(whole.decode(errors="replace").splitlines()[1:], start=2):
            record = _parsed(self._path, number, line)
            self._records[record.digest, record.start] = record

    def get(self, digest: str, start: str) -> AttackedImage | None:
        """The record of an image that was attacked before."""
        return self._records.get((digest, start))

    def add(self, records: Sequence[AttackedImage]) -> None:
        """Keep what was found of some images."""
        self._records |= {(record.digest, record.start): record for record in records}
        if self._path is not None:
            append_text(self._path, "".join(json.dumps(asdict(record)) + "\n" for record in records))


def _parsed(path: Path, number: int, line: str) -> AttackedImage:
    try:
        fields = json.loads(line)
        broken = [Counterexample(**{**found, "shape": tuple(found["shape"])}) for found in fields.pop("broken")]
        return AttackedImage(**fields, broken=broken)
    except (ValueError, KeyError, TypeError):
        raise HeatserveError(f"{path}, line {number}: expected the result of an image, got {line[:60]!r}") from None
