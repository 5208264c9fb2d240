"""Options that several commands share, and how a command hands over what it found."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from heatserve.certification.errors import HeatserveError
from heatserve.certification.files import write_atomically
from heatserve.commands.new_files import new_file, new_file_and_figure

if TYPE_CHECKING:
    from rich.console import Group, RenderableType
    from rich.text import Text

    from heatserve.benchmarks.records.front import FrontRecord
    from heatserve.benchmarks.records.heat_step import HeatStepRecord
    from heatserve.benchmarks.records.load import LoadRecord
    from heatserve.benchmarks.records.speed import EngineRecord, LatencyRecord
    from heatserve.benchmarks.records.tiers import TiersRecord
    from heatserve.export.signing.trust import Trust

R = TypeVar("R", "LatencyRecord", "EngineRecord", "FrontRecord", "HeatStepRecord", "LoadRecord", "TiersRecord")

DATA_HELP = "`digits`, `cifar10`, `imagenet` or `imagefolder:PATH`"
_FOLDERS = "Folders of pictures (they become a part of the data set's name)"
ShorterSide = Annotated[
    int | None,
    typer.Option(
        "--resize",
        min=1,
        rich_help_panel=_FOLDERS,
        help="Resize the shorter side of every picture to so many pixels, as the served graph does later.",
    ),
]
Crop = Annotated[
    int | None,
    typer.Option(
        min=1,
        rich_help_panel=_FOLDERS,
        help="Then cut a square of so many pixels a side out of the centre; by default --resize.",
    ),
]
ClassesFile = Annotated[
    Path | None,
    typer.Option(
        "--classes",
        rich_help_panel=_FOLDERS,
        help="Names and order of the classes: a line each, FOLDER or FOLDER NAME.",
    ),
]
SkipUnreadable = Annotated[
    bool,
    typer.Option("--skip-unreadable", rich_help_panel=_FOLDERS, help="Leave out files that cannot be read."),
]
Data = Annotated[str | None, typer.Option(help=f"{DATA_HELP}; by default what the model was trained on.")]
Root = Annotated[Path | None, typer.Option(help="Folder of the data set; cifar10 and imagenet need it.")]
ARCHITECTURE_HELP = (
    "`cifar_resnet20`, …, `timm:NAME`, `torchvision:NAME`, or code of yours, which is run: `file.py:function`, "
    "`package.module:function`. The last four take options: `NAME?option=value&…`"
)
OwnCode = Annotated[
    str | None,
    typer.Option(
        "--architecture",
        help="Where the network of the checkpoint is code of yours: `file.py:function` or `package.module:function`, "
        "which is run. No other network needs it.",
    ),
]
Repository = Annotated[Path, typer.Option(help="Triton model repository.")]
REPOSITORY = Path("model_repository")
TestImages = Annotated[int, typer.Option(min=1, help="Test images, at most what the split has.")]


def seed_option(decides: str) -> Any:
    """An option for a seed: from 2³² on, seeds would share the noise of smaller ones."""
    return typer.Option(min=0, max=2**32 - 1, help=f"Decides {decides}.")


Seed = Annotated[int, seed_option("the noise, and which images are taken")]
Out = Annotated[Path | None, typer.Option(callback=new_file, help="Write the results there, as JSON.")]
OutWithFigure = Annotated[
    Path | None,
    typer.Option(
        "--out", callback=new_file_and_figure, help="Write the results there, as JSON, and a figure beside it."
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Write JSON to stdout, not a table.")]
SAMPLING_HELP = "Noise of Certify: `float32`, or `grid`: sound, for 8-bit images only."
Sampling = Annotated[str, typer.Option(help=SAMPLING_HELP)]
Kept = Annotated[
    Path,
    typer.Option(
        "--certificates",
        help="Folder of what Certify found: interrupted work goes on, and models of one base share it.",
    ),
]
KEPT = Path("runs/certificates")
_PORT_HELP = "TCP port; 0 takes any free one."
Host = Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0: all.")]
HttpPort = Annotated[int, typer.Option(help=_PORT_HELP)]
GrpcPort = Annotated[int, typer.Option(help=_PORT_HELP)]
MetricsPort = Annotated[int, typer.Option(help=_PORT_HELP)]
BackendDirectory = Annotated[
    Path | None, typer.Option(help="Triton's backends, where they are not beside `tritonserver`.")
]

Trusted = Annotated[
    list[Path] | None,
    typer.Option(
        "--trust",
        metavar="KEY",
        help="Serve only what `heatserve sign` signed with this key: its public key, a PEM file. May be given again.",
    ),
]


def trust_in(keys: Sequence[Path] | None) -> Trust | None:
    """What the options `--trust` say; None: there are none, and no signature is asked for."""
    if not keys:
        return None
    from heatserve.export.signing.trust import Trust

    return Trust.of(keys)


def name_data(
    data: str, *, resize: int | None = None, crop: int | None = None, classes: Path | None = None, skip: bool = False
) -> str:
    """The name of a data set with the options that were given beside it, as checkpoints and cards have it.

    Raises:
        NamingError: the name has an option already, with another value.
    """
    from heatserve.training.named import parse_named

    file = None if classes is None else str(classes)
    return str(parse_named(data).adding(resize=resize, crop=crop, classes=file, skip_unreadable=skip or None))


def deliver(
    results: object,
    table: Callable[[], RenderableType],
    *,
    as_json: bool,
    out: Path | None = None,
    width: int | None = None,
) -> None:
    """Hand over what a command found: as JSON to the file `out`, atomically, and to stdout as JSON or as a table.

    Args:
        results: what `json.dumps` takes, or a string that is JSON already.
        table: makes what a person reads; it is not called where stdout gets JSON. For several, a `rich.console.Group`.
        as_json: the option `--json`.
        out: the option `--out`; None: no file.
        width: columns of a table that is wider than the terminal; None: as wide as the terminal.
    """
    text = results if isinstance(results, str) else json.dumps(_finite(results), indent=2, allow_nan=False)
    if out:
        write_atomically(out, f"{text}\n".encode())
    if as_json:
        typer.echo(text)
        return
    from rich.console import Console

    Console(highlight=False, width=width).print(table(), crop=False)


def _finite(value: Any) -> Any:
    """The same, with null for a number that is none, as records have it: JSON knows no NaN and no infinity."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, list | tuple) else value


