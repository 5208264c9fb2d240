"""The report is one page that loads nothing else, says what the records say, and can be read by everybody."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from math import nan
from pathlib import Path
from typing import Any

import numpy as np
import paper_results
import pytest
from axe_playwright_python.sync_playwright import Axe
from browsers import open_browser
from playwright.sync_api import Browser, Page
from typer.testing import CliRunner

from heatserve.benchmarks.pages.render import REPORT, REPOSITORY, RESULTS
from heatserve.benchmarks.paper.published import TABLE_3
from heatserve.benchmarks.paper.summary import curve_of, paper_l_bound
from heatserve.benchmarks.records.attack_tiers import TierAttackRecord
from heatserve.benchmarks.records.kinds import KindsRecord
from heatserve.benchmarks.records.record import RecordError, read_record, to_json, write_record
from heatserve.benchmarks.report.charts.chart import Axis
from heatserve.benchmarks.report.charts.scale import Scale, round_up
from heatserve.benchmarks.report.charts.thinning import Observation, thinned
from heatserve.benchmarks.report.comparisons.with_paper import with_paper
from heatserve.benchmarks.report.curves import leaders
from heatserve.benchmarks.report.document import NO_GPU
from heatserve.benchmarks.report.formats import decimals, percentage, plain
from heatserve.benchmarks.report.images import proven_images
from heatserve.benchmarks.report.page import report_page
from heatserve.benchmarks.report.reported import read_reported
from heatserve.cli import app

ROOT = Path(__file__).parents[2]
LARGEST = 1_500_000
"""Bytes of a page that can be mailed."""
WIDTHS = {"desktop": 1280, "phone": 390}
HOSTILE = "<script>alert(1)</script>&\"'"


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The kept results, with made-up ones of `heatserve paper` beside them."""
    folder = tmp_path_factory.mktemp("kept") / "results"
    shutil.copytree(ROOT / RESULTS, folder, ignore=shutil.ignore_patterns("*.svg", "*.safetensors"))
    (folder / "made").mkdir()
    write_record(folder / "made" / "systems.json", paper_results.systems(dataset="made"))
    write_record(folder / "made" / "attacks.json", paper_results.attacks(dataset="made"))
    return folder


@pytest.fixture(scope="module")
def text(results: Path) -> str:
    return report_page(results, ROOT / REPOSITORY)


@pytest.fixture(scope="module")
def tables(text: str) -> dict[str, list[list[str]]]:
    reader = _Tables()
    reader.feed(text)
    return reader.tables


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with open_browser() as found:
        yield found


