"""No image that training saw calibrates a model or measures it, whatever file or data set holds the image."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from pydantic import ValidationError
from tiny_model import CLASS_NAMES, SHAPE, edit_card, take_uint8, write_tiny_model

from heatserve.certification.errors import HeatserveError
from heatserve.certification.lineage import Ancestor
from heatserve.certification.pixels import pixel_digest
from heatserve.export.calibration.calibrate import calibrate_model
from heatserve.export.calibration.certifier import Certifier
from heatserve.export.calibration.held_out import held_out
from heatserve.export.card_parts import Calibration, Evaluation, MonteCarlo
from heatserve.export.images import LabelledImages, SampledImages
from heatserve.export.repository.layout import ModelVersion, open_model
from heatserve.training.data.splits import load_data

T = TypeVar("T")
ON_DIGITS = Ancestor("baseline", "digits", 3, "1" * 64)


def trained_on(folder: Path, *lineage: Ancestor, resize: int | None = None) -> ModelVersion:
    """A tiny model with that lineage on its card."""
    version_dir = write_tiny_model(folder, calibrated=False)
    if resize:
        take_uint8(version_dir, resize=resize)
    model = open_model(folder, "tiny")
    return replace(model, card=model.card.model_copy(update={"lineage": lineage}))


def on_folder(folder: Path) -> Ancestor:
    name = f"imagefolder:{folder}"
    return Ancestor("baseline", name, 1, "2" * 64, load_data(name, "train").pixels_sha256)


def write_images(folder: Path, part: str, images: NDArray[np.float32], *, prefix: str = "") -> None:
    """Images [N, 1, 8, 8] in [0,1] as grey PNG files, in the ten classes in turn."""
    for index, image in enumerate(images):
        path = folder / part / CLASS_NAMES[index % 10] / f"{prefix}{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.rint(image[0] * 255).astype(np.uint8)).save(path)


def noise(count: int, seed: int) -> NDArray[np.float32]:
    return np.random.default_rng(seed).random((count, 1, 8, 8), dtype=np.float32)


def digests(*parts: SampledImages) -> list[str]:
    found: list[str] = []
    for part in parts:
        pixels: Sequence[NDArray[np.uint8]] | NDArray[np.float32]
        pixels = part.images if isinstance(part, LabelledImages) else [p.transpose(2, 0, 1) for p in part.pictures]
        found += [pixel_digest(image) for image in pixels]
    return found


def training_digests(dataset: str, split: str = "train") -> set[str]:
    images, _ = load_data(dataset, split).arrays()
    return {pixel_digest(image) for image in images}


def test_images_of_a_data_set_with_its_own_splits_are_those_of_the_splits(tmp_path: Path) -> None:
    source = held_out(trained_on(tmp_path, ON_DIGITS))
    calibration, test = source.parts("digits", images=10_000, test_images=10_000, seed=3)
    assert set(digests(calibration)) == training_digests("digits", "calibration")
    assert set(digests(test)) == training_digests("digits", "test")
    assert source.notes == ()


@pytest.mark.parametrize("resize", [None, 8])
def test_training_images_in_other_files_are_left_out_and_others_take_their_place(
    tmp_path: Path, resize: int | None
) -> None:
    """A quarter of a folder's images are digits of the training split, stored as PNG."""
    seen, _ = load_data("digits", "train").arrays(range(60))
    folder = tmp_path / "folder"
    for part, seed in (("train", 1), ("test", 2)):
        write_images(folder, part, noise(150, seed))
        write_images(folder, part, seen[:50], prefix="digit")
    model = trained_on(tmp_path / "models", ON_DIGITS, resize=resize)
    source = held_out(model)
    calibration, test = source.parts(f"imagefolder:{folder}", images=12, test_images=100, seed=0)
    found = digests(calibration, test)
    assert len(calibration) == 12
    assert len(test) == 100
    assert not training_digests("digits") & set(found)
    assert source.left_out > 0
    assert source.notes == (f"left out {source.left_out} images that training used, or that are there twice",)

    everything = held_out(model)
    everything.draw(f"imagefolder:{folder}", "test", 1000)
    assert everything.left_out == 50


@pytest.mark.parametrize("resize", [None, 8])
def test_a_folder_of_nothing_but_training_images_is_refused(tmp_path: Path, resize: int | None) -> None:
    seen, _ = load_data("digits", "train").arrays(range(100))
    for part, images in (("train", seen[:50]), ("test", seen[50:])):
        write_images(tmp_path / "folder", part, images)
    source = held_out(trained_on(tmp_path / "models", ON_DIGITS, resize=resize))
    with pytest.raises(HeatserveError, match=r"training of tiny did not use, got none: the pixels of all 5 are"):
        source.parts(f"imagefolder:{tmp_path / 'folder'}", images=5, test_images=5)


