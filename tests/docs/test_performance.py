"""The tables of the page on performance say which targets are missed."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import pytest
from goals import is_missed, marked

DOCS = Path(__file__).parents[2] / "docs"


def rows() -> list[dict[str, str]]:
    found = []
    for path in sorted((DOCS / "performance").glob("*.csv")):
        with path.open(encoding="utf-8", newline="") as file:
            found += [row for row in csv.DictReader(file) if "reach" in row]
    return found


def test_each_missed_target_is_marked() -> None:
    assert len(rows()) > 50
    for row in rows():
        assert row["reach"] == marked(row["took"], row["ratio"], row["reach"]), row


@pytest.mark.parametrize(
    ("took", "ratio", "target", "missed"),
    [
        ("1.0 ms", "1.41", "<= 1.3", True),
        ("1.0 ms", "1.3", "<= 1.3", False),
        ("5.0 us", "43.4", "< 10 us", False),
        ("12 ms", "0.1", "< 10 us", True),
        ("2.0 GiB", "", "< 1.5 GiB", True),
        ("315 bytes", "", "<= 400", False),
        ("0.64", "", "> 0.6", False),
        ("1.6 ms", "1.11", "about 1", False),
    ],
)
def test_a_target_is_judged_by_its_unit(took: str, ratio: str, target: str, missed: bool) -> None:
    assert is_missed(took, ratio, target) is missed


def test_each_figure_of_the_page_is_drawn() -> None:
    page = (DOCS / "performance.rst").read_text(encoding="utf-8")
    named = set(re.findall(r"performance/([\w-]+\.png)", page))
    drawn = {path.name for path in (DOCS / "performance").glob("*.png")}
    assert named == drawn
    assert len(drawn) >= 5
