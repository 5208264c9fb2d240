"""The runbook: a section for each alert, with what is seen, numbers that there are, and what to do."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from heatserve.serving.observed.families import FAMILIES

ROOT = Path(__file__).parents[2]
SECTIONS = {
    heading: text
    for heading, _, text in (
        section.partition("\n") for section in (ROOT / "docs" / "guide" / "runbook.md").read_text().split("\n## ")[1:]
    )
    if heading.startswith("Heatserve")
}


def test_every_alert_has_a_section_and_no_other_has() -> None:
    groups = yaml.safe_load((ROOT / "deploy" / "prometheus" / "alerts.yml").read_text())["groups"]
    assert list(SECTIONS) == [rule["alert"] for group in groups for rule in group["rules"]]


@pytest.mark.parametrize("alert", SECTIONS)
def test_a_section_says_what_is_seen_which_numbers_tell_more_and_what_to_do(alert: str) -> None:
    assert re.findall(r"^\*\*(\w+):\*\*", SECTIONS[alert], re.MULTILINE) == ["Seen", "Numbers", "Do"]


def test_every_number_is_a_metric_of_ours_or_of_others() -> None:
    """Of the container's and of Triton's own metrics, the names are theirs."""
    text = (ROOT / "docs" / "guide" / "runbook.md").read_text()
    named = set(re.findall(r"\bheatserve_[a-z_]*[a-z]", text))
    known = {family.name for family in FAMILIES}
    assert {name for name in named if name not in known} == set()


def test_the_logs_are_those_of_all_pods() -> None:
    """`kubectl logs deployment/NAME` shows one pod; with a selector, ten lines of each where nothing else is said."""
    (command,) = re.findall(r"^kubectl logs .*", (ROOT / "docs" / "guide" / "runbook.md").read_text(), re.MULTILINE)
    assert "--selector app.kubernetes.io/instance=" in command
    assert "--tail=-1" in command
