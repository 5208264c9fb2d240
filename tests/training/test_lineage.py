"""What a checkpoint knows of the networks that it came through: each training adds one, and none is forgotten."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
from small_training import few_digits

from heatserve.certification.lineage import Ancestor, epochs_in_all
from heatserve.export.card import Card
from heatserve.export.exporting import export_checkpoint
from heatserve.training.checkpoint import Checkpoint, base_path, load_checkpoint, parse
from heatserve.training.data.splits import ImageData
from heatserve.training.loop.fitting import Run
from heatserve.training.loop.optimisation import Optimisation
from heatserve.training.methods.parameters import AverageParameters, HeatParameters, NoiseParameters
from heatserve.training.train import step_path, train_baseline, train_from
from heatserve.training.weights import import_weights

SIGMA = 0.25
QUICK = Optimisation(epochs=1, batch_size=16, lr=0.01, cpu_threads=1)


@pytest.fixture(scope="module")
def few() -> ImageData:
    return few_digits(32)


@pytest.fixture(scope="module")
def baseline(few: ImageData, tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """Three epochs on `digits`."""
    out = tmp_path_factory.mktemp("runs") / "baseline.safetensors"
    return load_checkpoint(train_baseline(few, "digits_cnn", out=out, optimisation=replace(QUICK, epochs=3)))


def elsewhere(few: ImageData) -> ImageData:
    """The same images as a data set of another name."""
    return replace(few, name="imagefolder:elsewhere")


def imported(baseline: Checkpoint, folder: Path) -> Checkpoint:
    """The tensors of the baseline without their header, as somebody publishes them."""
    tensors, _ = parse(baseline.path, baseline.path.read_bytes())
    safetensors.torch.save_file(tensors, folder / "bare.safetensors")
    known = baseline.metadata
    out = import_weights(
        folder / "bare.safetensors",
        known.architecture,
        dataset="cifar10",
        class_names=known.class_names,
        input_shape=known.input_shape,
        mean=known.mean,
        std=known.std,
        out=folder / "imported.safetensors",
    )
    return load_checkpoint(out)


def forgetful(checkpoint: Checkpoint, *, dataset: str | None = None) -> Checkpoint:
    """The checkpoint as it was written before ancestors were, trained on `dataset`, if given."""
    tensors, header = parse(checkpoint.path, checkpoint.path.read_bytes())
    metadata = checkpoint.metadata if dataset is None else replace(checkpoint.metadata, dataset=dataset)
    text = metadata.to_json(without=("ancestors",))
    path = checkpoint.path.with_name(f"old_{checkpoint.path.name}")
    safetensors.torch.save_file(tensors, path, {**header, "heatserve": text})
    return load_checkpoint(path)


def exported(checkpoint: Checkpoint, folder: Path) -> Card:
    return export_checkpoint(checkpoint.path, repository=folder / "models", name="exported", sigma=SIGMA).card


@pytest.mark.slow
def test_a_lineage_goes_through_every_training_and_the_card_has_it_with_all_epochs(
    few: ImageData, baseline: Checkpoint, tmp_path: Path
) -> None:
    heat = load_checkpoint(
        train_from(
            baseline,
            elsewhere(few),
            HeatParameters(sigma=SIGMA, kappa=1, time_steps=2),
            out=tmp_path / "heat.safetensors",
            optimisation=QUICK,
        )
    )
    average = load_checkpoint(
        train_from(
            heat,
            few,
            AverageParameters(sigma=SIGMA),
            out=tmp_path / "average.safetensors",
            optimisation=replace(QUICK, epochs=2),
        )
    )
    step, base = load_checkpoint(step_path(heat.path, 1)), load_checkpoint(base_path(average.path))
    came_through = (
        Ancestor("baseline", "digits", 3, baseline.sha256),
        Ancestor("heat", "imagefolder:elsewhere", 1, step.sha256),
        Ancestor("heat", "imagefolder:elsewhere", 1, heat.sha256),
    )
    assert baseline.lineage == came_through[:1]
    assert heat.lineage == came_through
    assert average.lineage == (*came_through, Ancestor("average", "digits", 2, average.sha256))
    assert base.lineage == (*came_through, Ancestor("noise", "digits", 2, base.sha256))
    assert epochs_in_all(average.lineage) == 7

    card = exported(average, tmp_path)
    assert card.lineage == (*base.lineage, average.lineage[-1])
    assert (card.training["epochs"], card.training["epochs_in_all"]) == (2, 7)


@pytest.mark.slow
def test_a_frozen_base_and_one_named_at_export_are_in_the_lineage(
    few: ImageData, baseline: Checkpoint, tmp_path: Path
) -> None:
    noise, average, other = (tmp_path / f"{name}.safetensors" for name in ("noise", "average", "other"))
    train_from(baseline, few, NoiseParameters(sigma=SIGMA), out=noise, optimisation=QUICK)
    train_from(noise, few, AverageParameters(sigma=SIGMA, frozen_base=True), out=average, optimisation=QUICK)
    card = exported(load_checkpoint(average), tmp_path)
    assert card.lineage is not None
    assert [ancestor.method for ancestor in card.lineage] == ["baseline", "noise", "average"]
    assert card.training["epochs_in_all"] == 5

    train_from(baseline, elsewhere(few), NoiseParameters(sigma=SIGMA), out=other, optimisation=QUICK)
    heat = train_from(
        baseline, few, HeatParameters(sigma=SIGMA, kappa=1), out=tmp_path / "heat.safetensors", optimisation=QUICK
    )
    mixed = export_checkpoint(heat, repository=tmp_path / "models", name="mixed", base=other).card
    assert mixed.lineage == (*load_checkpoint(other).lineage, load_checkpoint(heat).lineage[-1])
    assert mixed.training["epochs_in_all"] == 4, "of v; the base has its own in the lineage"


def test_what_comes_from_imported_weights_says_so_for_ever(
    few: ImageData, baseline: Checkpoint, tmp_path: Path
) -> None:
    start = imported(baseline, tmp_path)
    assert start.lineage == (Ancestor("imported", "cifar10", None, start.sha256),)
    heat = train_from(
        start, few, HeatParameters(sigma=SIGMA, kappa=1), out=tmp_path / "heat.safetensors", optimisation=QUICK
    )
    found = load_checkpoint(heat)
    assert found.lineage == (*start.lineage, Ancestor("heat", "digits", 1, found.sha256))
    assert [ancestor.recorded for ancestor in found.lineage] == [False, True]
    card = exported(found, tmp_path)
    assert (card.training["epochs"], card.training["epochs_in_all"]) == (1, None), "nobody knows them"


def test_a_checkpoint_of_before_has_an_unknown_ancestor_unless_it_had_no_parent(
    few: ImageData, baseline: Checkpoint, tmp_path: Path
) -> None:
    first = forgetful(baseline, dataset="imagefolder:elsewhere")
    assert first.metadata.ancestors is None
    assert first.lineage == (Ancestor("baseline", "imagefolder:elsewhere", 3, first.sha256),)
    heat = train_from(
        first,
        elsewhere(few),
        HeatParameters(sigma=SIGMA, kappa=1),
        out=tmp_path / "heat.safetensors",
        optimisation=QUICK,
    )
    old = forgetful(load_checkpoint(heat))
    assert old.lineage == (
        Ancestor("unknown", None, None, first.sha256),
        Ancestor("heat", "imagefolder:elsewhere", 1, old.sha256),
    )
    later = load_checkpoint(
        train_from(old, few, NoiseParameters(sigma=SIGMA), out=tmp_path / "later.safetensors", optimisation=QUICK)
    )
    assert later.lineage == (*old.lineage, Ancestor("noise", "digits", 1, later.sha256))
    assert epochs_in_all(later.lineage) is None
    before = imported(baseline, tmp_path)
    assert forgetful(before).lineage[0].method == "imported"
    assert len(forgetful(before).lineage) == 1, "its parent is the file of tensors"


def test_a_checkpoint_of_before_may_have_seen_any_digit(baseline: Checkpoint) -> None:
    """What were training images of the digits then are calibration and test images now."""
    old = forgetful(baseline)
    assert old.lineage == (Ancestor("unknown", "digits", 3, old.sha256),)


def test_a_finished_training_of_before_is_not_done_again(few: ImageData, baseline: Checkpoint, tmp_path: Path) -> None:
    out = tmp_path / "heat.safetensors"
    heat = HeatParameters(sigma=SIGMA, kappa=1)
    train_from(baseline, few, heat, out=out, optimisation=QUICK)
    out.write_bytes(forgetful(load_checkpoint(out)).path.read_bytes())
    written = out.stat().st_mtime_ns
    train_from(baseline, few, heat, out=out, optimisation=QUICK, run=Run(resume=True))
    assert out.stat().st_mtime_ns == written


@pytest.mark.parametrize("change", [{"sha256": "abc"}, {"epochs": -1}])
def test_an_ancestor_that_cannot_be_is_refused(change: dict[str, object]) -> None:
    name = next(iter(change))
    with pytest.raises(ValueError, match=f"{name}: expected"):
        replace(Ancestor("heat", "digits", 1, "0" * 64), **change)  # type: ignore[arg-type]
