"""`heatserve switch` and `heatserve rollback`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from heatserve.certification.errors import HeatserveError
from heatserve.commands.options import REPOSITORY, Repository

_Model = Annotated[str, typer.Argument(help="Model in the repository.")]


def switch(
    model: _Model,
    version: Annotated[int | None, typer.Argument(min=1, help="Its version; by default the newest.")] = None,
    repository: Repository = REPOSITORY,
) -> None:
    """Have the servers that serve a repository serve another version of a model, without a request that fails.

    The version is verified, served by a Triton of its own and compared with its graph before callers meet it; one that
    fails stays out. What is served is noted in `served.json` beside the model, for servers that are started later.

    **Example:** `heatserve switch digits 5`
    """
    from heatserve.export.repository.layout import open_model
    from heatserve.export.repository.pins import Pin, newer_versions, read_pin
    from heatserve.serving.switching.switching import SWITCH

    def pin() -> Pin:
        opened, known = open_model(repository, model, version=version), read_pin(repository, model)
        before = known.version if known and known.version != opened.version else None
        return Pin(opened.version, before, newer_versions(repository, model, opened.version))

    _ask({"do": SWITCH, "model": model, "version": version}, repository, pin)


def rollback(model: _Model, repository: Repository = REPOSITORY) -> None:
    """Have the servers that serve a repository go back to the version of a model that they served before.

    That is not tried again. `heatserve serve --watch` leaves the version alone that was gone back from.

    **Example:** `heatserve rollback digits`
    """
    from heatserve.export.repository.layout import open_model
    from heatserve.export.repository.pins import Pin, newer_versions, read_pin, version_before
    from heatserve.serving.switching.switching import ROLL_BACK

    def pin() -> Pin:
        opened = open_model(repository, model, version=version_before(model, read_pin(repository, model)))
        return Pin(opened.version, None, newer_versions(repository, model, opened.version))

    before = version_before(model, read_pin(repository, model))  # the first server that goes back changes the pin
    _ask({"do": ROLL_BACK, "model": model, "version": before}, repository, pin)


def _ask(request: dict[str, Any], repository: Path, pin: Callable[[], Any]) -> None:
    """Have each server do it, also where one cannot; where none runs, note what the next one is to serve."""
    from heatserve.export.repository.pins import write_pin
    from heatserve.serving.switching.control import ask_server, servers_of, without_error

    console = Console(highlight=False, soft_wrap=True)
    name, is_done = request["model"], True
    servers, errors = servers_of(repository), list[HeatserveError]()
    for folder in servers:
        answer: dict[str, Any] = {}
        try:
            for answer in map(without_error, ask_server(folder, request)):
                if "says" in answer:
                    console.print(answer["says"], markup=False)
            if "outcome" not in answer:
                raise HeatserveError(
                    f"{name}: expected the server to say which version it serves, found that it ended first"
                )
        except HeatserveError as error:
            errors.append(error)
        is_done &= answer.get("outcome") == "switched"
    if errors:
        raise errors[0]
    if not servers:
        wanted = pin()
        write_pin(repository, name, wanted)
        said = f"{name}: no server of {repository} runs; the next one serves version {wanted.version}"
        console.print(said, markup=False)
    if not is_done:
        raise typer.Exit(1)
