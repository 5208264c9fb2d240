"""The ways to train: the heat loss of the paper, the methods that it is compared with, and the parameters of each.

    from heatserve.training.methods import HeatParameters

    loss = HeatParameters(sigma=0.25).loss(start)  # start: the network that training starts from
    terms = loss(network, images, labels, generator)  # adds the gradient to the network's parameters

`METHODS` names those that start from a trained network. `CrossEntropy` trains the baseline that they start from,
`Margin` networks that are 1-Lipschitz.
Importing this package needs no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from heatserve._lazy import lazy_names

if TYPE_CHECKING:
    from heatserve.training.methods.adversarial import AdversarialLoss
    from heatserve.training.methods.average import AverageLoss
    from heatserve.training.methods.cross_entropy import CrossEntropy
    from heatserve.training.methods.heat import HeatLoss
    from heatserve.training.methods.margin import Margin
    from heatserve.training.methods.noise import NoiseLoss
    from heatserve.training.methods.parameters import (
        METHODS,
        AverageParameters,
        HeatParameters,
        MadryParameters,
        NoiseParameters,
        ParameterError,
        Parameters,
        SmoothAdvParameters,
        heat_preset,
    )
    from heatserve.training.methods.protocol import Method, Terms

__all__ = [
    "AdversarialLoss",
    "AverageLoss",
    "AverageParameters",
    "CrossEntropy",
    "HeatLoss",
    "HeatParameters",
    "METHODS",
    "MadryParameters",
    "Margin",
    "Method",
    "NoiseLoss",
    "NoiseParameters",
    "ParameterError",
    "Parameters",
    "SmoothAdvParameters",
    "Terms",
    "heat_preset",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "AdversarialLoss": "heatserve.training.methods.adversarial",
        "AverageLoss": "heatserve.training.methods.average",
        "AverageParameters": "heatserve.training.methods.parameters",
        "CrossEntropy": "heatserve.training.methods.cross_entropy",
        "HeatLoss": "heatserve.training.methods.heat",
        "HeatParameters": "heatserve.training.methods.parameters",
        "METHODS": "heatserve.training.methods.parameters",
        "MadryParameters": "heatserve.training.methods.parameters",
        "Margin": "heatserve.training.methods.margin",
        "Method": "heatserve.training.methods.protocol",
        "NoiseLoss": "heatserve.training.methods.noise",
        "NoiseParameters": "heatserve.training.methods.parameters",
        "ParameterError": "heatserve.training.methods.parameters",
        "Parameters": "heatserve.training.methods.parameters",
        "SmoothAdvParameters": "heatserve.training.methods.parameters",
        "Terms": "heatserve.training.methods.protocol",
        "heat_preset": "heatserve.training.methods.parameters",
    },
)
