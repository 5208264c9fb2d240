"""Options that several commands share, and what they are turned into."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from heatserve.certification.noise import NoiseSource

Repository = Annotated[Path, typer.Option(help="Triton model repository.")]
Sampling = Annotated[
    str,
    typer.Option(help="Noise of Certify: `float32`, or `grid`: sound, for 8-bit images only."),
]
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


def noise_source(sampling: str) -> NoiseSource:
    from heatserve.certification.errors import HeatserveError
    from heatserve.certification.noise import SOURCES

    if sampling not in SOURCES:
        raise HeatserveError(f"sampling: expected one of {', '.join(SOURCES)}, got {sampling}")
    return SOURCES[sampling]
