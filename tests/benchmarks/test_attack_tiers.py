"""`heatserve attack-tiers`: searches that end on the 8-bit grid, what many votes judge, what a known seed is worth."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from rich.console import Console
from test_attacks import lying_victim
from tiny_model import CLASS_NAMES, SIGMA, name_digits, random_images, write_tiny_model
from typer.testing import CliRunner

from heatserve.benchmarks.attack import known_seed
from heatserve.benchmarks.attack.settings import Search, TierAttackSettings
from heatserve.benchmarks.attack.spoofing import score, victim_logits
from heatserve.benchmarks.attack.target import open_target
from heatserve.benchmarks.attack.tier_answers import Said, ask_tiers, judge, one_pass
from heatserve.benchmarks.attack.tier_attack import as_pictures, attack_all_tiers
from heatserve.benchmarks.attack.tier_report import tier_report
from heatserve.benchmarks.attack.tier_searches import abstention, another_class, on_grid, overclaim
from heatserve.benchmarks.pages.render import RESULTS, render_pages
from heatserve.benchmarks.records.attack_tiers import TierAttackRecord
from heatserve.benchmarks.records.record import read_record
from heatserve.certification.errors import HeatserveError
from heatserve.certification.noise import GRID
from heatserve.certification.outcome import Outcome
from heatserve.certification.sequential import decide
from heatserve.certification.voting import histograms, streams
from heatserve.cli import app
from heatserve.export.contract import Outputs
from heatserve.export.images import LabelledImages
from heatserve.export.repository.layout import open_model

ROOT = Path(__file__).parents[2]
QUICK = TierAttackSettings(
    epsilons=(0.1, 1.0), radii=(0.125,), search=Search(steps=4, samples=4, targets=1), asks=20, truth_votes=2000
)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Threads that share images this small wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def pictures(count: int = 6, seed: int = 3) -> LabelledImages:
    labels = np.arange(count) % len(CLASS_NAMES)
    return as_pictures(LabelledImages(random_images(count, seed=seed), labels, "noise", "test", seed))


def distances(found: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    norm: torch.Tensor = (found.double() - x.double()).flatten(1).norm(dim=1)
    return norm


def test_who_knows_the_seed_has_a_wrong_class_confirmed_and_fresh_noise_refuses_it() -> None:
    found = known_seed.show_known_seed(images=5, asks=20)
    assert found.largest_distance < found.radius, "the theorem speaks of these inputs"
    assert found.probability < 0.5
    assert found.confirmed_with_known_seed == found.images == 5
    assert (found.confirmed_with_fresh_noise, found.fresh_questions) == (0, 100)


def test_the_toy_is_certifiable_everywhere_and_its_probability_is_exact() -> None:
    levels = np.random.default_rng(1).integers(1, 255, size=(4, 1, 16, 16))
    images = (levels / np.float32(255)).astype(np.float32)
    sampling: dict[str, Any] = {"sigma": known_seed.SIGMA, "noise": GRID}
    decisions = decide(known_seed.stripes, images, radius=known_seed.RADIUS, **sampling)
    assert [(decision.outcome, decision.guess) for decision in decisions] == [(Outcome.YES, 0)] * 4
    requests = ((fill, 5_000) for fill in streams(images, indices=None, seed=5, **sampling))
    votes = np.stack([*histograms(known_seed.stripes, requests, shape=images.shape[1:], batch_size=500)])
    q = known_seed.probability_of_one()
    assert abs(votes[:, 1] / 5_000 - q).max() < 4.5 * (q * (1 - q) / 5_000) ** 0.5


@pytest.mark.parametrize("epsilon", [0.05, 0.1, 0.5, 2.0])
def test_inputs_are_of_8_bits_within_epsilon_and_use_it(epsilon: float) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(0, 256, (20, 3, 32, 32), generator=generator).float() / 255
    direction = torch.randn(x.shape, generator=generator)
    latent = (x + epsilon * direction / direction.flatten(1).norm(dim=1).view(-1, 1, 1, 1)).clamp(0, 1)
    found = on_grid(latent, x, epsilon)
    assert all(GRID.suits(image) for image in found.numpy())
    assert (distances(found, x) < epsilon).all()
    assert (distances(found, x) > 0.8 * epsilon).all()
    along = ((found - x) * direction).flatten(1).sum(1) / direction.flatten(1).norm(dim=1)
    assert (along > 0.4 * epsilon).all()
    rounded = (latent * 255).round() / 255
    if epsilon == 0.1:
        assert (distances(rounded, x) > epsilon).all(), "rounding alone leaves the ball"


def half(images: NDArray[np.float32]) -> NDArray[np.float64]:
    """Two classes of images [N, 1, 1, 2]; the boundary is where the first pixel is ½, so the radius is |x₀ − ½|."""
    side = images[:, 0, 0, 0].astype(np.float64) - 0.5
    return np.stack([side, -side], axis=1)


def test_many_votes_judge_which_radius_a_class_has() -> None:
    levels = np.array([[255, 9], [165, 9], [145, 9], [90, 9]])  # radii 0.5, 0.147, 0.069, and 0.147 for class 1
    images = (levels / np.float32(255)).astype(np.float32).reshape(4, 1, 1, 2)
    radii = np.tile(np.array([0.125, 0.25]), (4, 1))
    needed = np.ones((4, 2), dtype=bool)
    settings = TierAttackSettings()
    truth = judge(half, images, np.zeros(4, dtype=np.int64), needed, radii=radii, sigma=SIGMA, settings=settings)
    assert truth.verdicts.tolist() == [[1, 1], [1, -1], [-1, -1], [-1, -1]]
    few = replace(settings, truth_votes=64)
    truth = judge(half, images, np.zeros(4, dtype=np.int64), needed, radii=radii, sigma=SIGMA, settings=few)
    assert truth.border(0).tolist() == [False, True, True, False]
    nothing = judge(half, images, np.zeros(4, dtype=np.int64), ~needed, radii=radii, sigma=SIGMA, settings=settings)
    assert not nothing.verdicts.any()
    assert np.isnan(nothing.share).all()


def test_each_search_reaches_what_it_is_for() -> None:
    victim = lying_victim()
    x = torch.tensor([[[[179, 102], [51, 128]]], [[[77, 153], [128, 128]]]]) / 255
    classes = victim.base(x).argmax(1)
    search = Search(steps=20, samples=64, targets=1)

    def share(points: torch.Tensor, of: torch.Tensor) -> torch.Tensor:
        votes = victim_logits(victim, points, 2000, torch.Generator().manual_seed(1)).argmax(-1)
        return (votes == of).double().mean(0)

    def run(find: Any, *arguments: Any, epsilon: float = 0.3, **options: Any) -> torch.Tensor:
        options |= {"epsilon": epsilon, "generator": torch.Generator().manual_seed(0), "search": search}
        found: torch.Tensor = find(victim, x, *arguments, **options)
        assert (distances(found, x) < epsilon).all()
        assert all(GRID.suits(image) for image in found.numpy())
        return found

    other = run(another_class, classes)
    labels = victim.served(other)[0].argmax(1)
    assert (labels != classes).all()
    assert (share(other, labels) > 0.5).all()
    assert (share(run(abstention, classes, epsilon=0.15), classes) < share(x, classes) - 0.1).all()
    claimed = run(overclaim, radius=0.125)
    logits, radius = victim.served(claimed)
    assert (radius >= 0.125 - 1e-6).all()
    assert (SIGMA * score(victim_logits(victim, claimed, 2000, torch.Generator()), logits.argmax(1)) < 0.125).all()


def test_a_single_pass_that_lies_is_counted_and_confirm_refuses_it(tmp_path: Path) -> None:
    write_tiny_model(tmp_path)
    data = pictures()
    target = open_target(open_model(tmp_path, "tiny"), data, seed=0)

    def lie(images: Any) -> Outputs:
        outputs = target.serve(images)
        radius = np.full(len(images), 0.3, dtype=np.float32)
        return {**outputs, "label": (outputs["label"] + 1) % 10, "certified_radius": radius}

    asked = ask_tiers(replace(target, serve=lie), data.images, radii=(0.125, 0.25), settings=QUICK)
    classes, everywhere = one_pass(target, data.images).labels, np.ones(len(data), dtype=bool)
    for r in range(2):
        counts = {tier: said[r].count(classes, everywhere) for tier, said in asked.said.items()}
        assert (counts["one pass"].yes, counts["one pass"].overclaims, counts["one pass"].broken) == (6, 6, 6)
        assert counts["confirm"].yes == counts["cascade"].yes == 0
        assert counts["certify"].asked == 6
        assert counts["certify"].overclaims == 0
        assert Outcome.YES not in {answer.outcome for answer in asked.confirmations[r]}


def test_every_kind_of_wrong_answer_is_counted() -> None:
    flags = [np.array(row, dtype=bool) for row in ([1, 1, 1, 1], [1, 1, 1, 0], [0, 1, 0, 0], [1, 0, 0, 0])]
    said = Said(np.array([0, 1, 2, 3]), *flags)
    counts = said.count(np.array([0, 0, 0, 0]), np.array([True, True, False, True]))
    assert vars(counts) == {
        "asked": 4,
        "yes": 3,
        "overclaims": 1,
        "border": 1,
        "another_class": 2,
        "broken": 1,
    }


def test_the_tiers_of_a_linear_model_keep_their_promise(tmp_path: Path) -> None:
    write_tiny_model(tmp_path)
    many = pictures(60)
    radius = one_pass(open_target(open_model(tmp_path, "tiny"), many, seed=0), many.images).radius
    data = many.at(sorted(np.argsort(radius)[-8:].tolist()))
    target = open_target(open_model(tmp_path, "tiny"), data, seed=0)
    record = attack_all_tiers(target, data, QUICK)
    assert [(row.epsilon, row.radius) for row in record.within] == [(0.1, 0.1), (0.1, 0.125), (1.0, 0.125)]
    assert sum(row.promised for row in record.within) > 8
    assert sum(row.broken + row.confirm_overclaims for row in record.within) == 0
    assert [row.radius for row in record.honest] == [0.1, 0.125]
    assert record.honest[1].confirmed_of_proven > 0
    assert {row.search for row in record.rows} == {"spoofing", "overclaim", "another class", "abstention"}
    assert not any(row.search == "abstention" and row.epsilon > row.radius for row in record.rows)
    strayed = [row.said["confirm"].another_class for row in record.rows if row.epsilon == 1.0]
    assert sum(strayed) > 0, "within ε > r another class may be confirmed, and is found"
    for tier, total in record.totals.items():
        assert total.questions == sum(row.said[tier].asked for row in record.rows)
        assert total.overclaims <= total.questions * total.upper_bound
    for row in record.rows:
        assert row.refuted + row.undecided <= row.said["one pass"].overclaims


def test_the_command_writes_a_record_and_says_what_is_promised(tmp_path: Path) -> None:
    name_digits(write_tiny_model(tmp_path / "models"))
    out = tmp_path / "tiers.json"
    arguments = ["attack-tiers", "tiny", "--data", "digits", "--repository", str(tmp_path / "models"), "--images", "3"]
    arguments += ["--steps", "2", "--samples", "2", "--epsilon", "0.1", "--radius", "0.125", "--asks", "5"]
    arguments += ["--epsilon", "0.1", "--radius", "0.125"]  # the same questions again, which are no further ones
    shown = CliRunner().invoke(app, [*arguments, "--out", str(out)], catch_exceptions=False, env={"COLUMNS": "160"})
    assert shown.exit_code == 0
    assert "an adversary within r can make the system abstain, but never confirm another class" in shown.output
    assert "renders docs/results/attack.md" in shown.stderr.splitlines()[-1]
    record = read_record(out, TierAttackRecord)
    assert record.data.images == 3
    assert len(record.rows) == len({(row.search, row.epsilon, row.radius) for row in record.rows})
    assert json.loads(out.read_text())["totals"]["confirm"]["overclaims"] == 0
    terminal = Console(width=80, file=StringIO(), record=True)
    terminal.print(tier_report(record))
    assert "…" not in terminal.export_text()

    results = tmp_path / "results"
    shutil.copytree(ROOT / RESULTS, results, ignore=shutil.ignore_patterns("attack-tiers-*", "*.s*", "*.html"))
    assert "## Three tiers" not in render_pages(results)["attack.md"], "nothing is kept yet"
    shutil.copy(out, results / "attack-tiers-digits.json")
    page = render_pages(results)["attack.md"]
    assert f"`{record.command}`" in page
    assert f"| confirm | 0 of {record.totals['confirm'].questions} |" in page
    tables = re.findall(r"(?:^\|.*\n)+", page, re.MULTILINE)
    assert all(len({line.count("|") for line in table.splitlines()}) == 1 for table in tables)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--epsilon", "0"], "epsilon: expected an L2 distance above 0, got 0"),
        (["--radius", "1"], "radius: expected an L2 radius above 0 that 1000 unanimous votes prove .* got 1"),
        (["--radius", "-0.1"], "radius: expected an L2 radius above 0 .* got -0.1"),
        (["--targets", "10"], "targets: expected 1 to 9 for 10 classes, got 10"),
    ],
)
def test_what_cannot_be_asked_is_refused(arguments: list[str], message: str, tmp_path: Path) -> None:
    write_tiny_model(tmp_path)
    with pytest.raises(HeatserveError, match=message):
        CliRunner().invoke(
            app, ["attack-tiers", "tiny", "--repository", str(tmp_path), *arguments], catch_exceptions=False
        )
