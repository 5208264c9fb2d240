"""The pages of results are what the kept results give: a figure that was typed by hand fails here."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from heatserve.benchmarks.pages.render import (
    BEGIN,
    END,
    PAGES,
    README,
    REPORT,
    REPOSITORY,
    RESULTS,
    render_pages,
    with_readme_table,
)
from heatserve.benchmarks.paper.published import TABLE_5
from heatserve.benchmarks.records.paper import read_paper
from heatserve.benchmarks.records.record import RecordError
from heatserve.benchmarks.report.page import report_page
from heatserve.certification.errors import HeatserveError
from heatserve.cli import app

ROOT = Path(__file__).parents[2]


def copy_kept(root: Path) -> None:
    """All that pages are rendered from, but for figures."""
    shutil.copytree(ROOT / RESULTS, root / RESULTS, ignore=shutil.ignore_patterns("*.svg", "*.html", "*.safe*"))


@pytest.fixture(scope="module")
def pages() -> dict[str, str]:
    return render_pages(ROOT / RESULTS)


def test_the_committed_pages_are_what_the_kept_results_give(pages: dict[str, str]) -> None:
    committed = {path.name: path.read_text() for path in (ROOT / PAGES).glob("*.md") if path.name in pages}
    assert committed == pages, "run `heatserve bench pages`"


def _readme_table(results: Path) -> str:
    """The rows of the README that are rendered from kept results."""
    return with_readme_table(f"{BEGIN}{END}", results).removeprefix(BEGIN).removesuffix(END)


def test_the_readme_has_the_table_of_the_kept_results() -> None:
    text = (ROOT / README).read_text()
    assert with_readme_table(text, ROOT / RESULTS) == text, "run `heatserve bench pages`"


def test_every_page_names_the_commands_that_made_it(pages: dict[str, str]) -> None:
    shown = "".join(pages.values())
    for path in (ROOT / RESULTS).rglob("*.json"):
        content = json.loads(path.read_text())
        rows = [content] if "command" in content else content.get("rows", [content])
        for row in rows:
            assert f"`{row.get('provenance', row)['command']}`" in shown


def test_every_link_of_a_page_leads_to_a_file(pages: dict[str, str]) -> None:
    links = [link.split("#")[0] for text in pages.values() for link in re.findall(r"\]\(([^)]+)\)", text)]
    assert len(links) > 10
    assert [link for link in links if not (ROOT / PAGES / link).exists()] == []


def test_a_table_has_as_many_cells_in_every_line(pages: dict[str, str]) -> None:
    texts = [*pages.values(), _readme_table(ROOT / RESULTS)]
    tables = [block for text in texts for block in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE)]
    assert len(tables) > 15
    for table in tables:
        lines = table.splitlines()
        assert len(lines) > 2, table
        assert len({line.count("|") for line in lines}) == 1, table


def test_other_results_give_other_pages(tmp_path: Path, pages: dict[str, str]) -> None:
    copy_kept(tmp_path)
    path = tmp_path / RESULTS / "attack-digits.json"
    content = json.loads(path.read_text())
    content["within_proven"]["violations"] = 7
    path.write_text(json.dumps(content))
    changed = render_pages(tmp_path / RESULTS)
    assert "7 changed the smoothed class" in changed["attack.md"]
    assert {name for name, text in changed.items() if text != pages[name]} == {"attack.md"}
    path.unlink()
    with pytest.raises(RecordError, match=r"attack-digits\.json: expected the results of a benchmark, found no file"):
        render_pages(tmp_path / RESULTS)


def readme_lines(results: Path) -> dict[str, list[str]]:
    """The cells of the README's table by the system."""
    lines = [line.split("|")[1:-1] for line in _readme_table(results).splitlines() if line.startswith("| `")]
    return {name.strip(" `"): [cell.strip() for cell in cells] for name, *cells in lines}


