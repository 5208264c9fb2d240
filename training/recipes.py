"""What a training is done with unless its user says otherwise: optimisation and augmentation."""

from __future__ import annotations

from heatserve.training.data.augmentation import Augmentation
from heatserve.training.loop.optimisation import Optimisation

AUGMENTATIONS = {
    ("lipschitz", "cifar10"): Augmentation(padding=2, flip=True),
    (None, "digits"): Augmentation(padding=1),
    (None, "cifar10"): Augmentation(padding=4, flip=True),
    (None, "imagenet"): Augmentation(flip=True),
}
"""By method and data set; None: any other method. Nothing is known about what keeps the class in an image folder."""

BASELINES = {"digits": Optimisation(epochs=20, batch_size=32, lr=0.1, cpu_threads=1)}
"""Where the 200 epochs of the paper's appendix E are not the default."""

FINE_TUNINGS = {
    ("heat", "digits"): Optimisation(epochs=1, batch_size=4, lr=0.05, weight_decay=0.0, augment=False, cpu_threads=1),
    ("heat", "cifar10"): Optimisation(epochs=2, batch_size=64, lr=0.01),
    ("heat", None): Optimisation(epochs=1, batch_size=128, lr=0.01, decay="constant", augment=False),
    ("average", "digits"): Optimisation(epochs=20, batch_size=32, lr=0.05, cpu_threads=1),
    (None, "digits"): Optimisation(epochs=10, batch_size=32, lr=0.05, cpu_threads=1),
    (None, "cifar10"): Optimisation(epochs=2, batch_size=64, lr=0.05),
    (None, None): Optimisation(epochs=1, batch_size=128, lr=0.01),
}
"""Recipes by method and data set; None: any other data set."""

LIPSCHITZ = {
    "digits": (
        "lipschitz_digits",
        Optimisation(
            epochs=80, batch_size=32, lr=1.0, decay="one-cycle", weight_decay=1e-4, augment=False, cpu_threads=1
        ),
    ),
    "cpu": (
        "lipschitz_xs",
        Optimisation(epochs=90, batch_size=250, lr=0.3, decay="one-cycle", weight_decay=1.3e-4),
    ),
    "gpu": (
        "lipschitz_s",
        Optimisation(
            epochs=700, batch_size=250, lr=0.035, decay="one-cycle", weight_decay=1.3e-4, precision="bfloat16"
        ),
    ),
}
"""Recipes of the networks that are 1-Lipschitz: by data set, or else by where they are trained."""


def augmentation(method: str, dataset: str) -> Augmentation:
    """What the images of a training are changed by; none of a data set that nothing is known about."""
    return AUGMENTATIONS.get((method, dataset), AUGMENTATIONS.get((None, dataset), Augmentation()))


def baseline_optimisation(dataset: str) -> Optimisation:
    """Defaults of `train_baseline`: the 200 epochs of the paper's appendix E, or some seconds for the digits."""
    return BASELINES.get(dataset, Optimisation(epochs=200, batch_size=128, lr=0.1))


def lipschitz_recipe(dataset: str, device: str) -> tuple[str, Optimisation]:
    """Architecture and optimisation of `train lipschitz`: a minute for the digits.

    On CIFAR-10 about two hours of two CPU cores, or a quarter of an hour of a GPU.
    """
    return LIPSCHITZ["digits" if dataset == "digits" else "cpu" if device == "cpu" else "gpu"]


def fine_tuning(method: str, dataset: str) -> Optimisation:
    """Defaults of `train_from`: for heat on any other data the paper's one epoch at a learning rate of 0.01."""
    keys = ((method, dataset), (method, None), (None, dataset), (None, None))
    return next(FINE_TUNINGS[key] for key in keys if key in FINE_TUNINGS)
