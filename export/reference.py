"""`reference.json` beside a card: how the statistics of `certification.drift` lie in the images of its calibration.

What is served is watched by comparing live inputs with it. They are the images that tested the map (`check`), which
the guard was not fitted on, so that honest inputs are exchangeable with them. It holds counts, and no image. Nothing
that is promised rests on it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, ValidationError, model_validator

from heatserve.certification.drift import CELLS, STATISTICS, counts_of, input_cells
from heatserve.certification.files import read_text, write_atomically
from heatserve.certification.guard import Guard
from heatserve.certification.radius import Float32Array, FloatArray, top_score
from heatserve.export.card import Card, CardError
from heatserve.export.card_parts import Part, Split
from heatserve.export.digest import DIGEST, digest_of, read_json, with_digest

REFERENCE_NAME = "reference.json"


class InputReference(Part):
    """Of one served graph: how many of the images lie in each cell of each statistic."""

    format: Literal[1] = 1
    graph_sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    data: Split
    """The images."""
    cells: dict[str, str]
    """By statistic, `CELLS` counts with a space between two."""

    @model_validator(mode="after")
    def _counted(self) -> InputReference:
        if tuple(self.cells) != STATISTICS:
            raise ValueError(f"cells: expected {', '.join(STATISTICS)}, got {', '.join(self.cells)}")
        for name, text in self.cells.items():
            counts = text.split(" ")
            if len(counts) != CELLS or not all(count.isdecimal() and count.isascii() for count in counts):
                raise ValueError(f"{name}: expected {CELLS} counts, got {text[:40]!r}")
            if sum(map(int, counts)) != self.data.images:
                raise ValueError(f"{name}: expected counts of {self.data.images} images, got other ones")
        return self

    @property
    def counts(self) -> NDArray[np.int64]:
        """The counts, [4, CELLS]."""
        return np.array([text.split(" ") for text in self.cells.values()], np.int64)

    def to_bytes(self) -> bytes:
        """The file, with its digest."""
        return with_digest(self.model_dump(mode="json"))

    def write(self, version_dir: Path) -> Path:
        """Write `reference.json` into `version_dir`, atomically."""
        path = version_dir / REFERENCE_NAME
        write_atomically(path, self.to_bytes())
        return path


def reference_of(
    card: Card, *, guard: Guard, data: Split, probabilities: FloatArray, images: Float32Array
) -> InputReference:
    """The reference of a graph from what it answers to images.

    Args:
        card: names the graph.
        guard: of the graph.
        data: which images they are.
        probabilities: what the graph answers, [N, K].
        images: what its network gets, [N, C, H, W].
    """
    counts = counts_of(input_cells(top_score(probabilities), images, guard=guard))
    cells = {name: " ".join(map(str, row)) for name, row in zip(STATISTICS, counts.tolist(), strict=True)}
    return InputReference(graph_sha256=card.graph_sha256, data=data, cells=cells)


def read_reference(version_dir: Path, card: Card) -> InputReference | None:
    """The reference of a version; None where there is none, as beside cards that were written before there were any.

    Raises:
        CardError: a file that is none, that was changed, or that belongs to another graph.
    """
    path = version_dir / REFERENCE_NAME
    if not path.exists():
        return None
    again = f"write it again with `heatserve reference {card.model}`"
    try:
        content = read_json(read_text(path, "a reference of inputs").encode())
        stated = content.pop(DIGEST) if isinstance(content, dict) and DIGEST in content else None
        reference = InputReference.model_validate(content)
    except (ValueError, RecursionError) as error:
        what = "; ".join(e["msg"] for e in error.errors()) if isinstance(error, ValidationError) else error
        raise CardError(f"{path}: expected a reference of inputs, found: {what}; {again}") from None
    if stated != digest_of(content):
        raise CardError(f"{path}: it was changed after it was written; {again}")
    if reference.graph_sha256 != card.graph_sha256:
        raise CardError(f"{path}: expected the reference of the graph of the card, found that of another one; {again}")
    return reference