def line(label: str, value: object) -> Group:
    """One line of what `deliver` prints, such as `wrote   FOLDER`; it is not wrapped, so that it can be copied."""
    from rich.console import Group
    from rich.text import Text

    return Group(Text(f"{label:<7} {value}", no_wrap=True, overflow="ignore"))


@contextmanager
def kept_when_interrupted(folder: Path) -> Iterator[None]:
    """Say on stderr, at Ctrl-C, that the work of Certify is kept in `folder`, if it has begun."""
    try:
        yield
    except KeyboardInterrupt:
        if folder.is_dir():
            typer.echo(f"interrupted; what was found is kept in {folder}: the same command goes on from it", err=True)
        raise


def uncalibrated(arguments: str) -> Text:
    """What a new model serves, and the command that changes it, on one line, so that it can be copied."""
    from rich.text import Text

    words = f"Certified radii of the single pass are 0 until: heatserve calibrate {arguments}"
    return Text(words, no_wrap=True, overflow="ignore")


def tell_page(out: Path | None, page: str) -> None:
    """Say on stderr, where results were written to a file, which command renders the page of such results."""
    if out:
        typer.echo(
            f"wrote   {out}; of the results kept in benchmarks/results/, `heatserve bench pages` renders "
            f"docs/results/{page}.md",
            err=True,
        )


def one_by_one(record: R, names: Sequence[str], measure: Callable[[str], Any], out: Path | None) -> R:
    """The record with what is measured of each name; written after each: an interrupted run keeps what it has."""
    from dataclasses import replace

    from heatserve.benchmarks.records.record import write_record

    for name in names:
        record = replace(record, shapes={**record.shapes, name: measure(name)})
        if out:
            write_record(out, record)
    return record


def known_names(option: str, names: Sequence[str] | None, known: Collection[str]) -> list[str]:
    """The names that an option was given, all that are known where it was not.

    Raises:
        HeatserveError: one that is not known.
    """
    unknown = [name for name in names or () if name not in known]
    if unknown:
        raise HeatserveError(f"{option}: expected one of {', '.join(known)}, got {unknown[0]}")
    return list(names or known)


def numbers(name: str, text: str) -> tuple[float, ...]:
    """What an option holds that takes numbers with commas between.

    Raises:
        HeatserveError: it holds something else.
    """
    try:
        return tuple(float(number) for number in text.split(","))
    except ValueError:
        raise HeatserveError(f"{name}: expected numbers with commas between them, got {text!r}") from None
