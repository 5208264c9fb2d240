"""What a client knows of its model: how images become requests, and answers of tiers become those of images."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from time import monotonic

from numpy.typing import ArrayLike

from heatserve.export.tiers import TierModel
from heatserve.serving.batching import PICTURES_BYTES
from heatserve.serving.client.answers import (
    ModelSpec,
    Prediction,
    read_class_names,
    read_outputs,
    read_predictions,
)
from heatserve.serving.client.failures import harmless
from heatserve.serving.client.image_batch import as_batch
from heatserve.serving.client.messages import InferResult
from heatserve.serving.client.tier_answers import TierAnswer, read_tier_answers
from heatserve.serving.client.tier_questions import TierQuestion, TierSpec
from heatserve.serving.errors import ServingError
from heatserve.serving.pixels import Pixels


@dataclass(frozen=True)
class Described:
    """What a client asks about a version of its model once."""

    spec: ModelSpec
    class_names: dict[int, str]
    version: str
    """Of the answer that has the names; empty where the server does not say."""
    tiers: dict[TierModel, TierSpec] = field(default_factory=dict)
    """Those that were asked for."""

    @classmethod
    def of(cls, spec: ModelSpec, ranking: InferResult) -> Described:
        """What a specification and a ranking of all classes say.

        Raises:
            ServingError: see `read_class_names`.
        """
        return cls(spec, read_class_names(ranking), ranking.model_version)

    def requests(self, images: ArrayLike) -> Iterator[Pixels]:
        """The images as batches that the model takes, all but the last of them its largest.

        Raises:
            ServingError: the images are not what the model takes; before the first batch.
        """
        batch = as_batch(images, self.spec.input_shape, self.spec.input_type)
        count = self.spec.max_batch_size
        if -1 in self.spec.input_shape:
            count = max(1, min(count, PICTURES_BYTES // max(1, batch[:1].nbytes)))
        for start in range(0, len(batch), count):
            yield batch[start : start + count]

    def one(self, image: ArrayLike, *, over_http: bool) -> Pixels:
        """One image as a batch that a stream about it takes.

        Over HTTP an image of a stream is a list of numbers, of which Triton guesses the shape: a picture of 12×9 pixels
        would be certified as one of 1×108.

        Raises:
            ServingError: the image is not what the model takes, there are several, or HTTP cannot tell its shape.
        """
        if over_http and -1 in self.spec.input_shape:
            raise ServingError(
                "image: expected gRPC for a stream about a picture of any size, got HTTP, over which its height and "
                "width are lost; give the client the server's address for gRPC"
            )
        batch = as_batch(image, self.spec.input_shape, self.spec.input_type)
        if len(batch) != 1:
            raise ServingError(f"image: expected one image, found a batch of {len(batch)}; certify one after the other")
        return batch

    def predictions(self, answer: InferResult, names: Collection[str], *, images: int) -> list[Prediction]:
        """The answers of the single pass to a request of N images for these outputs.

        Raises:
            ServingError: see `read_outputs`.
        """
        outputs = read_outputs(answer, images=images, classes=self.spec.classes, names=names)
        return read_predictions(outputs, self.class_names)

    def read(self, answer: InferResult, asked: TierQuestion, tier: TierSpec, *, images: int) -> list[TierAnswer]:
        """The answers of a tier to a request of N images.

        Raises:
            ServingError: see `read_tier_answers`.
        """
        most_alpha = tier.limits.alpha if asked.alpha is None else asked.alpha
        return read_tier_answers(
            answer, asked, images=images, classes=self.spec.classes, most_alpha=most_alpha, names=self.class_names
        )


DESCRIBED_TIMES = 4
"""How often the description of a version that has answered is asked for."""

_KNOWN_SECONDS = 60.0
"""How long a description counts: a server that is started again, or another one, may have another model."""

_KEPT_VERSIONS = 16
"""More than serve beside one another; a server that names ever new ones must not fill the memory of its clients."""


class KnownVersions:
    """What a client knows of its model, by version: one that the server serves later may have other classes.

    It is known for a minute: a server that is replaced may serve another model under the same number.
    """

    def __init__(self) -> None:
        """Nothing yet."""
        self._newest: Described | None = None
        self._versions = dict[str, Described]()
        self._since = 0.0

    @property
    def newest(self) -> Described | None:
        """Of the version that answered last; None: nothing, and the server should be asked."""
        if monotonic() - self._since > _KNOWN_SECONDS:
            self._newest = None
            self._versions.clear()
        return self._newest

    def add(self, described: Described) -> Described:
        """Remember what the server says now."""
        if not self._versions:
            self._since = monotonic()
        self._newest = self._versions[described.version] = described
        if len(self._versions) > _KEPT_VERSIONS:
            del self._versions[next(iter(self._versions))]
        return described

    def of(self, answer: InferResult) -> Described | None:
        """What is known of the version that answered; None: nothing, and the server should be asked again."""
        if answer.model_version:
            self._newest = self._versions.get(answer.model_version)
        return self._newest


def not_described(answer: InferResult) -> ServingError:
    """The error where servers of other versions, behind one address, describe theirs each time they are asked."""
    return ServingError(
        f"expected a description of version {harmless(answer.model_version):.40} of the model, which answered, found "
        "those of other versions; the address serves several of them: ask again"
    )


def not_offered(model: str, spec: ModelSpec, kind: TierModel, offered: Collection[TierModel]) -> ServingError:
    """The error where a server does not offer a tier of a model that it serves."""
    if spec.certificate_kind == "deterministic":
        return ServingError(
            f"model {model!r}: expected one with the tier {kind.value}, got one whose certificate is deterministic: "
            "its certified radius is proven of the served class for every image, whoever made it, and there is nothing "
            "for votes to prove; ask `predict`, and compare certified_radius with the radius that you need"
        )
    tiers = ", ".join(["the single pass", *(other.value for other in offered)])
    return ServingError(
        f"model {model!r}: expected the tier {kind.value}, found that this server offers {tiers} of this model; the "
        f"operator switches a tier on: {kind.beside(model)}/config.pbtxt in the model repository"
    )
