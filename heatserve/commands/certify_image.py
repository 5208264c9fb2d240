"""`heatserve certify`."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from heatserve.commands.options import Json, Served, Url, deliver
from heatserve.commands.tier_client import answer_record, patient_client

if TYPE_CHECKING:
    from heatserve.serving.client.tier_answers import TierAnswer

_LINE_SECONDS = 1.0


def certify(
    image: Annotated[Path, typer.Argument(metavar="IMAGE", help="Image file, or .npy array of one image.")],
    model: Served,
    url: Url = "grpc://127.0.0.1:8001",
    alpha: Annotated[
        float | None, typer.Option(help="All bounds together are wrong with at most this probability.")
    ] = None,
    n0: Annotated[int | None, typer.Option(help="n₀: votes to guess the class.")] = None,
    n: Annotated[int | None, typer.Option(help="n: most votes to bound its probability.")] = None,
    top_k: Annotated[int | None, typer.Option(help="k: a vote for any of the k most frequent classes counts.")] = None,
    deadline: Annotated[float | None, typer.Option(help="Seconds after which the server stops taking votes.")] = None,
    as_json: Json = False,
) -> None:
    """Have a server find how far the class of one image is proven, and watch the radius grow.

    The server takes votes of the base network under noise, and says what they prove so far. Each bound that is shown
    holds, whoever made the image: Ctrl-C stops the votes, and prints the last one. What is not given is the server's
    default.

    **Example:** `heatserve certify cat.png --model cifar10 --n 10000`
    """
    from heatserve.export.tiers import TierModel
    from heatserve.serving.client.image_files import read_images
    from heatserve.tables import certified_text

    kind = TierModel.CERTIFY_STREAM
    with patient_client(url, model, kind, deadline=deadline) as client:
        spec, tier = client.spec(), client.tier(kind)
        pixels = read_images(image, spec.input_shape, spec.input_type)
        votes = (n0 or tier.limits.n0) + (n or tier.limits.n)
        start = time.perf_counter()
        asked = client.certify(pixels, alpha=alpha, n0=n0, n=n, top_k=top_k, deadline=deadline)
        with _display(votes, is_quiet=as_json) as show, closing(asked):
            answer, is_stopped = _last(asked, lambda answer: show(answer, time.perf_counter() - start))
        seconds = time.perf_counter() - start
    record = {**answer_record(str(image), answer, seconds, promise=tier.promise), "stopped": is_stopped}
    deliver(record, lambda: certified_text(answer, is_stopped=is_stopped), as_json=as_json)


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
