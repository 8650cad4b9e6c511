"""The page about security leaves out no command, and no file that goes to a cluster."""

from __future__ import annotations

from pathlib import Path

from polystore_ray.cli.__main__ import polystore_command

PAGE = Path(__file__).parents[2] / "docs/security.rst"


def test_the_page_says_of_every_command_what_it_runs() -> None:
    text = PAGE.read_text(encoding="utf-8")
    _, _, table = text.partition("What each command runs")
    table, _, _ = table.partition("What a cluster needs")
    assert {name for name in polystore_command.commands if f"``{name}``" not in table} == set()


def test_the_page_says_what_is_not_defended() -> None:
    _, _, rest = PAGE.read_text(encoding="utf-8").partition("What is not defended")
    assert "forges internal requests" in rest