@pytest.fixture(scope="module")
def opened(browser: Browser, text: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    """The page, from a file."""
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(text)
    page = browser.new_page()
    page.goto(path.as_uri())
    yield page
    page.close()


class _Tables(HTMLParser):
    """The cells of every table, by its caption."""

    def __init__(self) -> None:
        super().__init__()
        self.tables: dict[str, list[list[str]]] = {}
        self._caption, self._rows, self._text = "", list[list[str]](), ""

    def handle_starttag(self, tag: str, attrs: Any) -> None:  # noqa: ARG002 (the name is HTMLParser's)
        if tag == "table":
            self._rows = []
        elif tag == "tr":
            self._rows.append([])
        if tag in ("caption", "td", "th"):
            self._text = ""

    def handle_endtag(self, tag: str) -> None:
        if tag == "caption":
            self._caption = self._text
        elif tag in ("td", "th"):
            self._rows[-1].append(self._text)
        elif tag == "table":
            self.tables[self._caption] = self._rows

    def handle_data(self, data: str) -> None:
        self._text += data


def test_the_committed_report_is_what_the_kept_results_give() -> None:
    assert (ROOT / REPORT).read_text() == report_page(ROOT / RESULTS, ROOT / REPOSITORY), "run `heatserve bench pages`"


def test_it_can_be_mailed(text: str) -> None:
    assert len(text.encode()) < LARGEST


def test_another_system_is_introduced_where_it_is_first_named(text: str) -> None:
    assert text[text.index("RRISE") :].startswith("RRISE (Robust Radius Inference via a Surrogate Estimator), ")


def test_it_asks_for_nothing_else_and_its_own_script_runs(opened: Page) -> None:
    asked: list[str] = []
    said: list[str] = []
    opened.on("request", lambda request: asked.append(request.url))
    opened.on("console", lambda message: said.append(message.text))
    opened.on("pageerror", lambda error: said.append(str(error)))
    opened.reload()
    assert asked == [opened.url]
    assert said == []
    assert opened.locator("svg title").count() == 0, "the script took over what points say"


def test_everybody_can_read_all_of_it(opened: Page) -> None:
    _check_access(opened, contrast=False)


@pytest.fixture(scope="module")
def short(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    """A page of few results that has every kind of block: the contrast of the whole one takes seconds to check."""
    folder = tmp_path_factory.mktemp("few")
    for name in ("kinds.json", "attack-tiers-digits.json", "audit-digits_lipschitz.html"):
        shutil.copy(ROOT / RESULTS / name, folder)
    (folder / "made").mkdir()
    few = paper_results.systems(dataset="made", images=12, proven=8)
    write_record(folder / "made" / "systems.json", replace(few, rows=few.rows[-1:]))
    page = browser.new_page()
    page.set_content(report_page(folder, folder))
    yield page
    page.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS.values(), ids=WIDTHS)
def test_everybody_can_read_it_on_a_phone_and_in_the_dark(short: Page, scheme: Any, width: int) -> None:
    short.emulate_media(color_scheme=scheme)
    short.set_viewport_size({"width": width, "height": 844})
    short.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    _check_access(short)


def _check_access(page: Page, *, contrast: bool = True) -> None:
    rules = {"color-contrast": {"enabled": contrast}}
    found = Axe().run(page, options={"resultTypes": ["violations"], "rules": rules})
    assert found.violations_count == 0, found.generate_report()


@pytest.mark.parametrize("width", [*WIDTHS.values(), 320])
def test_it_does_not_scroll_sideways(opened: Page, width: int) -> None:
    opened.set_viewport_size({"width": width, "height": 844})
    assert opened.evaluate("document.documentElement.scrollWidth") <= width


def test_a_point_says_the_number_of_the_record(opened: Page) -> None:
    record = read_record(ROOT / RESULTS / "kinds.json", KindsRecord)
    row = next(row for row in record.rows if row.way == "certify")
    said = _points(opened, "kinds-figure")
    for radius, share in zip((0.0, *record.radii), (row.accuracy, *row.certified), strict=True):
        shown = f"{percentage(share, 2)} of {row.data.images} images at radius {plain(radius)}"
        assert f"certify ({row.model}): {shown}" in said


def test_the_pointer_and_a_tap_show_what_is_nearest(opened: Page) -> None:
    opened.set_viewport_size({"width": 1280, "height": 900})
    chart = opened.locator("#kinds-figure .chart")
    chart.scroll_into_view_if_needed()
    point = chart.locator(".p").nth(3)
    box = point.bounding_box()
    assert box is not None
    opened.mouse.move(box["x"] + box["width"] / 2 + 1, box["y"] + box["height"] / 2 - 1)  # other curves are near
    assert chart.locator(".tip").is_visible()
    assert chart.locator(".tip").inner_text() == _points(opened, "kinds-figure")[3]
    opened.mouse.move(0, 0)
    assert chart.locator(".tip").is_hidden()


def test_arrow_keys_go_through_all_points(opened: Page) -> None:
    said = _points(opened, "kinds-figure")
    assert len(said) == opened.locator("#kinds-figure .p").count()
    assert len(set(said)) == len(said)


def _points(page: Page, figure: str) -> list[str]:
    """What each point says when the arrow keys reach it."""
    chart = page.locator(f"#{figure} .chart")
    chart.focus()
    page.keyboard.press("Escape")
    found = []
    for _ in range(chart.locator(".p").count()):
        page.keyboard.press("ArrowRight")
        found.append(chart.locator(".tip").inner_text())
    page.keyboard.press("Escape")
    return found


def test_it_prints_all_numbers_on_white_without_cutting_a_table(opened: Page) -> None:
    opened.emulate_media(media="print", color_scheme="dark")
    opened.set_viewport_size({"width": 700, "height": 900})
    opened.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert opened.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert opened.locator("details:not([open])").count() == 0
    cut = "[...document.querySelectorAll('table')].filter(t => t.getBoundingClientRect().right > 701).length"
    assert opened.evaluate(cut) == 0
    opened.emulate_media(media="screen")


def test_the_table_of_kinds_is_the_record(tables: dict[str, list[list[str]]]) -> None:
    record = read_record(ROOT / RESULTS / "kinds.json", KindsRecord)
    _, *rows = tables["What each way keeps of the accuracy, and what it costs"]
    for shown, row in zip(rows, record.rows, strict=True):
        assert shown[5:-2] == [percentage(share) for share in (row.accuracy, *row.certified)]
        assert shown[-1] == decimals(row.milliseconds, 2)
        assert shown[3] == ("–" if row.alpha is None else plain(row.alpha))


def test_the_tables_of_the_paper_are_the_records(tables: dict[str, list[list[str]]]) -> None:
    rows = paper_results.systems().rows
    shown = {line[0]: line for line in tables[_caption(tables, "Table 3", "made")]}
    for row in rows:
        bounds = paper_l_bound(row)
        assert shown[row.system][1:3] == [f"{np.median(bounds):.4f}", f"{np.mean(bounds):.4f}"]
        attack = paper_results.attack_row(row.system, "PGD")
        assert shown[row.system][3:5] == [f"{attack.median:.4f}", f"{attack.mean:.4f}"]
    assert shown["heat"][7] == "not run", "AutoAttack was not run"
    printed = TABLE_3.rows["heat"]
    assert shown["paper: HeatSmoothing"][3] == f"{printed.pgd.median:.4f}"


def test_the_tables_of_overclaims_are_the_records(tables: dict[str, list[list[str]]]) -> None:
    for row in paper_results.systems().rows:
        images = proven_images(row)
        total = tables[_caption(tables, f"{row.system}, made", "overclaims by")][-1]
        assert total[1:3] == [str((images.claimed > 0).sum()), str(images.overclaims.sum())]


def test_a_calibration_by_itself_has_the_confidence_of_its_own_test(text: str) -> None:
    said = re.findall(r"with confidence ([\d.]+), for this calibration by itself", text)
    assert len(said) > 5
    assert set(said) == {"0.95"}, "the confidence on a card is that of all looks up to its own together"


def test_a_gpu_column_says_that_there_was_none(tables: dict[str, list[list[str]]]) -> None:
    lines = [line for line in tables[_caption(tables, "Table 2", "seconds")] if "GPU" in line[0]]
    assert {line[1] for line in lines} == {"the paper", "–"}
    assert {cell for line in lines if line[1] == "–" for cell in line[3:]} == {NO_GPU}


def _caption(tables: dict[str, list[list[str]]], start: str, part: str) -> str:
    (found,) = [caption for caption in tables if caption.startswith(start) and part in caption]
    return found


def test_every_number_can_be_made_again(text: str, results: Path) -> None:
    for path in results.glob("*.json"):
        if f"made-{path.stem}-json" in text:
            content = json.loads(path.read_text())
            for row in content["rows"] if path.stem == "cifar10" else [content]:
                assert row.get("provenance", row)["command"] in text
    for name in ("digits", "digits_lipschitz", "cifar10", "cifar10_lipschitz"):
        assert f"Made by: heatserve audit {name} " in text
    targets = {part.split('"')[0] for part in text.split('id="')[1:]}
    links = {part.split('"')[0] for part in text.split('href="#')[1:]}
    assert links - targets == set()


def test_the_same_results_give_the_same_bytes(text: str, results: Path) -> None:
    assert report_page(results, ROOT / REPOSITORY) == text


def test_names_are_shown_and_not_run(browser: Browser, tmp_path: Path) -> None:
    record = read_record(ROOT / RESULTS / "kinds.json", KindsRecord)
    rows = tuple(replace(row, model=HOSTILE) for row in record.rows)
    write_record(tmp_path / "kinds.json", replace(record, rows=rows, command=HOSTILE))
    audit = f"<header><h1>PASS: &lt;img src=x onerror=alert(1)&gt;</h1><p>{HOSTILE}</p></header>"
    (tmp_path / "audit-x.html").write_text(audit)
    (tmp_path / "made").mkdir()
    systems = paper_results.systems(dataset="made")
    renamed = tuple(replace(row, system=row.system + HOSTILE) for row in systems.rows)
    write_record(tmp_path / "made" / "systems.json", replace(systems, rows=renamed))
    text = report_page(tmp_path, tmp_path)
    assert HOSTILE not in text
    assert "<img" not in text
    page = browser.new_page()
    page.set_content(text)
    assert page.locator("script").count() == 1
    assert HOSTILE in page.locator("#kinds-figure figcaption").inner_text()
    page.close()


def test_what_is_not_measured_yet_is_named(tmp_path: Path) -> None:
    (tmp_path / "cifar10").mkdir()
    some = paper_results.systems(dataset="cifar10")
    write_record(tmp_path / "cifar10" / "systems.json", some)
    assert "Not measured yet at σ = 0.25: heat-paper and lipschitz." in report_page(tmp_path, tmp_path)
    others = tuple(replace(some.rows[0], system=name) for name in ("heat-paper", "lipschitz"))
    write_record(tmp_path / "cifar10" / "systems.json", replace(some, rows=(*some.rows, *others)))
    assert "Not measured yet at σ" not in report_page(tmp_path, tmp_path)


def test_what_is_not_there_is_said(tmp_path: Path) -> None:
    shutil.copy(ROOT / RESULTS / "kinds.json", tmp_path)
    text = report_page(tmp_path, tmp_path / "no repository")
    absent = text.split("are not there:")[1].split("</p>")[0]
    assert "tiers.json" in absent
    assert "kinds.json" not in absent


def test_a_folder_without_results_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match=r"expected results of heatserve's benchmarks.*found none"):
        report_page(tmp_path, tmp_path)
    with pytest.raises(RecordError, match="expected a folder of results, found none; --results names it"):
        report_page(tmp_path / "nowhere", tmp_path)


