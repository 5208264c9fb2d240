"""Each page of results, whole, from its template and the kept results: no figure on a page is typed by hand."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from heatserve.benchmarks.pages import contents, load_contents, speed_contents
from heatserve.benchmarks.pages.kept import KeptResults, read_kept
from heatserve.benchmarks.pages.paper_contents import paper_page, readme_table
from heatserve.benchmarks.records.record import Record
from heatserve.benchmarks.records.shadow import alarms_text
from heatserve.benchmarks.report.page import report_page
from heatserve.certification.errors import HeatserveError
from heatserve.certification.files import write_atomically

RESULTS = Path("benchmarks/results")
"""Where the kept results are, in the repository."""
PAGES = Path("docs/results")
"""Where the pages go, in the repository."""
README = Path("README.md")
REPORT = PAGES / "report.html"
"""The page of `heatserve report`, of the kept results and the cards of the models that they are about."""
REPOSITORY = Path("model_repository")
BEGIN, END = "<!-- results -->\n", "<!-- /results -->\n"
"""What the README's table of results stands between."""
BEGIN_TIERS, END_TIERS = "<!-- tiers -->\n", "<!-- /tiers -->\n"
"""What its table of tiers stands between."""

_Contents = Callable[[KeptResults], Mapping[str, object] | None]
"""What a template shows; None: there are no results for it yet."""

_CONTENTS: Mapping[str, _Contents] = MappingProxyType(
    {
        "calibration": contents.calibration_page,
        "cost": contents.cost_page,
        "attack": contents.attack_page,
        "confirm": contents.confirm_page,
        "conformance": contents.conformance_page,
        "front": load_contents.front_page,
        "fuzz": contents.fuzz_page,
        "kinds": contents.kinds_page,
        "line": speed_contents.line_page,
        "load": load_contents.load_page,
        "networks": contents.networks_page,
        "paper": paper_page,
        "switch": load_contents.switch_page,
        "shadow": contents.shadow_page,
        "soak": load_contents.soak_page,
        "speed": speed_contents.speed_page,
        "tiers": load_contents.tiers_page,
    }
)
_README_TABLES: tuple[tuple[str, str, str, _Contents], ...] = (
    (BEGIN, END, "readme.md.j2", readme_table),
    (BEGIN_TIERS, END_TIERS, "readme_tiers.md.j2", load_contents.readme_tiers),
)


def render_pages(results: Path) -> dict[str, str]:
    """The text of each page by its file's name.

    Args:
        results: folder of the kept JSON files.

    Raises:
        RecordError: a file is missing or malformed.
    """
    kept = read_kept(results)
    found = {name: find(kept) for name, find in _CONTENTS.items()}
    return {f"{name}.md": _render(f"{name}.md.j2", shown) for name, shown in found.items() if shown is not None}


def with_readme_table(readme: str, results: Path) -> str:
    """The text of a README, its tables of results and of tiers replaced; a table without marks is left out."""
    kept = read_kept(results)
    for begin, end, template, find in _README_TABLES:
        shown = find(kept)
        if begin in readme and end in readme and shown is not None:
            before, rest = readme.split(begin, 1)
            readme = f"{before}{begin}{_render(template, shown)}{end}{rest.split(end, 1)[1]}"
    return readme


def write_pages(root: Path) -> list[Path]:
    """Render all pages, the report, and the README's table where it has the marks for it, from the kept results.

    Args:
        root: the root of the repository.

    Returns:
        What was written.

    Raises:
        HeatserveError: there are no kept results, or a file of them is malformed.
    """
    results = root / RESULTS
    if not results.is_dir():
        raise HeatserveError(f"{results}: expected the kept results, found no such folder; name the repository's root")
    texts = {root / PAGES / name: text for name, text in render_pages(results).items()}
    texts[root / REPORT] = report_page(results, root / REPOSITORY)
    readme = root / README
    if readme.is_file():
        texts[readme] = with_readme_table(readme.read_text(), results)
    for path, text in texts.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, text.encode())
    return list(texts)


def _render(template: str, values: Mapping[str, object]) -> str:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "percent": _percent,
        "points": _points,
        "made": _made,
        "row": _table_row,
        "thousands": _thousands,
        "radius": "r = {:g}".format,
        "alarms": alarms_text,
    }
    return environment.get_template(template).render(values)


def _percent(share: float, digits: int = 1) -> str:
    """A share in percent, without the sign."""
    return f"{100 * share:.{digits}f}"


def _points(difference: float) -> str:
    """A difference of shares in percentage points, with its sign."""
    return f"{100 * difference:+.1f}"


def _thousands(value: float) -> str:
    """A whole number with commas."""
    return f"{value:,.0f}"


def _table_row(cells: Sequence[object]) -> str:
    """One line of a Markdown table."""
    return f"| {' | '.join(map(str, cells))} |"


def _made(record: Record) -> str:
    """How a result was made, in one paragraph."""
    machine = record.machine
    load = "" if machine.load_average is None else f", load by others {machine.load_average:.1f}"
    seed = "" if record.seed is None else f"; seed {record.seed}"
    cores = "1 core" if machine.cores == 1 else f"{machine.cores} cores"
    packages = ", ".join(f"{name} {version}" for name, version in record.versions.items())
    return (
        f"Made by `{record.command}` on {record.date[:10]}; {machine.processor}, {cores}{load}, {machine.system}"
        f"{seed}; {packages}."
    )
