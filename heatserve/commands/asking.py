"""Asking a server about several files: one that cannot be answered does not keep the others from their answers."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

if TYPE_CHECKING:
    from heatserve.serving.client.answers import ModelSpec
    from heatserve.serving.client.tier_answers import TierAnswer
    from heatserve.serving.pixels import Pixels

T = TypeVar("T")


@dataclass(frozen=True)
class Answered(Generic[T]):
    """What a server answers to one image of a file, and the seconds that the request took."""

    image: Path
    answer: T
    seconds: float


@dataclass(frozen=True)
class Unanswered:
    """Why there is no answer to a file; the sentence names it."""

    image: Path
    error: str


def ask_each(
    images: Sequence[Path], spec: ModelSpec, ask: Callable[[Pixels], Sequence[T]]
) -> list[Answered[T] | Unanswered]:
    """What a server says of each file, in their order; a file may hold several images.

    Once no server answers any more, it is not asked about the files that are left.

    Args:
        images: picture files, or .npy arrays.
        spec: of the model.
        ask: sends the images of a file; one answer for each.
    """
    from heatserve.serving.client.image_files import read_images
    from heatserve.serving.errors import ServingError, UnavailableError
    from heatserve.training.data.decoding import printable

    results: list[Answered[T] | Unanswered] = []
    gone: ServingError | None = None
    for path in images:
        try:
            pixels = read_images(path, spec.input_shape, spec.input_type)
        except ServingError as error:  # names the file
            results.append(Unanswered(path, str(error)))
            continue
        try:
            if gone:
                raise gone
            start = time.perf_counter()
            answers = ask(pixels)
        except ServingError as error:
            gone = error if isinstance(error, UnavailableError) else None
            results.append(Unanswered(path, f"{printable(path)}: {error}"))
            continue
        seconds = time.perf_counter() - start
        results += [Answered(path, answer, seconds) for answer in answers]
    return results


def table_rows(results: Sequence[Answered[T] | Unanswered]) -> list[tuple[str, T, float]]:
    """The answers as a table shows them: the name of the file, the answer and the seconds that the request took."""
    from heatserve.training.data.decoding import printable

    return [(printable(found.image), found.answer, found.seconds) for found in results if isinstance(found, Answered)]


def answer_record(image: str, answer: TierAnswer, seconds: float, *, promise: str | None) -> dict[str, Any]:
    """What a tier answers to an image, as JSON has it: without what the tier does not say."""
    said = {name: value for name, value in asdict(answer).items() if value is not None and value != ()}
    values = {name: value.value if isinstance(value, Enum) else value for name, value in said.items()}
    return {
        "image": image,
        **values,
        "explanation": answer.explanation,
        "certificate_kind": answer.certificate_kind,
        "seconds": seconds,
        "promise": promise,
    }


def unanswered_record(result: Unanswered) -> dict[str, Any]:
    """A file that was not answered, as JSON has it."""
    return {"image": str(result.image), "error": result.error}


def check_answered(results: Sequence[Answered[T] | Unanswered]) -> None:
    """Raise an error about the files that were not answered, if any.

    Raises:
        ServingError: says of each such file why.
    """
    from heatserve.serving.errors import ServingError

    errors = [result.error for result in results if isinstance(result, Unanswered)]
    if errors:
        raise ServingError("\n       ".join(errors))
