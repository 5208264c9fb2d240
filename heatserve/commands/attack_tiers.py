"""`heatserve attack-tiers`. Heavy imports stay inside the function: `--help` is quick."""

from __future__ import annotations

from typing import Annotated

import typer

from heatserve.commands.attack import Epsilons, Threads, use_threads
from heatserve.commands.options import REPOSITORY, Data, Json, Out, Repository, Root, Seed, deliver, tell_page

_Radii = Annotated[
    list[float] | None,
    typer.Option(help="r, L2: what the tiers are asked about; repeat it. By default 0.125 and 0.25."),
]


def attack_tiers(
    name: Annotated[str, typer.Argument(help="Model in the repository; its newest version is attacked.")],
    data: Data = None,
    root: Root = None,
    repository: Repository = REPOSITORY,
    images: Annotated[int, typer.Option(min=1, help="Test images to attack.")] = 100,
    radius: _Radii = None,
    epsilon: Epsilons = None,
    steps: Annotated[int, typer.Option(min=1, help="Steps of each search.")] = 20,
    samples: Annotated[int, typer.Option(min=1, help="m: noisy passes in each gradient of a search.")] = 8,
    targets: Annotated[int, typer.Option(min=1, help="Classes that v is driven to, one search each.")] = 1,
    asks: Annotated[
        int, typer.Option(min=1, help="For each radius, questions at the inputs where a false yes is likeliest.")
    ] = 500,
    cpu_threads: Threads = None,
    seed: Seed = 0,
    out: Out = None,
    as_json: Json = False,
) -> None:
    """Try to break the tiers of a model: what one pass, cascade, confirm and certify say where somebody searched.

    The adversary knows both graphs, the code and every past answer, but not the noise to come. Inputs are 8-bit images;
    where the data set has other pixels, they are rounded first, as a picture file rounds them.

    **Example:** `heatserve attack-tiers digits --out benchmarks/results/attack-tiers-digits.json`
    """
    from heatserve.benchmarks.attack.settings import Search, TierAttackSettings
    from heatserve.benchmarks.attack.target import open_target
    from heatserve.benchmarks.attack.tier_attack import as_pictures, attack_all_tiers
    from heatserve.benchmarks.attack.tier_report import tier_report
    from heatserve.benchmarks.records.record import to_json
    from heatserve.export.calibration.report import progress_bar
    from heatserve.export.calibration.sampling import check_classes, sample
    from heatserve.export.repository.smoothed import SmoothedWork, open_smoothed

    model = open_smoothed(repository, name, SmoothedWork.ATTACK)
    settings = TierAttackSettings(
        epsilons=tuple(dict.fromkeys(epsilon or TierAttackSettings.epsilons)),  # the same question again is no other
        radii=tuple(dict.fromkeys(radius or TierAttackSettings.radii)),
        search=Search(steps=steps, samples=samples, targets=targets),
        asks=asks,
        seed=seed,
    )
    settings.check(classes=len(model.card.class_names), sigma=model.card.sigma)
    data = data or model.card.trained_on
    check_classes(model.card, data, root=root)
    attacked = as_pictures(sample(data, "test", root=root, count=images, seed=seed))
    use_threads(attacked.images[0].size, cpu_threads)
    record = attack_all_tiers(open_target(model, attacked, seed=seed), attacked, settings, progress_bar)
    deliver(to_json(record), lambda: tier_report(record), as_json=as_json, out=out)
    tell_page(out, "attack")