def test_copies_within_a_data_set_are_drawn_once(tmp_path: Path) -> None:
    """The training part has each image twice, and the test part has half of them again, beside 20 of its own, twice."""
    images = noise(100, 5)
    for prefix in ("a", "b"):
        write_images(tmp_path / "folder", "train", images, prefix=prefix)
        write_images(tmp_path / "folder", "test", noise(20, 6), prefix=prefix)
    write_images(tmp_path / "folder", "test", images[:50])
    dataset = f"imagefolder:{tmp_path / 'folder'}"
    source = held_out(trained_on(tmp_path / "models", on_folder(tmp_path / "folder")))
    calibration, test = source.parts(dataset, images=200, test_images=200)
    found = digests(calibration, test)
    assert len(found) == len(set(found))
    assert not training_digests(dataset) & set(found)
    assert (len(calibration), len(test)) == (5, 70)
    assert source.left_out == 20


def test_pictures_that_were_added_after_the_training_are_not_calibrated_on(tmp_path: Path) -> None:
    """A hash decides which pictures of a folder are calibration images, so that others may be after a change."""
    folder = tmp_path / "folder"
    for part, seed in (("train", 1), ("test", 2)):
        write_images(folder, part, noise(100, seed))
    model = trained_on(tmp_path / "models", on_folder(folder))
    held_out(model)
    write_images(folder, "test", noise(10, 3), prefix="new")
    held_out(model)
    write_images(folder, "train", noise(10, 4), prefix="new")
    message = r"training images of imagefolder:.* are not those of 2{12} \(baseline, .*--calibration-data"
    with pytest.raises(HeatserveError, match=message):
        held_out(model)
    vouched = held_out(model, vouched=True)
    assert [note.partition(" are not those")[0] for note in vouched.notes] == [
        f"not compared: the training images of imagefolder:{folder}"
    ]
    assert training_digests(f"imagefolder:{folder}") <= vouched.seen


def test_a_training_on_a_folder_that_was_cut_by_file_names_is_not_taken_for_one_of_today(tmp_path: Path) -> None:
    write_images(tmp_path / "folder", "train", noise(100, 1))
    former = replace(on_folder(tmp_path / "folder"), pixels_sha256=None)
    with pytest.raises(HeatserveError, match="cut or decoded by another version of heatserve"):
        held_out(trained_on(tmp_path / "models", former))


def test_weights_from_elsewhere_need_a_user_who_vouches(tmp_path: Path) -> None:
    model = trained_on(tmp_path, Ancestor("imported", "digits", None, "a" * 64), ON_DIGITS)
    with pytest.raises(HeatserveError, match=r"ancestor a{12} \(imported, digits\): .* --calibration-data"):
        held_out(model)
    calibration, test = held_out(model, vouched=True).parts("digits", images=100, test_images=50)
    found = digests(calibration, test)
    assert (len(calibration), len(test)) == (100, 50)
    assert len(set(found)) == 150
    assert set(found) < training_digests("digits", "test")


def test_a_vouched_data_set_that_is_too_small_is_shared_out_in_proportion(tmp_path: Path) -> None:
    source = held_out(trained_on(tmp_path, ON_DIGITS), vouched=True)
    calibration, test = source.parts("digits", images=2000, test_images=500)
    assert (len(calibration), len(test)) == (320, 80)


@pytest.mark.parametrize(
    ("images", "skip", "taken", "left"),
    [(2000, 0, (266, 67), 67), (100_000, 0, (331, 2), 67), (2000, 333, (44, 11), 12)],
)
def test_a_vouched_data_set_leaves_images_for_an_audit_and_a_cut_is_said(
    tmp_path: Path, images: int, skip: int, taken: tuple[int, int], left: int
) -> None:
    """Of the 400 test images a sixth is kept back; of those that an earlier calibration left, again a sixth."""
    source = held_out(trained_on(tmp_path, ON_DIGITS), vouched=True)
    parts = source.parts("digits", images=images, test_images=500, skip=skip, test_share=0.5)
    assert (len(parts[0]), len(parts[1])) == taken
    assert parts[1].source(taken[1]).end == 400 - left
    (said,) = source.notes
    assert said.startswith(f"{taken[0]} images calibrate and {taken[1]} measure the figures, where {images} and 500")
    assert said.endswith(f"of the {400 - skip} of split 'test' after the first {skip}, and later ones are for an audit")


def test_a_vouched_data_set_gives_each_part_an_image_or_is_refused(tmp_path: Path) -> None:
    model = trained_on(tmp_path, ON_DIGITS)
    parts = held_out(model, vouched=True).parts("digits", images=100_000, test_images=1, test_share=0.5)
    assert len(parts[1]) == 1
    for left in (1, 2):
        with pytest.raises(HeatserveError, match=rf"split 'test': expected .* for an audit, got {left}"):
            held_out(model, vouched=True).parts("digits", images=5, test_images=5, skip=400 - left, test_share=0.5)


