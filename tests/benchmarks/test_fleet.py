"""`heatserve plan`: the arithmetic of a fleet on numbers that can be computed by hand, and on the measured ones."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from heatserve.benchmarks.load.fleet import FleetDemand, FleetError, plan_fleet
from heatserve.benchmarks.records.load import (
    Heard,
    LoadRecord,
    LoadRow,
    ModelLoad,
    ProcessUse,
    RawRow,
    TailMilliseconds,
)
from heatserve.benchmarks.records.record import Machine, read_record
from heatserve.cli import app

ROOT = Path(__file__).parents[2]
MEASURED = ROOT / "benchmarks" / "results" / "load.json"


def _row(
    images_per_second: float,
    *,
    tier: str = "one pass",
    rate: float | None = None,
    p99: float = 5.0,
    errors: Mapping[str, int] | None = None,
) -> LoadRow:
    """One load of one kind of request, in which the server took one core and 100 + 50 MiB."""
    heard = Heard(
        tier=tier,
        protocol="grpc",
        input="FP32",
        images=1,
        callers=None if rate else 8,
        rate=rate,
        answers=100,
        images_per_second=images_per_second,
        milliseconds=TailMilliseconds(p50=1.0, p90=2.0, p99=p99, p999=2 * p99),
        late_p99=0.0,
        errors=errors or {},
    )
    use = {
        "triton": ProcessUse(cores=0.25, rss_mib=80.0, shared_mib=30.0),
        "stub model": ProcessUse(cores=0.75, rss_mib=120.0, shared_mib=50.0),
    }
    return LoadRow(seconds=1.0, heard=(heard,), generator_cores=0.1, server=use)


def _record(*, opened: tuple[LoadRow, ...] = (), mixes: Mapping[str, LoadRow] | None = None) -> LoadRecord:
    """A server of 4 cores that answers at most 1,000 images a second."""
    times = TailMilliseconds(p50=1.0, p90=1.0, p99=1.0, p999=1.0)
    raw = RawRow(batch=1, milliseconds=times, images_per_second=1000.0)
    found = ModelLoad(
        weights="random",
        architecture="cifar_resnet20",
        input="FP32",
        input_shape=(3, 32, 32),
        data="random",
        radius=0.125,
        raw=(raw,),
        raw_single=raw,
        closed=(_row(400.0), _row(1000.0)),
        opened=opened,
        mixes=mixes or {},
        third_party=(),
        targets=(),
    )
    return LoadRecord(
        command="heatserve bench load model",
        machine=Machine(processor="CPU", cores=4, system="Linux"),
        versions={},
        date="2026-01-01T00:00:00+00:00",
        seed=0,
        seconds=1.0,
        generators=1,
        shapes={"model": found},
    )


def _values(record: LoadRecord, demand: FleetDemand) -> dict[str, float]:
    return {step.what: step.value for step in plan_fleet(record, "model", demand).steps}


def test_servers_are_asked_for_seven_tenths_of_what_saturates_them() -> None:
    found = plan_fleet(_record(), "model", FleetDemand(rate=2000.0, tiers={}))
    assert {step.what: step.value for step in found.steps} == {
        "one pass: saturation": 1000.0,
        "one pass: may be asked of one": 700.0,
        "servers that are busy": pytest.approx(2000 / 700),
        "servers": 4.0,  # 3 and a spare one
        "cores that are busy, of all": pytest.approx(100 * 2000 * (1.0 / 1000) / 16),
    }
    assert (found.servers, found.cores_each, found.mebibytes_each) == (4, 4, 50 + 70 + 50)


@pytest.mark.parametrize(("rate", "spare", "servers"), [(700.0, 0, 1), (700.1, 0, 2), (1.0, 0, 1), (700.0, 2, 3)])
def test_a_fleet_is_as_small_as_it_can_be(rate: float, spare: int, servers: int) -> None:
    assert plan_fleet(_record(), "model", FleetDemand(rate=rate, tiers={}, spare=spare)).servers == servers


@pytest.mark.parametrize(
    ("demand", "name"),
    [
        (FleetDemand(rate=math.inf, tiers={}), "rate"),
        (FleetDemand(rate=math.nan, tiers={}), "rate"),
        (FleetDemand(rate=1.0, tiers={"confirm": math.inf}), "confirm"),
        (FleetDemand(rate=1.0, tiers={}, front_microseconds=math.inf), "front_microseconds"),
    ],
)
def test_no_fleet_takes_what_is_no_number(demand: FleetDemand, name: str) -> None:
    with pytest.raises(FleetError, match=f"^{name}: expected a finite number above 0, got (inf|nan)"):
        plan_fleet(_record(), "model", demand)


def test_what_is_confirmed_adds_its_share() -> None:
    mixes = {"confirm, 1 caller": _row(40.0, tier="confirm"), "confirm, 8 callers": _row(50.0, tier="confirm")}
    values = _values(_record(mixes=mixes), FleetDemand(rate=700.0, tiers={"confirm": 70.0, "cascade": 0.0}))
    assert values["confirm: may be asked of one"] == pytest.approx(35.0)
    assert values["servers that are busy"] == pytest.approx(1.0 + 2.0)
    assert values["cores that are busy, of all"] == pytest.approx(100 * (700 * 0.001 + 70 * 0.02) / (4 * 4))


def test_the_front_takes_a_share_of_the_cores() -> None:
    """At 700 images a second, 0.35 ms each keep 0.245 of four cores busy, of which 0.7 may be used."""
    values = _values(_record(), FleetDemand(rate=700.0, tiers={}, front_microseconds=350.0))
    assert values["servers that are busy"] == pytest.approx(1 + 700 * 0.00035 / (0.7 * 4))
    assert values["cores that are busy, of all"] == pytest.approx(100 * 700 * 0.00135 / (3 * 4))


def test_a_tail_that_is_wanted_decides_by_what_was_measured_at_a_rate() -> None:
    opened = (
        _row(300.0, rate=300.0, p99=8.0),
        _row(500.0, rate=500.0, p99=12.0),
        _row(600.0, rate=900.0, p99=11.0),  # it could not keep up
        _row(650.0, rate=650.0, p99=9.0, errors={"overloaded": 1}),
        _row(700.0, rate=700.0, p99=30.0),
    )
    values = _values(_record(opened=opened), FleetDemand(rate=1000.0, tiers={}, p99=20.0))
    assert values["one pass: may be asked of one"] == 500.0
    with pytest.raises(FleetError, match=r"p99: expected at least 8.0 ms"):
        plan_fleet(_record(opened=opened), "model", FleetDemand(rate=1.0, tiers={}, p99=5.0))


@pytest.mark.parametrize(
    ("model", "demand", "message"),
    [
        ("other", FleetDemand(rate=1.0, tiers={}), r"model: expected one that was measured \(model\), got 'other'"),
        ("model", FleetDemand(rate=1.0, tiers={}, images=8), r"measured over gRPC \(1\), got 8"),
        ("model", FleetDemand(rate=1.0, tiers={"confirm": 1.0}), "confirm: expected that it was measured"),
        ("model", FleetDemand(rate=1.0, tiers={}, p99=5.0), "p99: expected arrivals"),
    ],
)
def test_what_was_not_measured_is_named(model: str, demand: FleetDemand, message: str) -> None:
    with pytest.raises(FleetError, match=message):
        plan_fleet(_record(), model, demand)


def _planned(*options: str) -> Any:
    done = CliRunner().invoke(app, ["plan", "cifar10", "--load", str(MEASURED), *options])
    assert done.exit_code == 0, done.output
    return done.stdout


def test_the_command_plans_from_what_is_kept() -> None:
    found = json.loads(_planned("--rate", "2000", "--confirm", "20", "--json"))
    steps = {step["what"]: step["value"] for step in found["steps"]}
    assert found["servers"] == math.ceil(steps["servers that are busy"]) + 1
    assert found["cores_each"] == read_record(MEASURED, LoadRecord).machine.cores


def test_every_line_of_the_arithmetic_can_be_computed_again() -> None:
    """What stands in a line, with its numbers as they are rounded there, gives what stands behind it."""
    found = json.loads(_planned("--rate", "2000", "--confirm", "20", "--front-us", "350", "--json"))
    for step in found["steps"]:
        if step["how"] == "most callers":
            continue
        words = step["how"].replace(",", "").replace("/s", "").replace(" cores", "")
        words = words.replace(" ms", " / 1000").replace(" µs", " / 1000000")
        how = (
            words.replace("×", "*").replace("÷", "/").replace("⌈", "math.ceil(").replace("⌉", ")").replace(" spare", "")
        )
        value = eval(how, {"math": math}) * (100 if step["unit"] == "%" else 1)
        assert value == pytest.approx(step["value"], rel=0.01), step


def test_the_table_says_what_comes_out() -> None:
    assert "servers of 2 cores" in _planned("--rate", "2000")
