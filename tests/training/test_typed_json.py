"""The header of a checkpoint without pydantic: the same bytes as with it, and no value of another type."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import pytest
from pydantic import TypeAdapter

from heatserve.certification.lineage import Ancestor
from heatserve.training.checkpoint import CheckpointMetadata
from heatserve.training.typed_json import TypedJsonError, dataclass_text, parse_dataclass

METADATA = CheckpointMetadata(
    architecture="cifar_resnet20",
    num_classes=2,
    class_names=("naïve “ß” \\ / \n \x01 \x7f 😀", "b"),
    input_shape=(3, 32, 32),
    mean=(0.4914, 1e-5, 1.5e-07),
    std=(1.0, 0.1 + 0.2, 5e-324),
    method="average",
    sigma=None,
    dataset="imagefolder:photos?resize=64",
    seed=2**40,
    epochs=3,
    hyperparameters={"lr": 1e-06, "weight_decay": 5e-4, "augment": True, "none": None, "decay": "cosine", "kappa": 10},
    parent_sha256="a" * 64,
    ancestors=(Ancestor("baseline", "cifar10", 30, "a" * 64, None),),
    versions={"torch": "2.13.0"},
    date="2026-11-26T00:00:00+00:00",
)


def test_a_header_has_the_bytes_that_pydantic_writes_and_is_read_again() -> None:
    text = METADATA.to_json()
    assert text == TypeAdapter(CheckpointMetadata).dump_json(METADATA).decode()
    assert CheckpointMetadata.from_json(text) == METADATA
    shorter = METADATA.to_json(without=("ancestors", "code_sha256"))
    assert json.loads(shorter).keys() == json.loads(text).keys() - {"ancestors", "code_sha256"}
    assert CheckpointMetadata.from_json(shorter) == replace(METADATA, ancestors=None)


def test_numbers_have_the_digits_that_pydantic_writes() -> None:
    @dataclass(frozen=True)
    class Numbers:
        values: tuple[float, ...]

    random = np.random.default_rng(0)
    powers = [sign * 10.0**power for power in range(-30, 30) for sign in (1, -1)]
    anything = (random.standard_normal(3000) * 10.0 ** random.integers(-320, 300, 3000)).tolist()
    near = (random.uniform(1, 10, 500) * 10.0 ** random.integers(-8, 2, 500)).tolist()
    found = Numbers((0.0, -0.0, 123456789.0, 0.1, *powers, *anything, *near))
    assert dataclass_text(found) == TypeAdapter(Numbers).dump_json(found).decode()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epochs": "3"}, "epochs: expected int, got '3'"),
        ({"epochs": True}, "epochs: expected int, got True"),
        ({"epochs": 3.0}, r"epochs: expected int, got 3\.0"),
        ({"mean": [0.5, "x", 1]}, r"mean\.1: expected a finite number, got 'x'"),
        ({"mean": [True, 1, 1]}, r"mean\.0: expected a finite number, got True"),
        ({"sigma": "0.25"}, r"sigma: expected a finite number, got '0\.25'"),
        ({"input_shape": [3, 32]}, "input_shape: expected 3 values, got 2"),
        ({"class_names": "ab"}, "class_names: expected a list, got 'ab'"),
        ({"class_names": ["\ud800", "b"]}, r"class_names\.0: expected text that UTF-8 can hold"),
        ({"hyperparameters": {"a": [1]}}, r"hyperparameters\.a: expected str or int or float or bool or NoneType"),
        ({"hyperparameters": []}, r"hyperparameters: expected an object, got \[\]"),
        ({"ancestors": [{"method": "x"}]}, r"ancestors\.0\.dataset: expected a value, found none"),
        (
            {"ancestors": [{**asdict(Ancestor("x", None, 1, "a" * 64)), "more": 1}]},
            r"ancestors\.0\.more: expected no such",
        ),
        (
            {"ancestors": [{**asdict(Ancestor("x", None, 1, "a" * 64)), "sha256": "z"}]},
            "sha256: expected 64 hex digits",
        ),
        ({"more": 1}, "more: expected no such field"),
    ],
)
def test_a_header_with_a_wrong_value_is_refused_by_name(change: dict[str, Any], message: str) -> None:
    text = json.dumps({**json.loads(METADATA.to_json()), **change})
    with pytest.raises(TypedJsonError, match=message):
        CheckpointMetadata.from_json(text)


@pytest.mark.parametrize("text", ["", "3", "[]", "{}", '{"date": NaN', "[" * 100_000])
def test_text_that_describes_nothing_is_refused(text: str) -> None:
    with pytest.raises(TypedJsonError):
        parse_dataclass(text, CheckpointMetadata)


def test_numbers_that_are_not_finite_are_refused() -> None:
    for value in ("NaN", "Infinity", "1e999"):
        text = METADATA.to_json().replace('"sigma":null', f'"sigma":{value}')
        with pytest.raises(TypedJsonError, match="sigma: expected a finite number"):
            CheckpointMetadata.from_json(text)
    with pytest.raises(ValueError, match="epochs: expected int"):
        replace(METADATA, epochs=1.5)  # type: ignore[arg-type]


def test_whole_numbers_become_float_where_one_is_expected_and_nowhere_else() -> None:
    text = METADATA.to_json().replace('"sigma":null', '"sigma":1')
    found = CheckpointMetadata.from_json(text)
    assert (found.sigma, type(found.sigma)) == (1.0, float)
    assert type(found.hyperparameters["kappa"]) is int
    assert type(found.hyperparameters["augment"]) is bool
