"""`heatserve bench confirm`, small: every question is asked of the same votes, and the counts add up."""

from __future__ import annotations

from dataclasses import replace
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from typer.testing import CliRunner

from heatserve.benchmarks.confirming import CONFIRMED_ALPHAS, CONFIRMED_RADII, CONFIRMED_RULES, replay
from heatserve.benchmarks.records.confirming import ConfirmedRow, ConfirmRecord, VoteCounts
from heatserve.benchmarks.records.record import read_record
from heatserve.benchmarks.tables import confirm_tables
from heatserve.certification.confirming import RULE, Confirmation, confirm, confirmation, threshold
from heatserve.certification.noise import FLOAT32
from heatserve.certification.outcome import Ending
from heatserve.cli import app
from heatserve.export.calibration.sampling import sample
from heatserve.export.card import BASE_NAME
from heatserve.export.repository.layout import open_model
from heatserve.export.runtime.answers import answers, model_images
from heatserve.export.runtime.served import open_served
from heatserve.export.runtime.session import classifier, open_session

REPOSITORY = Path(__file__).parents[2] / "model_repository"
IMAGES, N, SEED = 20, 60, 3


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> ConfirmRecord:
    out = tmp_path_factory.mktemp("confirm") / "confirm.json"
    small = ["--images", str(IMAGES), "--n", str(N), "--seed", str(SEED), "--repository", str(REPOSITORY)]
    result = CliRunner().invoke(app, ["bench", "confirm", "digits", *small, "--out", str(out)], catch_exceptions=False)
    assert result.exit_code == 0
    assert "renders docs/results/confirm.md" in result.stderr.splitlines()[-1]
    return read_record(out, ConfirmRecord)


def test_every_question_is_asked_and_the_counts_add_up(record: ConfirmRecord) -> None:
    assert (record.seed, record.n, list(record.models)) == (SEED, N, ["digits"])
    assert record.rules == dict(CONFIRMED_RULES)
    assert [*record.rules.values()][-1] == RULE
    found = record.models["digits"]
    assert (found.data.images, found.sampling) == (IMAGES, "float32")
    questions = [(r, alpha, rule) for r in CONFIRMED_RADII for alpha in CONFIRMED_ALPHAS for rule in CONFIRMED_RULES]
    assert [(row.radius, row.alpha, row.rule) for row in found.rows] == questions
    for row in found.rows:
        assert row.confirmed + row.disproven + row.hopeless + row.undecided == IMAGES
        assert row.right <= row.confirmed
        assert row.served_confirmed <= min(row.served, row.confirmed)
        assert list(row.confirmed_within) == sorted(row.confirmed_within)
        assert row.confirmed_within[-1] == row.confirmed
        assert row.votes.median <= row.votes.p99 <= N


def test_the_table_fits_a_terminal_of_80_columns(record: ConfirmRecord) -> None:
    found = record.models["digits"]
    row = replace(found.rows[0], votes=VoteCounts(median=1000, mean=1000, p99=1000), served_votes=None)
    widest = replace(record, models={"quickstart_digits": replace(found, rows=(*found.rows, row))})
    console = Console(width=80, file=StringIO(), record=True)
    console.print(confirm_tables(widest))
    text = console.export_text()
    assert "…" not in text
    assert text.count(f"r = {CONFIRMED_RADII[0]:g}, α = {CONFIRMED_ALPHAS[0]:g}") == 2
    assert "1000, 1000, 1000" in text


def test_the_votes_are_those_of_confirm(record: ConfirmRecord) -> None:
    """The same seed, images and question, through the votes of `confirm` itself."""
    model = open_model(REPOSITORY, "digits")
    data = model_images(model, sample("digits", "test", count=IMAGES, seed=SEED))
    outputs = answers(open_served(model), data)
    found = list(
        confirm(
            classifier(open_session(model.path / BASE_NAME)),
            data.images,
            outputs["label"].tolist(),
            radius=0.125,
            sigma=model.card.sigma,
            n=N,
            alpha=1e-3,
            seed=SEED,
            noise=FLOAT32,
        )
    )
    row: ConfirmedRow = record.models["digits"].row(0.125, 1e-3, "+ giving up")
    assert row.confirmed == sum(one.reason is Ending.PROVEN for one in found) > 0
    assert row.hopeless == sum(one.reason is Ending.HOPELESS for one in found)
    assert row.votes.mean == pytest.approx(np.mean([one.votes for one in found]))


def test_a_vote_for_no_class_is_none_for_the_class() -> None:
    test = confirmation(label=0, p=threshold(0.125, sigma=0.25), n=40, alpha=1e-3)
    found = replay(test, np.full(40, -1), classes=3)
    assert found == Confirmation(Ending.DISPROVEN, 8)
