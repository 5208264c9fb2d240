"""A program that runs `python -m heatserve.benchmarks.gpu` as on a bare GPU machine: imports that it lacks fail.

Its argument is one JSON text, a list of lists of arguments; it prints as JSON the exit codes, and what it finds of the
packages that are to be missing. Besides the standard library, packages are found only where they are one of five, or
needed by one of these.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import re
import sys
from collections.abc import Iterable
from typing import Any

MISSING = ("pydantic", "typer", "rich", "onnx", "onnxruntime", "tritonclient", "sklearn", "timm", "matplotlib")
BARE = ("torch", "torchvision", "numpy", "scipy", "safetensors")


def normalised(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def needed_by(names: Iterable[str]) -> set[str]:
    """The distributions of these names and all that they require without any extra, as far as they are installed."""
    found, todo = set(), list(map(normalised, names))
    while todo:
        name = todo.pop()
        if name in found:
            continue
        try:
            requirements = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue
        found.add(name)
        plain = [each for each in requirements if "extra ==" not in each]
        todo += [normalised(re.split(r"[^\w.-]", each, maxsplit=1)[0]) for each in plain]
    return found


class OnlyBare:
    """A finder of modules that finds none of the packages that the machine lacks, without an error, as if absent."""

    def __init__(self, finder: Any, allowed: set[str]) -> None:
        self._finder = finder
        owners = importlib.metadata.packages_distributions()
        ours = {"heatserve"}
        self._lacking = {
            package
            for package, distributions in owners.items()
            if package not in ours and not allowed & set(map(normalised, distributions))
        }

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        return None if name.partition(".")[0] in self._lacking else self._finder.find_spec(name, path, target)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._finder, name)


def main() -> None:
    allowed = needed_by(BARE)
    sys.meta_path[:] = [OnlyBare(finder, allowed) for finder in sys.meta_path]
    codes = []
    for arguments in json.loads(sys.argv[1]):
        from heatserve.benchmarks.gpu.__main__ import main as run

        sys.argv[1:] = arguments
        codes.append(run())
    print(json.dumps({"codes": codes, "found": [name for name in MISSING if importlib.util.find_spec(name)]}))


if __name__ == "__main__":
    main()
