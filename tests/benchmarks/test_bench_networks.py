"""`heatserve bench networks` on the digits: what it finds, what an interrupted run keeps, and the kept results."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from heatserve.benchmarks.networks.chosen import NETWORKS
from heatserve.benchmarks.networks.measure import with_noise
from heatserve.benchmarks.networks.refused import REFUSED
from heatserve.benchmarks.pages.render import RESULTS
from heatserve.benchmarks.records.networks import NetworksRecord
from heatserve.benchmarks.records.record import read_record
from heatserve.certification.errors import HeatserveError
from heatserve.cli import app
from heatserve.export.runtime.exact import BATCHES, TOLERANCE, Exactness

ROOT = Path(__file__).parents[2]


def bench(out: Path, *arguments: str) -> NetworksRecord:
    result = CliRunner().invoke(app, ["bench", "networks", *arguments, "--out", str(out)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert "renders docs/results/networks.md" in result.stderr.splitlines()[-1]
    return read_record(out, NetworksRecord)


@pytest.mark.slow
def test_a_network_is_exported_compared_and_kept(tmp_path: Path) -> None:
    out = tmp_path / "networks.json"
    record = bench(out, "digits_cnn")
    found = record.networks["digits_cnn"]
    assert (found.input_shape, found.refused) == ((1, 8, 8), None)
    assert found.errors is not None
    assert tuple(found.errors) == BATCHES
    assert 0 < max(found.errors.values()) <= TOLERANCE == record.tolerance
    assert {what: bool(said) for what, said in record.refusals.items()} == dict.fromkeys(REFUSED, True)
    content = json.loads(out.read_text())
    content["networks"]["digits_cnn"]["seconds"] = 12345
    out.write_text(json.dumps(content))
    assert bench(out, "digits_cnn").networks["digits_cnn"].seconds == 12345, "it was exported already"


def test_an_unknown_network_is_refused(tmp_path: Path) -> None:
    with pytest.raises(HeatserveError, match=r"network: expected one of digits_cnn, .*, got resnet19"):
        bench(tmp_path / "networks.json", "resnet19")


def test_at_least_27_of_30_networks_are_exact() -> None:
    record = read_record(ROOT / RESULTS / "networks.json", NetworksRecord)
    assert list(record.networks) == list(NETWORKS)
    assert list(record.refusals) == list(REFUSED)
    assert len(record.networks) >= 30
    assert record.exact >= 0.9 * len(record.networks)
    xcit, fused = "timm:xcit_nano_12_p16_224?img_size=64", "timm:maxvit_pico_rw_256?img_size=64"
    for name in ("torchvision:swin_t", "torchvision:maxvit_t", "timm:levit_128s", xcit):
        assert record.networks[name].refused is None, "it collided with the certificate's names"
    assert record.networks[fused].refused is None, "torch's exporter could not follow a fused kernel of attention"
    for found in record.networks.values():
        worst = max(found.errors.values()) if found.errors else float("inf")
        assert (found.refused is None) == (worst <= Exactness({}, found.rounding or 0).allowed)


def test_no_weight_is_left_constant_and_no_answer_uniform() -> None:
    torch.manual_seed(0)
    norm, head = nn.BatchNorm2d(4), nn.Linear(4, 10)
    nn.init.zeros_(head.weight)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), norm, nn.AdaptiveAvgPool2d(1), nn.Flatten(), head)
    images = torch.rand(16, 3, 8, 8)
    with torch.no_grad():
        logits = with_noise(network, images)(images)
        activations = (norm(network[0](images)) - norm.bias[:, None, None]) / norm.weight[:, None, None]
    assert logits.std(1).mean() == pytest.approx(2, rel=1e-5)
    assert all(parameter.std() > 0 for parameter in network.parameters())
    assert ((activations.square().mean((0, 2, 3)).sqrt() > 0.8) & (activations.abs().max() < 5)).all()
