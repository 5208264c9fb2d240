"""Images to calibrate and to measure on that no training of a network saw: its lineage and their pixels decide.

Which data sets trained it is known from the lineage on its card. Whether one of their training images is among the
calibration or test images is decided by `pixel_digest`, whatever file or data set holds them. Needs torch, to read the
data sets.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from heatserve.certification.errors import HeatserveError
from heatserve.certification.lineage import UNKNOWN
from heatserve.certification.pixels import pixel_digest
from heatserve.certification.progress import Progress, unseen
from heatserve.export.calibration.attempts import read_attempts
from heatserve.export.calibration.sampling import sample_for
from heatserve.export.card import Card
from heatserve.export.card_parts import Calibration, Evaluation
from heatserve.export.images import LabelledImages, SampledImages
from heatserve.export.repository.layout import ModelVersion

if TYPE_CHECKING:
    from heatserve.training.data import ImageData

_CHUNK = 64
"""Images that a thread reads at a time."""


@dataclass
class HeldOut:
    """Draws images for a model that share no pixels with what trained it, nor with any that it drew before.

    Attributes:
        model: exported, with the lineage of its networks.
        root: the folder of data sets that need one.
        vouched: a user says that training never saw the `test` split of the data set that is drawn from.
        seen: digests of all training images that could be read, of what else is not to be drawn, and of all images
            drawn so far.
        not_compared: why the training images of a data set could not be read, for each of which that is so.
        used_by: what the images of `seen` were used by, for messages.
        left_out: images that were passed over, since they are among those of `seen`.
        cut: what was drawn in place of more images that were asked for; empty: all of them.
    """

    model: ModelVersion
    root: Path | None
    vouched: bool
    seen: set[str]
    not_compared: tuple[str, ...]
    used_by: str = "training"
    left_out: int = 0
    cut: str = ""

    @property
    def notes(self) -> tuple[str, ...]:
        """What a user has to know of what was drawn, a line each."""
        left_out = f"left out {self.left_out} images that {self.used_by} used, or that are there twice"
        said = [*([left_out] if self.left_out else []), *([self.cut] if self.cut else [])]
        return *said, *(f"not compared: {reason}" for reason in self.not_compared)

    def parts(
        self,
        dataset: str,
        *,
        images: int,
        test_images: int,
        seed: int = 0,
        skip: int = 0,
        test_skip: int = 0,
        test_share: float = 1.0,
    ) -> tuple[SampledImages, SampledImages]:
        """At most `images` to calibrate and at most `test_images` to measure on.

        They are the first of the splits `calibration` and `test` that come after `skip` and `test_skip` images; those
        of `test` are at most the share `test_share` of it. Where a user vouches for the data set, both come from
        `test`, those of the calibration first, after `skip` images; together they are at most two thirds of those and
        the share `test_share` of the other third. They are fewer by the same factor where that is too small.

        Raises:
            HeatserveError: training saw all images of a split, or too few are left of it.
            DataError: no such data set.
        """
        if not self.vouched:
            fitted = self.draw(dataset, "calibration", images, seed=seed, first=skip)
            measured = self.draw(dataset, "test", test_images, seed=seed, first=test_skip, largest_share=test_share)
            return fitted, measured
        return self._shared_out(dataset, images, test_images, seed=seed, skip=skip, share=(2 + test_share) / 3)

    def _shared_out(
        self, dataset: str, images: int, test_images: int, *, seed: int, skip: int, share: float
    ) -> tuple[SampledImages, SampledImages]:
        """`parts` of the split `test` alone: together at most `share` of its images after `skip`, of each at least one.

        Raises:
            HeatserveError, DataError: as `parts`.
        """
        from heatserve.training.data import load_data

        size, asked = len(load_data(dataset, "test", self.root)), images + test_images
        left = max(0, size - skip)
        share_of_all = share * left / size if size else 0
        drawn = self.draw(dataset, "test", asked, seed=seed, first=skip, largest_share=share_of_all)
        if len(drawn) < 2:
            raise HeatserveError(
                f"{dataset}, split 'test': expected images to calibrate, others for figures and others for an audit, "
                f"got {left} after the first {skip}; name a larger data set"
            )
        first = min(max(1, round(len(drawn) * images / asked)), len(drawn) - 1)
        if len(drawn) < asked:
            self.cut = (
                f"{first} images calibrate and {len(drawn) - first} measure the figures, where {images} and "
                f"{test_images} were asked for: at most {int(share * left)} are taken of the {left} of split 'test' "
                f"after the first {skip}, and later ones are for an audit"
            )
        return drawn.at(range(first)), drawn.at(range(first, len(drawn)))

    def again(self, calibration: Calibration, evaluation: Evaluation) -> tuple[SampledImages, SampledImages]:
        """The images that another model of the same networks was calibrated and measured on.

        Raises:
            HeatserveError, DataError: as `parts`.
        """
        fitted, tested = calibration.fit, evaluation.data
        images = fitted.images + calibration.check.images
        return (
            self.draw(fitted.dataset, fitted.split, images, seed=fitted.seed, first=fitted.first),
            self.draw(tested.dataset, tested.split, tested.images, seed=tested.seed, first=tested.first),
        )

    def draw(
        self, dataset: str, split: str, count: int, *, seed: int = 0, first: int = 0, largest_share: float = 1.0
    ) -> SampledImages:
        """The first `count` new images of a split, by the permutation of `seed`, or all where it has no more.

        The permutation begins at its image `first`; of the split at most the share `largest_share` is looked at.

        Raises:
            HeatserveError: training saw all of them, or no image comes after the first `first`.
            DataError: no such data set or split.
        """
        asked = count
        while True:
            sampled = sample_for(
                self.model,
                dataset,
                split,
                root=self.root,
                count=asked,
                seed=seed,
                first=first,
                largest_share=largest_share,
            )
            new = self._new(sampled, count)
            if len(new) == count or len(sampled) < asked:
                break
            asked *= 2
        if not new:
            raise HeatserveError(
                f"{dataset}: expected images of split {split!r} that {self.used_by} of {self.model.card.model} did not "
                f"use, got none: the pixels of all {len(sampled)} are those of images that it used, or of images that "
                "were drawn already; name another data set"
            )
        looked_at = max(new.values()) + 1 if len(new) == count else len(sampled)
        self.left_out += looked_at - len(new)
        self.seen.update(new)
        return sampled if len(new) == len(sampled) else sampled.at(list(new.values()))

    def _new(self, sampled: SampledImages, count: int) -> dict[str, int]:
        """The indices of the first `count` new images, by digest."""
        if isinstance(sampled, LabelledImages):
            digests = _digests(sampled.images.__getitem__, len(sampled))
        else:
            pictures = sampled.pictures
            digests = _digests(lambda index: pictures[index].transpose(2, 0, 1), len(sampled))
        new: dict[str, int] = {}
        for index, digest in enumerate(digests):
            if digest not in self.seen and len(new) < count:
                new.setdefault(digest, index)
        return new


def held_out(
    model: ModelVersion, *, root: Path | None = None, vouched: bool = False, progress: Progress = unseen
) -> HeldOut:
    """Read the images that trained the networks of a model, so that others can be drawn.

    Args:
        model: exported, with the lineage of its networks.
        root: the folder of the data sets that need one.
        vouched: the user says that training never saw the `test` split of what will be drawn from; what can be read of
            the training images is compared all the same.
        progress: follows the reading of training images.

    Raises:
        HeatserveError: nobody vouches, and a network of the lineage was trained elsewhere or is not recorded, or what
            trained it cannot be read.
    """
    if not vouched:
        check_recorded(model.card)
    seen, not_compared = _seen_in_training(model.card, root, vouched, progress)
    return HeldOut(model, root, vouched, seen, not_compared)


def held_out_of_all(model: ModelVersion, *, root: Path | None = None, progress: Progress = unseen) -> HeldOut:
    """As `held_out`, for an audit: nor are images drawn that an attempt to calibrate in the model's repository used.

    What can be read of the training images is compared, and `HeldOut.notes` says what could not be.

    Raises:
        AttemptsError: a record of attempts is damaged.
    """
    seen, not_compared = _seen_in_training(model.card, root, True, progress)
    used = read_attempts(model.path.parents[1]).pixels
    return HeldOut(model, root, True, seen | used, not_compared, "training or calibration")


def check_recorded(card: Card) -> None:
    """Refuse a network of which it is not known which images trained it.

    Raises:
        HeatserveError: names the ancestor, and says what to do.
    """
    for ancestor in card.networks:
        if ancestor.recorded:
            continue
        why = (
            "which images trained it is not recorded; train again from a checkpoint of which it is, or name"
            if ancestor.method == UNKNOWN
            else "trained elsewhere, usually on all training images of its data set, those of the split 'calibration' "
            "among them; name"
        )
        raise HeatserveError(
            f"{card.model}: expected networks that heatserve trained, got the ancestor {ancestor.described}: {why} "
            "with --calibration-data a data set whose test images no training of the network saw; the card will say "
            "that you vouch for it"
        )


def _seen_in_training(
    card: Card, root: Path | None, vouched: bool, progress: Progress
) -> tuple[set[str], tuple[str, ...]]:
    """The digests of all images that trained the networks, and why some could not be read; raises unless vouched."""
    from heatserve.training.data import DataError, load_data

    trained_on = {(ancestor.dataset, "train") for ancestor in card.networks if ancestor.dataset}
    trained_on |= {
        (ancestor.dataset, "calibration") for ancestor in card.networks if ancestor.dataset and not ancestor.recorded
    }
    seen: set[str] = set()
    not_compared: dict[str, None] = {}
    for dataset, split in sorted(trained_on):
        data: ImageData | None = None
        try:
            data = load_data(dataset, split, root, progress=progress)
            reason = _why_others(card, data)
        except DataError as error:
            reason = f"the training images of {dataset} cannot be read: {error}"
        if reason and not vouched:
            raise HeatserveError(
                f"{card.model}: {reason}. Give --root, or name a data set that no training saw with "
                "--calibration-data; the card will say that you vouch for it"
            )
        if reason:
            not_compared[reason] = None
        if data:
            read = _reader(data, stored=card.resize is not None)
            seen.update(progress(_digests(read, len(data)), len(data), f"read {split} images of {dataset}"))
    return seen, tuple(not_compared)


def _why_others(card: Card, data: ImageData) -> str:
    """Why the pictures of a folder's `train` split are not those that trained a network; empty: they are."""
    for ancestor in card.networks:
        trained_on = ancestor.recorded and ancestor.dataset == data.name and data.split == "train"
        if trained_on and ancestor.pixels_sha256 != data.pixels_sha256:
            return (
                f"the training images of {data.name} are not those of {ancestor.described}: pictures were added, "
                "removed or changed since, or cut or decoded by another version of heatserve, so that some of them may "
                "be calibration images now"
            )
    return ""


def _reader(data: ImageData, *, stored: bool) -> Callable[[int], NDArray[Any]]:
    """The image of an index as `sample_for` gives it to a model: as it is stored, or as training read it; [C, H, W]."""
    from heatserve.training.data import FileImages, TensorImages

    images = data.images
    if stored and isinstance(images, FileImages | TensorImages):
        return lambda index: images.picture(index).transpose(2, 0, 1)
    return lambda index: images[index][0].numpy()


def _digests(read: Callable[[int], NDArray[Any]], count: int) -> Iterator[str]:
    """The `pixel_digest` of images 0 to `count` − 1, in order, read by threads: decoding releases Python's lock."""

    def digests_from(start: int) -> list[str]:
        return [pixel_digest(read(index)) for index in range(start, min(start + _CHUNK, count))]

    with ThreadPoolExecutor() as pool:
        for found in pool.map(digests_from, range(0, count, _CHUNK)):
            yield from found
