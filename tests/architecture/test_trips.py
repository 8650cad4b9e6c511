"""The lists of functions in the documentation name functions that exist, and their processes."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from tests.architecture import trips

LINE = re.compile(r"^ +(\S+)  \[(\S+)\]$")
PROCESSES = {
    "failover": {"client", "controller", "volume"},
    "hosted-load": {"client", "host"},
    "load": {"client", "controller"},
    "load-disk": {"client"},
    "save": {"client", "controller", "volume"},
    "save-disk": {"client"},
}


def defined(module: Path) -> set[str]:
    """Return the qualified names of all functions and classes in a module."""
    found: set[str] = set()

    def visit(node: ast.AST, prefix: str) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.ClassDef):
                found.add(prefix + child.name)
                visit(child, f"{prefix}{child.name}.")
            elif isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
                found.add(prefix + child.name)
                visit(child, f"{prefix}{child.name}.<locals>.")
            else:
                visit(child, prefix)

    visit(ast.parse(module.read_text(encoding="utf-8")), "")
    return found


@pytest.mark.parametrize("name", sorted(PROCESSES))
def test_a_list_is_of_functions_that_exist(name: str) -> None:
    text = (trips.FOLDER / f"{name}.txt").read_text(encoding="utf-8")
    assert {line[:-1] for line in text.splitlines() if line.endswith(":")} == PROCESSES[name]
    called = [match.groups() for line in text.splitlines() if (match := LINE.match(line))]
    assert len(called) > 20
    known: dict[str, set[str]] = {}
    for function, module in called:
        if module not in known:
            known[module] = defined(trips.ROOT / module)
        # A class has methods that nobody wrote, such as those of a dataclass.
        written = function in known[module] or function.rpartition(".")[0] in known[module]
        assert written, f"{function} is not in {module}: run `make architecture`"


def test_calls_are_put_below_their_callers_once(tmp_path: Path) -> None:
    calls = [
        (0, 1.0, "early"),
        (0, 2.0, "load"),
        (1, 2.1, "find"),
        (1, 2.2, "read"),
        (2, 2.3, "open"),
        (1, 2.4, "find"),
        (0, 9.0, "late"),
    ]
    lines = (f"{moment}\t7\t{depth}\tm.py\t{name}\n" for depth, moment, name in calls)
    (tmp_path / "1.calls").write_text("".join(lines), encoding="utf-8")
    [found] = trips.calls_between(tmp_path, 1.5, 5.0)
    assert [*found.lines(0)] == [
        "load  [m.py]",
        "  find  [m.py]",
        "  read  [m.py]",
        "    open  [m.py]",
    ]
    assert found.process == "client"


def test_processes_are_named_after_their_actors(tmp_path: Path) -> None:
    (tmp_path / "1.calls").write_text("1.0\t7\t0\ta.py\t_Volume.pin\n", encoding="utf-8")
    [found] = trips.calls_between(tmp_path, 0.0, 5.0)
    assert found.process == "volume"
