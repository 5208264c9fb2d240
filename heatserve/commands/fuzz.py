"""`heatserve fuzz`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Annotated

import typer

from heatserve.commands.conformance import BROKEN
from heatserve.commands.options import REPOSITORY, Json, Out, Repository, Root, Seed, deliver, tell_page


def fuzz(
    model: Annotated[
        str, typer.Argument(help="Model in the repository, which takes FP32 images of one size.")
    ] = "digits",
    repository: Repository = REPOSITORY,
    root: Root = None,
    url: Annotated[
        list[str] | None,
        typer.Option(
            help="A server of that model that runs: `http://HOST:PORT`, `grpc://HOST:PORT`, or both; by default one is "
            "started here, and its processes are watched.",
        ),
    ] = None,
    requests: Annotated[int, typer.Option(min=1, help="Mutated requests of each protocol.")] = 1000,
    cancellations: Annotated[int, typer.Option(min=0, help="Requests that are given up, over all protocols.")] = 1000,
    seed: Seed = 0,
    out: Out = None,
    as_json: Json = False,
) -> None:
    """Attack a server of your own: mutated requests, cancellations, hostile connections; is the next caller answered?

    Mutations of valid requests over HTTP (JSON and binary) and gRPC, each followed by a valid one whose answer must be
    right. No invalid input may get a positive radius; no process may end, or keep memory or files. Ask no server of
    others.

    **Exit codes:** 0 nothing that should not be, 3 a fault was found, 1 an error.

    **Example:** `heatserve fuzz digits --requests 10000 --cancellations 10000 --out benchmarks/results/fuzz.json`
    """
    from heatserve.benchmarks.fuzz.fuzz import fuzz_server
    from heatserve.benchmarks.fuzz.report import fuzz_report
    from heatserve.benchmarks.fuzz.subject import subject_of
    from heatserve.benchmarks.fuzz.target import own_server, target_of
    from heatserve.benchmarks.records.record import made_now, to_json
    from heatserve.export.calibration.sampling import sample
    from heatserve.export.repository.layout import open_model
    from heatserve.export.repository.tiers import served_tiers

    opened = open_model(repository, model)
    data = sample(opened.card.trained_on, "test", root=root, count=200, seed=seed)
    subject = subject_of(opened, data.images, served_tiers(opened))
    begun = made_now("grpcio", "uvicorn", seed=seed)
    with nullcontext(target_of(url)) if url else own_server(repository, model) as target:
        found = fuzz_server(
            target, subject, requests=requests, cancellations=cancellations, seed=seed, progress=_progress
        )
    result = found.record(begun, model=model, server=", ".join(url) if url else "heatserve serve")
    deliver(to_json(result), lambda: fuzz_report(result), as_json=as_json, out=out)
    tell_page(out, "fuzz")
    if result.faults:
        raise typer.Exit(BROKEN)


@contextmanager
def _progress(name: str, steps: int) -> Iterator[Callable[[int], object]]:
    """A bar on stderr, where that is a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description:<28}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(name, total=steps)
        yield lambda done: bar.advance(task, done)
