"""`heatserve certify`."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from heatserve.commands.asking import (
    Answered,
    Unanswered,
    answer_record,
    ask_each,
    check_answered,
    table_rows,
    unanswered_record,
)
from heatserve.commands.options import Json, deliver
from heatserve.commands.server import URL, Ca, Certificate, Headers, Served, ServerOptions, TokenFile, Url

if TYPE_CHECKING:
    from rich.console import Group, RenderableType

    from heatserve.serving.client.tier_answers import TierAnswer
    from heatserve.serving.pixels import Pixels

    _Watched = tuple[TierAnswer, bool]
    """The last answer about an image, and whether Ctrl-C made it the last."""

_LINE_SECONDS = 1.0


def certify(
    images: Annotated[
        list[Path], typer.Argument(metavar="IMAGE", help="Image files, or .npy arrays of one image each.")
    ],
    model: Served,
    url: Url = URL,
    alpha: Annotated[
        float | None, typer.Option(help="All bounds together are wrong with at most this probability.")
    ] = None,
    n0: Annotated[int | None, typer.Option(help="n₀: votes to guess the class.")] = None,
    n: Annotated[int | None, typer.Option(help="n: most votes to bound its probability.")] = None,
    top_k: Annotated[int | None, typer.Option(help="k: a vote for any of the k most frequent classes counts.")] = None,
    deadline: Annotated[float | None, typer.Option(help="Seconds after which the server stops taking votes.")] = None,
    ca: Ca = None,
    certificate: Certificate = None,
    token_file: TokenFile = None,
    header: Headers = None,
    as_json: Json = False,
) -> None:
    """Have a server find how far the class of an image is proven, and watch the radius grow.

    The server takes votes of the base network under noise, and says what they prove so far. Each bound that is shown
    holds, whoever made the image: Ctrl-C stops the votes, and prints the last one. What is not given is the server's
    default. Of several images, one after the other is asked about, until Ctrl-C; where one cannot be answered, the
    exit code is 1.

    **Example:** `heatserve certify cat.png --model cifar10 --n 10000`
    """
    from heatserve.export.tiers import TierModel
    from heatserve.serving.errors import ServingError

    kind, is_stopped = TierModel.CERTIFY_STREAM, False
    server = ServerOptions(url, model, ca, certificate, token_file, header)
    with server.patient_client(kind, deadline=deadline) as client:
        tier = client.tier(kind)
        votes = (n0 or tier.limits.n0) + (n or tier.limits.n)

        def watch(pixels: Pixels) -> list[_Watched]:
            nonlocal is_stopped
            if is_stopped:
                raise ServingError("not asked about: the votes were stopped before")
            start = time.perf_counter()
            asked = client.certify(pixels, alpha=alpha, n0=n0, n=n, top_k=top_k, deadline=deadline)
            with _display(votes, is_quiet=as_json) as show, closing(asked):
                answer, is_stopped = _last(asked, lambda answer: show(answer, time.perf_counter() - start))
            return [(answer, is_stopped)]

        results = ask_each(images, client.spec(), watch)
    if as_json or table_rows(results):
        records = [_record(result, tier.promise) for result in results]
        deliver(records, lambda: _text(results), as_json=as_json)
    check_answered(results)


def _record(result: Answered[_Watched] | Unanswered, promise: str | None) -> dict[str, Any]:
    if isinstance(result, Unanswered):
        return unanswered_record(result)
    answer, is_stopped = result.answer
    return {**answer_record(str(result.image), answer, result.seconds, promise=promise), "stopped": is_stopped}


def _text(results: Sequence[Answered[_Watched] | Unanswered]) -> Group:
    """What is proven in the end, below its file's name where there are several files."""
    from rich.console import Group
    from rich.text import Text

    from heatserve.tables import certified_text

    parts: list[RenderableType] = []
    for name, (answer, is_stopped), _ in table_rows(results):
        if len(results) > 1:
            parts.append(Text(f"\n{name}"))
        parts.append(certified_text(answer, is_stopped=is_stopped))
    return Group(*parts)


def _last(answers: Iterator[TierAnswer], show: Callable[[TierAnswer], None]) -> tuple[TierAnswer, bool]:
    """The last of the answers, each of which is shown, and whether Ctrl-C made it the last."""
    answer: TierAnswer | None = None
    try:
        for answer in answers:
            show(answer)
    except KeyboardInterrupt:
        if answer is None:
            raise
        return answer, True
    assert answer is not None, "a stream has a last answer"
    return answer, False


@contextmanager
def _display(votes: int, *, is_quiet: bool) -> Iterator[Callable[[TierAnswer, float], None]]:
    """What shows the bounds as they come: one place of a terminal; lines, at most one a second, elsewhere; or nothing.

    Args:
        votes: the most that will be taken.
        is_quiet: show nothing.
    """
    from rich.console import Console
    from rich.live import Live

    from heatserve.tables import bound_line

    console, last = Console(highlight=False), -_LINE_SECONDS
    if is_quiet:
        yield lambda *_: None
    elif console.is_terminal:
        with Live(console=console, transient=True) as live:
            yield lambda answer, seconds: live.update(bound_line(answer, seconds, votes=votes), refresh=True)
    else:

        def show(answer: TierAnswer, seconds: float) -> None:
            nonlocal last
            if seconds - last >= _LINE_SECONDS:
                last = seconds
                console.print(bound_line(answer, seconds, votes=votes))

        yield show
