"""Splits that share no image, and folders that explain what is wrong with them."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterable
from itertools import combinations
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from heatserve.certification.pixels import pixel_digest
from heatserve.training.data import cifar10
from heatserve.training.data.augmentation import Augmentation
from heatserve.training.data.errors import DataError
from heatserve.training.data.splits import SPLITS, batch_count, describe_data, load_data

Pixels = npt.NDArray[np.uint8]


def _image(seed: int, height: int = 32, width: int = 32) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def _write(path: Path, pixels: Pixels) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def _folder(root: Path, classes: tuple[str, ...], *, train: int, test: int = 2) -> Path:
    """`train` and `test` different images for each class; the seed of image i of class k is 1000 k + i."""
    for part, first, count in (("train", 0, train), ("test", 500, test)):
        for label, name in enumerate(classes):
            for i in range(count):
                _write(root / part / name / f"{i:04d}.png", _image(1000 * label + first + i))
    return root


def _keys(name: str, split: str, root: Path | None = None) -> set[bytes]:
    cifar10.read_cifar10.cache_clear()
    return {image.tobytes() for image in load_data(name, split, root).arrays()[0]}


def test_digits_are_cut_into_three_splits_of_which_no_two_share_pixels() -> None:
    splits = {split: load_data("digits", split).arrays()[0] for split in SPLITS}
    assert {split: len(images) for split, images in splits.items()} == {"train": 900, "calibration": 497, "test": 400}
    digests = {split: {pixel_digest(image) for image in images} for split, images in splits.items()}
    for first, second in combinations(SPLITS, 2):
        assert not digests[first] & digests[second], f"{first} and {second}"
    assert sum(map(len, digests.values())) == 1797


def _by_hash(images: Iterable[bytes], purpose: str) -> list[bytes]:
    return sorted(images, key=lambda image: hashlib.sha256(f"heatserve {purpose}".encode() + image).digest())


def test_digits_that_recipes_were_compared_on_are_trained_on_and_no_others() -> None:
    """What was the test split of 300 digits and the calibration split of 600 of the others, by the pixels alone."""
    by_hash = _by_hash((image.tobytes() for image in load_digits().data.astype(np.uint8)), "digits test")
    compared = {*by_hash[:300], *_by_hash(by_hash[300:], "calibration")[:600]}
    images, _ = load_data("digits", "train").arrays()
    assert {np.rint(image * 16).astype(np.uint8).tobytes() for image in images} == compared


def test_digits_are_cut_by_content_so_their_order_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    before = [load_data("digits", split).arrays() for split in SPLITS]
    values, targets = load_digits(return_X_y=True)
    other = np.random.default_rng(1).permutation(len(targets))
    monkeypatch.setattr("sklearn.datasets.load_digits", lambda **_: (values[other], targets[other]))
    for split, (images, labels) in zip(SPLITS, before, strict=True):
        found, found_labels = load_data("digits", split).arrays()
        np.testing.assert_array_equal(found, images)
        np.testing.assert_array_equal(found_labels, labels)


def test_digits_are_scaled_to_the_unit_interval_and_keep_their_labels() -> None:
    values, targets = load_digits(return_X_y=True)
    label_of = {(image / 16).astype(np.float32).tobytes(): int(t) for image, t in zip(values, targets, strict=True)}
    images, labels = load_data("digits", "test").arrays()
    assert images.dtype == np.float32
    assert images.shape == (400, 1, 8, 8)
    assert images.max() == 1
    assert [label_of[image.tobytes()] for image in images] == labels.tolist()


def test_items_arrays_and_batches_agree() -> None:
    data = load_data("digits", "train")
    images, labels = data.arrays([5, 2])
    image, label = data.images[5]
    batch, _ = next(data.batches(32))
    assert torch.equal(image, torch.from_numpy(images[0]))
    assert torch.equal(image, batch[5])
    assert label == labels[0]
    assert data.arrays([])[0].shape == (0, 1, 8, 8)


def test_the_first_images_of_a_split_are_a_random_subset() -> None:
    assert len(set(load_data("digits", "calibration").arrays(range(60))[1])) == 10


def test_shuffled_batches_hold_every_image_once_and_none_is_tiny() -> None:
    data = load_data("digits", "train")
    batches = [images for images, _ in data.batches(32, generator=torch.Generator().manual_seed(3))]
    assert {len(images) for images in batches} == {31, 32}
    assert {image.numpy().tobytes() for image in torch.cat(batches)} == _keys("digits", "train")
    assert not torch.equal(batches[0], next(data.batches(32))[0])


def test_no_batch_has_a_single_image() -> None:
    for images in range(2, 40):
        for size in range(2, 12):
            count = batch_count(images, size)
            shares = torch.arange(images).tensor_split(count)
            assert min(map(len, shares)) >= 2
            assert max(map(len, shares)) <= max(size, 3)
    assert batch_count(9, 1) == 9
    assert batch_count(1, 4) == 1


def test_cifar10_splits_share_no_image(tmp_path: Path) -> None:
    root = _folder(tmp_path, cifar10.CIFAR10_CLASSES, train=3)
    keys = [_keys("cifar10", split, root) for split in SPLITS]
    assert [len(part) for part in keys] == [27, 3, 20]
    assert len(set.union(*keys)) == 50
    assert describe_data("cifar10") == (cifar10.CIFAR10_CLASSES, load_data("cifar10", "test", root).input_shape)


def test_files_that_systems_leave_in_the_folders_of_cifar10_are_no_images(tmp_path: Path) -> None:
    root = _folder(tmp_path, cifar10.CIFAR10_CLASSES, train=1)
    for name in ("Thumbs.db", ".DS_Store"):
        (root / "test" / "cat" / name).write_bytes(b"left by a system")
    assert len(load_data("cifar10", "test", root)) == len(list((root / "test").glob("*/*.png")))


def test_cifar10_is_cut_by_content_so_other_file_names_change_nothing(tmp_path: Path) -> None:
    root = _folder(tmp_path, cifar10.CIFAR10_CLASSES, train=3)
    before = _keys("cifar10", "calibration", root)
    for path in (root / "train").glob("*/*.png"):
        path.rename(path.with_name(f"{2 - int(path.stem)}x.png"))
    assert _keys("cifar10", "calibration", root) == before


def test_cifar10_decodes_again_when_a_file_changes_or_the_cache_is_damaged(tmp_path: Path) -> None:
    root = _folder(tmp_path, cifar10.CIFAR10_CLASSES, train=1)
    before = _keys("cifar10", "test", root)
    _write(root / "test" / "cat" / "0000.png", _image(9999))
    after = _keys("cifar10", "test", root)
    assert len(after - before) == 1
    (root / ".heatserve-test.npz").write_bytes(b"PK damaged")
    assert _keys("cifar10", "test", root) == after


def test_imagefolder_yields_each_image_with_its_label(tmp_path: Path) -> None:
    name = f"imagefolder:{_folder(tmp_path, ('ant', 'bee'), train=10)}"
    train, calibration = load_data(name, "train"), load_data(name, "calibration")
    assert (len(train), len(calibration), train.class_names) == (18, 2, ("ant", "bee"))
    pairs = [*zip(*train.arrays(), strict=True), *zip(*calibration.arrays(), strict=True)]
    expected = {
        ((_image(1000 * label + i).transpose(2, 0, 1) / np.float32(255)).tobytes(), label)
        for label in (0, 1)
        for i in range(10)
    }
    assert {(image.tobytes(), int(label)) for image, label in pairs} == expected


def test_a_user_who_only_measures_needs_no_training_images(tmp_path: Path) -> None:
    root = _folder(tmp_path, ("ant", "bee"), train=1)
    both = load_data(f"imagefolder:{root}", "test")
    shutil.rmtree(root / "train")
    without = load_data(f"imagefolder:{root}", "test")
    assert (len(without), without.class_names) == (len(both), both.class_names)
    with pytest.raises(DataError, match="train: no such folder"):
        load_data(f"imagefolder:{root}", "calibration")


def test_a_new_image_does_not_reshuffle_the_calibration_split(tmp_path: Path) -> None:
    name = f"imagefolder:{_folder(tmp_path, ('ant', 'bee'), train=20)}"
    before = _keys(name, "calibration")
    _write(tmp_path / "train" / "ant" / "new.png", _image(77))
    assert len(before) == 4
    assert len(before - _keys(name, "calibration")) <= 1


def test_imagenet_is_resized_and_cropped_and_keeps_its_class_names(tmp_path: Path) -> None:
    classes = {"n01": ("tench", "Tinca tinca"), "n02": ("goldfish",)}
    torch.save((classes, ["n01"]), tmp_path / "meta.bin")
    for wnid in classes:
        _write(tmp_path / "val" / wnid / "a.JPEG", _image(1, 300, 400))
    data = load_data("imagenet", "test", tmp_path)
    images, labels = data.arrays()
    assert data.class_names == ("tench, Tinca tinca", "goldfish")
    assert images.shape == (2, 3, 224, 224)
    assert sorted(labels) == [0, 1]


@pytest.mark.parametrize(
    ("name", "split", "root", "message"),
    [
        ("mnist", "train", None, "expected one of digits, cifar10, imagenet, imagefolder:PATH, got 'mnist'"),
        ("tests", "train", None, "got 'tests'; for the pictures in that folder: imagefolder:tests"),
        ("imagefolder:", "train", None, "imagefolder:PATH, got 'imagefolder:'"),
        ("digits", "validation", None, "expected one of train, calibration, test, got 'validation'"),
        ("cifar10", "train", None, "root: cifar10 needs the folder"),
        ("imagenet", "train", Path("nowhere"), "nowhere is not a folder"),
        ("imagefolder:nowhere", "test", None, "nowhere: no such folder"),
        ("cifar10", "train", Path(__file__).parent, "expected train/<class>/<image> or cifar-10-batches-py"),
        ("imagenet", "test", Path(__file__).parent, "val: no such folder"),
    ],
)
def test_what_is_missing_or_unknown_is_named(name: str, split: str, root: Path | None, message: str) -> None:
    with pytest.raises(DataError, match=message):
        load_data(name, split, root)


def test_broken_folders_are_explained(tmp_path: Path) -> None:
    name = f"imagefolder:{_folder(tmp_path, ('ant', 'bee'), train=2)}"
    odd = tmp_path / "train" / "bee" / "odd.png"
    _write(odd, _image(0, 16, 32))
    with pytest.raises(DataError, match=r"odd.png: expected 32×32 pixels like .*0000.png, got 16×32"):
        load_data(name, "train")
    odd.write_text("not an image")
    with pytest.raises(DataError, match=r"odd.png: expected an image file"):
        load_data(name, "train")
    odd.unlink()
    (tmp_path / "test" / "cow").mkdir()
    with pytest.raises(DataError, match=r"test: expected the same classes as in train, but it has 'cow' as well"):
        load_data(name, "test")
    (tmp_path / "test" / "cow").rename(tmp_path / "train" / "cow")
    with pytest.raises(DataError, match=r"train/cow: the folder of class 'cow' is empty"):
        load_data(name, "train")


def test_a_truncated_image_is_named_when_it_is_read(tmp_path: Path) -> None:
    root = _folder(tmp_path, ("ant", "bee"), train=1)
    broken = root / "test" / "ant" / "0001.png"
    broken.write_bytes(broken.read_bytes()[:900])
    with pytest.raises(DataError, match=rf"^{broken}: expected an image file"):
        load_data(f"imagefolder:{root}", "test").arrays()
    with pytest.raises(DataError, match=rf"^{broken}: expected an image file"):
        load_data(f"imagefolder:{root}", "train")


def test_torchvisions_own_cifar10_files_are_checked(tmp_path: Path) -> None:
    (tmp_path / "cifar-10-batches-py").mkdir()
    with pytest.raises(DataError, match="cifar-10-batches-py: torchvision cannot read it"):
        load_data("cifar10", "test", tmp_path)


def test_augmentation_shifts_by_up_to_the_padding_and_flips() -> None:
    images = torch.zeros(400, 2, 5, 5)
    images[:, :, 2, 1] = 1
    moved = Augmentation(padding=1, flip=True)(images, torch.Generator().manual_seed(0))
    assert torch.equal(moved.sum((2, 3)), torch.ones(400, 2))
    assert torch.equal(moved[:, 0], moved[:, 1])
    places = {divmod(int(image[0].argmax()), 5) for image in moved}
    assert places == {(row, column) for row in (1, 2, 3) for column in (0, 1, 2, 3, 4)}


def test_augmentation_is_decided_by_the_generator() -> None:
    images = torch.rand(8, 1, 6, 6)
    first, second, other = (Augmentation(2, True)(images, torch.Generator().manual_seed(s)) for s in (1, 1, 2))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)
    assert torch.equal(Augmentation()(images, torch.Generator()), images)