def test_half_a_file_is_named(tmp_path: Path) -> None:
    content = (ROOT / RESULTS / "kinds.json").read_text()
    (tmp_path / "kinds.json").write_text(content[: len(content) // 2])
    with pytest.raises(RecordError, match=r"kinds\.json: expected a KindsRecord, got file: Invalid JSON"):
        report_page(tmp_path, tmp_path)


def test_arrays_of_other_lengths_are_named(tmp_path: Path) -> None:
    record = paper_results.systems()
    row = record.rows[0]
    shorter = replace(row, one_pass=replace(row.one_pass, served=row.one_pass.served[:-1]))
    (tmp_path / "made").mkdir()
    write_record(tmp_path / "made" / "systems.json", replace(record, rows=(shorter,)))
    with pytest.raises(RecordError, match=r"systems\.json: baseline, served: expected 60 values.*got 59"):
        report_page(tmp_path, tmp_path)


def test_what_is_not_a_number_is_a_dash(tmp_path: Path) -> None:
    record = read_record(ROOT / RESULTS / "kinds.json", KindsRecord)
    content = json.loads(to_json(record))
    content["rows"][0]["milliseconds"] = nan
    (tmp_path / "kinds.json").write_text(json.dumps(content))
    (tmp_path / "made").mkdir()
    systems = json.loads(to_json(paper_results.systems(dataset="made")))
    systems["rows"][0]["one_pass"] |= {"l_bound": [nan] * 60, "served": [nan] * 60}
    (tmp_path / "made" / "systems.json").write_text(json.dumps(systems))
    reader = _Tables()
    text = report_page(tmp_path, tmp_path)
    reader.feed(text)
    assert reader.tables["What each way keeps of the accuracy, and what it costs"][1][-1] == "–"
    assert reader.tables[_caption(reader.tables, "Table 3", "made")][1][1:3] == ["–", "–"]
    assert not re.search(r"\bnan\b", text, re.IGNORECASE)


def test_another_data_set_alone_has_a_report(tmp_path: Path) -> None:
    (tmp_path / "birds").mkdir()
    write_record(tmp_path / "birds" / "systems.json", paper_results.systems(dataset="imagefolder:birds"))
    text = report_page(tmp_path, tmp_path)
    assert "imagefolder:birds, digits_cnn, σ = 0.25" in text
    assert "CIFAR-10, σ" not in text


def test_ten_thousand_images_lose_no_overclaim(tmp_path: Path) -> None:
    row = paper_results.system_row("baseline", images=10_000, proven=10_000)
    over = row.overclaims("nominal").sum()
    assert over > 9_000
    (tmp_path / "made").mkdir()
    write_record(tmp_path / "made" / "systems.json", replace(paper_results.systems(), rows=(row,)))
    text = report_page(tmp_path, tmp_path)
    assert f"overclaim: {over:,}" in text
    drawn = text.split('class="marks cloud crosses')[1].split("</g></g>")[0]
    counts = [part.split(" image")[0].split(">")[-1] for part in drawn.split("<title>")[1:]]
    assert sum(int(count.replace(",", "")) if count else 1 for count in counts) == over
    assert len(text.encode()) < LARGEST


def test_cells_stand_for_every_observation() -> None:
    places = np.random.default_rng(0).random((5000, 2))
    found = [Observation(float(x), float(y), index) for index, (x, y) in enumerate(places)]
    points = thinned(found, end=1.0, says=lambda members: str(len(members)), most=300)
    assert sum(point.weight for point in points) == 5000
    assert [str(point.weight) for point in points] == [point.says for point in points]
    assert len(thinned(found[:300], end=1.0, says=lambda _: "", most=300)) == 300


def test_axes_have_round_numbers() -> None:
    shares, powers = Axis(label="", low=0, high=1, percent=True), Axis(label="", low=1, high=1000, log=True)
    assert [written for _, written in Scale(shares, 0, 100).ticks()][:2] == ["0 %", "20 %"]
    assert [value for value, _ in Scale(powers, 0, 90).ticks()] == [1, 10, 100, 1000]
    assert Scale(powers, 0, 90)(100) == pytest.approx(60)
    assert [round_up(value) for value in (0.0, nan, 0.7, 1.0, 1.1, 13.0)] == [1.0, 1.0, 0.8, 1.0, 1.2, 15.0]


def test_the_command_writes_the_page(results: Path, tmp_path: Path) -> None:
    out = tmp_path / "page.html"
    repository = ["--repository", str(ROOT / REPOSITORY)]
    done = CliRunner().invoke(app, ["report", "--results", str(results), "--out", str(out), *repository])
    assert done.exit_code == 0
    assert out.read_text().startswith("<!DOCTYPE html>")


def test_a_best_system_is_named_alone_only_where_the_bands_tell_it_from_the_others() -> None:
    curves = {name: curve_of([right], 100, [0.25]) for name, right in {"noise": 90, "madry": 84, "average": 40}.items()}
    assert leaders(curves, 0, "certifies most").endswith("; the bands do not tell it from madry")
    assert leaders(curves, 0, "has the fewest", fewest=True) == "average has the fewest: 40.0\N{NO-BREAK SPACE}%"


def test_no_system_is_called_best_within_a_distance_that_its_attack_does_not_look_at(text: str) -> None:
    said = re.findall(r"Within distance ([0-9.]+), by (PGD|DDN),", text)
    assert {attack for _, attack in said} == {"PGD", "DDN"}
    assert all(float(distance) >= (0.04 if attack == "PGD" else 1.05 * 0.95**18) for distance, attack in said)


def test_where_the_paper_s_table_4_was_not_reached_is_said(results: Path) -> None:
    found = with_paper(read_reported(results, ROOT / REPOSITORY))
    assert found is not None
    start = (
        "cifar10, σ = 0.1: heat smoothing after adversarial training takes the mean proven radius from 0.205 to 0.205"
    )
    assert [sentence for sentence in found.worse if sentence.startswith(start)]
    assert not any(sentence.startswith("cifar10, σ = 0.1: heat") for sentence in found.better)


def test_the_accuracy_of_an_average_over_noise_is_of_the_images_that_were_averaged(
    tables: dict[str, list[list[str]]],
) -> None:
    headings, *rows = tables["cifar10: what heatserve paper trained"]
    images = {row[0].split(" ")[0]: row[headings.index("test images")] for row in rows}
    assert (images["noise"], images["smoothadv"], images["heat"]) == ("2,000", "2,000", "10,000")


def test_what_confirm_abstains_from_is_no_proof() -> None:
    record = read_record(ROOT / "benchmarks" / "results" / "attack-tiers-cifar10.json", TierAttackRecord)
    page = (ROOT / "docs" / "results" / "report.html").read_text()
    proofs = sum(row.said["confirm"].yes for row in record.rows)
    assert proofs < record.totals["confirm"].questions
    assert f"0 of {proofs:,}" in page
