"""The blocks of code of the pages, with what a page says of running them.

A comment right before a block says why it is not run, or with which code it ends:

    <!-- not run: needs a cluster -->
    <!-- exit code: 1 -->

A block `text` right after a block that is run is what it prints (`Block.output`), but for the numbers in it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
RUN = ("sh", "python")
_FENCE = re.compile(
    r"^(?P<indent> *)```(?P<language>\w*)\n(?P<code>.*?)^(?P=indent)```$"
    r"(?:\n+(?P=indent)```text\n(?P<output>.*?)^(?P=indent)```$)?",
    re.MULTILINE | re.DOTALL,
)
_NOTE = re.compile(r"<!-- (not run|exit code): ((?:(?!-->).)+) -->\n+ *\Z", re.DOTALL)
_NUMBER = re.compile(r"\d[\d,]*(?:\.\d+)?(?:e[-+]?\d+)?")
REST = "…"
"""Stands for any text in an output."""


@dataclass(frozen=True)
class Block:
    """A block of code of a page.

    Attributes:
        page: its path in the repository.
        line: the line of its fence, from 1.
        language: `sh` or `python`.
        code: what stands in it.
        output: what it prints as the page shows it, or None.
        not_run: why it is not run, or None.
        exit_code: what it ends with.
    """

    page: str
    line: int
    language: str
    code: str
    output: str | None
    not_run: str | None
    exit_code: int

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def blocks_of(path: Path) -> Iterator[Block]:
    """The blocks `sh` and `python` of a page."""
    text = path.read_text()
    for found in _FENCE.finditer(text):
        if found["language"] not in RUN:
            continue
        note = _NOTE.search(text[: found.start()])
        kind, said = (note[1], " ".join(note[2].split())) if note else (None, "")
        yield Block(
            page=str(path.relative_to(ROOT)),
            line=text[: found.start()].count("\n") + 1,
            language=found["language"],
            code=re.sub(f"^{found['indent']}", "", found["code"], flags=re.MULTILINE),
            output=found["output"],
            not_run=said if kind == "not run" else None,
            exit_code=int(said) if kind == "exit code" else 0,
        )


def has_shape(printed: str, shown: str) -> bool:
    """Whether `printed` is what a page shows, where numbers may be others and `…` is any text."""
    text, at = " ".join(printed.split()), 0
    first, *others = (_pattern(part) for part in " ".join(shown.split()).split(REST))
    for number, pattern in enumerate([first, *others]):
        found = pattern.match(text) if number == 0 else pattern.search(text, at)
        if found is None:
            return False
        at = found.end()
    return shown.rstrip().endswith(REST) or not text[at:].strip()


def _pattern(part: str) -> re.Pattern[str]:
    """Of a text without `…`: its words, and any numbers in the place of its own."""
    return re.compile(_NUMBER.pattern.join(map(re.escape, _NUMBER.split(part.strip()))))
