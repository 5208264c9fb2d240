"""Triton's log, reduced to the lines that say why it did not start."""

from __future__ import annotations

import re
from pathlib import Path

_ERROR = re.compile(r'^E\d{4} [\d:.]+ \d+ \S+\] "(?P<message>.*)"$|^(?P<plain>error: .*|\[libprotobuf ERROR .*)$')
_NOISE = (
    "CudaDriverHelper",  # a machine without a GPU
    "Failed to create instance",  # comes again as "failed to load"
)
_LAST_LINES = 10


def explain(log: Path) -> str:
    """The errors in Triton's log, one a line and without Python stacks; its last lines where it names none."""
    lines = log.read_text(errors="replace").splitlines()
    messages = (match["message"] or match["plain"] for match in map(_ERROR.match, lines) if match)
    errors = [message.split(r"\n\nAt:")[0] for message in messages if not any(noise in message for noise in _NOISE)]
    return "\n".join(f"  {line}" for line in errors or lines[-_LAST_LINES:])
