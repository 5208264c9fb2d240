"""`heatserve bench training` on a tiny batch: everything is measured, and both heat steps have the same gradient."""

from __future__ import annotations

import json
import sys
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from heatserve.benchmarks.heat_step.steps import VARIANTS, Settings
from heatserve.cli import app
from heatserve.training.methods.parameters import ParameterError


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], str]:
    """The JSON of one small run, and what was printed."""
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
    return json.loads(out.read_text()), result.output


def test_results_say_how_they_were_made(measured: tuple[dict[str, Any], str]) -> None:
    results, _ = measured
    assert {"command", "machine", "versions", "date"} <= results.keys()
    said = {name: results[name] for name in ("seed", "kappa", "repeats", "device", "weights", "images")}
    assert said == {"seed": 5, "kappa": 2, "repeats": 1, "device": "cpu", "weights": "random", "images": "random"}
    assert results["threads"] >= 1
    assert results["shapes"].keys() == {"cifar10-resnet20"}
    assert results["shapes"]["cifar10-resnet20"]["batch_size"] == 4


def test_every_variant_is_timed_and_weighed(measured: tuple[dict[str, Any], str]) -> None:
    variants = measured[0]["shapes"]["cifar10-resnet20"]["variants"]
    assert variants.keys() == VARIANTS.keys()
    assert variants["naive"]["speed_up"] == 1
    for name, variant in variants.items():
        milliseconds = variant["milliseconds"]["median"]
        assert milliseconds > 0, name
        assert variant["images_per_second"] == pytest.approx(4000 / milliseconds), name
        if sys.platform == "linux":
            assert variant["peak_mib"] > 1, name


def test_the_floor_is_the_sum_of_its_parts(measured: tuple[dict[str, Any], str]) -> None:
    shape = measured[0]["shapes"]["cifar10-resnet20"]
    floor, heat = shape["floor"], shape["variants"]["heat"]
    assert [part["count"] for part in floor["parts"].values()] == [1, 1, 2, 2, 1]
    total = sum(part["count"] * part["milliseconds"]["median"] for part in floor["parts"].values())
    assert floor["milliseconds"] == pytest.approx(total)
    assert heat["ratio_to_floor"] == pytest.approx(heat["milliseconds"]["median"] / total)


def test_the_step_has_the_gradient_of_algorithm_1(measured: tuple[dict[str, Any], str]) -> None:
    assert 0 <= measured[0]["shapes"]["cifar10-resnet20"]["gradient_differences"]["heat and naive"] < 1e-4


def test_both_estimators_find_about_the_same_number_where_delta_is_small(
    measured: tuple[dict[str, Any], str],
) -> None:
    estimators = measured[0]["shapes"]["cifar10-resnet20"]["estimators"]
    assert [(found["estimator"], found["delta"]) for found in estimators] == [
        ("projections", 0.1),
        ("projections", 0.001),
        ("displacements", 0.1),
        ("displacements", 0.001),
    ]
    assert estimators[1]["mean"] == pytest.approx(estimators[3]["mean"], rel=0.4)
    assert all(0 < found["spread_of_an_image"] < 1 for found in estimators)


def test_the_table_shows_what_the_file_holds(measured: tuple[dict[str, Any], str]) -> None:
    results, printed = measured
    assert "random images, random weights" in printed
    for name, variant in results["shapes"]["cifar10-resnet20"]["variants"].items():
        row = next(line for line in printed.splitlines() if line.startswith(f" {name} "))
        assert f"{variant['milliseconds']['median']:,.1f}" in row


def test_help_teaches_with_an_example() -> None:
    result = CliRunner().invoke(app, ["bench", "training", "--help"], env={"COLUMNS": "200"})
    assert result.exit_code == 0
    assert "heatserve bench training --shape cifar10-resnet20" in result.output


def test_a_device_that_is_not_there_is_named() -> None:
    with pytest.raises(ParameterError, match="device: expected cpu or a device of this machine, got 'abacus'"):
        Settings(device="abacus")
