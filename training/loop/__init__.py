"""The loop that every method is trained by: SGD, its log, its state to resume from, and several processes.

    from heatserve.training.loop import Optimisation, Run

    optimisation = Optimisation(epochs=2, batch_size=64, lr=0.01)  # decides the result
    run = Run(device="cuda", resume=True)  # does not

`train_baseline` and `train_from` take both. Importing this package needs no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from heatserve._lazy import lazy_names

if TYPE_CHECKING:
    from heatserve.training.loop.distributed import Team, leads
    from heatserve.training.loop.fitting import Interrupted, Run, fit
    from heatserve.training.loop.optimisation import Optimisation
    from heatserve.training.loop.progress import TrainingProgress, training_bar, unseen_training
    from heatserve.training.loop.state import StateError
    from heatserve.training.loop.trainer import EpochMetrics, TrainingError

__all__ = [
    "EpochMetrics",
    "Interrupted",
    "Optimisation",
    "Run",
    "StateError",
    "Team",
    "TrainingError",
    "TrainingProgress",
    "fit",
    "leads",
    "training_bar",
    "unseen_training",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "EpochMetrics": "heatserve.training.loop.trainer",
        "Interrupted": "heatserve.training.loop.fitting",
        "Optimisation": "heatserve.training.loop.optimisation",
        "Run": "heatserve.training.loop.fitting",
        "StateError": "heatserve.training.loop.state",
        "Team": "heatserve.training.loop.distributed",
        "TrainingError": "heatserve.training.loop.trainer",
        "TrainingProgress": "heatserve.training.loop.progress",
        "fit": "heatserve.training.loop.fitting",
        "leads": "heatserve.training.loop.distributed",
        "training_bar": "heatserve.training.loop.progress",
        "unseen_training": "heatserve.training.loop.progress",
    },
)
