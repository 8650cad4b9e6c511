"""The commands that the documentation shows exist, with the options that it shows."""

from __future__ import annotations

import re
from itertools import chain
from pathlib import Path

import click
import pytest

from polystore_ray.cli.__main__ import polystore_command

ROOT = Path(__file__).parents[2]
PAGES = sorted(chain(*((ROOT / "docs").rglob(kind) for kind in ("*.rst", "*.md"))))
PAGES += [ROOT / "README.md", ROOT / "cluster/README.md"]
SHOWN = re.compile(r"(?:^ +|^|`)polystore ((?:--?\w|[a-z]+ )[^`\n#;&|]*)", re.MULTILINE)
WITH_A_VALUE = ("--store", "--address", "--job")


def options(command: click.Command) -> set[str]:
    return {"--help", *chain(*(parameter.opts for parameter in command.params))}


def unknown(line: str) -> list[str]:
    """Return the words of a command line that polystore does not know."""
    words = iter(line.split())
    command: click.Command = polystore_command
    found = []
    for word in words:
        if word in WITH_A_VALUE:
            next(words)
        elif word.startswith("-"):
            found += [word] if word.partition("=")[0] not in options(command) else []
        elif command is polystore_command:
            if word not in polystore_command.commands:
                return [*found, word]
            command = polystore_command.commands[word]
    return found


def shown() -> list[tuple[str, str]]:
    """Return each page and command line of a block of code, or between backticks."""
    found = []
    for page in PAGES:
        if "_build" not in page.parts:
            text = page.read_text(encoding="utf-8")
            found += [(page.name, match[1]) for match in SHOWN.finditer(text)]
    sentence = re.compile(r"[a-z]+ (?!-)[a-z]+ [a-z]+ ")
    return [(page, line) for page, line in found if not sentence.match(line)]


def test_the_commands_in_the_documentation_exist() -> None:
    lines = shown()
    assert len(lines) > 40
    wrong = [(page, line, found) for page, line in lines if (found := unknown(line))]
    assert not wrong


@pytest.mark.parametrize("line", ["--store plates list", "ls --largest", "--locally ls disk:."])
def test_a_wrong_command_is_noticed(line: str) -> None:
    assert unknown(line)
