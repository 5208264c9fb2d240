"""`heatserve attack`. Heavy imports stay inside the functions: `--help` is quick."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from heatserve.commands.options import REPOSITORY, Data, Json, OutWithFigure, Repository, Root, Seed, deliver, tell_page

if TYPE_CHECKING:
    from heatserve.benchmarks.records.attack import AttackRecord
    from heatserve.export.repository.layout import ModelVersion

_TINY = 1024  # numbers in an image; threads that share so few wait for each other, ten times as long on busy cores

_NoiseSamples = Annotated[
    int, typer.Option(min=1, help="n of equation (9): noisy passes in a gradient of the smoothed classifier.")
]
Epsilons = Annotated[
    list[float] | None,
    typer.Option(help="ε: search within this L2 distance; repeat it. By default 0.1, 0.25, 0.5 and 1."),
]
_SpoofSamples = Annotated[
    int, typer.Option(min=1, help="m: noisy passes in each estimate of what can be proven, while spoofing.")
]
_DefencePasses = Annotated[
    list[int] | None, typer.Option(help="Noisy passes of the defences that make any; repeat it. By default 4, 16.")
]
Threads = Annotated[
    int | None, typer.Option(min=1, help="Torch's threads; by default 1 where images are tiny, else torch's own.")
]


def attack(
    name: Annotated[str, typer.Argument(help="Model in the repository; its newest version is attacked.")],
    data: Data = None,
    root: Root = None,
    repository: Repository = REPOSITORY,
    images: Annotated[int, typer.Option(min=1, help="Test images to attack.")] = 100,
    top_k: Annotated[int, typer.Option(min=1, help="PGD and DDN succeed when the class is not among the k best.")] = 1,
    steps: Annotated[int, typer.Option(min=1, help="Steps of PGD, DDN and the search for spoofed certificates.")] = 20,
    limit: Annotated[float, typer.Option(help="Largest L2 distance of PGD and DDN, pixels in [0,1].")] = 4.0,
    noise_samples: _NoiseSamples = 100,
    votes: Annotated[
        int, typer.Option(min=10, help="Noisy answers that decide whether the smoothed class changed.")
    ] = 1000,
    epsilon: Epsilons = None,
    spoof_samples: _SpoofSamples = 16,
    targets: Annotated[int, typer.Option(min=1, help="Classes that v is driven to, one search each.")] = 2,
    defence_epsilon: Annotated[float, typer.Option(help="ε at which defences are compared.")] = 0.5,
    defence_passes: _DefencePasses = None,
    cpu_threads: Threads = None,
    seed: Seed = 0,
    card: Annotated[bool, typer.Option("--card", help="Add what was found to the model's certificate card.")] = False,
    out: OutWithFigure = None,
    as_json: Json = False,
) -> None:
    """Try to break a served model: adversarial distances, spoofed certificates, and what cheap defences stop.

    An adversary does not draw inputs like the calibration set. Searches follow gradients of the very graphs that are
    served; what they find is judged by those graphs and by Certify.

    **Example:** `heatserve attack digits --images 100 --out benchmarks/results/attack-digits.json`
    """
    from heatserve.benchmarks.attack.measure import attack_model
    from heatserve.benchmarks.attack.settings import AttackSettings, Search
    from heatserve.benchmarks.attack.target import open_target
    from heatserve.export.calibration.report import progress_bar
    from heatserve.export.calibration.sampling import check_classes, sample
    from heatserve.export.repository.smoothed import SmoothedWork, open_smoothed

    model = open_smoothed(repository, name, SmoothedWork.ATTACK)
    settings = AttackSettings(
        top_k=top_k,
        epsilon=limit,
        steps=steps,
        noise_samples=noise_samples,
        votes=votes,
        spoof_epsilons=tuple(epsilon or AttackSettings.spoof_epsilons),
        search=Search(steps=steps, samples=spoof_samples, targets=targets),
        defence_epsilon=defence_epsilon,
        defence_samples=tuple(defence_passes or AttackSettings.defence_samples),
        seed=seed,
    )
    settings.check(classes=len(model.card.class_names))
    data = data or model.card.trained_on
    check_classes(model.card, data, root=root)
    attacked = sample(data, "test", root=root, count=images, seed=seed)
    held_out = sample(data, "calibration", root=root, count=2 * images, seed=seed)
    use_threads(attacked.images[0].size, cpu_threads)
    target = open_target(model, attacked, seed=seed)
    record = attack_model(target, attacked, held_out, settings, progress_bar)
    _deliver(record, model if card else None, out=out, as_json=as_json)


def use_threads(numbers: int, chosen: int | None) -> None:
    """Have torch use as many threads as `--cpu-threads` says, or as suit images of so many numbers."""
    import torch

    torch.set_num_threads(chosen or (1 if numbers < _TINY else torch.get_num_threads()))


def _deliver(record: AttackRecord, model: ModelVersion | None, *, out: Path | None, as_json: bool) -> None:
    """Hand over what was found: also to the card of `model`, where there is one."""
    from heatserve.benchmarks.attack.measure import card_part
    from heatserve.benchmarks.attack.report import attack_report, draw_attack
    from heatserve.benchmarks.records.record import to_json
    from heatserve.export.repository.publishing import record_attack

    deliver(to_json(record), lambda: attack_report(record), as_json=as_json, out=out)
    if out:
        draw_attack(record, out.with_suffix(".svg"))
    if model:
        typer.echo(f"wrote   {record_attack(model, card_part(record)).path}/certificate.json", err=True)
    tell_page(out, "attack")
