"""Networks that a function of the user's own makes: `file.py:function` or `package.module:function`.

Importing code runs it. A checkpoint is a file that anybody may have made, so it never decides what is imported: code
runs only after `trust_code` was called with its reference, options included, by somebody who typed it. A checkpoint
records the name of the file, never its folder, and the SHA-256 of its source.
"""

from __future__ import annotations

import hashlib
import importlib
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from torch import nn

from heatserve.training.architectures.errors import ArchitectureError
from heatserve.training.architectures.importing import (
    explaining,
    function_of,
    read_source,
    run_file,
    searching,
    source_of_module,
)
from heatserve.training.named import NamedWithOptions, parse_named

_REFERENCE = re.compile(r"(?P<file>.*\.py):(?P<function>\w+)|(?P<module>\w+(\.\w+)*):(?P<name>\w+)")
_LIBRARIES = ("timm", "torchvision")


@dataclass(frozen=True)
class ChosenArchitecture:
    """An architecture as a checkpoint records it."""

    reference: str
    """With options in alphabetical order; of a file only its name."""
    code_sha256: str | None
    """SHA-256 of the source of the user's own code; None where there is none."""


@dataclass(frozen=True)
class _OwnCode:
    """Code that was trusted and has been imported."""

    source: Path
    sha256: str
    function: Callable[..., object]
    folder: str | None
    """Where the file's own imports are found; None: where Python looks."""


_TRUSTED: dict[str, _OwnCode] = {}
"""What was trusted in this process, by the reference that checkpoints record."""


def is_own_code(name: str) -> bool:
    """Whether a name, without options, is `file.py:function` or `package.module:function`."""
    found = _REFERENCE.fullmatch(name)
    return found is not None and found["module"] not in _LIBRARIES


def recorded(named: NamedWithOptions) -> str:
    """The reference that a checkpoint records: `nets.py:build` of `/home/me/nets.py:build`, others as they are."""
    found = _REFERENCE.fullmatch(named.name)
    is_file = found is not None and found["file"]
    return str(replace(named, name=f"{Path(found['file']).name}:{found['function']}") if found and is_file else named)


def trust_code(reference: str, *, sha256: str | None = None) -> None:
    """Import the code that `reference` names, and let checkpoints of that code be loaded in this process.

    Call it with what a person typed, never with what a file says.

    Args:
        reference: `file.py:function` or `package.module:function`, with the options that the function is to get. What a
            file imports is looked for in its own folder first, a module in the current folder last.
        sha256: that of the source that is expected; anything else is not run.

    Raises:
        ArchitectureError: another form, no such file, module or function, another source, or one that fails or exits
            when it is imported.
    """
    named = parse_named(reference)
    name, found = named.name, _REFERENCE.fullmatch(named.name)
    if found is None or not is_own_code(name):
        raise ArchitectureError(
            f"architecture: expected code of your own, file.py:function or package.module:function, got {reference!r}; "
            f"no other needs to be trusted"
        )
    path = Path(found["file"]) if found["file"] else None
    folder = str(path.resolve().parent) if path else None
    with searching(folder):
        source = path or source_of_module(found["module"], name)
        content = read_source(source, name)
        digest = hashlib.sha256(content).hexdigest()
        if sha256 not in (None, digest):
            raise _other_code(name, sha256, source, digest)
        known = _TRUSTED.get(recorded(named))
        if known and (known.source, known.sha256) == (source.resolve(), digest):
            return
        with explaining(name, source, "be imported"):
            module = run_file(path, content, digest) if path else importlib.import_module(found["module"])
    function = function_of(module, found["function"] or found["name"], name)
    _TRUSTED[recorded(named)] = _OwnCode(source.resolve(), digest, function, folder)


def choose_architecture(architecture: str) -> ChosenArchitecture:
    """What a checkpoint of a new network records; code of the user's own is trusted, since its reference was typed.

    Raises:
        ArchitectureError: see `trust_code`.
        NamingError: not of the form `name?option=value&…`.
    """
    named = parse_named(architecture)
    if not is_own_code(named.name):
        return ChosenArchitecture(str(named), None)
    trust_code(architecture)
    return ChosenArchitecture(recorded(named), _TRUSTED[recorded(named)].sha256)


def require_same(expected: ChosenArchitecture, typed: str | None) -> None:
    """Trust the code of a checkpoint where `typed` names it; any other `typed` is an error.

    Args:
        expected: what the checkpoint says.
        typed: the reference that a person gave to the command, from any folder; None: none.

    Raises:
        ArchitectureError: `typed` names another architecture, or code that is not the checkpoint's; or the checkpoint
            does not say which code it is.
    """
    own = is_own_code(parse_named(expected.reference).name)
    if own and expected.code_sha256 is None:
        raise ArchitectureError(f"{expected.reference}: expected the SHA-256 of that code beside it, got none")
    if typed is not None and recorded(parse_named(typed)) != expected.reference:
        raise ArchitectureError(f"architecture: expected {expected.reference}, got {typed}")
    if typed is not None and own:
        trust_code(typed, sha256=expected.code_sha256)


def own_network(named: NamedWithOptions, num_classes: int, code_sha256: str | None) -> nn.Module:
    """The network of trusted code: its function, called with K as the only positional argument, and the options.

    Args:
        named: as a checkpoint records it, or as somebody typed it.
        num_classes: K.
        code_sha256: SHA-256 of the source; None: as it was trusted.

    Raises:
        ArchitectureError: code that was not trusted, or another; or a function that fails, exits, or returns no module.
    """
    code = _TRUSTED.get(recorded(named))
    if code is None:
        raise ArchitectureError(_advice(recorded(named)))
    if code_sha256 not in (None, code.sha256):
        raise _other_code(named.name, code_sha256, code.source, code.sha256)
    with searching(code.folder), explaining(named.name, code.source, "build a network"):
        network = code.function(num_classes, **dict(named.options))
    if not isinstance(network, nn.Module):
        raise ArchitectureError(f"{named.name}: expected it to return a torch.nn.Module, got {type(network).__name__}")
    return network


def _advice(reference: str) -> str:
    """What to do about code that nobody has named."""
    is_file = parse_named(reference).name.partition(":")[0].endswith(".py")
    typed = f"FOLDER/{reference}" if is_file else reference
    typed = f"'{typed}'" if "?" in typed else typed
    return (
        f"{reference}: this network is made by code, which runs only where you name it: if you trust it, add "
        f"`--architecture {typed}`"
        f"{', FOLDER being where you have that file' if is_file else ''} (in Python, call `trust_code`)"
    )


def _other_code(name: str, expected: str | None, source: Path, found: str) -> ArchitectureError:
    return ArchitectureError(
        f"{name}: expected the code that made this network, of SHA-256 {expected}, got {source} of {found}; bring that "
        f"file back, or make a new checkpoint of the same weights with `heatserve import-weights`"
    )
