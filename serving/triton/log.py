"""Triton's log, reduced to the lines that say why it failed."""

from __future__ import annotations

import re
from pathlib import Path

_ERROR = re.compile(r'^E\d{4} [\d:.]+ \d+ \S+\] "(?P<message>.*)"$|^(?P<plain>error: .*|\[libprotobuf ERROR .*)$')
_HINT = re.compile(
    r'^W\d{4} [\d:.]+ \d+ \S+\] "(?P<message>.*)"$'
    r"|^(?P<plain>terminate called .*|  what\(\): .*|heatserve(?: voter)?: .*)$"
)
_STACK = "Traceback (most recent call last):"
_NOISE = (
    "CudaDriverHelper",  # a machine without a GPU, as in the next lines
    "pinned system memory",
    "DCGM unable to start",
    "Failed to create instance",  # comes again as "failed to load"
)
_LAST_LINES = 10
_READ_BYTES = 2**20


def explain(log: Path) -> str:
    """What Triton's log says: its last errors, one a line and without Python stacks, or else its last warnings.

    What it says at every start, and the addresses of a crash, are left out: they explain nothing.
    """
    try:
        with log.open("rb") as file:
            file.seek(max(log.stat().st_size - _READ_BYTES, 0))
            lines = file.read().decode(errors="replace").splitlines()
    except OSError as error:
        return f"its log {log} cannot be read: {error.strerror}"
    found = [*_messages(_ERROR, lines), *_raised(lines)] or _messages(_HINT, lines)
    if not found:
        return f"its log {log} has no error and no warning"
    return "\n".join([f"its log {log} says:", *(f"  {line}" for line in found[-_LAST_LINES:])])


def _messages(kind: re.Pattern[str], lines: list[str]) -> list[str]:
    matches = (kind.match(line) for line in lines)
    messages = ((match["message"] or match["plain"]).strip() for match in matches if match)
    return [without_stack(message) for message in messages if not any(noise in message for noise in _NOISE)]


def without_stack(message: str) -> str:
    """What Python raised in a process of a model, as Triton writes it: on one line, with its stack after or before."""
    if message.startswith(_STACK):
        return message.removesuffix(r"\n").split(r"\n")[-1]
    return message.split(r"\n\nAt:")[0]


def _raised(lines: list[str]) -> list[str]:
    """What Python raised in the processes that vote: the line after each stack, which is not indented."""
    starts = [index for index, line in enumerate(lines) if line == _STACK]
    ends = (next((line for line in lines[start + 1 :] if line and not line.startswith(" ")), "") for start in starts)
    return [end for end in ends if end]
