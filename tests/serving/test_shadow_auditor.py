"""The auditor judges live answers as their calibration would have, in order, and goes on where another one ended."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from known_tiers import at_distance
from numpy.typing import NDArray
from shadow_models import HONEST, OVERCONFIDENT, inputs, write_shadow_model

from heatserve.certification.radius import top_score
from heatserve.export.card import BASE_NAME, GRAPH_NAME, read_card
from heatserve.export.card_parts import MonteCarlo
from heatserve.export.contract import Outputs
from heatserve.export.reference import read_reference
from heatserve.export.runtime.session import classifier, open_session, run
from heatserve.serving.errors import ServingError
from heatserve.serving.observed import families
from heatserve.serving.observed.page import value_of
from heatserve.serving.observed.recorder import Recorder
from heatserve.serving.shadow.auditor import Auditor
from heatserve.serving.shadow.folder import (
    AUDIT_VARIABLE,
    AuditFolder,
    AuditSettings,
    alarms_in,
    audit_environment,
    withdrawn,
)
from heatserve.serving.vote_protocol import Sample

Audit = Callable[..., tuple[Auditor, list[str]]]


def samples(version_dir: Path, images: NDArray[np.float32]) -> list[Sample]:
    """What the single pass answers."""
    out: Outputs = run(open_session(version_dir / GRAPH_NAME), images)
    columns = (out["label"].tolist(), top_score(out["probabilities"]).tolist(), out["certified_radius"].tolist())
    return [Sample(*row) for row in zip(*columns, strict=True)]


@pytest.fixture
def audit(tmp_path: Path) -> Audit:
    """A new auditor of a version on the same folder and metrics, and what it logs."""

    def new(version_dir: Path, *, withdraws: bool = True, decides: float | None = None) -> tuple[Auditor, list[str]]:
        card, lines = read_card(version_dir), list[str]()
        assert card.calibration is not None
        how = MonteCarlo(**{**card.calibration.monte_carlo.model_dump(), "decides": decides})
        auditor = Auditor(
            card,
            card.calibration.model_copy(update={"monte_carlo": how}),
            classifier(open_session(version_dir / BASE_NAME)),
            reference=read_reference(version_dir, card),
            folder=AuditFolder.created(tmp_path / "audit", AuditSettings(share=1.0, withdraws=withdraws)),
            recorder=Recorder(tmp_path),
            batch_size=256,
            log=lines.append,
        )
        return auditor, lines

    return new


def feed(auditor: Auditor, version_dir: Path, images: NDArray[np.float32]) -> None:
    for sample, image in zip(samples(version_dir, images), images, strict=True):
        auditor.take(sample, image)
        while auditor.is_busy:
            auditor.step()


def test_honest_answers_are_judged_and_raise_no_alarm(tmp_path: Path, audit: Audit) -> None:
    version_dir = write_shadow_model(tmp_path, "honest", HONEST)
    auditor, lines = audit(version_dir)
    images = inputs(60, seed=3)
    feed(auditor, version_dir, images)
    positive = sum(sample.radius > 0 for sample in samples(version_dir, images))
    assert 40 < positive == value_of(tmp_path, families.SHADOW_JUDGED, model="honest")
    assert value_of(tmp_path, families.SHADOW_OVERCLAIMS, model="honest") == 0
    assert value_of(tmp_path, families.SHADOW_RATE_UPPER, model="honest") < 0.2
    assert value_of(tmp_path, families.SHADOW_ALARM) == value_of(tmp_path, families.DRIFT_ALARM) == 0
    assert not lines


def test_a_network_that_claims_too_much_is_found_and_its_promise_withdrawn(
    tmp_path: Path, audit: Audit, monkeypatch: pytest.MonkeyPatch
) -> None:
    version_dir = write_shadow_model(tmp_path, "swapped", OVERCONFIDENT)
    auditor, lines = audit(version_dir)
    monkeypatch.setenv(AUDIT_VARIABLE, str(tmp_path / "audit"))
    is_withdrawn = withdrawn(read_card(version_dir))
    assert not is_withdrawn()
    feed(auditor, version_dir, inputs(12, seed=4))
    assert is_withdrawn()
    assert value_of(tmp_path, families.SHADOW_ALARM, model="swapped") == 1
    assert value_of(tmp_path, families.SHADOW_RATE_LOWER, model="swapped") > 0.01
    assert len(lines) == 1
    assert lines[0].startswith("ALARM: swapped: expected overclaims of at most 0.01 of the positive radii, as its card")
    assert "radius 0 is answered from now on" in lines[0]
    assert [(alarm.about, alarm.described) for alarm in alarms_in(tmp_path / "audit").values()] == [
        ("promise", lines[0])
    ]
    again, more = audit(version_dir)  # the voter is started again
    feed(again, version_dir, inputs(2, seed=5))
    assert value_of(tmp_path, families.SHADOW_ALARM, model="swapped") == 1
    assert not more, "what was told is not told again"
    assert value_of(tmp_path, families.SHADOW_JUDGED, model="swapped") == 14
    other = write_shadow_model(tmp_path / "next", "swapped", HONEST)
    assert not withdrawn(read_card(other))(), "another graph of this name has a promise of its own"


def test_without_being_asked_it_withdraws_nothing(
    tmp_path: Path, audit: Audit, monkeypatch: pytest.MonkeyPatch
) -> None:
    version_dir = write_shadow_model(tmp_path, "swapped", OVERCONFIDENT)
    auditor, lines = audit(version_dir, withdraws=False)
    monkeypatch.setenv(AUDIT_VARIABLE, str(tmp_path / "audit"))
    feed(auditor, version_dir, inputs(12, seed=4))
    assert not withdrawn(read_card(version_dir))()
    assert "its radii are served as before, since `--withdraw-on-alarm` is not set" in lines[0]


def test_each_answer_is_judged_by_its_own_radius_and_class(tmp_path: Path, audit: Audit) -> None:
    """What is served is proven, much more is not, and another class never; a radius of 0 claims nothing."""
    version_dir = write_shadow_model(tmp_path, "honest", HONEST)
    auditor, _ = audit(version_dir, withdraws=False)
    image = inputs(1, seed=6)[0]
    truth = samples(version_dir, image[None])[0]
    for sample, overclaims in (
        (truth, 0),
        (Sample(truth.label, truth.score, 0.9), 1),
        (Sample(1 - truth.label, truth.score, 0.01), 1),
        (Sample(1 - truth.label, truth.score, 0.0), 0),
    ):
        before = value_of(tmp_path, families.SHADOW_OVERCLAIMS)
        auditor.take(sample, image)
        while auditor.is_busy:
            auditor.step()
        assert value_of(tmp_path, families.SHADOW_OVERCLAIMS) - before == overclaims
    assert value_of(tmp_path, families.SHADOW_JUDGED) == 3


def test_one_radius_that_was_decided_is_decided_again(tmp_path: Path, audit: Audit) -> None:
    version_dir = write_shadow_model(tmp_path, "honest", HONEST)
    auditor, _ = audit(version_dir, decides=0.2)
    images = at_distance(0.5, 0.1)
    for sample, image in zip(samples(version_dir, images), images, strict=True):
        auditor.take(Sample(sample.label, sample.score, 0.2), image)
    while auditor.is_busy:
        auditor.step()
    assert value_of(tmp_path, families.SHADOW_JUDGED) == 2
    assert value_of(tmp_path, families.SHADOW_OVERCLAIMS) == 1  # at distance 0.1


def test_answers_that_come_while_it_is_busy_are_dropped_and_counted(tmp_path: Path, audit: Audit) -> None:
    version_dir = write_shadow_model(tmp_path, "honest", HONEST)
    auditor, _ = audit(version_dir)
    images = inputs(30, seed=8)
    for sample, image in zip(samples(version_dir, images), images, strict=True):
        auditor.take(Sample(sample.label, sample.score, 0.01), image)
    assert value_of(tmp_path, families.SHADOW_DROPPED, model="honest") == 30 - 16
    while auditor.is_busy:
        auditor.step()
    assert value_of(tmp_path, families.SHADOW_JUDGED, model="honest") == 16


def test_shifted_inputs_raise_the_other_alarm_and_withdraw_nothing(
    tmp_path: Path, audit: Audit, monkeypatch: pytest.MonkeyPatch
) -> None:
    version_dir = write_shadow_model(tmp_path, "honest", HONEST)
    auditor, lines = audit(version_dir)
    monkeypatch.setenv(AUDIT_VARIABLE, str(tmp_path / "audit"))
    feed(auditor, version_dir, np.clip(inputs(60, seed=9) + np.float32(0.05), 0, 1))
    assert value_of(tmp_path, families.DRIFT_ALARM, model="honest") == 1
    assert value_of(tmp_path, families.DRIFT_EVIDENCE, model="honest") > 6.9
    assert not withdrawn(read_card(version_dir))()
    assert [line.split(" whose ")[0].rsplit(" ", 1)[0] for line in lines] == [
        "ALARM: honest: expected inputs like its calibration images, found"
    ]
    assert [alarm.about for alarm in alarms_in(tmp_path / "audit").values()] == ["inputs"]
    audit(write_shadow_model(tmp_path / "next", "honest", HONEST, has_reference=False))
    found = [value_of(tmp_path, family, model="honest") for family in (families.DRIFT_ALARM, families.DRIFT_EVIDENCE)]
    assert found == [0, 0], "of a version that was switched to, whose inputs are compared with nothing"


def test_an_image_that_is_none_is_passed_over(tmp_path: Path, audit: Audit) -> None:
    version_dir = write_shadow_model(tmp_path, "honest", HONEST)
    auditor, _ = audit(version_dir)
    auditor.take(Sample(0, 1.0, 0.1), np.full((1, 8, 8), 2, np.float32))
    assert not auditor.is_busy


@pytest.mark.parametrize("share", [0.0, -0.1, 1.5, float("nan")])
def test_a_share_that_is_none_is_refused(share: float) -> None:
    with pytest.raises(ServingError, match="audit share: expected a number above 0 and at most 1, got"):
        AuditSettings(share=share)


def test_without_an_audit_nothing_is_withdrawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in audit_environment(None, tmp_path).items():
        monkeypatch.setenv(name, value)
    assert AuditFolder.of_environment() is None
    assert not withdrawn(read_card(write_shadow_model(tmp_path, "honest", HONEST)))()