def test_a_vouched_data_set_is_compared_with_all_official_training_images_of_what_was_imported(tmp_path: Path) -> None:
    """The images of `calibration` are training images for a network that was trained elsewhere."""
    held_back, _ = load_data("digits", "calibration").arrays(range(40))
    write_images(tmp_path / "folder", "test", held_back)
    dataset = f"imagefolder:{tmp_path / 'folder'}"
    ours = held_out(trained_on(tmp_path / "ours", ON_DIGITS), vouched=True)
    assert len(ours.draw(dataset, "test", 40)) == 40
    theirs = held_out(trained_on(tmp_path / "theirs", replace(ON_DIGITS, method="imported")), vouched=True)
    with pytest.raises(
        HeatserveError, match="expected images of split 'test' that training of tiny did not use, got none"
    ):
        theirs.draw(dataset, "test", 40)


def test_training_images_that_cannot_be_read_are_an_error_or_a_note(tmp_path: Path) -> None:
    model = trained_on(tmp_path, Ancestor("baseline", "cifar10", 1, "3" * 64), ON_DIGITS)
    with pytest.raises(
        HeatserveError, match=r"images of cifar10 cannot be read: root: .* --root, .*--calibration-data"
    ):
        held_out(model)
    source = held_out(model, vouched=True)
    assert [note.split(": root")[0] for note in source.notes] == [
        "not compared: the training images of cifar10 cannot be read"
    ]
    assert training_digests("digits") <= source.seen


def test_a_network_of_which_nothing_is_recorded_is_refused(tmp_path: Path) -> None:
    edit_card(write_tiny_model(tmp_path, calibrated=False), lambda content: content.update(lineage=None))
    model = open_model(tmp_path, "tiny")
    with pytest.raises(HeatserveError, match=r"\(unknown\): which images trained it is not recorded"):
        held_out(model)


@pytest.mark.parametrize("vouched", [False, True])
def test_a_variant_gets_the_images_of_its_model(tmp_path: Path, vouched: bool) -> None:
    seen, _ = load_data("digits", "train").arrays(range(30))
    folder = tmp_path / "folder"
    for part, seed in (("train", 1), ("test", 2)):
        write_images(folder, part, noise(200, seed))
        write_images(folder, part, seen, prefix="digit")
    model = trained_on(tmp_path / "models", ON_DIGITS)
    parts = held_out(model, vouched=vouched).parts(f"imagefolder:{folder}", images=15, test_images=90, seed=4)
    calibration = Calibration.model_construct(fit=parts[0].source(5), check=parts[0].source(10))
    evaluation = Evaluation.model_construct(data=parts[1].source(90))
    again = held_out(model, vouched=vouched).again(calibration, evaluation)
    assert digests(*again) == digests(*parts)


def test_a_card_that_hides_who_vouched_is_refused(tmp_path: Path) -> None:
    write_tiny_model(tmp_path)
    card = open_model(tmp_path, "tiny").card
    assert card.calibration is not None
    imported = replace(ON_DIGITS, method="imported")
    with pytest.raises(ValidationError, match=r"calibration.vouched: expected true for what came from 1{12}"):
        type(card).model_validate({**dict(card), "lineage": (imported,)})
    vouched = card.calibration.model_copy(update={"vouched": True})
    vouched = vouched.model_copy(update={"promise": vouched.promised(card.sigma)})
    kept = type(card).model_validate({**dict(card), "lineage": (imported,), "calibration": vouched})
    assert kept.networks == (imported,)


def test_a_calibration_by_hand_is_refused_before_the_work(tmp_path: Path) -> None:
    model = trained_on(tmp_path, replace(ON_DIGITS, method="imported"))
    images = LabelledImages(noise(60, 1), np.zeros(60, np.int64), "noise", "calibration", 0)
    certifier = Certifier(MonteCarlo(n0=10, n=10, alpha=0.1, seed=0), progress=_never)
    with pytest.raises(HeatserveError, match=r"got the ancestor 1{12} \(imported, digits\)"):
        calibrate_model(model, images, images, alpha=0.5, delta=0.5, certifier=certifier)


def _never(items: Iterable[T], total: int, description: str) -> Iterable[T]:  # noqa: ARG001
    raise AssertionError("Certify was begun")


def test_a_calibrated_card_without_a_lineage_is_refused(tmp_path: Path) -> None:
    """Nothing is known of what trained it, whoever removed that: the default is not that training never saw."""
    write_tiny_model(tmp_path)
    card = open_model(tmp_path, "tiny").card
    with pytest.raises(ValidationError, match=r"calibration.vouched: expected true for what came from .* \(unknown"):
        type(card).model_validate({**dict(card), "lineage": None})


def test_a_model_without_a_lineage_is_not_calibrated_by_a_program(tmp_path: Path) -> None:
    version_dir = write_tiny_model(tmp_path, calibrated=False)
    edit_card(version_dir, lambda content: content.update(lineage=None))
    images = LabelledImages(np.zeros((90, *SHAPE), np.float32), np.zeros(90, np.int64), "x", "calibration", 0)
    certifier = Certifier(MonteCarlo(n0=10, n=100, alpha=0.01, seed=0))
    with pytest.raises(HeatserveError, match="which images trained it is not recorded"):
        calibrate_model(open_model(tmp_path, "tiny"), images, images, alpha=0.2, delta=0.2, certifier=certifier)
