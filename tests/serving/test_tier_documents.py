"""What the pages say of the tiers' contract is what the code has: parameters, outputs, reasons and limits."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import pytest

from heatserve.export.tiers import TIER_TENSORS, Mode, TierLimits, TierModel, TierReason, limit_names
from heatserve.serving.tiers.questions import PARAMETERS

DOCS = Path(__file__).parents[2] / "docs"
CONTRACT = DOCS / "served-graph.md"
SERVE = DOCS / "guide" / "serve.md"
ALL = frozenset(TierModel)
_POWERS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻", "0123456789-")


def rows(page: Path, *head: str) -> list[list[str]]:
    """The cells of the last table of a page whose first columns have these names."""
    lines = page.read_text().splitlines()
    start = max(at for at, line in enumerate(lines) if line.startswith(f"| {' | '.join(head)} |"))
    width = len(lines[start].split(" | "))
    found = []
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        found.append([cell.strip() for cell in line.removeprefix("|").removesuffix("|").split(" |", width - 1)])
    return found


def code(cell: str) -> list[str]:
    """What stands in a cell in `code`."""
    return re.findall(r"`([^`]+)`", cell)


def kinds(cell: str) -> frozenset[TierModel]:
    """The models that a list of them names: `all`, or the words of `TierModel`."""
    return ALL if cell == "all" else frozenset(map(TierModel, cell.split(", ")))


def numbers(cell: str) -> list[float]:
    """Numbers as the pages write them: 10⁻⁶, or 1,000."""
    texts = [re.sub("10([⁻⁰¹²³⁴⁵⁶⁷⁸⁹]+)", r"1e\1", text).translate(_POWERS) for text in cell.split(", ")]
    return [float(text.replace(",", "")) for text in texts]


def test_the_parameters_of_a_request_are_those_that_are_taken() -> None:
    stated = {code(row[0])[0]: row for row in rows(CONTRACT, "parameter", "of", "type")}
    for kind in TierModel:
        assert {name for name, row in stated.items() if kind in kinds(row[1])} == set(PARAMETERS[kind])
    ranges = {name: code(row[3]) for name, row in stated.items()}
    assert ranges == {
        "radius": [],
        "alpha": ["least_alpha", "most_alpha"],
        "n": ["most_n"],
        "n0": ["most_n0"],
        "top_k": [],
        "deadline_ms": ["most_deadline_ms"],
        "mode": [mode.value for mode in Mode],
    }
    defaults = {code(row[4])[0] for row in stated.values() if code(row[4])}
    assert defaults - {Mode.CLAIMED.value} == {"alpha", "n", "n0", "deadline_ms"}


def test_the_outputs_are_those_that_are_answered() -> None:
    stated = rows(CONTRACT, "output", "type", "shape", "meaning")
    assert [code(row[0])[0] for row in stated] == [tensor.name for tensor in TIER_TENSORS]
    for row, tensor in zip(stated, TIER_TENSORS, strict=True):
        assert row[1] == tensor.datatype
        assert row[2] == ("[N, k]" if tensor.is_list else "[N]")
        if frozenset(tensor.kinds) != ALL:
            assert kinds(row[3].partition(":")[0]) == frozenset(tensor.kinds), tensor.name


@pytest.mark.parametrize(
    ("page", "head"), [(CONTRACT, ("`reason`", "`outcome`")), (SERVE, ("`reason`", "of an answer"))]
)
def test_every_reason_is_explained(page: Path, head: tuple[str, str]) -> None:
    assert {name for row in rows(page, *head) for name in code(row[0])} == {reason.value for reason in TierReason}


def test_limits_and_their_defaults_are_those_of_the_code() -> None:
    stated = dict[str, object]()
    for names, default, _ in rows(CONTRACT, "parameter", "default", "meaning"):
        if default:
            values = code(default) or numbers(re.sub(r"(\d),(\d)", r"\1\2", default))
            stated |= dict(zip(code(names), values, strict=True))
    assert stated == {field.name: getattr(TierLimits(), field.name) for field in fields(TierLimits)}
    only = set(limit_names(TierModel.CERTIFY)) - set(limit_names(TierModel.CONFIRM))
    assert only == {"n0", "most_n0"}
