"""What the paper's tables are made of: distances of attacks, curves with bands, radii from kept votes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.stats import beta
from torch import nn

from heatserve.benchmarks.paper.attacking import Attackable, DistanceAttack, by_votes, quick
from heatserve.benchmarks.paper.certifying import among_best
from heatserve.benchmarks.paper.figures import draw_paper
from heatserve.benchmarks.paper.orders import _order_here, orders_table
from heatserve.benchmarks.paper.published import TABLE_2, TABLE_4
from heatserve.benchmarks.paper.summary import attacked_curve, certified_curve, curve_of
from heatserve.benchmarks.paper.tables import PaperView, all_tables, sigmas_of
from heatserve.benchmarks.records.paper import DistanceSettings, PaperResults, read_paper
from heatserve.certification.monte_carlo import largest_provable
from heatserve.certification.radius import Float32Array
from heatserve.commands.paper import folder_name
from heatserve.training.architectures import build_network

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"
LIMIT = 1.0


class Ramp(nn.Module):
    """Logits of three classes on images of one pixel: the class is 0 below 0.4, 1 above, and 2 never."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = 10 * images.flatten(1).mean(1)
        return torch.stack([4 - x, x - 4, torch.full_like(x, -9)], 1)


@pytest.fixture(scope="module")
def digits() -> PaperResults:
    return read_paper(RESULTS / "digits")


@pytest.fixture(scope="module", params=["digits", "cifar10"])
def kept(request: pytest.FixtureRequest) -> PaperResults:
    return read_paper(RESULTS / request.param)


def attack(name: str, top_k: int = 1) -> DistanceAttack:
    settings = DistanceSettings(images=None, top_k=top_k, limit=LIMIT, steps=20, noise_samples=None, votes=None, seed=0)
    return DistanceAttack(name, settings)  # type: ignore[arg-type]


def ramp() -> Attackable:
    network = Ramp()

    def scores(images: Float32Array, _: np.random.Generator) -> NDArray[Any]:
        return np.asarray(network(torch.from_numpy(images)).softmax(1).numpy())

    return Attackable(network, scores, "0" * 64, None)


IMAGES = np.array([0.1, 0.3, 0.5, 0.9, 0.9], np.float32).reshape(-1, 1, 1, 1)
LABELS = np.array([0, 0, 1, 1, 0])


@pytest.mark.parametrize("name", ["PGD", "DDN"])
def test_distances_are_those_to_the_boundary_and_0_where_misclassified_as_it_is(name: str) -> None:
    found = attack(name).distances(ramp(), IMAGES, LABELS, block=0)
    assert found[-1] == 0, "the image as it is is misclassified"
    exact = np.array([0.3, 0.1, 0.1, 0.5])
    assert (found[:-1] >= exact - 1e-6).all()
    most = 1.2 * exact if name == "PGD" else np.maximum(1.2 * exact, 0.38)  # 0.95²⁰ ≈ 0.36 is as near as DDN comes
    assert (found[:-1] <= most).all()


@pytest.mark.parametrize("name", ["PGD", "DDN"])
def test_distances_of_an_average_over_noise_are_confirmed_by_other_noise(name: str) -> None:
    network, sigma = Ramp(), 0.1

    def base(images: Float32Array) -> NDArray[Any]:
        return np.asarray(network(torch.from_numpy(images)).numpy())

    noisy = replace(attack(name).settings, noise_samples=4, votes=400)
    target = Attackable(network, by_votes(base, sigma=sigma, votes=400), "0" * 64, sigma)
    found = replace(attack(name), settings=noisy).distances(target, IMAGES, LABELS, block=0)
    exact = np.array([0.3, 0.1, 0.1, 0.5])  # the average has the same boundary
    assert found[-1] == 0
    assert (found[:-1] > exact - 0.02).all()
    assert (found[:-1] < np.maximum(3 * exact, 0.6)).all(), "one that a lucky draw misclassifies is followed on"


