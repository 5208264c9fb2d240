"""The pages of results are what the kept results give: a figure that was typed by hand fails here."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from heatserve.benchmarks.pages.contents import Cifar10View
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
from heatserve.benchmarks.records.cifar10 import Cifar10Record
from heatserve.benchmarks.records.paper import read_paper
from heatserve.benchmarks.records.record import RecordError, read_record
from heatserve.benchmarks.report.page import report_page
from heatserve.certification.errors import HeatserveError
from heatserve.cli import app
from heatserve.export.card_parts import Calibration
from heatserve.export.repository.layout import open_model

ROOT = Path(__file__).parents[2]


SERVED = Path("model_repository/cifar10")


def copy_kept(root: Path) -> None:
    """All that pages are rendered from, but for figures."""
    shutil.copytree(ROOT / RESULTS, root / RESULTS, ignore=shutil.ignore_patterns("*.svg", "*.html", "*.safe*"))
    for card in (ROOT / SERVED).glob("*/certificate.json"):
        folder = root / SERVED / card.parent.name
        folder.mkdir(parents=True)
        shutil.copy(card, folder)


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


def test_a_union_bound_is_computed_from_the_rows() -> None:
    record = read_record(ROOT / RESULTS / "cifar10.json", Cifar10Record)
    chosen = Cifar10View(record).chosen(0.25)
    tried = {row.system for row in record.rows if row.sigma == 0.25 and not isinstance(row.calibration, Calibration)}
    assert chosen is not None
    assert (chosen.images, chosen.tried) == (400, len(tried))
    assert chosen.confidence == pytest.approx(max(0, 1 - 0.05 * len(tried)))
    two = [row for row in record.rows if (row.system, row.sigma) in (("heat", 0.25), ("noise", 0.25))]
    few = Cifar10View(Cifar10Record(rows=tuple(two))).chosen(0.25)
    assert few is not None
    assert (few.tried, few.promised) == (2, 1), "what found no map was tried, too"
    assert few.confidence == pytest.approx(0.9)
    assert Cifar10View(Cifar10Record(rows=())).chosen(0.25) is None


def test_pages_say_what_a_promise_is_worth_after_a_choice(pages: dict[str, str]) -> None:
    text = " ".join(pages["cifar10.md"].split())
    for sigma in (0.25, 0.1):
        chosen = Cifar10View(read_record(ROOT / RESULTS / "cifar10.json", Cifar10Record)).chosen(sigma)
        assert chosen is not None
        assert f"{chosen.tried} networks were calibrated on the same {chosen.images} images" in text
        assert f"leaves {chosen.confidence:.2f}" in text
        assert f"leaves confidence {chosen.confidence:.2f}" in _readme_table(ROOT / RESULTS) or sigma != 0.25


def test_rows_with_backed_get_a_column(tmp_path: Path) -> None:
    copy_kept(tmp_path)
    path = tmp_path / RESULTS / "cifar10.json"
    content = json.loads(path.read_text())
    for row in content["rows"]:
        if (row["system"], row["sigma"]) == ("average", 0.25):
            found = row["evaluation"]["certified_accuracy"]
            found["backed"] = [share / 2 for share in found["single_pass"]]
            expected = f"{100 * found['backed'][found['radii'].index(0.25)]:.1f}"
    path.write_text(json.dumps(content))
    readme = _readme_table(tmp_path / RESULTS)
    lines = {line.split("|")[1].strip(): line.split("|")[-3].strip() for line in readme.splitlines() if "|" in line}
    assert lines["trained by"] == "backed"
    assert lines["`heat`"] == "–"
    assert lines["`average`"] == expected
    assert "| backed r |" in render_pages(tmp_path / RESULTS)["cifar10.md"]


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
    assert "| `average`, longer (served) |" in text


def test_the_row_of_the_served_model_is_its_card_s(tmp_path: Path) -> None:
    copy_kept(tmp_path)
    served = open_model(ROOT / "model_repository", "cifar10").card.evaluation
    assert served is not None
    line = next(line for line in _readme_table(tmp_path / RESULTS).splitlines() if "(served)" in line)
    cells = [cell.strip() for cell in line.split("|")[1:-1]]
    at = served.certified_accuracy.radii.index(0.25)
    assert cells[3:5] == [f"{100 * served.clean_accuracy:.1f}", f"{100 * served.smoothed_accuracy:.1f}"]
    assert cells[6] == f"{100 * served.certified_accuracy.single_pass[at]:.1f}"
    assert cells[7] == f"{served.calibrated.overclaims} of {served.calibrated.positive}"
    shutil.rmtree(tmp_path / SERVED)
    assert "(served)" not in _readme_table(tmp_path / RESULTS)
    assert "card of `model_repository/cifar10`" not in render_pages(tmp_path / RESULTS)["cifar10.md"]


def test_the_page_of_the_paper_has_its_numbers_and_ours(pages: dict[str, str]) -> None:
    text = pages["paper.md"]
    printed = TABLE_5.rows["noise"]
    assert f"| {printed.pgd.median:.4f} | {printed.pgd.mean:.4f} |" in text
    found = read_paper(ROOT / RESULTS / "digits")
    provenances = [row.provenance for row in found.systems.rows] + [row.provenance for row in found.attacks.rows]
    attack = next(row for row in found.attacks.rows if (row.system, row.attack) == ("baseline", "DDN"))
    assert f"| {attack.median:.4f} | {attack.mean:.4f} |" in text
    assert all(f"`{made.command}`" in text for made in provenances)
