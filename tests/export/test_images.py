"""Images on their way to a model: each picture is decoded once, and what does not fit is refused before it is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import overload

import numpy as np
import pytest
from tiny_model import SHAPE, take_uint8, write_tiny_model

from heatserve.certification.errors import HeatserveError
from heatserve.export.calibration.calibrate import calibrate_model
from heatserve.export.calibration.certifier import Certifier
from heatserve.export.calibration.sampling import sample, sample_for
from heatserve.export.card_parts import MonteCarlo
from heatserve.export.images import LabelledImages, LabelledPictures, Picture
from heatserve.export.repository.layout import ModelVersion, open_model
from heatserve.export.runtime.answers import answers, model_images
from heatserve.export.runtime.served import open_served


@dataclass
class Decoder(Sequence[Picture]):
    """Pictures of 12 to 20 pixels a side that are made when they are asked for; `decoded` counts how often."""

    length: int
    decoded: Counter[int] = field(default_factory=Counter)

    def __len__(self) -> int:
        return self.length

    @overload
    def __getitem__(self, index: int) -> Picture: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Picture]: ...

    def __getitem__(self, index: int | slice) -> Picture | Sequence[Picture]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(self.length))]
        if index >= self.length:
            raise IndexError(index)
        self.decoded[index] += 1
        random = np.random.default_rng(index)
        height, width = random.integers(12, 21, 2)
        return random.integers(0, 256, (height, width, 1)).astype(np.uint8)


def labelled(decoder: Decoder, split: str = "any") -> LabelledPictures:
    return LabelledPictures(decoder, np.zeros(len(decoder), np.int64), "pictures", split, 0)


def tiny(folder: Path, *, resize: int | None) -> ModelVersion:
    """The tiny model on UINT8, of 8×8 pixels or of pictures that it resizes."""
    take_uint8(write_tiny_model(folder, calibrated=False), resize=resize)
    return open_model(folder, "tiny")


@pytest.fixture
def resizing(tmp_path: Path) -> ModelVersion:
    return tiny(tmp_path, resize=12)


def test_a_calibration_decodes_each_picture_once(resizing: ModelVersion, tmp_path: Path) -> None:
    calibration, test = Decoder(200), Decoder(30)
    certify = MonteCarlo(n0=10, n=100, alpha=0.01, seed=0)
    calibrated = calibrate_model(
        resizing,
        labelled(calibration),
        labelled(test, "test"),
        alpha=0.2,
        delta=0.2,
        certifier=Certifier(certify, folder=tmp_path / "kept"),
    )
    assert calibration.decoded == Counter(range(200))
    assert test.decoded == Counter(range(30))
    assert calibrated.card.evaluation is not None
    assert calibrated.card.evaluation.data.images == 30


def test_what_does_not_fit_is_refused_before_anything_is_decoded(resizing: ModelVersion, tmp_path: Path) -> None:
    pictures, arrays = labelled(Decoder(3)), LabelledImages(np.zeros((3, *SHAPE), np.float32), *_labels(3))
    with pytest.raises(HeatserveError, match="arrays: expected pictures for model tiny, which resizes them, got imag"):
        model_images(resizing, arrays)
    plain = tiny(tmp_path / "plain", resize=None)
    with pytest.raises(HeatserveError, match="pictures: expected images for model tiny, which does not resize, got pi"):
        model_images(plain, pictures)
    assert not pictures.pictures.decoded  # type: ignore[attr-defined]


def test_images_for_uint8_are_sent_as_levels_and_certified_as_the_same_numbers(tmp_path: Path) -> None:
    model = tiny(tmp_path, resize=None)
    images = np.random.default_rng(0).random((5, *SHAPE), np.float32)
    taken = model_images(model, LabelledImages(images, *_labels(5)))
    assert isinstance(taken.sent, np.ndarray)
    assert taken.sent.dtype == np.uint8
    np.testing.assert_array_equal(taken.sent.transpose(0, 3, 1, 2) / np.float32(255), taken.images)
    assert np.abs(taken.images - images).max() <= 0.5 / 255 + 1e-6
    part, whole = answers(open_served(model), taken[2:]), answers(open_served(model), taken)
    np.testing.assert_array_equal(part["probabilities"], whole["probabilities"][2:])
    assert taken[2:].labels.tolist() == [2, 3, 4]


def test_a_model_that_resizes_is_given_the_pictures_of_a_data_set(resizing: ModelVersion, tmp_path: Path) -> None:
    found = sample_for(resizing, "digits", "test", count=4, seed=1)
    expected = sample("digits", "test", count=4, seed=1)
    assert isinstance(found, LabelledPictures)
    assert found.labels.tolist() == expected.labels.tolist()
    for picture, image in zip(found.pictures, expected.images, strict=True):
        assert np.abs(picture.transpose(2, 0, 1) / 255 - image).max() <= 0.5 / 255 + 1e-6  # of 17 levels, not of 256
    plain = sample_for(tiny(tmp_path / "plain", resize=None), "digits", "test", count=4, seed=1)
    assert isinstance(plain, LabelledImages)
    np.testing.assert_array_equal(plain.images, expected.images)


def _labels(count: int) -> tuple[np.ndarray[tuple[int, ...], np.dtype[np.int64]], str, str, int]:
    return np.arange(count), "arrays", "test", 0
