"""What the page is made of: sections of prose, tables and figures, each with the files that its numbers are from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from heatserve.benchmarks.paper.tables import NOT_RUN
from heatserve.benchmarks.report.charts.chart import BarChart, Chart

NO_GPU = "no GPU here"
"""A cell of a GPU column where the results are from a machine without one."""
ABSENT = (NOT_RUN, NO_GPU, "–")
"""Cells that hold no number; they are drawn quietly."""


def anchor(*parts: str) -> str:
    """A name that links lead to, of letters, digits and hyphens."""
    text = "-".join(parts).lower()
    return "".join(letter if letter.isascii() and letter.isalnum() else "-" for letter in text)


@dataclass(frozen=True)
class Prose:
    """A paragraph."""

    kind: ClassVar[str] = "prose"
    text: str


@dataclass(frozen=True)
class Bullets:
    """A list of sentences."""

    kind: ClassVar[str] = "bullets"
    items: Sequence[str]


def _are_words(cells: Sequence[str]) -> bool:
    """Whether a column holds words: none of its cells begins with a digit, and one says something."""
    said = [cell for cell in cells if cell not in ABSENT]
    return any(letter.isalpha() for cell in said for letter in cell) and not any(cell[:1].isdigit() for cell in said)


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table whose first column names the rows."""

    kind: ClassVar[str] = "table"
    caption: str
    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    sources: Sequence[str] = ()
    """Files of results."""
    words: int = 1
    """Columns from the left that hold words, and are flushed left."""
    note: str = ""
    """What has to be known to read it."""

    @property
    def word_columns(self) -> frozenset[int]:
        """Columns that are flushed left: the first `words`, and others that hold no numbers but words."""
        columns = enumerate(zip(*self.rows, strict=True))
        return frozenset(range(self.words)) | {index for index, cells in columns if _are_words(cells)}


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A chart with its caption, and its numbers as a table."""

    kind: ClassVar[str] = "figure"
    name: str
    """A unique name, which links lead to."""
    title: str
    chart: Chart | BarChart
    take_away: str
    """What there is to see, in one sentence."""
    promise: str
    """What the numbers are: α, confidence, n, images and split."""
    numbers: Table

    @property
    def sources(self) -> Sequence[str]:
        """Files of results."""
        return self.numbers.sources


@dataclass(frozen=True)
class Beside:
    """Figures beside each other where there is room."""

    kind: ClassVar[str] = "beside"
    figures: Sequence[Figure]


@dataclass(frozen=True)
class Judgement:
    """Where this system is better, and where it is worse, than another way."""

    kind: ClassVar[str] = "judgement"
    than: str
    better: Sequence[str]
    worse: Sequence[str]
    unsettled: Sequence[str]
    """What cannot be compared, and why."""
    sources: Sequence[str]
    """Files of results."""


Block = Prose | Bullets | Table | Figure | Beside | Judgement


@dataclass(frozen=True)
class Section:
    """A part of the page with a heading of its own."""

    name: str
    title: str
    blocks: Sequence[Block]


@dataclass(frozen=True)
class Highlight:
    """One of the three figures of the first screen: a number that says most, a sentence and a chart."""

    number: str
    sentence: str
    chart: Chart | BarChart
    leads_to: str
    """The name of the figure or section that has the details."""
