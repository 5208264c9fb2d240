"""`heatserve attack` on a linear model, whose distances are known: what it counts, refuses, writes and leaves alone."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from tiny_model import CLASS_NAMES, edit_card, name_digits, random_images, write_tiny_card, write_tiny_model
from typer.testing import CliRunner

import heatserve.benchmarks.attack.target as attack_target
from heatserve.benchmarks.attack.distances import within_proven
from heatserve.benchmarks.attack.measure import attack_model, card_part
from heatserve.benchmarks.attack.settings import AttackSettings, Search
from heatserve.benchmarks.attack.target import open_target
from heatserve.benchmarks.records.attack import AttackRecord, WithinServed
from heatserve.benchmarks.records.record import read_record
from heatserve.certification.errors import HeatserveError
from heatserve.certification.monte_carlo import Certificate
from heatserve.certification.noise import FLOAT32, GRID
from heatserve.certification.provenance import sha256_of
from heatserve.cli import app
from heatserve.export.calibration.calibrate import calibrate_model
from heatserve.export.calibration.certifier import Certifier
from heatserve.export.calibration.report import progress_bar
from heatserve.export.card import BASE_NAME, GRAPH_NAME, CardError, read_card
from heatserve.export.card_parts import Attack, MonteCarlo, Split
from heatserve.export.images import LabelledImages
from heatserve.export.repository.layout import open_model
from heatserve.export.repository.publishing import record_attack

QUICK = AttackSettings(
    epsilon=2.0,
    steps=8,
    noise_samples=8,
    votes=200,
    spoof_epsilons=(0.2,),
    search=Search(steps=3, samples=4, targets=1),
    defence_epsilon=0.2,
    defence_samples=(2,),
)


FOUND = Attack(
    data=Split(dataset="noise", split="test", images=6, seed=0),
    monte_carlo=MonteCarlo(n0=1, n=1, alpha=0.1, seed=0),
    confidence=0.95,
    served_positive=6,
    changed_within_served=0,
    proven_tested=6,
    changed_within_proven=0,
    spoofed=(),
    date="2026-01-01",
)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Threads that share images this small wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def images(count: int = 6, seed: int = 3) -> LabelledImages:
    pixels = random_images(count, seed=seed)
    return LabelledImages(pixels, np.arange(count) % len(CLASS_NAMES), "noise", f"split {seed}", seed)


def weights(version_dir: Path) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    (tensor,) = (t for t in onnx.load(version_dir / BASE_NAME).graph.initializer if t.name == "weights")
    return numpy_helper.to_array(tensor)


def test_no_attack_beats_the_exact_distance_or_a_proven_radius(tmp_path: Path) -> None:
    version_dir, data = write_tiny_model(tmp_path), images()
    target = open_target(open_model(tmp_path, "tiny"), data, seed=0)
    record = attack_model(target, data, images(30, seed=4), QUICK, progress_bar)

    scores = data.images.reshape(len(data.images), -1) @ weights(version_dir)
    top = scores.argmax(1)
    steepness = np.linalg.norm(weights(version_dir)[:, top].T[:, :, None] - weights(version_dir)[None], axis=1)
    margins = scores[np.arange(len(top)), top][:, None] - scores
    margins[np.arange(len(top)), top], steepness[np.arange(len(top)), top] = np.inf, 1
    exact = (margins / steepness).min(1)
    rows = {(row.system, row.attack): row for row in record.distances}
    assert len(rows) == 4
    for (system, _), row in rows.items():
        found = np.array([np.inf if d is None else d for d in row.distances])
        assert row.changed > (0.5 if system == "single pass" else 0.1)
        slack = 1e-4 if system == "single pass" else 0.05  # votes decide the smoothed class; f's boundary is linear
        assert (found >= exact - slack).all()
        assert row.right == tuple((top == data.labels).tolist())
    assert rows["single pass", "PGD"].median == pytest.approx(np.median(exact), rel=0.2)

    assert record.within_proven.tested > 0
    assert record.within_proven.violations == 0
    assert record.within_served.positive > 0
    assert record.spoofing is not None
    assert [row.epsilon for row in record.spoofing] == [0.0, 0.2]
    assert record.defences is not None
    names = [row.name for row in record.defences]
    assert names[:2] == ["none", "radius − 0.25 σ"]
    assert "2 noisy votes of f agree" in names
    undefended = record.defences[0]
    for defence in record.defences:
        assert defence.certified_accuracy <= undefended.certified_accuracy
        assert defence.unaware.overclaims <= undefended.unaware.overclaims
    again = attack_model(target, data, images(30, seed=4), QUICK, progress_bar)
    assert replace(again, date=record.date, machine=record.machine) == record


def test_a_false_proof_would_be_seen(tmp_path: Path) -> None:
    """The check that must count 0 is able to count."""
    write_tiny_model(tmp_path)
    data = images()
    target = open_target(open_model(tmp_path, "tiny"), data, seed=0)
    labels = target.serve(data.images)["label"]
    truth = [Certificate(int(label), 0.01, 0.9, int(label), (int(label),)) for label in labels]
    lie = [replace(certificate, radius=2.0) for certificate in truth]
    far = data.images + np.float32(0.5) * (images(seed=9).images - data.images)
    assert (target.serve(far)["label"] != labels).any()
    honest, caught = (within_proven(target, data.images, c, [far], QUICK) for c in (truth, lie))
    assert honest.violations == 0
    assert caught.violations > 0


def test_an_uncalibrated_model_has_nothing_to_spoof(tmp_path: Path) -> None:
    write_tiny_model(tmp_path, "uncalibrated", calibrated=False)
    model, data = open_model(tmp_path, "uncalibrated"), images(3)
    target = open_target(model, data, seed=0)
    record = attack_model(target, data, data, QUICK, progress_bar)
    assert record.spoofing is None
    assert record.within_served == WithinServed(positive=0, changed=0)
    with pytest.raises(HeatserveError, match="uncalibrated: not calibrated, so its card promises no radius"):
        card_part(record)


def test_torch_that_answers_otherwise_than_the_served_graph_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_tiny_model(tmp_path)
    model = open_model(tmp_path, "tiny")
    with pytest.raises(HeatserveError, match=r"noise: expected images of shape \[1, 8, 8\] .* got \[1, 4, 4\]"):
        open_target(model, replace(images(), images=images().images[:, :, :4, :4]), seed=0)
    monkeypatch.setattr(attack_target, "AGREEMENT", -1.0)
    with pytest.raises(HeatserveError, match="expected torch within -1 of ONNX Runtime, got"):
        open_target(model, images(), seed=0)


def test_images_off_the_grid_are_certified_with_noise_that_needs_none_and_said_so(tmp_path: Path) -> None:
    version_dir = write_tiny_model(tmp_path)
    calibration = read_card(version_dir).calibration
    assert calibration is not None
    on_grid = calibration.monte_carlo.model_copy(update={"sampling": GRID.key})
    write_tiny_card(version_dir, calibration=calibration.model_copy(update={"monte_carlo": on_grid}))
    target = open_target(open_model(tmp_path, "tiny"), images(), seed=0)
    assert target.monte_carlo == calibration.monte_carlo
    assert target.monte_carlo.sampling == FLOAT32.key


def test_the_command_writes_results_a_figure_and_on_request_the_card(tmp_path: Path) -> None:
    version_dir = name_digits(write_tiny_model(tmp_path / "models"))
    before, hashes = read_card(version_dir), [sha256_of(version_dir / name) for name in (GRAPH_NAME, BASE_NAME)]
    out = tmp_path / "attack.json"
    arguments = ["attack", "tiny", "--data", "digits", "--repository", str(tmp_path / "models"), "--images", "4"]
    arguments += ["--steps", "2", "--noise-samples", "2", "--votes", "20", "--epsilon", "0.5", "--spoof-samples", "2"]
    arguments += ["--targets", "1", "--defence-passes", "1", "--out", str(out)]
    shown = CliRunner().invoke(app, arguments, catch_exceptions=False, env={"COLUMNS": "160"})
    assert shown.exit_code == 0
    assert "The theorems do not exclude it" in shown.output
    assert "does not speak of them" in shown.output
    assert "renders docs/results/attack.md" in shown.stderr.splitlines()[-1]
    results = json.loads(out.read_text())
    assert read_record(out, AttackRecord).graph_sha256 == before.graph_sha256
    assert "misclassified" in out.with_suffix(".svg").read_text()
    assert read_card(version_dir) == before, "the card changes on request only"

    written = CliRunner().invoke(app, [*arguments, "--card", "--json"], catch_exceptions=False)
    assert json.loads(written.stdout)["spoofing"] == results["spoofing"]
    card = open_model(tmp_path / "models", "tiny").card
    assert card.attack is not None
    assert card.model_copy(update={"attack": None}) == before
    assert [sha256_of(version_dir / name) for name in (GRAPH_NAME, BASE_NAME)] == hashes
    assert [row.epsilon for row in card.attack.spoofed] == [0.5]
    assert card.attack.spoofed[0].overclaim.images == 4


def test_a_card_without_an_attack_still_reads_and_an_attack_is_bound_to_its_graphs(tmp_path: Path) -> None:
    version_dir = write_tiny_model(tmp_path)
    edit_card(version_dir, lambda card: card.pop("attack"))
    model = open_model(tmp_path, "tiny")
    assert model.card.attack is None
    assert record_attack(model, FOUND).card.attack == FOUND
    graph = onnx.load(version_dir / GRAPH_NAME)
    graph.doc_string = "another"
    onnx.save(graph, version_dir / GRAPH_NAME)
    with pytest.raises(CardError, match="the card belongs to another graph"):
        record_attack(model, FOUND)
    write_tiny_card(version_dir)
    with pytest.raises(CardError, match="other graphs than those that were attacked"):
        record_attack(model, FOUND)
    assert read_card(version_dir).attack is None


def test_a_new_calibration_does_not_inherit_the_attack_on_another_graph(tmp_path: Path) -> None:
    write_tiny_model(tmp_path)
    attacked = record_attack(open_model(tmp_path, "tiny"), FOUND)
    monte_carlo = MonteCarlo(n0=10, n=100, alpha=0.01, seed=0)
    calibrated = calibrate_model(
        attacked, images(400, seed=1), images(20, seed=2), alpha=0.2, delta=0.2, certifier=Certifier(monte_carlo)
    )
    assert calibrated.version == 2
    assert calibrated.card.attack is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--epsilon", "0"], "epsilon: expected an L2 distance above 0, got 0"),
        (["--limit", "-1"], "limit: expected an L2 distance above 0, got -1"),
        (["--top-k", "10"], "top-k: expected 1 to 9 for 10 classes, got 10"),
        (["--targets", "11"], "targets: expected 1 to 9 for 10 classes, got 11"),
    ],
)
def test_what_means_nothing_is_refused(arguments: list[str], message: str, tmp_path: Path) -> None:
    write_tiny_model(tmp_path)
    with pytest.raises(HeatserveError, match=message):
        CliRunner().invoke(app, ["attack", "tiny", "--repository", str(tmp_path), *arguments], catch_exceptions=False)


def test_the_served_radius_has_the_slope_of_its_steps(tmp_path: Path) -> None:
    write_tiny_model(tmp_path)
    data = images(60)
    target = open_target(open_model(tmp_path, "tiny"), data, seed=0)
    x = torch.from_numpy(data.images).requires_grad_()
    _, radius = target.victim.served(x)
    np.testing.assert_allclose(radius.detach().numpy(), target.serve(data.images)["certified_radius"], atol=1e-6)
    (gradient,) = torch.autograd.grad(radius.sum(), x)
    up = (x + 0.05 * gradient / gradient.flatten(1).norm(dim=1).clamp_min(1e-9).view(-1, 1, 1, 1)).detach().clamp(0, 1)
    higher = target.serve(up.numpy())["certified_radius"]
    inside = radius > 0
    assert inside.sum() > 5
    assert (higher > radius.detach().numpy())[inside.numpy()].all()


@pytest.mark.slow
def test_one_radius_alone_is_attacked_too_and_by_certify(tmp_path: Path) -> None:
    write_tiny_model(tmp_path)
    calibrated = calibrate_model(
        open_model(tmp_path, "tiny"),
        images(400, seed=1),
        images(20, seed=2),
        alpha=0.2,
        delta=0.2,
        certifier=Certifier(MonteCarlo(n0=10, n=1000, alpha=0.01, seed=0, decides=0.03125)),
    )
    data = images(60)
    target = open_target(calibrated, data, seed=0)
    assert target.monte_carlo.decides is None
    x = torch.from_numpy(data.images).requires_grad_()
    _, radius = target.victim.served(x)
    assert set(radius.detach().numpy()) == {0.0, 0.03125}
    (slope,) = torch.autograd.grad(radius.sum(), x)
    assert (slope.abs().amax((1, 2, 3)) > 0).all()


@pytest.mark.parametrize(
    ("fields", "found"), [({"input_type": "UINT8"}, "UINT8 and fp32"), ({"precision": "int8"}, "FP32 and int8")]
)
def test_a_variant_is_refused_with_what_to_attack(tmp_path: Path, fields: dict[str, str], found: str) -> None:
    version_dir = write_tiny_model(tmp_path)
    model = open_model(tmp_path, "tiny")
    variant = replace(model, card=read_card(version_dir).model_copy(update=fields))
    with pytest.raises(HeatserveError, match=rf"got {found}; attack the model that it is a variant of"):
        open_target(variant, images(), seed=0)
