"""`heatserve tiers`."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Group

from heatserve.commands.options import REPOSITORY, Json, Repository, deliver, line


def tiers(
    name: Annotated[str, typer.Argument(help="Model in the repository.")],
    repository: Repository = REPOSITORY,
    as_json: Json = False,
) -> None:
    """Write the tiers that a model lacks: what answers with votes, and holds against an adversary.

    For models of former versions, and tiers that were switched off. `export` writes all four beside a new model; remove
    the folder of one, `model_repository/NAME_certify`, to switch it off. Limits of those that are there stay.

    **Example:** `heatserve tiers cifar10`
    """
    from heatserve.export.repository.smoothed import SmoothedWork, open_smoothed
    from heatserve.export.repository.tiers import read_tier_configs, served_tiers, tier_limits, write_tier_configs
    from heatserve.export.tiers import TierModel, limit_names
    from heatserve.tables import tiers_table

    model = open_smoothed(repository, name, SmoothedWork.TIERS)
    missing = [kind for kind in TierModel if kind not in read_tier_configs(repository, name)]
    write_tier_configs(repository, model.card, missing)
    limits = {kind: tier_limits(config) for kind, config in served_tiers(model).items()}
    deliver(
        {
            kind.beside(name): {limit: getattr(found, limit) for limit in limit_names(kind)}
            for kind, found in limits.items()
        },
        lambda: Group(
            *(line("wrote", repository / kind.beside(name)) for kind in missing), "", tiers_table({name: limits})
        ),
        as_json=as_json,
    )
