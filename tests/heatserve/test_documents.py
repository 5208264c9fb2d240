"""Of every page: links lead to files and headings, commands parse, Python compiles, and what is named exists."""

from __future__ import annotations

import ast
import importlib
import os
import re
import shlex
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import takewhile
from pathlib import Path
from typing import Any

import pytest
import typer

from heatserve.cli import app

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
README_LINES = 150

_FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```", re.MULTILINE | re.DOTALL)
_SPAN = re.compile(r"`([^`\n]+(?:\n[^`\n]+)?)`")
_LINK = re.compile(r"!?\[(?:[^\]\[]|!?\[[^\]]*\]\([^)]*\))*\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#{1,6} +(.+?) *$", re.MULTILINE)
_PATH = re.compile(
    r"(?:certification|training|export|serving|benchmarks|heatserve|model_repository|tests|docs|deploy)/[\w./*-]*(?:::\w+)?"
)
_SEPARATORS = {"|", "&&", "||", ";", "&"}
_REST = "…"
"""Stands in a command for what the reader fills in."""


def _pages() -> list[Path]:
    """Every Markdown page of the repository, without hidden folders, environments and what runs leave behind."""
    pages = []
    for folder, folders, files in os.walk(ROOT):
        here = Path(folder)
        folders[:] = [
            name
            for name in folders
            if not name.startswith(".")
            and name not in ("runs", "build", "dist")
            and not (here / name / "pyvenv.cfg").exists()
        ]
        pages += [here / name for name in files if name.endswith(".md")]
    return sorted(pages)


PAGES = _pages()
CURRENT = [page for page in PAGES if page.name != "CHANGELOG.md"]
"""Those that speak of what is, not of what was."""


def _named(path: Path) -> str:
    return str(path.relative_to(ROOT))


def _prose(text: str) -> str:
    """The page without its blocks of code."""
    return _FENCE.sub("", text)


def _blocks(text: str, *languages: str) -> Iterator[str]:
    return (code for _, language, code in _FENCE.findall(text) if language in languages)


def _anchors(page: Path) -> set[str]:
    """The anchors of the headings, as GitHub makes them; equal ones get a number."""
    seen: Counter[str] = Counter()
    anchors = set()
    for heading in _HEADING.findall(_prose(page.read_text())):
        words = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
        slug = re.sub(r"[^\w\- ]", "", words).replace(" ", "-")
        anchors.add(f"{slug}-{seen[slug]}" if seen[slug] else slug)
        seen[slug] += 1
    return anchors


def _broken_links(page: Path) -> list[str]:
    broken = []
    for link in _LINK.findall(re.sub(r"`[^`]*`", "", _prose(page.read_text()))):
        if re.match(r"[a-z]+:", link):
            continue
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        if not target.exists() or (anchor and anchor not in _anchors(target)):
            broken.append(link)
    return broken


@dataclass(frozen=True)
class _Command:
    """The arguments of `heatserve` in a page: complete in a block of code, in the text perhaps only a part."""

    arguments: list[str]
    complete: bool

    def __str__(self) -> str:
        return " ".join(["heatserve", *self.arguments])


def _commands(text: str) -> Iterator[_Command]:
    """Every `heatserve …` in a page: in its blocks for a shell, then in its text."""
    for code in _blocks(text, "sh", "bash", "console"):
        for line in code.replace("\\\n", " ").splitlines():
            if "heatserve" in line:
                yield from (_Command(arguments, complete=_REST not in arguments) for arguments in _of_heatserve(line))
    for span in _SPAN.findall(_prose(text)):
        if span.split()[0] == "heatserve":
            yield from (_Command(arguments, complete=False) for arguments in _of_heatserve(span))


def _of_heatserve(line: str) -> Iterator[list[str]]:
    """The arguments of each `heatserve`, `…/heatserve` and `-m heatserve` in a line of shell."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.wordchars += "…,:=@[]{}"
    words = list(lexer)
    for at, word in enumerate(words):
        if Path(word).name == "heatserve" and (at == 0 or words[at - 1] in ("-m", *_SEPARATORS)):
            yield list(takewhile(lambda word: word not in _SEPARATORS, words[at + 1 :]))


def _parse(given: _Command) -> None:
    """Have the command line read the arguments, and run nothing. Of an incomplete command, what is there must exist."""
    command, name, arguments = _heatserve(), "heatserve", given.arguments
    while hasattr(command, "commands") and arguments and arguments[0] not in (_REST, "--help"):
        assert arguments[0] in command.commands, f"{name}: no command {arguments[0]}"
        command, name, arguments = command.commands[arguments[0]], f"{name} {arguments[0]}", arguments[1:]
    if given.complete and not hasattr(command, "commands"):
        command.make_context(name, arguments)
    else:
        unknown = {word for word in arguments if word.startswith("-")} - _options(command) - {"--help"}
        assert not unknown, f"{name}: no option {', '.join(sorted(unknown))}"


@cache
def _heatserve() -> Any:
    """The command line."""
    return typer.main.get_command(app)


def _options(command: Any) -> set[str]:
    """Every option of a command and of those below it."""
    own = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
    return own.union(*(_options(below) for below in getattr(command, "commands", {}).values()))


def _unknown_options(text: str) -> list[str]:
    """Options that are named in the text, `--so`, and that no command has."""
    known = _options(_heatserve()) | {"--help"}
    named = [word for span in _SPAN.findall(_prose(text)) if span.startswith("--") for word in span.split()]
    return [word for word in named if word.startswith("--") and word not in known]


def _missing_paths(text: str) -> list[str]:
    """Paths of the repository that are named in `code`, and functions in them (`path.py::name`), but do not exist."""
    missing = []
    for span in _SPAN.findall(_prose(text)):
        if not _PATH.fullmatch(span):
            continue
        path, _, name = span.partition("::")
        found = [*ROOT.glob(path.rstrip("/"))]
        if not found or (name and name not in _defined(found[0])):
            missing.append(span)
    return missing


def _defined(module: Path) -> set[str]:
    """The functions and classes of a module, and what it assigns."""
    names = set()
    for node in ast.parse(module.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            names.add(node.target.id)
        elif isinstance(node, ast.Assign):
            names |= {target.id for target in node.targets if isinstance(target, ast.Name)}
    return names


@pytest.mark.parametrize("page", PAGES, ids=_named)
def test_every_link_leads_to_a_file_and_a_heading(page: Path) -> None:
    assert _broken_links(page) == []


@pytest.mark.parametrize("page", CURRENT, ids=_named)
def test_every_command_parses(page: Path) -> None:
    failed = []
    for command in _commands(page.read_text()):
        try:
            _parse(command)
        except Exception as error:  # what typer raises has no public base class
            failed.append(f"{command}: {error!r}")
    assert failed == []


@pytest.mark.parametrize("page", CURRENT, ids=_named)
def test_every_option_that_is_named_exists(page: Path) -> None:
    assert _unknown_options(page.read_text()) == []


@pytest.mark.parametrize("page", CURRENT, ids=_named)
def test_every_file_and_function_that_is_named_exists(page: Path) -> None:
    assert _missing_paths(page.read_text()) == []


@pytest.mark.parametrize("page", PAGES, ids=_named)
def test_python_in_the_pages_compiles_and_imports_what_exists(page: Path) -> None:
    for code in _blocks(page.read_text(), "python"):
        for node in ast.walk(compile(code, _named(page), "exec", ast.PyCF_ONLY_AST)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("heatserve"):
                module = importlib.import_module(str(node.module))
                assert [alias.name for alias in node.names if not hasattr(module, alias.name)] == []


def test_the_readme_is_short_and_starts_with_the_two_commands() -> None:
    text = README.read_text()
    assert len(text.splitlines()) <= README_LINES
    first = next(_blocks(text, "sh"))
    assert [line.split("#")[0].strip() for line in first.splitlines()] == ["make serve", "make test"]


def test_the_readme_links_every_guide_and_page() -> None:
    linked = set(_LINK.findall(README.read_text()))
    wanted = {_named(page) for page in PAGES if page.is_relative_to(ROOT / "docs")}
    assert wanted - linked == set()


def test_the_equations_of_the_paper_are_all_in_the_theory() -> None:
    table = (ROOT / "docs" / "theory.md").read_text().split("\n## ")[1]
    rows = [row.split("|")[1] for row in table.splitlines() if row.startswith("| ")]
    named = {int(number) for row in rows for number in re.findall(r"\((\d+)\)", row)}
    assert set(range(1, 20)) - named == set()


@pytest.mark.parametrize(
    ("page", "broken"),
    [
        ("[a](gone.md)", ["gone.md"]),
        ("# Here\n[a](#here) [b](#there)", ["#there"]),
        ("# One, two\n# One, two\n[a](#one-two) [b](#one-two-1) [c](#one-two-2)", ["#one-two-2"]),
        ("![a](gone.svg) [b](https://example.org) `[c](code.md)`", ["gone.svg"]),
        ("```sh\n# [a](comment.md)\n```", []),
    ],
)
def test_a_broken_link_is_found(page: str, broken: list[str], tmp_path: Path) -> None:
    path = tmp_path / "page.md"
    path.write_text(page)
    assert _broken_links(path) == broken


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("nothing", "no command nothing"),
        ("train nothing", "heatserve train: no command nothing"),
        ("serve --nothing", "--nothing"),
        ("serve --http-port many", "integer"),
        ("predict a.png", "model"),
        ("calibrate", "name"),
        ("tune … --nothing", "no option --nothing"),
    ],
)
def test_a_wrong_command_is_found(command: str, message: str) -> None:
    (found,) = _commands(f"```sh\n.venv/bin/heatserve {command}  # comment\n```")
    with pytest.raises(Exception, match=message):
        _parse(found)


def test_commands_are_found_where_they_stand() -> None:
    page = """`heatserve tune`, `pip install heatserve`
```sh
make x && .venv/bin/heatserve serve a \\
    --host b | cat  # heatserve
torchrun -n 2 -m heatserve train heat …
```"""
    found = [(str(command), command.complete) for command in _commands(page)]
    assert found == [
        ("heatserve serve a --host b", True),
        ("heatserve train heat …", False),
        ("heatserve tune", False),
    ]


def test_a_wrong_option_is_found() -> None:
    assert _unknown_options(
        "`--alpha 0.1 --alhpa` and `--no-augment`, but not `tritonserver --model-repository=x`"
    ) == ["--alhpa"]


def test_a_missing_file_or_function_is_found() -> None:
    page = "`training/gone.py` `training/train.py` `training/train.py::train_from` `training/train.py::gone`"
    assert _missing_paths(page) == ["training/gone.py", "training/train.py::gone"]
