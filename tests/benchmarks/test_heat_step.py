"""`heatserve bench training` on a tiny batch: everything is measured, and both heat steps have the same gradient."""

from __future__ import annotations

import sys

import pytest
import torch
from typer.testing import CliRunner

from heatserve.benchmarks.heat_step.steps import STEP_VARIANTS, HeatStepSettings
from heatserve.benchmarks.records.heat_step import ClassifierSteps, HeatStepRecord
from heatserve.benchmarks.records.record import read_record
from heatserve.cli import app
from heatserve.training.methods.parameters import ParameterError

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> tuple[HeatStepRecord, str]:
    """What one small run wrote, and what it printed."""
    out = tmp_path_factory.mktemp("bench") / "training.json"
    small = "--batch-size 4 --kappa 2 --repeats 1 --variance-draws 3 --seed 5"
    arguments = ["bench", "training", "--shape", "cifar10-resnet20", *small.split(), "--out", str(out)]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # on so small a batch threads would mostly wait for one another
    try:
        result = CliRunner().invoke(app, arguments, env={"COLUMNS": "80"}, catch_exceptions=False)
    finally:
        torch.set_num_threads(threads)
    assert result.exit_code == 0
    assert "renders docs/results/cost.md" in result.stderr.splitlines()[-1]
    return read_record(out, HeatStepRecord), result.stdout


@pytest.fixture(scope="module")
def steps(measured: tuple[HeatStepRecord, str]) -> ClassifierSteps:
    record, _ = measured
    assert record.shapes.keys() == {"cifar10-resnet20"}
    return record.shapes["cifar10-resnet20"]


def test_results_say_how_they_were_made(measured: tuple[HeatStepRecord, str], steps: ClassifierSteps) -> None:
    record, _ = measured
    assert (record.seed, record.kappa, record.repeats, record.device) == (5, 2, 1, "cpu")
    assert (record.weights, record.images) == ("random", "random")
    assert record.threads >= 1
    assert steps.batch_size == 4


def test_every_variant_is_timed_and_weighed(steps: ClassifierSteps) -> None:
    assert steps.variants.keys() == STEP_VARIANTS.keys()
    assert steps.variants["naive"].speed_up == 1
    for name, variant in steps.variants.items():
        assert variant.milliseconds.median > 0, name
        assert variant.images_per_second == pytest.approx(4000 / variant.milliseconds.median), name
        if sys.platform == "linux":
            assert variant.peak_mib is not None, name
            assert variant.peak_mib > 1, name


def test_the_floor_is_the_sum_of_its_parts(steps: ClassifierSteps) -> None:
    floor, heat = steps.floor, steps.variants["heat"]
    assert [part.count for part in floor.parts.values()] == [1, 1, 2, 2, 1]
    total = sum(part.count * part.milliseconds.median for part in floor.parts.values())
    assert floor.milliseconds == pytest.approx(total)
    assert heat.ratio_to_floor == pytest.approx(heat.milliseconds.median / total)


def test_the_step_has_the_gradient_of_algorithm_1(steps: ClassifierSteps) -> None:
    assert 0 <= steps.gradient_differences.heat_and_naive < 1e-4


def test_both_estimators_find_about_the_same_number_where_delta_is_small(steps: ClassifierSteps) -> None:
    assert [(found.estimator, found.delta) for found in steps.estimators] == [
        ("projections", 0.1),
        ("projections", 0.001),
        ("displacements", 0.1),
        ("displacements", 0.001),
    ]
    assert steps.estimators[1].mean == pytest.approx(steps.estimators[3].mean, rel=0.4)
    assert all(0 < found.spread_of_an_image < 1 for found in steps.estimators)


def test_the_table_shows_what_the_file_holds(measured: tuple[HeatStepRecord, str], steps: ClassifierSteps) -> None:
    _, printed = measured
    assert "random images, random weights" in printed
    for name, variant in steps.variants.items():
        row = next(line for line in printed.splitlines() if line.startswith(f" {name} "))
        assert f"{variant.milliseconds.median:,.1f}" in row


def test_help_teaches_with_an_example() -> None:
    result = CliRunner().invoke(app, ["bench", "training", "--help"], env={"COLUMNS": "200"})
    assert result.exit_code == 0
    assert "heatserve bench training --shape cifar10-resnet20" in result.output


def test_a_device_that_is_not_there_is_named() -> None:
    with pytest.raises(ParameterError, match="device: expected cpu or a device of this machine, got 'abacus'"):
        HeatStepSettings(device="abacus")
