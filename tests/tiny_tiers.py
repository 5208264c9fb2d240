"""A repository of tiny models with tiers, whose votes may take as long as a busy machine needs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tiny_model import SHAPE, take_uint8, write_tiny_model

from heatserve.export.card import read_card
from heatserve.export.repository.layout import CONFIG_NAME
from heatserve.export.repository.settings import read_config, write_config
from heatserve.export.repository.tiers import write_tier_configs
from heatserve.export.tiers import TierModel

PATIENT_SECONDS = 300.0
"""The largest deadline; half of it is the default."""
QUEUE = 4
"""Images that may wait at `narrow_confirm`."""
RADIUS = 0.05
"""A radius within which votes prove the class of most of `grid_images`."""

_TIERS = {
    "tiny": tuple(TierModel),
    "narrow": (TierModel.CONFIRM,),
    "lone": (TierModel.CERTIFY,),
    "pictures": (TierModel.CERTIFY_STREAM,),
}


def write_tiny_tiers(repository: Path) -> None:
    """Write the models.

    `tiny` has all tiers, `narrow` confirm and a short queue, `lone` certify alone, and `pictures`, which takes pictures
    of any size, the stream.
    """
    for name, kinds in _TIERS.items():
        version_dir = write_tiny_model(repository, name, calibrated=name != "pictures")
        if name == "pictures":
            take_uint8(version_dir, resize=8)
        write_tier_configs(repository, read_card(version_dir), kinds)
        for kind in kinds:
            path = repository / kind.beside(name) / CONFIG_NAME
            config = read_config(path)
            config.parameters["deadline_ms"].string_value = f"{PATIENT_SECONDS * 500:.0f}"
            config.parameters["most_deadline_ms"].string_value = f"{PATIENT_SECONDS * 1000:.0f}"
            if name == "narrow":
                config.parameters["queue"].string_value = str(QUEUE)
            write_config(path, config)


def grid_images(count: int, *, seed: int = 0) -> NDArray[np.float32]:
    """Images of 8 bits, float32 [count, 1, 8, 8] in [0,1]."""
    pixels = np.random.default_rng(seed).integers(0, 256, (count, *SHAPE), dtype=np.uint8)
    return pixels / np.float32(255)
