"""`heatserve report`. Heavy imports stay inside the function: `--help` is quick."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from heatserve.commands.new_files import new_file
from heatserve.commands.options import REPOSITORY, Repository


def report(
    results: Annotated[Path, typer.Option(help="Folder of the kept results.")] = Path("benchmarks/results"),
    repository: Repository = REPOSITORY,
    out: Annotated[Path, typer.Option(callback=new_file, help="Where to write the page.")] = Path("report.html"),
) -> None:
    """All kept results as one HTML page that loads nothing else: tables and figures beside the paper's, and verdicts.

    **Example:** `heatserve report --results benchmarks/results --out report.html`
    """
    from heatserve.benchmarks.report.page import report_page
    from heatserve.certification.files import write_atomically

    page = report_page(results, repository).encode()
    write_atomically(out, page)
    typer.echo(f"wrote   {out} ({len(page) / 1e6:.2f} MB)", err=True)
