"""The model versions that a server serves: verified, and signed where signatures are asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from heatserve.serving.errors import ServingError

if TYPE_CHECKING:
    from heatserve.export.repository.layout import ModelVersion
    from heatserve.export.signing.trust import Trust


def verified_models(
    repository: Path, names: Sequence[str], versions: Mapping[str, int], *, trust: Trust | None, folder: Path
) -> tuple[ModelVersion, ...]:
    """The models of a repository, each in the version that is to be served, its card verified.

    Args:
        repository: a folder of exported models.
        names: of the models; none: all.
        versions: of models that are not to be served in the version that is pinned, or else the newest.
        trust: keys, one of which must have signed each model, which is then copied; None: it need not be signed.
        folder: for the copies.

    Raises:
        CardError: a card that does not match its graphs.
        UntrustedError: a model that no trusted key has signed as it is.
        ServingError: there is no model.
    """
    try:
        from heatserve.export.repository.layout import check_tier_folders, model_names
    except ImportError as error:
        raise ServingError(f"serving needs more packages ({error}): pip install 'heatserve[serve]'") from None

    if not names:
        check_tier_folders(repository)
    opened = dict.fromkeys(names or model_names(repository))
    models = tuple(
        verified_model(repository, name, versions.get(name), trust=trust, folder=folder / name) for name in opened
    )
    if not models:
        found = "no model in it" if repository.is_dir() else "no such folder"
        raise ServingError(
            f"{repository}: expected a model repository, found {found}; write one with `heatserve export`"
        )
    return models


def verified_model(
    repository: Path, name: str, version: int | None, *, trust: Trust | None, folder: Path
) -> ModelVersion:
    """One of them; with `trust`, a copy in the new `folder`.

    Raises:
        HeatserveError: see `verified_models`.
    """
    from heatserve.export.repository.pins import open_pinned, pinned_version

    if trust is None:
        return open_pinned(repository, name, version=version)
    return trust.admit(repository, name, folder, version=pinned_version(repository, name, version))
