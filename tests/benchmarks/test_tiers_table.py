"""`heatserve bench tiers`: shares and passes are counted from what the tiers say; the whole command on the digits."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import heatserve.benchmarks.load.tiers as tiers_of_load
from heatserve.benchmarks.attack.settings import TierAttackSettings
from heatserve.benchmarks.load.tiers import RADII, Claims, radius_row
from heatserve.benchmarks.pages.kept import read_kept
from heatserve.benchmarks.pages.load_contents import tiers_page
from heatserve.benchmarks.pages.render import (
    BEGIN_TIERS,
    END_TIERS,
    PAGES,
    RESULTS,
    render_pages,
    with_readme_table,
    write_pages,
)
from heatserve.benchmarks.records.attack_tiers import KnownSeed, TierAttackRecord, TierTotal
from heatserve.benchmarks.records.load import Heard, RequestKind, TailMilliseconds
from heatserve.benchmarks.records.record import made_now, read_record
from heatserve.benchmarks.records.tiers import PassCount, RadiusRow, TieredModel, TierRow, TiersRecord
from heatserve.certification.errors import HeatserveError
from heatserve.cli import app
from heatserve.export.card_parts import MonteCarlo, Split

ROOT = Path(__file__).parents[2]


def test_a_claim_counts_for_accuracy_only_with_the_right_class() -> None:
    claims = Claims(
        labels=np.array([3, 3, 1, 0]),
        claimed=np.array([True, False, True, False]),
        passes=np.array([10, 100, 20, 1]),
        alpha=1e-6,
    )
    row = radius_row(0.25, claims, np.array([3, 3, 2, 0]))
    assert (row.radius, row.claimed, row.certified_accuracy) == (0.25, 0.5, 0.25)
    assert (row.passes.median, row.passes.mean) == (15, 32.75)
    assert row.passes.p99 == pytest.approx(97.6, abs=0.1)
    assert row.claimed_passes == 15
    none = Claims(claims.labels, np.zeros(4, bool), claims.passes, 1e-6)
    assert radius_row(0.5, none, claims.labels).claimed_passes is None


def test_a_model_without_tiers_is_refused_by_name(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "model_repository" / "digits", tmp_path / "digits")
    command = ["bench", "tiers", "digits", "--repository", str(tmp_path), "--images", "2"]
    with pytest.raises(HeatserveError, match="digits: expected the tiers cascade, confirm, certify, found no cascade"):
        CliRunner().invoke(app, command, catch_exceptions=False)


@pytest.mark.slow
def test_the_command_asks_every_tier_and_the_pages_show_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiers_of_load, "_CALLERS", (2, 4))
    out = tmp_path / "tiers.json"
    command = ["bench", "tiers", "digits", "--repository", str(ROOT / "model_repository"), "--images", "4"]
    result = CliRunner().invoke(app, [*command, "--seconds", "0.5", "--out", str(out)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    record = read_record(out, TiersRecord)
    tiers = record.shapes["digits"].tiers
    assert [*tiers] == ["one pass", "cascade", "confirm", "certify"]
    for tier, row in tiers.items():
        assert [one.radius for one in row.at] == [*RADII]
        claimed = [one.claimed for one in row.at]
        assert claimed == sorted(claimed, reverse=True) or tier in ("cascade", "confirm")  # asked anew for each r
        assert all(one.certified_accuracy <= one.claimed for one in row.at)
        assert (row.alpha is None) == (tier == "one pass")
    assert {one.passes for one in tiers["one pass"].at} == {PassCount(median=1, mean=1, p99=1)}
    assert tiers["one pass"].single.milliseconds is not None
    for cascaded, single in zip(tiers["cascade"].at, tiers["one pass"].at, strict=True):
        assert cascaded.claimed <= single.claimed, "a cascade confirms what the single pass claims, and nothing else"
    check_pages(out, record, tmp_path)


def check_pages(out: Path, record: TiersRecord, folder: Path) -> None:
    shutil.copytree(ROOT / RESULTS, folder / RESULTS, ignore=shutil.ignore_patterns("*.svg", "*.html", "*.safe*"))
    shutil.copy(out, folder / RESULTS / "tiers.json")
    (folder / "README.md").write_text(f"before\n{BEGIN_TIERS}{END_TIERS}after\n")
    write_pages(folder)
    page, readme = (folder / PAGES / "tiers.md").read_text(), (folder / "README.md").read_text()
    assert f"`{record.command}`" in page
    for text in (page, readme):
        assert "| `digits` | confirm |" in text
        for table in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
            assert len({line.count("|") for line in table.splitlines()}) == 1, table
    assert with_readme_table(readme, folder / RESULTS) == readme
    (folder / RESULTS / "tiers.json").unlink()
    assert "tiers.md" not in render_pages(folder / RESULTS)
    assert with_readme_table(readme, folder / RESULTS) == readme, "a table without results stays as it is"


def heard(callers: int) -> Heard:
    times = TailMilliseconds(p50=2.5, p90=3, p99=4, p999=5)
    kind = RequestKind(tier="confirm", protocol="grpc", input="FP32", images=1)
    return Heard(
        **vars(kind),
        callers=callers,
        rate=None,
        answers=1,
        images_per_second=12.5,
        milliseconds=times,
        late_p99=0,
        errors={},
    )


def test_the_attack_column_is_what_the_attack_on_the_tiers_found() -> None:
    kept = read_kept(ROOT / RESULTS)
    made = vars(made_now(seed=0))
    split = Split(dataset="digits", split="test", images=4, seed=0)
    passes = PassCount(median=17, mean=20, p99=90)
    at = RadiusRow(radius=0.125, claimed=0.75, certified_accuracy=0.5, passes=passes, claimed_passes=9)
    row = TierRow(alpha=1e-6, at=(at,), single=heard(1), saturated=heard(8))
    model = TieredModel(graph_sha256="0", sigma=0.25, data=split, tiers={"confirm": row})
    attack = TierAttackRecord(
        **made,
        model="digits",
        graph_sha256="0",
        data=split,
        monte_carlo=MonteCarlo(n0=1, n=1, alpha=0.1, seed=0),
        settings=TierAttackSettings(),
        honest=(),
        spoofed=(),
        within=(),
        rows=(),
        totals={"confirm": TierTotal(questions=4000, overclaims=7, upper_bound=0.1, images=3, broken=0)},
        asked_often=(),
        known_seed=KnownSeed(
            sigma=1,
            radius=1,
            alpha=0.1,
            largest_distance=1,
            probability=0,
            images=1,
            confirmed_with_known_seed=1,
            fresh_questions=1,
            confirmed_with_fresh_noise=0,
        ),
    )
    tiers = TiersRecord(**made, seconds=1, shapes={"digits": model, "other": model})
    shown = tiers_page(replace(kept, tiers=tiers, attack_tiers_digits=attack))
    assert shown is not None
    start = ["confirm", "50.0", "17", "20", "90", "2.50", "12.5"]
    assert shown["lines"] == [["`digits`", *start, f"3 of {split.images} (7 of 4,000)"], ["`other`", *start, "–"]]