def test_the_readme_s_table_counts_in_the_rows() -> None:
    found = read_paper(ROOT / RESULTS / "cifar10").systems.rows
    row = next(row for row in found if (row.system, row.sigma) == ("average", 0.1))
    assert row.noisy is not None
    accurate, smoothed, certified, backed, overclaims, positive = 0, 0, 0, 0, 0, 0
    for i, truth in enumerate(row.one_pass.truth[: row.proven_images]):
        label, served = row.one_pass.label[i], row.one_pass.served[i]
        proven, radius = row.noisy.proven_label[i], row.noisy.proven_radius[i]
        holds = label == proven and served <= radius
        accurate += label == truth
        smoothed += row.noisy.vote_label[i] == truth
        certified += proven == truth and radius >= 0.1
        backed += label == truth and served >= 0.1 and holds
        positive += served > 0
        overclaims += served > 0 and not holds
    assert overclaims > 0
    shares = [f"{100 * count / row.proven_images:.1f}" for count in (accurate, smoothed, certified, backed)]
    assert readme_lines(ROOT / RESULTS)["average"] == ["no", "2", *shares, f"{overclaims:,} of {positive:,}"]


def test_a_union_bound_counts_every_network_that_was_calibrated(tmp_path: Path) -> None:
    copy_kept(tmp_path)
    path = tmp_path / RESULTS / "cifar10" / "systems.json"
    content = json.loads(path.read_text())
    smoothed = [row for row in content["rows"] if row["kind"] == "statistical"]
    assert any(row["refused"] for row in smoothed), "what found no map was tried, too"
    content["rows"] = [row for row in smoothed if row["system"] in ("noise", "average")]
    path.write_text(json.dumps(content))
    readme = " ".join(_readme_table(tmp_path / RESULTS).split())
    assert "2 networks were calibrated on the same 400 images" in readme
    assert "leaves confidence 0.90" in readme
    assert "Not measured yet: `baseline`, `smoothadv`, `heat`" in readme
    page = " ".join(render_pages(tmp_path / RESULTS)["paper.md"].split())
    assert "2 were tried on the same images, which leaves 0.90" in page
    path.unlink()
    assert _readme_table(tmp_path / RESULTS) == ""


def test_the_command_writes_the_pages_and_only_its_part_of_the_readme(tmp_path: Path, pages: dict[str, str]) -> None:
    with pytest.raises(HeatserveError, match="expected the kept results, found no such folder"):
        CliRunner().invoke(app, ["bench", "pages", "--root", str(tmp_path)], catch_exceptions=False)
    copy_kept(tmp_path)
    readme = tmp_path / README
    readme.write_text("no marks\n")
    CliRunner().invoke(app, ["bench", "pages", "--root", str(tmp_path)], catch_exceptions=False)
    assert {path.name: path.read_text() for path in (tmp_path / PAGES).glob("*.md")} == pages
    assert (tmp_path / REPORT).read_text() == report_page(tmp_path / RESULTS, tmp_path / REPOSITORY)
    assert readme.read_text() == "no marks\n"
    readme.write_text(f"before\n{BEGIN}old\n{END}after\n")
    CliRunner().invoke(app, ["bench", "pages", "--root", str(tmp_path)], catch_exceptions=False)
    text = readme.read_text()
    assert text == f"before\n{BEGIN}{_readme_table(ROOT / RESULTS)}{END}after\n"
    assert "| `average` | no |" in text


def test_the_page_of_the_paper_has_its_numbers_and_ours(pages: dict[str, str]) -> None:
    text = pages["paper.md"]
    printed = TABLE_5.rows["noise"]
    assert f"| {printed.pgd.median:.4f} | {printed.pgd.mean:.4f} |" in text
    found = read_paper(ROOT / RESULTS / "digits")
    provenances = [row.provenance for row in found.systems.rows] + [row.provenance for row in found.attacks.rows]
    attack = next(row for row in found.attacks.rows if (row.system, row.attack) == ("baseline", "DDN"))
    assert f"| {attack.median:.4f} | {attack.mean:.4f} |" in text
    assert all(f"`{made.command}`" in text for made in provenances)
