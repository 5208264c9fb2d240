"""The reference of inputs: written by a calibration, made again for a card of before, and bound to its graph."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from shadow_models import HONEST, inputs, write_shadow_model
from typer.testing import CliRunner

from heatserve.certification.drift import CELLS, STATISTICS, counts_of, input_cells
from heatserve.certification.radius import top_score
from heatserve.cli import app
from heatserve.export.calibration.calibrate import calibrate_model
from heatserve.export.calibration.certifier import Certifier
from heatserve.export.card import CARD_NAME, CardError, read_card
from heatserve.export.card_parts import MonteCarlo
from heatserve.export.digest import with_digest
from heatserve.export.images import LabelledImages
from heatserve.export.reference import REFERENCE_NAME, read_reference
from heatserve.export.repository.layout import open_model
from heatserve.export.repository.publishing import republish
from heatserve.export.runtime.served import open_served

COMMITTED = Path(__file__).parents[2] / "model_repository"


def labelled(count: int, *, seed: int, split: str) -> LabelledImages:
    return LabelledImages(inputs(count, seed=seed), np.zeros(count, np.int64), "digits", split, seed)


def edit(path: Path, change: Callable[[dict[str, Any]], object], *, again: bool = True) -> None:
    """Change the content of a reference and, if asked, its digest."""
    content = json.loads(path.read_bytes())
    change(content)
    path.write_bytes(with_digest(content) if again else json.dumps(content).encode())


def test_a_calibration_counts_the_images_that_tested_its_map(tmp_path: Path) -> None:
    write_shadow_model(tmp_path, "known", HONEST, has_reference=False)
    calibrated = calibrate_model(
        open_model(tmp_path, "known"),
        labelled(300, seed=1, split="calibration"),
        labelled(60, seed=2, split="test"),
        alpha=0.1,
        delta=0.1,
        certifier=Certifier(MonteCarlo(n0=20, n=200, alpha=0.01, seed=0)),
        vouched=True,
    )
    found, part = read_reference(calibrated.path, calibrated.card), calibrated.card.calibration
    assert found is not None
    assert part is not None
    assert part.guard is not None
    assert found.data == part.check
    images = inputs(300, seed=1)[100:]
    scores = top_score(open_served(calibrated)(images)["probabilities"])
    np.testing.assert_array_equal(found.counts, counts_of(input_cells(scores, images, guard=part.guard)))
    copy = republish(calibrated, tmp_path / "elsewhere", "copy")
    assert read_reference(copy.path, copy.card) == found


def test_the_committed_models_have_the_reference_of_their_cards() -> None:
    for name in ("digits", "cifar10"):
        model = open_model(COMMITTED, name)
        found = read_reference(model.path, model.card)
        assert found is not None
        assert model.card.calibration is not None
        assert found.data == model.card.calibration.check
        assert found.counts.shape == (len(STATISTICS), CELLS)


@pytest.mark.slow
def test_the_command_makes_the_same_reference_again_and_leaves_the_card(tmp_path: Path) -> None:
    model = republish(open_model(COMMITTED, "digits"), tmp_path, "digits")
    path, card = model.path / REFERENCE_NAME, (model.path / CARD_NAME).read_bytes()
    before = path.read_bytes()
    path.unlink()
    result = CliRunner().invoke(app, ["reference", "digits", "--repository", str(tmp_path)])
    assert result.exit_code == 0, result.output
    assert path.read_bytes() == before
    assert (model.path / CARD_NAME).read_bytes() == card


def test_a_model_without_a_promise_has_no_reference(tmp_path: Path) -> None:
    write_shadow_model(tmp_path, "known", HONEST, has_reference=False)
    model = open_model(tmp_path, "known")
    assert read_reference(model.path, model.card) is None
    result = CliRunner().invoke(app, ["reference", "nothing", "--repository", str(tmp_path)])
    assert result.exit_code == 1


@pytest.mark.parametrize(
    ("change", "again", "found"),
    [
        (lambda content: content.update(graph_sha256="0" * 64), True, "found that of another one"),
        (lambda content: content.update(graph_sha256="0" * 64), False, "changed after it was written"),
        (lambda content: content["cells"].pop("score"), True, "cells: expected score, distance"),
        (lambda content: content["cells"].update(score="1 2"), True, "score: expected 512 counts, got '1 2'"),
        (lambda content: content["cells"].update(score="0 " * 511 + "7"), True, "score: expected counts of 300 images"),
        (lambda content: content["cells"].update(score="0 " * 511 + "-7"), True, "score: expected 512 counts"),
        (lambda content: content.update(format=2), True, "Input should be 1"),
    ],
)
def test_a_reference_that_is_none_is_refused_and_says_what_to_do(
    tmp_path: Path, change: Callable[[dict[str, Any]], object], again: bool, found: str
) -> None:
    version_dir = write_shadow_model(tmp_path, "known", HONEST)
    edit(version_dir / REFERENCE_NAME, change, again=again)
    with pytest.raises(CardError, match="write it again with `heatserve reference known`") as error:
        read_reference(version_dir, read_card(version_dir))
    assert found in str(error.value)


@pytest.mark.parametrize("content", [b"", b"[]", b"\xff", b"[" * 100_000], ids=["empty", "list", "bytes", "deep"])
def test_what_is_no_reference_at_all_is_refused(tmp_path: Path, content: bytes) -> None:
    version_dir = write_shadow_model(tmp_path, "known", HONEST)
    (version_dir / REFERENCE_NAME).write_bytes(content)
    with pytest.raises(CardError, match="expected a reference of inputs"):
        read_reference(version_dir, read_card(version_dir))