@pytest.mark.parametrize("architecture", ["cifar_resnet20", "lipschitz_xs"])
def test_what_is_attacked_is_the_same_function_without_batch_norms(architecture: str) -> None:
    torch.manual_seed(0)
    network = build_network(
        architecture, num_classes=10, input_shape=(3, 32, 32), mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4)
    )
    images = torch.rand(16, 3, 32, 32)
    with torch.no_grad():
        network(images)  # batch norms learn what is not the identity
    found, before = quick(network), network.training
    assert not any(isinstance(module, nn.BatchNorm2d) for module in found.modules())
    assert not any(weight.requires_grad for weight in found.parameters())
    assert network.training == before, "the network itself stays as it is"
    assert all(weight.requires_grad for weight in network.parameters())
    gradients = []
    for each in (network.eval(), found):
        tried = images.clone().requires_grad_()
        each(tried).logsumexp(1).sum().backward()
        assert tried.grad is not None
        gradients.append(tried.grad)
    torch.testing.assert_close(found(images), network(images), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(gradients[1], gradients[0], rtol=0, atol=0.01 * float(gradients[0].abs().max()))


def test_of_three_classes_the_two_best_cannot_be_left_by_one_that_never_is() -> None:
    found = attack("PGD", top_k=2).distances(ramp(), IMAGES, LABELS, block=0)
    assert np.isinf(found).all(), "the third class is never among the two best"
    assert attack("PGD", top_k=2).distances(ramp(), IMAGES[:1], np.array([2]), block=0)[0] == 0


def test_among_equal_scores_the_smaller_class_is_better() -> None:
    scores = np.array([[0.3, 0.3, 0.4], [0.5, 0.5, 0.0]])
    assert among_best(scores, np.array([1, 0]), k=1).tolist() == [False, True]
    assert among_best(scores, np.array([1, 0]), k=2).tolist() == [False, True]


def test_bands_are_those_of_clopper_and_pearson() -> None:
    counts, total = np.array([0, 3, 10]), 10
    curve = curve_of(counts, total, np.arange(3))
    assert curve.lower[1] == pytest.approx(beta.ppf(0.025, 3, 8))
    assert curve.upper[1] == pytest.approx(beta.ppf(0.975, 4, 7))
    assert (curve.lower[0], curve.upper[2]) == (0, 1)


def test_certified_accuracy_counts_what_is_right_with_at_least_the_radius() -> None:
    curve = certified_curve([0.0, 0.1, 0.2, 0.3], [True, True, False, True], np.array([0.0, 0.1, 0.2, 0.3, 0.4]))
    assert curve.share.tolist() == [0.5, 0.5, 0.25, 0.25, 0], "radius 0 certifies nothing"


def test_the_paper_s_largest_radius_is_what_its_votes_can_prove() -> None:
    assert TABLE_4["madry"].maximum == pytest.approx(0.25 * largest_provable(n=1000, alpha=0.001), abs=5e-5)
    assert [round(row.ratio, 1) for row in TABLE_2] == [9.8, 5.0, 2.7, 8.2]


def test_kept_rows_agree_with_one_another(kept: PaperResults) -> None:
    systems = {row.system: row for row in kept.systems.rows}
    for row in kept.systems.rows:
        if row.noisy is None:
            assert row.kind == "deterministic"
            continue
        proven = np.array(row.noisy.proven_radius)
        same = np.array(row.noisy.proven_label) == np.array(row.one_pass.label[: row.proven_images])
        assert np.array(row.noisy.named_radius)[same] == pytest.approx(proven[same])
        assert not row.overclaims("served")[np.array(row.one_pass.served[: row.proven_images]) == 0].any()
    for attacked in kept.attacks.rows:
        row = systems[attacked.system]
        count = min(len(attacked.distances), len(row.one_pass.right))
        if attacked.evaluated == "deterministic":
            wrong = [not right for right in row.one_pass.right[:count]]
            assert [distance == 0 for distance in attacked.distances[:count]] == wrong
            assert attacked.checkpoint == row.trained.checkpoint
        curve = attacked_curve(attacked, np.array([0.0, attacked.settings.limit]))
        assert curve.share[0] == np.mean([distance == 0 for distance in attacked.distances])


def test_no_attack_on_the_1_lipschitz_network_succeeds_within_its_radius(kept: PaperResults) -> None:
    rows = [row for row in kept.systems.rows if row.system == "lipschitz"]
    found = [row for row in kept.attacks.rows if row.system == "lipschitz"]
    assert rows
    for attacked in found:
        count = min(len(attacked.distances), len(rows[0].one_pass.served))
        right = np.array(rows[0].one_pass.right[:count])
        assert (attacked.finite[:count][right] >= np.array(rows[0].one_pass.served[:count])[right]).all()


@pytest.mark.parametrize("name", ["PGD", "DDN"])
def test_no_attack_finds_what_is_nearer_than_it_says_that_it_looks(name: str, kept: PaperResults) -> None:
    at_the_boundary = np.array([0.3995], np.float32).reshape(1, 1, 1, 1)
    (found,) = attack(name).distances(ramp(), at_the_boundary, np.array([0]), block=0)
    clipped = 1 - 0.3995  # DDN's second step ends at white
    assert found >= 0.99 * (0.01 * LIMIT if name == "PGD" else clipped * 0.95**18), "the boundary is 0.0005 away"
    rows = [row for row in kept.attacks.rows if row.attack == name and row.evaluated == "deterministic"]
    assert [row.nearest for row in rows] == pytest.approx([0.04 if name == "PGD" else 1.05 * 0.95**18] * len(rows))
    assert all(row.finite[row.finite > 0].min() >= 0.95 * row.nearest for row in rows)


def test_radii_that_no_attack_comes_near_count_as_not_attacked(digits: PaperResults) -> None:
    (row,) = (row for row in digits.systems.rows if row.system == "lipschitz")
    view = PaperView(digits.systems, digits.attacks, sigmas_of(digits.systems)[0])
    found = view.attack("lipschitz", "PGD")
    assert found is not None
    served = np.minimum(row.one_pass.served, found.nearest)
    others = tuple(one for one in digits.systems.rows if one.system != "lipschitz")
    near = replace(row, one_pass=replace(row.one_pass, served=tuple(served.tolist())))
    view = PaperView(replace(digits.systems, rows=(*others, near)), digits.attacks, view.sigma)
    table = next(table for table in all_tables(view) if table.title.startswith("Radii of one pass"))
    (line,) = (line for line in table.lines if line[0] == "lipschitz")
    assert line[-1] == "0 of 0"


def test_a_proof_that_is_no_number_backs_no_claim(digits: PaperResults) -> None:
    row = next(row for row in digits.systems.rows if row.system == "heat" and row.noisy)
    assert row.noisy is not None
    nothing = replace(row.noisy, proven_radius=(float("nan"),) * row.proven_images)
    served = np.array(row.one_pass.served[: row.proven_images])
    assert (replace(row, noisy=nothing).overclaims("served") == (served > 0)).all()


def test_the_yardstick_of_the_l_bound_stands_beside_it(kept: PaperResults) -> None:
    view = PaperView(kept.systems, kept.attacks, sigmas_of(kept.systems)[0])
    table = next(table for table in all_tables(view) if table.title.startswith("Radii of one pass"))
    lines = {line[0]: line for line in table.lines}
    for row in view.rows:
        if row.noisy is None:
            continue
        bound, proven = np.array(row.noisy.average_l_bound), np.array(row.noisy.proven_radius)
        other = np.array(row.noisy.average_label) != np.array(row.noisy.proven_label)
        over, positive = int(((bound > 0) & (other | (bound > proven))).sum()), int((bound > 0).sum())
        assert lines[row.system][table.headings.index("L-bound of the average")] == f"{over / positive:.1%}"
        assert (f"Nothing is promised of `{row.system}`: " in table.note) == (row.refused is not None)


def test_an_attack_within_a_proven_radius_would_be_shown(digits: PaperResults) -> None:
    (row,) = (row for row in digits.systems.rows if row.system == "lipschitz")
    attacks = [attacked for attacked in digits.attacks.rows if attacked.system == "lipschitz"]
    near = min(attacked.nearest for attacked in attacks)
    image = next(i for i, right in enumerate(row.one_pass.right) if right and row.one_pass.served[i] > near)

    def shown(distance: float | None) -> str:
        changed = [
            replace(attacked, distances=tuple(distance if i == image else d for i, d in enumerate(attacked.distances)))
            for attacked in attacks
        ]
        view = PaperView(digits.systems, replace(digits.attacks, rows=tuple(changed)), sigmas_of(digits.systems)[0])
        table = next(table for table in all_tables(view) if table.title.startswith("Radii of one pass"))
        (line,) = (line for line in table.lines if line[0] == "lipschitz")
        assert line[table.headings.index("calibrated radius")] == "none possible"
        return line[-1]

    count = shown(None).removeprefix("0 of ")
    assert int(count) > 300
    assert shown(row.one_pass.served[image] / 2) == f"1 of {count}"


def test_tables_have_a_cell_for_each_heading_and_figures_are_the_same_each_time(
    digits: PaperResults, tmp_path: Path
) -> None:
    for sigma in sigmas_of(digits.systems):
        view = PaperView(digits.systems, digits.attacks, sigma)
        for table in (*all_tables(view), orders_table(view)):
            assert {len(line) for line in table.lines} == {len(table.headings)}, table.title
        first = [path.read_bytes() for path in draw_paper(view, tmp_path / "a")]
        assert first == [path.read_bytes() for path in draw_paper(view, tmp_path / "b")]
        assert len(first) == 4


def test_what_was_not_run_says_so(digits: PaperResults) -> None:
    view = PaperView(digits.systems, type(digits.attacks)(dataset="digits"), sigmas_of(digits.systems)[0])
    table = next(table for table in all_tables(view) if table.title.startswith("Table 5"))
    assert table.lines[0][3:8] == ("not run",) * 5
    assert {line[2] for line in orders_table(view).lines[2:]} == {"not run"}


def test_the_order_is_that_on_the_images_that_all_were_measured_on() -> None:
    draw = np.random.default_rng(0)
    small, large = draw.random(200), 1 + draw.random(200)
    assert _order_here({"a": small, "b": np.append(large, np.zeros(800))}, "mean") == "b, a"
    assert _order_here({"a": small, "b": small + 1e-3 * draw.normal(size=200)}, "median").count("≈") == 1


def test_table_1_says_what_is_promised_of_all_rows_together(digits: PaperResults) -> None:
    (sigma,) = sigmas_of(digits.systems)
    tried = sum(row.kind == "statistical" for row in digits.systems.rows)
    note = all_tables(PaperView(digits.systems, digits.attacks, sigma))[0].note
    assert tried == 8
    assert "confidence 0.95 for each calibration by itself; 8 were tried on the same images" in note
    assert "leaves 0.60 for one that is chosen among them" in note


def test_results_of_a_folder_lie_under_its_own_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "photos").mkdir()
    monkeypatch.chdir(tmp_path / "photos")
    assert folder_name("imagefolder:.") == folder_name(f"imagefolder:{tmp_path}/photos/") == "photos"
    assert folder_name("digits") == "digits"
