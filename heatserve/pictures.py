"""What a command prints, as a picture for a document."""

from __future__ import annotations

import re
from io import StringIO

from rich.console import Console, RenderableType
from rich.padding import Padding

_WIDEST = 160
_FONT_FACE = re.compile(r"@font-face \{.*?\}\s*", re.DOTALL)


def terminal_svg(printed: RenderableType, *, title: str) -> str:
    """An SVG picture of a terminal that shows `printed` and is as wide as that needs; the same for the same content.

    Rich has its pictures load a font from a host. These load nothing: the viewer's monospaced font is used.

    Args:
        printed: what `rich.console.Console.print` takes.
        title: the title of the terminal's window.
    """
    console = Console(record=True, file=StringIO(), highlight=False, width=_WIDEST)
    framed = Padding(printed, (1, 2))
    console.width = console.measure(framed).maximum
    console.print(framed)
    return _FONT_FACE.sub("", console.export_svg(title=title, unique_id="heatserve"))
