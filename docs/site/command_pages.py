"""The reference of the commands, made of the command line itself at each build: usage, arguments, options, defaults."""

from __future__ import annotations

import enum
import inspect
import re
from collections.abc import Iterator
from typing import Any

import typer

from heatserve.cli import app

FOLDER = "reference/commands"
_INDEX = f"{FOLDER}/index.md"
_MISSING = "–"


def pages() -> dict[str, str]:
    """The text of each page by its path: one that lists the commands, and one for each."""
    found = {_INDEX: index_page()}
    for commands in _panels().values():
        found |= {_uri(name): command_page(name, command) for name, command in commands.items()}
    return found


def navigation() -> list[Any]:
    """The entries of the pages, under the parts of the front page."""
    panels = _panels().items()
    return [_INDEX, *({panel: [{_title(name): _uri(name)} for name in commands]} for panel, commands in panels)]


def index_page() -> str:
    """All commands, each with the first sentence of its help."""
    lines = ["# Commands", "", "What `heatserve --help` prints, and the same of each command, on a page each.", ""]
    for panel, commands in _panels().items():
        lines += [f"## {panel}", "", "| command | what it does |", "|---|---|"]
        for name, command in commands.items():
            lines.append(f"| [`{_title(name)}`]({name}.md) | {_cell(_first_sentence(command))} |")
            for below in getattr(command, "commands", {}).values():
                link = f"{name}.md#{_title(name)}-{below.name}".replace(" ", "-")
                lines.append(f"| [`{_title(name)} {below.name}`]({link}) | {_cell(_first_sentence(below))} |")
        lines.append("")
    return "\n".join(lines)


def command_page(name: str, command: Any) -> str:
    """Help, usage, arguments and options of a command, and of those below it."""
    return "\n".join([f"# `{_title(name)}`", "", *_described(_title(name), command, "##")])


def _described(path: str, command: Any, heading: str) -> Iterator[str]:
    context = command.make_context(path, [], resilient_parsing=True)
    yield from (inspect.cleandoc(command.help or ""), "")
    yield from ("```text", " ".join([path, *command.collect_usage_pieces(context)]), "```", "")
    groups: dict[str, list[Any]] = {}
    for parameter in command.params:
        if not getattr(parameter, "hidden", False) and "--help" not in parameter.opts:
            kind = "Arguments" if parameter.param_type_name == "argument" else "Options"
            groups.setdefault(parameter.rich_help_panel or kind, []).append(parameter)
    for title, parameters in groups.items():
        yield from (
            f"**{title}**",
            "",
            f"| {'argument' if title == 'Arguments' else 'option'} | default | meaning |",
            "|---|---|---|",
        )
        yield from (f"| {_names(each, context)} | {_default(each)} | {_meaning(each)} |" for each in parameters)
        yield ""
    for below in getattr(command, "commands", {}).values():
        yield from (f"{heading} `{path} {below.name}`", "")
        yield from _described(f"{path} {below.name}", below, heading + "#")


def _names(parameter: Any, context: Any) -> str:
    if parameter.param_type_name == "argument":
        return f"`{parameter.metavar or parameter.name.upper()}`"
    words = parameter.get_help_record(context)[0].replace("|", "\\|")
    return ", ".join(f"`{word.strip()}`" for word in re.split(r",|;| / ", words))


def _default(parameter: Any) -> str:
    if parameter.required:
        return "required"
    shown = parameter.show_default if isinstance(parameter.show_default, str) else parameter.default
    if shown is None or shown == () or shown == []:
        return _MISSING
    if isinstance(shown, bool):
        return "on" if shown else "off"
    values = shown if isinstance(shown, list | tuple) else [shown]
    return ", ".join(f"`{each.value if isinstance(each, enum.Enum) else each}`" for each in values)


def _meaning(parameter: Any) -> str:
    variables = parameter.envvar if isinstance(parameter.envvar, list) else filter(None, [parameter.envvar])
    of = " ".join(f"Environment variable: `{name}`." for name in variables)
    bounds = (getattr(parameter, "min", None), getattr(parameter, "max", None))
    least, most = (f"`{bound}`" if bound is not None else "" for bound in bounds)
    between = f"From {least} to {most}." if least and most else f"At least {least}." if least else ""
    between = between or (f"At most {most}." if most else "")
    return _cell(" ".join(filter(None, [parameter.help or "", between, of])))


def _panels() -> dict[str, dict[str, Any]]:
    """The commands by the part of the front page that they stand in."""
    group: Any = typer.main.get_command(app)
    panels: dict[str, dict[str, Any]] = {}
    for name in group.list_commands(None):
        command = group.commands[name]
        panels.setdefault(command.rich_help_panel or "Commands", {})[name] = command
    return panels


def _first_sentence(command: Any) -> str:
    text = " ".join((command.help or "").split("\n\n")[0].split())
    return re.split(r"(?<=[.:])\s", text)[0].rstrip(":")


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _title(name: str) -> str:
    return f"heatserve {name}"


def _uri(name: str) -> str:
    return f"{FOLDER}/{name}.md"
