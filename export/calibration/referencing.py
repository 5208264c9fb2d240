"""The reference of live inputs for a model that was calibrated before there were references."""

from __future__ import annotations

from heatserve.certification.errors import HeatserveError
from heatserve.export.calibration.held_out import HeldOut
from heatserve.export.reference import InputReference, reference_of
from heatserve.export.runtime.answers import answers, model_images
from heatserve.export.runtime.served import open_served


def reference_again(source: HeldOut) -> InputReference:
    """Draw the images that tested a model's map again, and count their statistics, as its calibration would have.

    The card, and with it the promise, is not touched. That they are the same images is checked by what the card counts
    of them.

    Args:
        source: draws for the model.

    Raises:
        HeatserveError: the model is not calibrated, or the images are other ones than those of its card.
        DataError: the data set is not here.
    """
    card = source.model.card
    part = card.calibration
    if part is None or part.guard is None:
        raise HeatserveError(
            f"{card.model}: expected a model that was calibrated with a guard, got one without; calibrate it"
        )
    fit, check = part.fit, part.check
    drawn = source.draw(fit.dataset, fit.split, fit.images + check.images, seed=fit.seed, first=fit.first)
    images = model_images(source.model, drawn)[fit.images :]
    found = images.source(len(images))
    served = answers(open_served(source.model), images)
    positive = int((served["certified_radius"] > 0).sum())
    if found != check or positive != part.overclaim.positive:
        raise HeatserveError(
            f"{fit.dataset}: expected the images of the calibration, {check.images} with {part.overclaim.positive} "
            f"positive radii, got {found.images} with {positive}; name with --root the data that it was made on"
        )
    return reference_of(card, guard=part.guard, data=check, probabilities=served["probabilities"], images=images.images)
