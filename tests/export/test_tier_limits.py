"""The limits that an operator sets: an invalid one, or one that contradicts another, is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_model import write_tiny_model

from heatserve.certification.errors import HeatserveError
from heatserve.certification.monte_carlo import largest_provable
from heatserve.certification.sequential import provable
from heatserve.export.repository.layout import CONFIG_NAME, ModelVersion, open_model, served_config
from heatserve.export.repository.settings import read_config, vote_settings, write_config
from heatserve.export.tiers import TierLimits, parse_limits


@pytest.fixture
def model(tmp_path: Path) -> ModelVersion:
    write_tiny_model(tmp_path)
    return open_model(tmp_path, "tiny")


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"alpha": "nan"}, "alpha: expected a number above 0 and below 0.5, found 'nan'"),
        ({"alpha": "0"}, "alpha: expected a number above 0 and below 0.5, found '0'"),
        ({"alpha": "small"}, "alpha: expected a number above 0 and below 0.5, found 'small'"),
        ({"alpha": "1e-12"}, "least_alpha: expected at most alpha, 1e-12, found 1e-09"),
        ({"alpha": "0.01"}, "alpha: expected at most most_alpha, 0.001, found 0.01"),
        ({"n": "0"}, "n: expected a whole number from 1 to 1000000000, found '0'"),
        ({"n": "-5"}, "n: expected a whole number from 1 to 1000000000, found '-5'"),
        ({"n": "1e3"}, "n: expected a whole number from 1 to 1000000000, found '1e3'"),
        ({"n": "9" * 5000}, "n: expected a whole number from 1 to 1000000000, found '999"),
        ({"n": "²"}, "n: expected a whole number from 1 to 1000000000, found '²'"),
        ({"n0": "2000"}, "n0: expected at most most_n0, 1000, found 2000"),
        ({"deadline_ms": "0"}, "deadline_ms: expected a whole number from 1 "),
        ({"most_deadline_ms": "9"}, "deadline_ms: expected at most most_deadline_ms, 9, found 10000"),
        ({"queue": "0"}, "queue: expected a whole number from 1 "),
        ({"sampling": "float32"}, "sampling: expected any or grid, found 'float32'"),
        ({"n": "19"}, "n: expected at least 20, since fewer votes prove nothing at alpha = 1e-06, found 19"),
        ({"alpha": "1e-310", "least_alpha": "1e-310"}, "n: expected at least 1030, since fewer votes prove nothing at"),
    ],
)
def test_limits_that_are_none_or_contradict_each_other_are_refused(parameters: dict[str, str], message: str) -> None:
    with pytest.raises(HeatserveError) as caught:
        parse_limits(parameters)
    assert str(caught.value).startswith(message)


def test_the_fewest_votes_that_are_allowed_can_prove_something() -> None:
    """A unanimous vote of n has the lower bound α^(1/n) (Clopper and Pearson), which must be above ½."""
    assert parse_limits({"n": "20"}).n == 20
    assert 1e-6 ** (1 / 20) > 0.5 > 1e-6 ** (1 / 19)


@pytest.mark.parametrize("radius", [0.125, 0.25, 0.5])
def test_the_default_votes_can_prove_what_the_committed_models_are_asked_for(radius: float) -> None:
    limits = TierLimits()
    assert provable(radius, sigma=0.25, n=limits.n, alpha=limits.alpha)
    assert radius < 0.25 * largest_provable(n=limits.n, alpha=limits.alpha)


def test_limits_that_are_not_stated_have_their_defaults() -> None:
    assert parse_limits({"tier": "confirm", "most_n": "7000"}) == TierLimits(most_n=7000)


@pytest.mark.parametrize(("stated", "found"), [({}, (32, 1)), ({"vote_batch_size": "8", "vote_threads": "2"}, (8, 2))])
def test_how_votes_are_taken_is_the_operators(
    model: ModelVersion, stated: dict[str, str], found: tuple[int, int]
) -> None:
    path = model.path.parent / CONFIG_NAME
    config = read_config(path)
    for name in ("vote_batch_size", "vote_threads"):
        config.parameters.pop(name)
    for name, value in stated.items():
        config.parameters[name].string_value = value
    write_config(path, config)
    settings = vote_settings(served_config(model))
    assert (settings.batch_size, settings.threads) == found


@pytest.mark.parametrize("value", ["0", "1025", "-1", "many", "", "9" * 5000])
@pytest.mark.parametrize("name", ["vote_batch_size", "vote_threads"])
def test_a_number_for_the_votes_that_is_none_or_too_large_is_refused(
    model: ModelVersion, name: str, value: str
) -> None:
    path = model.path.parent / CONFIG_NAME
    config = read_config(path)
    config.parameters[name].string_value = value
    write_config(path, config)
    with pytest.raises(
        HeatserveError, match=rf"^{path}: expected a whole number from 1 to 1024 as the parameter {name}"
    ):
        served_config(model)
