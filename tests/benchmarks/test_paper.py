"""The paper's evaluation on a few digits: each row is measured once, kept and shown beside the paper's numbers."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import nn
from typer.testing import CliRunner, Result

import heatserve.benchmarks.attack.autoattack as autoattack
import heatserve.benchmarks.paper.calibrating as calibrating
import heatserve.benchmarks.paper.passes as passes
import heatserve.benchmarks.paper.recipes as recipes
import heatserve.benchmarks.paper.run as paper_run
import heatserve.training.loop as loop
from heatserve.benchmarks.attack.autoattack import Effort
from heatserve.benchmarks.paper.attacking import Attackable, DistanceAttack, DistanceKeeper
from heatserve.benchmarks.paper.published import TABLE_4, TABLE_5
from heatserve.benchmarks.paper.training import take_kept
from heatserve.benchmarks.records.paper import DistanceSettings, SystemRow, read_paper
from heatserve.benchmarks.records.record import RecordError
from heatserve.certification.errors import HeatserveError
from heatserve.certification.progress import unseen
from heatserve.certification.radius import Float32Array
from heatserve.cli import app
from heatserve.export.runtime.answers import ModelImages
from heatserve.training.checkpoint import load_checkpoint, save_checkpoint
from heatserve.training.loop.optimisation import Optimisation

QUICK = Optimisation(epochs=1, batch_size=300, lr=0.02, augment=False, cpu_threads=1)
SYSTEMS = ("baseline", "noise", "madry-heat", "lipschitz")
FEW = ["--images", "12", "--certify-images", "9", "--n", "40", "--attack-images", "3", "--autoattack-images", "2"]
DATA_PARTS = ("train", "certify", "attack")
TIMES = ("provenance", "times", "seconds", "checkpoint")  # a checkpoint says when it was written
RESULTS = Path("benchmarks/results/digits")


def hurry(patch: pytest.MonkeyPatch) -> None:
    """One epoch of everything, few images, a short AutoAttack."""
    recipe_of = recipes.recipe_of

    def quick_recipe(dataset: str, device: str) -> recipes.Recipe:
        found = recipe_of(dataset, device)
        systems = {name: replace(system, optimisation=QUICK) for name, system in found.systems.items()}
        return replace(found, systems=systems, noise_samples=4)

    patch.setattr(recipes, "recipe_of", quick_recipe)
    patch.setattr(autoattack, "Effort", lambda: Effort(steps=2, targets=1, queries=3))
    patch.setattr(paper_run, "ATTACK_VOTES", 10)
    for module in (calibrating, paper_run):
        patch.setattr(module, "CALIBRATION_IMAGES", 60)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    hurry(monkeypatch)
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Where four systems were measured, and what was shown."""
    with pytest.MonkeyPatch.context() as patch:
        hurry(patch)
        folder = tmp_path_factory.mktemp("whole")
        patch.chdir(folder)
        return folder, paper(*chosen(*SYSTEMS)).stdout


def chosen(*systems: str) -> list[str]:
    return [part for name in systems for part in ("--system", name)]


def paper(*arguments: str, code: int = 0) -> Result:
    """Of the parts those that need data, unless the arguments name others."""
    parts = [] if "--part" in arguments else [word for one in DATA_PARTS for word in ("--part", one)]
    found = CliRunner().invoke(app, ["paper", *FEW, *parts, *arguments], catch_exceptions=False)
    assert found.exit_code == code, found.output
    return found


def measured(results: Path) -> list[Any]:
    """The rows of the baseline and of noise, without what differs from one run to the next."""

    def without(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: without(part) for key, part in value.items() if key not in TIMES}
        return [without(part) for part in value] if isinstance(value, list) else value

    rows = [row for path in sorted(results.glob("*.json")) for row in json.loads(path.read_text())["rows"]]
    return [without(row) for row in rows if row["system"] in ("baseline", "noise")]


