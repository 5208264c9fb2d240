"""Any folder of pictures: its layout, its classes, what is passed over, and splits that share no pixels."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterable
from itertools import combinations
from pathlib import Path
from typing import TypeVar

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter
from typer.testing import CliRunner, Result

from heatserve.certification.pixels import pixel_digest
from heatserve.cli import app
from heatserve.export.repository.layout import open_model
from heatserve.export.runtime.session import open_session
from heatserve.export.variants import Variant
from heatserve.training import load_checkpoint
from heatserve.training.data import fingerprints as prints
from heatserve.training.data.errors import DataError
from heatserve.training.data.images import FileImages
from heatserve.training.data.splits import SPLITS, ImageData, describe_data, load_data

T = TypeVar("T")
CLASSES = ("ant", "bee", "cow")


def picture(seed: int, height: int = 8, width: int = 8) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8))


def write(path: Path, image: Image.Image) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)
    return path


def fill(folder: Path, *, count: int, first: int = 0, classes: Iterable[str] = CLASSES) -> None:
    """`count` different pictures of each class; that of number i of class k has the seed 1000 k + `first` + i."""
    for label, name in enumerate(classes):
        for i in range(count):
            write(folder / name / f"{i:03d}.png", picture(1000 * label + first + i))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """`train` with ten pictures a class, `test` with two."""
    fill(tmp_path / "train", count=10)
    fill(tmp_path / "test", count=2, first=500)
    return tmp_path


def splits_of(name: str) -> dict[str, ImageData]:
    return {split: load_data(name, split) for split in SPLITS}


def digests(data: ImageData) -> list[str]:
    assert isinstance(data.images, FileImages)
    return [pixel_digest(data.images.picture(i).transpose(2, 0, 1)) for i in range(len(data))]


def files(data: ImageData) -> set[str]:
    assert isinstance(data.images, FileImages)
    return {"/".join(path.parts[-3:]) for path in data.images.paths}


@pytest.mark.parametrize("name", ["test", "val", "validation", "Test", "VAL"])
def test_test_images_lie_in_test_or_val_or_validation(root: Path, name: str) -> None:
    (root / "test").rename(root / name)
    data = load_data(f"imagefolder:{root}", "test")
    assert (len(data), data.class_names, data.input_shape) == (6, CLASSES, (3, 8, 8))


def test_what_is_beside_the_splits_is_not_read_and_that_is_said(root: Path) -> None:
    shutil.copytree(root / "test", root / "val")
    (root / "unlabelled").mkdir()
    data = load_data(f"imagefolder:{root}", "train")
    assert data.notes == (f"{root}: read train, test; not read: unlabelled, val",)
    shutil.rmtree(root / "test")
    write(root / "test" / "flat.png", picture(1))  # as ImageNet's test images, which have no labels
    assert len(load_data(f"imagefolder:{root}", "test")) == 6


def test_calibration_images_of_the_users_own_are_those_of_the_split(root: Path) -> None:
    fill(root / "calibration", count=3, first=700)
    parts = splits_of(f"imagefolder:{root}")
    assert {split: len(data) for split, data in parts.items()} == {"train": 30, "calibration": 9, "test": 6}
    assert all("/".join(name.split("/")[:1]) == "calibration" for name in files(parts["calibration"]))
    shutil.rmtree(root / "train")
    assert len(load_data(f"imagefolder:{root}", "calibration")) == 9


def test_a_folder_without_splits_is_cut_by_a_seeded_hash_of_the_pixels(tmp_path: Path) -> None:
    fill(tmp_path, count=20)
    name = f"imagefolder:{tmp_path}"
    parts = splits_of(name)
    assert {split: len(data) for split, data in parts.items()} == {"train": 44, "calibration": 4, "test": 12}
    assert np.bincount(parts["test"].arrays()[1]).tolist() == [4, 4, 4]
    before = {split: set(digests(data)) for split, data in parts.items()}
    assert set(digests(load_data(f"{name}?split=1", "test"))) != before["test"]
    assert len(load_data(f"{name}?test_share=0.5", "test")) == 30
    for path in list(tmp_path.glob("*/*.png")):
        path.rename(path.with_name(f"{9999 - int(path.stem)}.png"))
    assert {split: set(digests(data)) for split, data in splits_of(name).items()} == before


def test_a_folder_without_splits_says_how_many_pictures_are_too_few_to_test(tmp_path: Path) -> None:
    fill(tmp_path, count=1)
    with pytest.raises(
        DataError, match=r"to test, got none: 20% of each class are cut .*\(pictures in all: 3, classes: 3\)"
    ):
        load_data(f"imagefolder:{tmp_path}", "test")
    assert len(load_data(f"imagefolder:{tmp_path}", "train")) == 3


@pytest.mark.parametrize("layout", ["splits", "own", "none"])
def test_the_same_picture_is_in_one_split_only(tmp_path: Path, layout: str) -> None:
    """Two thirds of the pictures are there twice or more, in other formats, under other names and in other splits."""
    train = tmp_path if layout == "none" else tmp_path / "train"
    fill(train, count=30)
    for i in range(20):
        write(train / "ant" / f"copy {i}.bmp", picture(i))
        write(train / "bee" / f"copy {i}.tiff", picture(1000 + i))
    if layout != "none":
        fill(tmp_path / "test", count=10, first=25)
    if layout == "own":
        fill(tmp_path / "calibration", count=10, first=20)
    parts = splits_of(f"imagefolder:{tmp_path}")
    found = {split: digests(data) for split, data in parts.items()}
    for first, second in combinations(SPLITS, 2):
        assert not set(found[first]) & set(found[second]), f"{first} and {second}"
    assert len(found["calibration"]) == len(set(found["calibration"])) > 0
    assert len(set().union(*found.values())) == 90 + (15 if layout != "none" else 0)
    assert len(found["train"]) > len(set(found["train"])), "copies of training images are training images"
    said = "\n".join(parts["train"].notes)
    if layout == "own":
        assert "left out of calibration 15 pictures that test has as well" in said
        assert "left out of train 30 pictures that test or calibration has as well" in said
    else:
        assert "further copies of calibration or test images" in said


def test_a_picture_under_two_classes_is_reported(root: Path) -> None:
    write(root / "train" / "bee" / "x.png", picture(3))
    (note,) = load_data(f"imagefolder:{root}", "train").notes
    assert note == f"{root}: 1 picture under two classes, such as train/ant/003.png and train/bee/x.png"


def test_near_duplicates_are_reported_and_others_are_not(tmp_path: Path) -> None:
    smooth = [picture(i, 60, 80).filter(ImageFilter.GaussianBlur(6)) for i in range(40)]
    for i, image in enumerate(smooth):
        write(tmp_path / ("test" if i < 10 else "train") / ("ant" if i % 2 else "bee") / f"{i}.png", image)
    name = f"imagefolder:{tmp_path}?resize=8"
    assert load_data(name, "train").notes == ()
    smooth[5].resize((52, 39), Image.Resampling.BICUBIC).save(tmp_path / "train" / "ant" / "near.jpg", quality=80)
    (note,) = load_data(name, "train").notes
    assert (
        "1 of 13 calibration and test images look like one of train, such as test/ant/5.png and train/ant/near.jpg"
        in note
    )


def test_files_of_a_system_and_texts_are_passed_over_and_counted(root: Path) -> None:
    plain = splits_of(f"imagefolder:{root}")
    for name in ("train/.DS_Store", "train/ant/.DS_Store", "train/ant/Thumbs.db", "__MACOSX/train/ant/._000.png"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"\0")
    for name in ("test/bee/notes.txt", "train/bee/._001.png", "test/@eaDir/x.png", "train/loose.png"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"\0")
    cluttered = splits_of(f"imagefolder:{root}")
    assert {split: files(data) for split, data in cluttered.items()} == {s: files(data) for s, data in plain.items()}
    (note,) = cluttered["train"].notes
    assert note.startswith(f"{root}: passed over files that hold no picture, 8 in all: 2 .DS_Store, ")


def test_pictures_below_the_folder_of_their_class_belong_to_it_or_are_classes_of_their_own(tmp_path: Path) -> None:
    for part, first in (("train", 0), ("test", 50)):
        for k, name in enumerate(("animals/cat", "animals/dog", "plants/rose")):
            fill(tmp_path / part / name, count=4, first=100 * k + first, classes=[""])
    name = f"imagefolder:{tmp_path}"
    assert load_data(name, "test").class_names == describe_data(name)[0] == ("animals", "plants")
    (note,) = load_data(name, "test").notes
    assert "12 pictures in folders below that of the class" in note
    nested = load_data(f"{name}?nested=true", "test")
    assert nested.class_names == ("animals/cat", "animals/dog", "plants/rose")
    assert (np.bincount(nested.arrays()[1]).tolist(), nested.notes) == ([4, 4, 4], ())


def test_a_folder_that_a_link_leads_back_to_is_read_once(root: Path) -> None:
    (root / "train" / "ant" / "again").symlink_to(root / "train", target_is_directory=True)
    assert len(load_data(f"imagefolder:{root}", "train")) == 27


def test_a_class_that_is_a_link_to_another_has_its_pictures_too(root: Path) -> None:
    (root / "train" / "emu").symlink_to("ant", target_is_directory=True)
    data = load_data(f"imagefolder:{root}", "train")
    assert data.class_names == ("ant", "bee", "cow", "emu")
    assert any("under two classes, such as train/ant/" in note for note in data.notes)


def test_links_that_lead_nowhere_or_to_all_of_the_machine_are_no_pictures(root: Path) -> None:
    (root / "train" / "loop").symlink_to("loop")
    (root / "train" / ".everything").symlink_to("/", target_is_directory=True)
    data = load_data(f"imagefolder:{root}", "train")
    assert (len(data), data.class_names) == (27, ("ant", "bee", "cow"))
    assert any("passed over" in note and "1 .everything/" in note for note in data.notes)
    for name in ("round.png", "gone.png"):
        link = root / "train" / "ant" / name
        link.symlink_to(name if name == "round.png" else "nothing.png")
        with pytest.raises(DataError, match=f"{name}: expected an image file, but it cannot be read"):
            load_data(f"imagefolder:{root}", "train")
        assert len(load_data(f"imagefolder:{root}?skip_unreadable=true", "train")) == 27
        link.unlink()


def test_a_folder_that_cannot_be_read_is_named(root: Path) -> None:
    parent = os.open(root / "train" / "ant", os.O_RDONLY)
    for _ in range(20):  # deeper than a path of Linux can be long
        os.mkdir("d" * 250, dir_fd=parent)
        inner = os.open("d" * 250, os.O_RDONLY, dir_fd=parent)
        os.close(parent)
        parent = inner
    os.close(parent)
    with pytest.raises(DataError, match="d…: expected a folder, but it cannot be read: File name too long"):
        load_data(f"imagefolder:{root}", "train")


@pytest.mark.parametrize(
    "lines",
    ["cow\nant\nbee\n", "\ufeffcow\tBos taurus\nant\tFormica\nbee\tApis\n", "cow Cow, ox\nant Ant\nbee Bee\ndog Dog\n"],
)
def test_classes_are_named_and_ordered_by_a_file(root: Path, tmp_path: Path, lines: str) -> None:
    file = tmp_path / "classes.txt"
    file.write_text(lines)
    data = load_data(f"imagefolder:{root}?classes={file}", "test")
    expected = {"c": ("cow", "ant", "bee"), "\ufeff": ("Bos taurus", "Formica", "Apis")}
    assert data.class_names == expected.get(lines[0] if "C" not in lines else "", ("Cow, ox", "Ant", "Bee", "Dog"))
    assert isinstance(data.images, FileImages)
    of_label = {label: path.parent.name for path, label in zip(data.images.paths, data.images.labels, strict=True)}
    assert of_label == {0: "cow", 1: "ant", 2: "bee"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ant\nbee\n", "expected all class folders, .* but 'cow' is not in it"),
        ("ant\nbee\ncow\nant\n", "expected each class folder once, got 'ant' again"),
        (None, "expected class names, one a line, but it cannot be read: No such file"),
        ("|", "expected class names, one a line, got a pipe or device"),
    ],
)
def test_a_file_of_classes_that_does_not_fit_is_explained(root: Path, text: str | None, message: str) -> None:
    if text == "|":
        os.mkfifo(root / "classes.txt")
    elif text is not None:
        (root / "classes.txt").write_text(text)
    with pytest.raises(DataError, match=rf"classes.txt: {message}"):
        load_data(f"imagefolder:{root}?classes={root}/classes.txt", "test")


def test_classes_of_one_name_are_told_apart(root: Path) -> None:
    (root / "classes.txt").write_text("ant crane\nbee crane\ncow cow\n")
    assert describe_data(f"imagefolder:{root}?classes={root}/classes.txt")[0] == ("crane (ant)", "crane (bee)", "cow")


def test_pictures_of_several_sizes_are_upright_and_brought_to_one(root: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # stored lying, shown upright
    tall = Image.fromarray(np.repeat(np.linspace(0, 255, 60).astype(np.uint8)[:, None], 30, axis=1))
    tall.transpose(Image.Transpose.ROTATE_90).save(root / "test" / "ant" / "tall.png", exif=exif)
    with pytest.raises(DataError, match=r"tall.png: expected 8×8 pixels like .*, got 60×30; .*--resize 256 --crop 224"):
        load_data(f"imagefolder:{root}", "test")
    data = load_data(f"imagefolder:{root}?resize=16&crop=12", "test")
    assert data.input_shape == describe_data(f"imagefolder:{root}?crop=12&resize=16")[1] == (3, 12, 12)
    images, _ = data.arrays()
    (upright,) = [image for image in images if (image == image[:1]).all()]
    assert (np.diff(upright[0, :, 5]) > 0).all(), "brighter towards the bottom, as it is shown"
    with pytest.raises(DataError, match=r"tall.png: expected 8×8 pixels"):
        load_data(f"imagefolder:{root}", "train")  # before the first epoch


def test_a_picture_so_narrow_that_it_cannot_be_resized_is_named(root: Path) -> None:
    write(root / "train" / "ant" / "line.png", picture(1, 1, 100_000))
    with pytest.raises(DataError, match=r"line.png: expected a picture of at most 89478485 pixels after its resize"):
        load_data(f"imagefolder:{root}?resize=100", "train")


def test_an_animation_is_named_or_skipped(root: Path) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    frames[0].save(root / "train" / "ant" / "moves.gif", save_all=True, append_images=frames[1:])
    with pytest.raises(
        DataError, match=r"ant/moves.gif: expected one picture, found an animation;.* --skip-unreadable"
    ):
        load_data(f"imagefolder:{root}", "train")
    (note,) = splits_of(f"imagefolder:{root}?skip_unreadable=true")["train"].notes
    assert note.startswith(f"{root}: skipped 1 of ")


def test_what_cannot_be_read_is_named_or_skipped_and_counted(root: Path) -> None:
    (root / "train" / "ant" / "page.jpg").write_text("<html>not found</html>")
    broken = root / "test" / "bee" / "000.png"
    broken.write_bytes(broken.read_bytes()[:100])
    with pytest.raises(DataError, match=r"(page.jpg|000.png): expected an image file.* --skip-unreadable"):
        load_data(f"imagefolder:{root}", "train")
    parts = splits_of(f"imagefolder:{root}?skip_unreadable=true")
    assert {split: len(data) for split, data in parts.items()} == {"train": 27, "calibration": 3, "test": 5}
    (note,) = parts["train"].notes
    assert note.splitlines()[0] == f"{root}: skipped 2 of 37 files that cannot be read:"
    assert [line.partition(": ")[0] for line in note.splitlines()[1:]] == [
        f"  {root}/train/ant/page.jpg",
        f"  {broken}",
    ]
    (root / "train" / "ant" / "also.jpg").write_text("<html>not found</html>")
    (note,) = splits_of(f"imagefolder:{root}?skip_unreadable=true")["train"].notes
    assert note.splitlines()[1].startswith(
        f"  2 such as {root}/train/ant/also.jpg: expected an image file, found an HTML"
    )
    for path in (root / "train" / "cow").iterdir():
        path.write_text("<html>")
    with pytest.raises(DataError, match=r"train/cow: expected a picture to train with, got none that can be read"):
        load_data(f"imagefolder:{root}?skip_unreadable=true", "train")


def test_a_class_that_test_lacks_is_said_and_labels_are_those_of_train(root: Path) -> None:
    shutil.rmtree(root / "test" / "ant")
    data = load_data(f"imagefolder:{root}", "test")
    assert data.notes == (f"{root}: test has no picture of 1 of 3 classes: ant",)
    assert set(data.arrays()[1].tolist()) == {1, 2}
    assert data.notes == load_data(f"imagefolder:{root}", "train").notes
    (root / "test" / "cow").rename(root / "test" / "cows")
    with pytest.raises(DataError, match="same classes as in train, but it has 'cows' as well, and lacks 'ant', 'cow'"):
        load_data(f"imagefolder:{root}", "test")


def test_a_folder_whose_splits_or_classes_are_not_clear_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "flat" / "train" / "a.png", picture(1))
    write(tmp_path / "flat" / "test" / "a.png", picture(2))
    with pytest.raises(DataError, match="flat/train: expected one folder of images for each class in it, found none"):
        load_data(f"imagefolder:{tmp_path}/flat", "train")
    fill(tmp_path / "zip" / "photos" / "train", count=2)
    (tmp_path / "zip" / "__MACOSX").mkdir()
    with pytest.raises(DataError, match=r"zip: expected .* a folder for each class, found photos alone"):
        load_data(f"imagefolder:{tmp_path}/zip", "train")
    with pytest.raises(DataError, match=r"test: no such folder; expected test/, val/ or validation/ .* cut by hash"):
        load_data(f"imagefolder:{tmp_path}/zip/photos", "test")
    assert len(load_data(f"imagefolder:{tmp_path}/zip/photos/train", "test")) == 3
    fill(tmp_path / "vehicles", count=4, classes=("bus", "plane", "train"))
    assert load_data(f"imagefolder:{tmp_path}/vehicles", "test").class_names == ("bus", "plane", "train")


@pytest.mark.parametrize("options", ["channels=1", "channels=1&resize=16&crop=12"])
def test_a_network_of_one_channel_gets_grey_pictures(root: Path, options: str) -> None:
    side = 12 if "crop" in options else 8
    name = f"imagefolder:{root}?{options}"
    for split in SPLITS:
        data = load_data(name, split)
        assert data.input_shape == describe_data(name)[1] == data.arrays()[0].shape[1:] == (1, side, side)
    data = load_data(name, "test")
    assert isinstance(data.images, FileImages)
    luma = np.asarray(Image.open(data.images.paths[0]).convert("L"))
    assert (data.images.picture(0)[..., 0] == luma).all()
    if side == 8:
        assert (np.rint(data.arrays([0])[0][0, 0] * 255) == luma).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            "size=8",
            "expected options of resize, crop, channels, classes, nested, skip_unreadable, split, test_share, got size",
        ),
        ("crop=8", "expected resize beside crop"),
        ("resize=8&crop=9", "expected crop to be at most resize, 8, got 9"),
        ("resize=0", "resize: expected 1 to 10000 pixels, got 0"),
        ("channels=2", r"channels: expected 1 \(grey\) or 3 \(RGB\), got 2"),
        ("resize=true", "resize: expected a whole number, got True"),
        ("nested=1", "nested: expected true or false, got 1"),
        ("test_share=1", "test_share: expected a share above 0 and below 1, got 1"),
        ("test_share=0.5", "test_share: expected a folder without splits, got train, test"),
    ],
)
def test_options_that_mean_nothing_are_explained(root: Path, options: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        load_data(f"imagefolder:{root}?{options}", "test")


def test_other_data_sets_take_no_options() -> None:
    with pytest.raises(DataError, match=r"expected digits without options, got 'digits\?resize=8'"):
        load_data("digits?resize=8", "test")
    assert [hashlib.sha256(load_data("digits", split).arrays()[0].tobytes()).hexdigest()[:12] for split in SPLITS] == [
        "d5eb872231b4",
        "23e8b8da9162",
        "d37db8a2391a",
    ], "the order of the digits, on which committed calibrations rest"


class Counted:
    """A `Progress` that counts the files that are decoded, and may be interrupted."""

    def __init__(self, stop_after: int | None = None) -> None:
        self.decoded, self._stop_after = 0, stop_after

    def __call__(self, items: Iterable[T], total: int, description: str) -> Iterable[T]:  # noqa: ARG002
        for item in items:
            if self.decoded == self._stop_after:
                raise KeyboardInterrupt
            self.decoded += 1
            yield item


def test_a_picture_is_decoded_once_until_it_changes(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    caches = root.parent / f"{root.name}-caches"
    monkeypatch.setenv("XDG_CACHE_HOME", str(caches))
    monkeypatch.setattr(prints, "_WORTH_KEEPING", 0.0)

    def decoded(stop_after: int | None = None) -> int:
        counted = Counted(stop_after)
        if stop_after is None:
            load_data(f"imagefolder:{root}", "train", progress=counted)
        else:
            with pytest.raises(KeyboardInterrupt):
                load_data(f"imagefolder:{root}", "train", progress=counted)
        return counted.decoded

    assert [decoded(stop_after=20), decoded(), decoded()] == [20, 16, 0]
    write(root / "train" / "ant" / "000.png", picture(4444))
    shutil.copy(root / "train" / "bee" / "000.png", root / "train" / "bee" / "new.png")
    assert [decoded(), decoded()] == [2, 0]
    replaced, other = root / "train" / "cow" / "000.bmp", root / "train" / "cow" / "other.bmp"
    for file in (replaced, other):
        picture(7777 if file == replaced else 8888).save(file)
        os.utime(file, (0, 0))  # as archives set it; files without compression have one length besides
    assert decoded() == 2
    other.rename(replaced)
    assert decoded() == 1
    (cache,) = caches.rglob("*.npy")
    assert root not in cache.parents
    cache.write_bytes(cache.read_bytes()[:200])
    assert [decoded(), decoded()] == [38, 0]


def test_the_digest_of_the_training_pictures_changes_with_them_and_not_with_the_others(root: Path) -> None:
    def digest() -> str | None:
        return load_data(f"imagefolder:{root}", "train").pixels_sha256

    before = digest()
    write(root / "test" / "ant" / "new.png", picture(5555))
    assert digest() == before
    shutil.copy(root / "train" / "bee" / "000.png", root / "train" / "bee" / "copy.png")
    assert digest() == before
    write(root / "train" / "ant" / "new.png", picture(6666))
    assert digest() != before
    assert load_data("digits", "train").pixels_sha256 is None


@pytest.mark.parametrize("devkit", [True, False])
def test_imagenet_needs_no_devkit(tmp_path: Path, devkit: bool) -> None:
    for part, first in (("train", 0), ("val", 100)):
        for k, wnid in enumerate(("n01440764", "n01443537")):
            for i in range(12 if part == "train" else 1):
                write(tmp_path / part / wnid / f"{i}.JPEG", picture(1000 * k + first + i, 30, 40))
    if devkit:
        torch.save(({"n01440764": ("tench",), "n01443537": ("goldfish",)}, ["n01440764"]), tmp_path / "meta.bin")
    data = load_data("imagenet", "test", tmp_path)
    assert data.class_names == (("tench", "goldfish") if devkit else ("n01440764", "n01443537"))
    assert data.input_shape == (3, 224, 224)
    (tmp_path / "LOC_synset_mapping.txt").write_text("n01440764 tench, Tinca tinca\nn01443537 goldfish\n")
    named = f"imagenet?classes={tmp_path}/LOC_synset_mapping.txt&resize=32&crop=24"
    assert describe_data(named, tmp_path) == (("tench, Tinca tinca", "goldfish"), (3, 24, 24))
    assert [len(load_data(named, split, tmp_path)) for split in SPLITS] == [22, 2, 2]


def photographs(root: Path) -> None:
    """Photographs of several sizes, bright ones and dark ones."""
    random = np.random.default_rng(0)
    for part, count in (("train", 40), ("val", 12)):
        for name, darkest in (("bright", 150), ("dark", 0)):
            for i in range(count):
                size = random.integers(9, 30, 2)
                write(
                    root / part / name / f"{i}.png",
                    Image.fromarray((darkest + random.integers(0, 100, (*size, 3))).astype(np.uint8)),
                )


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)


@pytest.mark.slow
def test_photographs_of_several_sizes_are_trained_on_and_exported_for_pictures_of_any_size(tmp_path: Path) -> None:
    photographs(tmp_path / "photos")
    (tmp_path / "photos" / "train" / ".DS_Store").write_bytes(b"")
    trained, smoothed = tmp_path / "baseline.safetensors", tmp_path / "noise.safetensors"
    what = ["--data", f"imagefolder:{tmp_path}/photos", "--resize", "9", "--crop", "8", "--architecture"]
    how = ["--epochs", "1", "--batch-size", "32", "--lr", "0.02", "--device", "cpu"]
    result = invoke("train", "baseline", *what, "cifar_resnet20", "--out", str(trained), *how)
    assert f"{tmp_path}/photos: passed over files that hold no picture, 1 in all: 1 .DS_Store" in result.stderr
    name = f"imagefolder:{tmp_path}/photos?crop=8&resize=9"
    metadata = load_checkpoint(trained).metadata
    assert (metadata.dataset, metadata.input_shape) == (name, (3, 8, 8))
    assert metadata.pixels_sha256 == load_data(name, "train").pixels_sha256
    result = invoke("train", "noise", "--from", str(trained), "--sigma", "0.25", "--out", str(smoothed), *how)
    assert "of 24 images" in result.stdout
    (of_baseline, own) = load_checkpoint(smoothed).lineage
    assert of_baseline.pixels_sha256 == own.pixels_sha256 == metadata.pixels_sha256

    invoke("export", str(smoothed), "--repository", str(tmp_path / "models"), "--name", "any")
    model = open_model(tmp_path / "models", "any")
    assert (model.card.input_type, model.card.resize, model.card.input_shape) == ("UINT8", 9, (3, 8, 8))
    session, network = open_session(model.path / "model.onnx"), load_checkpoint(smoothed).network
    images = load_data(name, "test").images
    assert isinstance(images, FileImages)
    for index in range(6):
        (found,) = session.run(["probabilities"], {"image": images.picture(index)[None]})
        with torch.no_grad():
            expected = network(images[index][0][None]).softmax(1)
        np.testing.assert_allclose(found, expected, atol=0.01)  # pixels differ by a grey level at most


def test_the_input_of_a_served_graph_follows_the_data_unless_it_is_asked_for() -> None:
    resized, plain = "imagefolder:x?crop=8&resize=9", "imagefolder:x"
    chosen = [
        Variant().chosen_for(resized, "auto"),
        Variant("FP32").chosen_for(resized, "auto"),
        Variant("UINT8").chosen_for(resized, "auto"),
        Variant().chosen_for(resized, "tensorrt"),
        Variant().chosen_for(plain, "auto"),
        Variant(resize=12).chosen_for(plain, "auto"),
    ]
    assert [(variant.input_type, variant.resize) for variant in chosen] == [
        ("UINT8", 9),
        ("FP32", None),
        ("UINT8", None),
        ("FP32", None),
        ("FP32", None),
        ("UINT8", 12),
    ]


@pytest.mark.slow
def test_a_test_split_that_is_missing_is_told_before_the_first_epoch(tmp_path: Path) -> None:
    photographs(tmp_path)
    shutil.rmtree(tmp_path / "val" / "dark")
    out = tmp_path / "out.safetensors"
    arguments = ["train", "baseline", "--data", f"imagefolder:{tmp_path}?resize=8", "--architecture", "cifar_resnet20"]
    arguments += ["--out", str(out), "--epochs", "1", "--batch-size", "32", "--device", "cpu"]
    assert "test has no picture of 1 of 2 classes: dark" in invoke(*arguments).stderr
    out.unlink()
    shutil.rmtree(tmp_path / "val")
    with pytest.raises(DataError, match=r"test: no such folder; expected test/, val/ or validation/"):
        invoke(*arguments)
    assert not out.exists()
