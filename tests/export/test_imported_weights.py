"""From somebody's weights to a promise, by the commands: refused until the user vouches, and the card says so."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image
from typer.testing import CliRunner, Result

from heatserve.certification.errors import HeatserveError
from heatserve.cli import app
from heatserve.export.exporting import export_checkpoint
from heatserve.export.promise import VOUCHED
from heatserve.export.repository.layout import open_model
from heatserve.training.checkpoint import load_checkpoint, parse
from heatserve.training.data.splits import load_data
from heatserve.training.evaluate import accuracy
from heatserve.training.loop.optimisation import Optimisation
from heatserve.training.methods.parameters import NoiseParameters
from heatserve.training.train import train_baseline, train_from

pytestmark = pytest.mark.slow

SIGMA = 0.25
QUICK = Optimisation(epochs=2, batch_size=32, lr=0.05, cpu_threads=1)
CALIBRATION = ["--alpha", "0.5", "--delta", "0.2", "--n0", "20", "--n", "100", "--images", "150", "--test-images", "40"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Trained on the digits, under noise."""
    folder, digits = tmp_path_factory.mktemp("runs"), load_data("digits", "train")
    baseline = train_baseline(digits, "digits_cnn", out=folder / "baseline.safetensors", optimisation=QUICK)
    out, longer = folder / "noise.safetensors", replace(QUICK, epochs=3)
    return train_from(baseline, digits, NoiseParameters(sigma=SIGMA), out=out, optimisation=longer)


def heatserve(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, list(map(str, arguments)), catch_exceptions=False)


@pytest.fixture(scope="module")
def imported(trained: Path) -> Path:
    """A repository with the model `theirs`, exported from the bare tensors of `trained`."""
    folder, known = trained.parent, load_checkpoint(trained).metadata
    tensors, _ = parse(trained, trained.read_bytes())
    safetensors.torch.save_file(tensors, folder / "bare.safetensors")
    mean, std = (",".join(map(str, numbers)) for numbers in (known.mean, known.std))
    out = folder / "imported.safetensors"
    made = heatserve(
        *("import-weights", folder / "bare.safetensors", "--architecture", "digits_cnn", "--data", "digits"),
        *("--mean", mean, "--std", std, "--out", out),
    )
    assert made.exit_code == 0, made.output
    repository = folder / "models"
    assert (
        heatserve("export", out, "--name", "theirs", "--sigma", str(SIGMA), "--repository", repository).exit_code == 0
    )
    return repository


def calibrate(name: str, repository: Path, *arguments: str | Path) -> Result:
    kept = repository.parent / "certificates"
    return heatserve("calibrate", name, "--repository", repository, "--certificates", kept, *CALIBRATION, *arguments)


def test_imported_weights_are_calibrated_on_images_that_the_user_vouches_for(imported: Path) -> None:
    with pytest.raises(HeatserveError, match=r"theirs: .* ancestor .* \(imported, digits\): trained elsewhere"):
        calibrate("theirs", imported)
    assert open_model(imported, "theirs").card.calibration is None

    done = calibrate("theirs", imported, "--calibration-data", "digits")
    assert done.exit_code == 0, done.output
    assert "vouched that no training saw these images of digits" in " ".join(done.stdout.split())
    card = open_model(imported, "theirs").card
    assert card.calibration is not None
    assert card.evaluation is not None
    assert card.calibration.vouched
    assert card.calibration.promise.endswith(VOUCHED)
    assert (card.calibration.fit.split, card.calibration.check.split, card.evaluation.data.split) == ("test",) * 3
    assert (card.calibration.fit.images + card.calibration.check.images, card.evaluation.data.images) == (150, 40)


def test_two_data_sets_at_once_are_refused(imported: Path) -> None:
    refused = calibrate("theirs", imported, "--data", "digits", "--calibration-data", "digits")
    assert refused.exit_code == 2
    assert "expected it or --data, got both" in refused.stderr
    refused = calibrate("theirs", imported, "--calibration-data", "digits", "--test-skip", "5")
    assert refused.exit_code == 2
    assert "expected 0 with --calibration-data" in " ".join(refused.stderr.split())


def test_a_network_of_ours_needs_nobody_and_its_training_images_in_other_files_do_not_calibrate_it(
    trained: Path, tmp_path: Path
) -> None:
    export_checkpoint(trained, repository=tmp_path / "models", name="ours")
    images, labels = load_data("digits", "train").arrays()
    for index, (image, label) in enumerate(zip(images, labels, strict=True)):
        path = tmp_path / "folder" / ("train", "test")[index % 2] / str(label) / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.rint(image[0] * 255).astype(np.uint8)).save(path)
    for option in ("--data", "--calibration-data"):
        with pytest.raises(
            HeatserveError, match=r"that training of ours did not use, got none: .* those of images that it used"
        ):
            calibrate("ours", tmp_path / "models", option, f"imagefolder:{tmp_path / 'folder'}")

    assert calibrate("ours", tmp_path / "models").exit_code == 0
    card = open_model(tmp_path / "models", "ours").card
    assert card.calibration is not None
    assert not card.calibration.vouched
    assert VOUCHED not in card.calibration.promise
    assert card.calibration.check.split == "calibration"


def test_an_import_hints_at_another_order_of_the_classes_and_takes_it(trained: Path, tmp_path: Path) -> None:
    known, order = load_checkpoint(trained), [3, 1, 4, 0, 5, 9, 2, 6, 8, 7]
    tensors = known.network.backbone.state_dict()
    tensors |= {name: tensors[name][order].clone() for name in ("linear.weight", "linear.bias")}
    theirs, out = tmp_path / "theirs.pth", tmp_path / "imported.safetensors"
    torch.save({"state_dict": {f"module.{name}": tensor for name, tensor in tensors.items()}, "epoch": 1}, theirs)
    mean, std = (str(numbers[0]) for numbers in (known.metadata.mean, known.metadata.std))
    command: list[str | Path] = [
        *("import-weights", theirs, "--architecture", "digits_cnn", "--data", "digits", "--out", out)
    ]
    command += ["--mean", mean, "--std", std]
    wrong = heatserve(*command)
    assert "prefix    module.\n" in wrong.stderr
    assert "it answers '0' for '3'" in wrong.stderr
    assert f"--outputs FILE: {', '.join(map(str, order))}" in wrong.stderr
    names = tmp_path / "classes.txt"
    names.write_text("\n".join(map(str, order)))
    right = heatserve(*command, "--outputs", names)
    assert right.stdout == f"accuracy  {accuracy(known.network, load_data('digits', 'test')):.2%} of 400 test images\n"
    assert "hint  " not in right.stderr
