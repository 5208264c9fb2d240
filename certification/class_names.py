"""What the names of a model's classes may be: lines of `labels.txt`, cells of tables, and text in JSON."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

_NO_TEXT = ("Cc", "Cs", "Zl", "Zp")  # control characters, halves of characters, ends of lines and of paragraphs


def class_names_problem(names: Sequence[str]) -> str:
    """What is wrong with the names of classes, as "expected …, got …"; nothing where they are names.

    Two classes may have one name, as the two cranes of ImageNet do.
    """
    if len(names) < 2:
        return f"expected at least two classes to choose from, got {len(names)}"
    for index, name in enumerate(names):
        if not name.strip() or any(unicodedata.category(letter) in _NO_TEXT for letter in name):
            return (
                f"expected names of classes in one line of text (UTF-8), got {name!a} as that of class {index}; "
                "rename it"
            )
    return ""
