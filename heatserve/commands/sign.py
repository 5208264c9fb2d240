"""`heatserve sign`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Group

from heatserve.commands.options import REPOSITORY, Json, Repository, deliver, line


def sign(
    model: Annotated[str, typer.Argument(help="Model in the repository.")],
    key: Annotated[Path, typer.Option(help="Private key, a PEM file of the curve P-256, P-384 or P-521.")],
    version: Annotated[int | None, typer.Option(min=1, help="Its version; by default the newest.")] = None,
    repository: Repository = REPOSITORY,
    as_json: Json = False,
) -> None:
    """Sign a model version: card, graphs, labels, settings and tiers, for `heatserve serve --trust`.

    Needs no network. The key stays where you sign; servers get its public key. A passphrase is asked for.

    **Example:** `heatserve sign digits --key signing.pem`
    """
    from heatserve.export.signing.signing import is_encrypted, sign_version

    passphrase = typer.prompt(f"Passphrase of {key}", hide_input=True, err=True).encode() if is_encrypted(key) else None
    signed = sign_version(repository, model, key, version=version, passphrase=passphrase)
    deliver(
        {**asdict(signed), "signature": str(signed.signature)},
        lambda: Group(
            *(line("signed", name) for name in signed.files), line("key", signed.key), line("wrote", signed.signature)
        ),
        as_json=as_json,
    )
