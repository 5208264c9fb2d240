"""How a user names a data set or an architecture, with its options: `name?option=value&option=value`."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

from heatserve.certification.errors import HeatserveError

OptionValue = str | int | float | bool | None

_OPTIONS = re.compile(r"(?P<name>.*)\?(?P<options>[A-Za-z_][A-Za-z0-9_]*=[^?]*)", re.DOTALL)


class NamingError(HeatserveError):
    """What names a data set or an architecture is not of the form `name?option=value&option=value`."""


@dataclass(frozen=True)
class NamedWithOptions:
    """A name with options, such as `imagefolder:photos?resize=64&crop=56` or `timm:vit_tiny_patch16_224?img_size=64`.

    It stands as text in checkpoints, lineages and cards, so that whatever reads it again does the same.
    """

    name: str
    options: tuple[tuple[str, OptionValue], ...] = ()
    """By name, in alphabetical order."""

    def __str__(self) -> str:
        """The text that `parse_named` takes; the same for the same options in any order."""
        options = "&".join(f"{name}={_written(value)}" for name, value in self.options)
        return f"{self.name}?{options}" if options else self.name

    def adding(self, **options: OptionValue) -> NamedWithOptions:
        """With these options as well; those of value None are left out.

        Raises:
            NamingError: an option is there already, with another value.
        """
        known = dict(self.options)
        for name, value in options.items():
            if value is not None and known.setdefault(name, value) != value:
                raise NamingError(f"{self}: expected {name}={_written(value)}, which is asked for too")
        return NamedWithOptions(self.name, tuple(sorted(known.items())))


def parse_named(text: str) -> NamedWithOptions:
    """Read `name?option=value&…`; a value is a JSON number, true, false or null, and a string otherwise.

    A question mark that no `option=` follows belongs to the name, as it may in a path.

    Raises:
        NamingError: no name, an option twice, or something else between two `&`.
    """
    found = _OPTIONS.fullmatch(text)
    name, written = (found["name"], found["options"].split("&")) if found else (text, [])
    options: dict[str, OptionValue] = {}
    for one in written:
        option, equals, value = one.partition("=")
        if not equals or not option.isidentifier() or option in options:
            raise NamingError(f"{text}: expected name?option=value&…, each option once, got {one!r}")
        options[option] = _read(value)
    if not name:
        raise NamingError(f"{text!r}: expected a name before the options, got none")
    return NamedWithOptions(name, tuple(sorted(options.items())))


def _read(value: str) -> OptionValue:
    try:
        found = json.loads(value, parse_constant=str)
    except ValueError:
        return value
    return found if isinstance(found, int | float | bool | None) else value


def _written(value: OptionValue) -> str:
    return value if isinstance(value, str) else json.dumps(value)