@pytest.mark.slow
def test_every_system_is_measured_once_and_shown_beside_the_paper(
    whole: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, shown = whole
    found = read_paper(folder / RESULTS)
    assert [row.system for row in found.systems.rows] == ["lipschitz", "baseline", "noise", "madry-heat"]
    for row in found.systems.rows:
        one = row.one_pass
        assert {len(one.truth), len(one.label), len(one.l_bound), len(one.served)} == {12}
        assert (np.array(one.l_bound) <= np.array(one.nominal) + 1e-9).all()
        assert row.proven_images == (0 if row.system == "lipschitz" else 9)
        if row.noisy:
            assert [one.radius for one in row.confirmed] == [0.125, 0.25, 0.5]
            assert max(row.noisy.proven_radius) < 0.25 * 2.5
            assert row.noisy.top_k_radius == row.noisy.proven_radius, "k = 1"
    heat = found.systems.rows[-1].trained
    assert (heat.start, heat.labels, heat.labels_in_all, heat.epochs, heat.epochs_in_all) == (
        "madry",
        False,
        True,
        2,
        3,
    )
    kinds = {(row.system, row.attack): row for row in found.attacks.rows}
    assert len(kinds) == len(found.attacks.rows) == 4 * 2 + 3
    assert {row.sigma for row in found.attacks.rows if row.system in ("baseline", "lipschitz")} == {None}
    assert kinds["noise", "PGD"].images.images == 3
    assert kinds["noise", "PGD"].settings.noise_samples == 4
    assert kinds["madry-heat", "PGD"].images.images == 12
    assert kinds["madry-heat", "AutoAttack"].images.images == 2
    for printed in (TABLE_5.rows["noise"].pgd.median, TABLE_4["madry-heat"].median):
        assert f"{printed:.4f}" in shown
    assert "proven for every image" in shown

    monkeypatch.chdir(folder)
    before = {path.name: path.read_bytes() for path in RESULTS.iterdir()}
    assert {"certified-0.25.svg", "attacked-0.25.svg", "claims-0.25.svg"} <= before.keys()
    again = paper(*chosen(*SYSTEMS), "--json")
    assert {path.name: path.read_bytes() for path in RESULTS.iterdir()} == before, "measured again"
    assert json.loads(again.stdout)["systems"]["rows"][0]["system"] == "lipschitz"


@pytest.mark.parametrize("dataset", ["digits", "cifar10", "imagenet", "imagefolder:pictures"])
def test_every_recipe_names_trainings_that_there_are(dataset: str) -> None:
    recipe = recipes.recipe_of(dataset, "cpu")
    assert list(recipe.systems) == [name for name in recipes.PAPER_SYSTEMS if name in recipe.systems]
    assert recipe.top_k == (5 if dataset == "imagenet" else 1)
    for system in recipe.systems.values():
        assert system.start in recipe.systems
        if system.parameters:
            assert system.parameters(0.25).hyperparameters
    assert {name for name, system in recipe.systems.items() if system.evaluated == "stochastic"} == {
        "noise",
        "smoothadv",
    }


@pytest.mark.slow
def test_what_attacks_is_not_loaded_to_train() -> None:
    code = (
        "import sys; sys.modules.update(dict.fromkeys(('foolbox', 'pyautoattack', 'heatserve.benchmarks.attack'))); "
        "from heatserve.cli import main; main()"
    )
    command = [sys.executable, "-c", code, "paper", "--part", "train", "--system", "baseline"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert Path("runs/paper/digits/baseline.safetensors").is_file()


def interrupting(act: Callable[..., Any], at: int) -> Callable[..., Any]:
    """What `act` does, with Ctrl-C before its call number `at`."""
    calls = iter(range(1, 1_000_000))

    def acting(*arguments: Any, **named: Any) -> Any:
        if next(calls) == at:
            os.kill(os.getpid(), signal.SIGINT)
        return act(*arguments, **named)

    return acting


@pytest.mark.slow
def test_it_goes_on_where_it_was_interrupted_and_finds_the_same(
    whole: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextmanager
    def stopping(_total: int, _done: int) -> Iterator[Callable[[Any], None]]:
        yield interrupting(lambda _metrics: None, 2)

    for owner, name, patched in (
        (loop, "training_bar", stopping),
        (passes, "_take", interrupting(passes._take, 70 + 60)),
        (DistanceAttack, "distances", interrupting(DistanceAttack.distances, 3)),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, patched)
            stopped = paper(*chosen("baseline", "noise"), code=130)
        assert "the same command goes on" in stopped.stderr
    paper(*chosen("baseline", "noise"))
    assert measured(RESULTS) == measured(whole[0] / RESULTS)


@pytest.fixture
def copied(whole: tuple[Path, str], tmp_path: Path) -> Path:
    """The working directory, with all that was measured in it."""
    shutil.copytree(whole[0], tmp_path, dirs_exist_ok=True)
    return tmp_path


@pytest.mark.slow
def test_a_changed_network_or_setting_is_measured_again_and_what_is_kept_is_not(copied: Path) -> None:
    def row() -> SystemRow:
        return next(row for row in read_paper(copied / RESULTS).systems.rows if row.system == "baseline")

    arguments, first = [*chosen("baseline"), "--part", "certify"], row()
    paper(*arguments, "--certify-images", "11")
    more = row()
    assert first.noisy is not None
    assert more.noisy is not None
    assert len(more.noisy.proven_label) == 11
    assert more.noisy.proven_radius[:9] == first.noisy.proven_radius
    checkpoint = copied / "runs/paper/digits/baseline.safetensors"
    shutil.copy(copied / "runs/paper/digits/madry.safetensors", checkpoint)
    paper(*arguments, "--certify-images", "11")
    assert row().trained.checkpoint != first.trained.checkpoint
    assert len(read_paper(copied / RESULTS).systems.rows) == 4, "in the place of the former row"
    half = load_checkpoint(checkpoint)
    save_checkpoint(checkpoint, half.network, replace(half.metadata, epochs=0))
    with pytest.raises(
        HeatserveError, match=r"expected a training of \d+ epochs, found one that was interrupted after 0"
    ):
        paper(*arguments)
    save_checkpoint(checkpoint, half.network, replace(half.metadata, hyperparameters={}))
    paper(*arguments)  # as weights that were imported
    checkpoint.unlink()
    with pytest.raises(HeatserveError, match="expected the trained network of baseline, found none; add --part train"):
        paper(*arguments)
    shutil.copy(copied / "runs/paper/digits/madry.safetensors", copied / RESULTS / checkpoint.name)
    paper(*arguments, "--certify-images", "11")
    assert checkpoint.read_bytes() == (copied / RESULTS / checkpoint.name).read_bytes(), "kept beside the results"
    checkpoint.write_bytes(b"of this run")
    take_kept(copied / RESULTS, checkpoint.parent)
    assert checkpoint.read_bytes() == b"of this run"


@pytest.mark.slow
def test_results_of_something_else_are_refused(copied: Path) -> None:
    arguments, systems = chosen("baseline"), RESULTS / "systems.json"
    kept, net = systems.read_text(), copied / "nets.py"
    net.write_text("from torch import nn\ndef net(k): return nn.Sequential(nn.Flatten(), nn.Linear(64, k))\n")
    with pytest.raises(HeatserveError, match=r"systems.json: expected results of nets.py:net, got some of digits_cnn"):
        paper(*arguments, "--architecture", f"{net}:net", "--folder", "other")
    with pytest.raises(HeatserveError, match=r"baseline.safetensors: expected results of nets.py:net, got some of dig"):
        paper(*arguments, "--architecture", f"{net}:net", "--results", "other")
    systems.write_text(kept.replace('"dataset": "digits",\n  "rows"', '"dataset": "cifar10",\n  "rows"'))
    with pytest.raises(HeatserveError, match=r"systems.json: expected results of digits, got some of cifar10, which"):
        paper(*arguments)
    systems.write_text(kept[: len(kept) // 2])
    with pytest.raises(RecordError, match=r"systems.json: expected a SystemsRecord, got file: Invalid JSON"):
        paper(*arguments)
    systems.write_text(kept)
    (RESULTS / "attacks.json").unlink()
    block = next(Path("runs/paper/digits/attacks").glob("ddn-*/000000.npz"))
    block.write_bytes(block.read_bytes()[:100])
    with pytest.raises(HeatserveError, match=r"000000.npz: expected kept distances, got a damaged file; remove it"):
        paper(*chosen(*SYSTEMS), "--part", "attack")


def test_damaged_passes_are_told(tmp_path: Path) -> None:
    path = tmp_path / "000000.npz"
    path.write_bytes(b"PK torn")
    with pytest.raises(HeatserveError, match=r"000000.npz: expected kept noisy passes, got a damaged file; remove it"):
        passes._read(path)


def test_distances_of_other_images_or_classes_are_told(tmp_path: Path) -> None:
    x, y = np.random.default_rng(0).random((3, 1, 2, 2), dtype=np.float32), np.array([0, 1, 2])
    data = ModelImages(sent=x, images=x, labels=y, dataset="made up", split="test", seed=0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))

    def scores(images: Float32Array, _: np.random.Generator) -> NDArray[np.float32]:
        return np.asarray(network(torch.from_numpy(images)).detach().numpy())

    target = Attackable(network, scores, sha256="", sigma=None)
    how = DistanceSettings(images=None, top_k=1, limit=4.0, steps=2, noise_samples=None, votes=None, seed=0)
    measured = partial(DistanceKeeper(tmp_path).distances, DistanceAttack("DDN", how), target, progress=unseen)
    assert np.array_equal(measured(data)[0], measured(data)[0])
    for other in (replace(data, labels=y[::-1].copy()), replace(data, images=1 - x)):
        with pytest.raises(HeatserveError, match=r"000000.npz: expected distances of the images and classes of today"):
            measured(other)


def test_one_run_may_keep_and_write_in_one_folder(tmp_path: Path) -> None:
    with paper_run.only_run_in(tmp_path / "both", tmp_path / "both" / ".." / "both"):
        pass


def test_two_runs_do_not_share_a_folder() -> None:
    with (
        paper_run.only_run_in(Path("results")),
        pytest.raises(HeatserveError, match="results: expected a folder for this run alone, but another one"),
    ):
        paper("--system", "baseline", "--results", "results")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--dataset", "cifar-10"],
            "data: expected one of digits, .*, imagefolder:PATH, got 'cifar-10'",
        ),
        (["--dataset", "cifar10"], "root: cifar10 needs the folder that holds it"),
        (["--sigma", "0"], "sigma: expected a number above 0, got 0.0"),
        (["--sigma", "nan"], "sigma: expected a number above 0, got nan"),
        (["--part", "fly"], "part: expected train, certify, attack, .*got 'fly'"),
        (["--top-k", "10"], "top-k: expected 1 to 9 for 10 classes, got 10"),
        (["--system", "magic"], "system: expected baseline, noise, smoothadv, heat"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_trained(arguments: list[str], message: str) -> None:
    with pytest.raises(HeatserveError, match=message):
        paper(*arguments)
    assert not list(Path().rglob("*.safetensors"))


@pytest.mark.slow
def test_a_folder_of_two_classes_works(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for part, count in (("train", 140), ("test", 12)):
        for label, name in enumerate(("dark", "light")):
            (tmp_path / "pictures" / part / name).mkdir(parents=True)
            for index in range(count):
                pixels = random.integers(120 * label, 120 * label + 130, (8, 8, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(tmp_path / "pictures" / part / name / f"{index:03}.png")
    (tmp_path / "nets.py").write_text(
        "from torch import nn\ndef net(k): return nn.Sequential(nn.Flatten(), nn.Linear(192, k))\n"
    )
    arguments = ["--dataset", f"imagefolder:{tmp_path}/pictures", "--architecture", f"{tmp_path}/nets.py:net"]
    with pytest.raises(HeatserveError, match="top-k: expected 1 to 1 for 2 classes, got 5"):
        paper(*arguments, "--top-k", "5")
    paper(*arguments, *chosen("baseline", "heat"))
    found = read_paper(Path("benchmarks/results/pictures"))
    assert [(row.system, row.architecture) for row in found.systems.rows] == [
        ("baseline", "nets.py:net"),
        ("heat", "nets.py:net"),
    ]
    assert {row.attack for row in found.attacks.rows} == {"PGD", "DDN", "AutoAttack"}
    with pytest.raises(HeatserveError, match=r"system: expected baseline, .*, got 'lipschitz'"):
        paper(*arguments, "--system", "lipschitz")
