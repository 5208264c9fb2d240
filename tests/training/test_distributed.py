"""Two processes under `torchrun` train as one would. Run as a script, this file is what each of them does."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from small_training import DisturbedImages, few_digits, raise_signal
from torch import Tensor, nn

from heatserve.cli import app
from heatserve.training.data.splits import ImageData
from heatserve.training.loop.distributed import Team, join
from heatserve.training.loop.fitting import Interrupted, Run, fit
from heatserve.training.loop.optimisation import Optimisation
from heatserve.training.loop.state import StateError
from heatserve.training.loop.trainer import EpochMetrics, TrainingError
from heatserve.training.methods.cross_entropy import CrossEntropy
from heatserve.training.methods.parameters import NoiseParameters
from heatserve.training.methods.protocol import Method

ODD = Optimisation(epochs=2, batch_size=11, lr=0.1, clip=0.5, cpu_threads=1)
"""Three steps an epoch of the 33 images, with shares of 6 and of 5."""

Results = dict[str, Any]


def _data() -> ImageData:
    return few_digits(33)


def _network(*, batch_norm: bool) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        normalise = nn.BatchNorm2d(8) if batch_norm else nn.Identity()
        return nn.Sequential(nn.Conv2d(1, 8, 3), normalise, nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(72, 10))


def _gradient(images: int, team: Team, *, batch_norm: bool) -> list[Tensor]:
    """The gradient of the cross entropy of the first `images`, BatchNorm in eval mode, averaged by the team."""
    network = _network(batch_norm=batch_norm).eval()
    x, labels = map(torch.from_numpy, _data().arrays(range(images)))
    x, labels = team.share(x), team.share(labels)
    terms = CrossEntropy()(network, x, labels, torch.Generator())
    gradients = [parameter.grad for parameter in network.parameters() if parameter.grad is not None]
    (loss,), count = team.average(gradients, terms["loss"][None], images=len(x))
    return [*gradients, loss, torch.tensor(count)]


def _noise() -> Method:
    return NoiseParameters(sigma=0.25).loss(nn.Identity())


def _fit(
    method: Method, data: ImageData, out: Path | None = None, *, batch_norm: bool, resume: bool = False
) -> Results:
    network = _network(batch_norm=batch_norm)
    saved: list[EpochMetrics] = []
    run = Run(resume=resume)
    history = fit(network, method, data, ODD, seed=3, save=saved.append, run=run, out=out)
    return {
        "state": network.state_dict(),
        "history": [asdict(metrics) for metrics in history],
        "told": len(saved),
    }


def _command(folder: Path) -> None:
    """`heatserve train baseline` on the digits: 900 images in batches of 31 and of 32."""
    out = str(folder / "baseline.safetensors")
    command = ["train", "baseline", "--data", "digits", "--architecture", "digits_cnn", "--device", "cpu"]
    recipe = ["--epochs", "3", "--batch-size", "32", "--lr", "0.1"]
    with pytest.raises(SystemExit) as left:
        app([*command, *recipe, "--out", out])
    assert left.value.code == 0


def _work(folder: Path) -> None:
    """What one process does; its answers go to a file named by its rank."""
    torch.set_num_threads(1)
    team, data = join(torch.device("cpu")), _data()
    found: Results = {f"gradient of {n}": _gradient(n, team, batch_norm=n == 8) for n in (7, 8)}
    found["plain"] = _fit(CrossEntropy(), data, batch_norm=False)
    found["statistics"] = nn.BatchNorm1d(3)
    found["statistics"].running_mean.fill_(team.rank)
    found["statistics"].running_var.fill_(1 + 4 * team.rank)
    team.average_statistics(found["statistics"])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(team.rank)
        found["alike"] = nn.Linear(3, 2)
    team.begin_alike(found["alike"])
    found["alike"] = found["alike"].state_dict()
    found["statistics"] = found["statistics"].state_dict()
    noise = _noise()
    found["noise"] = _fit(noise, data, folder / "noise.safetensors", batch_norm=True)
    seen = DisturbedImages(data.images, 4 if team.rank == 1 else 0, raise_signal(signal.SIGTERM))
    out = folder / "stopped.safetensors"
    try:
        _fit(noise, replace(data, images=seen), out, batch_norm=True)
    except Interrupted as interrupted:
        found["interrupted"] = str(interrupted)
    found["shares"] = seen.handed_out
    try:
        _fit(noise, data, folder / str(team.rank) / out.name if team.rank else out, batch_norm=True, resume=True)
    except StateError as error:
        found["apart"] = str(error)
    found["state is there"] = out.with_suffix(".state").is_file()
    found["resumed"] = _fit(noise, data, out, batch_norm=True, resume=True)
    try:
        fit(_network(batch_norm=False), noise, few_digits(1), ODD, seed=0, save=print)
    except TrainingError as error:
        found["too small"] = str(error)
    torch.save(found, folder / f"{team.rank}.pt")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where two processes have left their answers, what they printed, their checkpoints, logs and states."""
    folder = tmp_path_factory.mktemp("team")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", __file__]
    path = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    done = subprocess.run(
        [*command, str(folder)], env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    (folder / "printed").write_text(done.stdout)
    return folder


@pytest.fixture(scope="module")
def printed(folder: Path) -> str:
    return (folder / "printed").read_text()


@pytest.fixture(scope="module")
def both(folder: Path) -> list[Results]:
    return [torch.load(folder / f"{rank}.pt") for rank in (0, 1)]


@pytest.mark.slow
@pytest.mark.parametrize("images", [7, 8])
def test_the_averaged_gradient_of_two_shares_is_that_of_the_whole_batch(both: list[Results], images: int) -> None:
    """Of 7 images, the two processes have 4 and 3."""
    *expected, loss, count = _gradient(images, Team(), batch_norm=images == 8)
    for found in both:
        *gradients, mean, total = found[f"gradient of {images}"]
        assert len(gradients) == len(expected)
        for gradient, whole in zip(gradients, expected, strict=True):
            assert (gradient - whole).norm() <= 1e-5 * whole.norm()
        assert mean.item() == pytest.approx(loss.item(), rel=1e-5)
        assert total == count == images


@pytest.mark.slow
def test_two_processes_train_the_network_that_one_would(both: list[Results]) -> None:
    """Weights, and the metrics of each epoch, though the shares of every batch are unequal."""
    single = _fit(CrossEntropy(), _data(), batch_norm=False)
    fresh = _network(batch_norm=False).state_dict()
    for found in (results["plain"] for results in both):
        for name, tensor in single["state"].items():
            assert (found["state"][name] - tensor).norm() <= 1e-4 * (tensor - fresh[name]).norm(), name
        for metrics, expected in zip(found["history"], single["history"], strict=True):
            assert metrics["loss"] == pytest.approx(expected["loss"], rel=1e-4)
            assert metrics["terms"]["accuracy"] == pytest.approx(expected["terms"]["accuracy"])
            assert metrics["seconds"] * metrics["images_per_second"] == pytest.approx(33)


@pytest.mark.slow
def test_all_processes_begin_with_the_weights_of_the_first(both: list[Results]) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        expected = nn.Linear(3, 2).state_dict()
    for found in (results["alike"] for results in both):
        assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.slow
def test_all_processes_hold_the_same_network_though_each_has_noise_of_its_own(both: list[Results]) -> None:
    """Its running statistics too: each saw its own share under its own noise, and they were averaged."""
    first, second = (results["noise"]["state"] for results in both)
    assert all(torch.equal(first[name], second[name]) for name in first)
    for statistics in (results["statistics"] for results in both):
        assert statistics["running_mean"].tolist() == [0.5] * 3
        assert statistics["running_var"].tolist() == [3.0] * 3
        assert statistics["num_batches_tracked"] == 0


@pytest.mark.slow
def test_only_the_first_process_reports_and_writes(both: list[Results], folder: Path) -> None:
    assert [results["noise"]["told"] for results in both] == [2, 0]
    records = [json.loads(line) for line in (folder / "noise.jsonl").read_text().splitlines()]
    assert [(record["kind"], record["steps"]) for record in records] == [("epoch", 3), ("epoch", 6)]
    assert {path.name for path in folder.glob("*.jsonl")} == {"baseline.jsonl", "noise.jsonl", "stopped.jsonl"}
    assert [path.name for path in folder.glob("*.safetensors")] == ["baseline.safetensors"]
    assert not list(folder.glob("*.state"))


@pytest.mark.slow
def test_a_signal_to_one_process_stops_all_after_the_same_step_and_they_go_on_bit_for_bit(both: list[Results]) -> None:
    for results in both:
        assert results["interrupted"].startswith("interrupted after epoch 2, step 1 of 3: the state is in ")
        assert results["state is there"]
        for name, tensor in results["noise"]["state"].items():
            assert torch.equal(results["resumed"]["state"][name], tensor), name
    assert [results["shares"] for results in both] == [[6] * 4, [5] * 4]


@pytest.mark.slow
def test_a_state_that_one_process_lacks_is_refused(both: list[Results]) -> None:
    """It would begin with weights of its own, and the gradients of two networks would be averaged."""
    for results in both:
        assert "expected the same state for all processes" in results["apart"]


@pytest.mark.slow
def test_a_batch_that_leaves_a_process_without_images_is_refused(both: list[Results]) -> None:
    """A single image is a batch of its own."""
    expected = "batch_size: expected an image of every batch for each of 2 processes, got batches of 1"
    assert [results["too small"] for results in both] == [expected] * 2


def test_the_state_of_a_team_of_another_size_is_refused(tmp_path: Path) -> None:
    """Each process has noise of its own: there would be none for a third."""
    data, out = _data(), tmp_path / "a.safetensors"
    seen = DisturbedImages(data.images, 2, raise_signal(signal.SIGTERM))
    with pytest.raises(Interrupted):
        _fit(CrossEntropy(), replace(data, images=seen), out, batch_norm=False)
    state = out.with_suffix(".state")
    content = torch.load(state)
    assert content["recipe"].endswith("in 1 processes")
    torch.save({**content, "recipe": content["recipe"].replace("in 1", "in 2")}, state)
    with pytest.raises(StateError, match="in 2 processes"):
        _fit(CrossEntropy(), data, out, batch_norm=False, resume=True)


@pytest.mark.slow
def test_the_whole_command_trains_in_two_processes_and_reports_once(folder: Path, printed: str) -> None:
    (accuracy,) = re.findall(r"test accuracy +([\d.]+)% of 400 images", printed)
    assert float(accuracy) > 90
    assert printed.count(str(folder / "baseline.safetensors")) == 1
    records = [json.loads(line) for line in (folder / "baseline.jsonl").read_text().splitlines()]
    assert [record["steps"] for record in records] == [29, 50, 58, 87]
    epochs = [record for record in records if record["kind"] == "epoch"]
    assert [record["seconds"] * record["images_per_second"] for record in epochs] == pytest.approx([900] * 3)


@pytest.mark.parametrize(("name", "chosen"), [("cuda:1", ["cuda:1"]), ("cuda", []), ("cpu", [])])
def test_a_gpu_that_is_named_is_that_of_streams_too(
    monkeypatch: pytest.MonkeyPatch, name: str, chosen: list[str]
) -> None:
    """No GPU is needed: what torch is told is looked at."""
    found = list[str]()
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: found.append(str(device)))
    assert join(torch.device(name)).size == 1
    assert found == chosen


_LEFT_ALONE = """
import os, sys, torch
from heatserve.training.loop.distributed import TeamError, join
torch.distributed.init_process_group("gloo", init_method="file://" + sys.argv[1], rank=int(sys.argv[2]), world_size=2)
team = join(torch.device("cpu"))
team.gather(0)
if team.rank == 1:
    os._exit(0)
try:
    team.average([torch.zeros(2)], torch.zeros(1), images=1)
except TeamError as error:
    print(error)
"""


@pytest.mark.slow
def test_a_process_whose_team_has_ended_says_so(tmp_path: Path) -> None:
    """Before, it ended with a traceback about a socket."""
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", _LEFT_ALONE, str(tmp_path / "store"), rank],
            env={**os.environ, "WORLD_SIZE": "2"},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in ("0", "1")
    ]
    said, _ = (process.communicate(timeout=120)[0] for process in processes)
    assert said.startswith("process 0 of 2: expected all processes of the training to go on, but one has ended")
    assert "--resume" in said


if __name__ == "__main__":
    _command(Path(sys.argv[1]))
    _work(Path(sys.argv[1]))
