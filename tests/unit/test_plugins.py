"""Backends and formats of other distributions, found by their entry points."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

Run = Callable[[str], str]

MODULE = """
from polystore import StorageBackend
from polystore.formats import Format


class Shelf(StorageBackend):
    _backend_type = "shelf"

    def __init__(self):
        self.values = {}

    def load(self, path):
        return self.values[path]

    def save(self, data, path):
        self.values[path] = data

    def is_file(self, path):
        return path in self.values

    def is_dir(self, path):
        return False

    def list_dir(self, path):
        return sorted(self.values)


REVERSED = Format(
    "reversed text",
    (".rev", ".rev.txt"),
    write=lambda file, value: file.write(value[::-1].encode()),
    read=lambda path: open(path, encoding="utf-8").read()[::-1],
)
"""

ENTRY_POINTS = """
[polystore.backends]
Shelf = shelf_plugin:Shelf
gone = shelf_plugin_that_is_gone:Gone
mislabelled = shelf_plugin:Shelf
broken = shelf_plugin_broken:Shelf
lacking = shelf_plugin:Missing

[polystore.formats]
.gone = shelf_plugin_that_is_gone:GONE
.broken = shelf_plugin_broken:BROKEN
.none = shelf_plugin:Shelf
.rev = shelf_plugin:REVERSED
.rev.txt = shelf_plugin:REVERSED
.txt = shelf_plugin:REVERSED
"""


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Return what runs code in a new interpreter, in which the plug-in is installed."""
    (tmp_path / "shelf_plugin.py").write_text(MODULE, encoding="utf-8")
    (tmp_path / "shelf_plugin_broken.py").write_text("raise RuntimeError('it broke')")
    info = tmp_path / "shelf_plugin-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: shelf-plugin\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(ENTRY_POINTS)

    def run(code: str) -> str:
        head = f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
        done = subprocess.run(
            [sys.executable, "-c", head + code],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    return run


def test_a_backend_of_an_entry_point_is_listed_unloaded_and_imported_on_access(run: Run) -> None:
    code = """
from polystore import BackendRegistry, FileManager
registry = BackendRegistry()
print(list(registry), "shelf_plugin" in sys.modules)
fm = FileManager(registry)
fm.save(7, "a", backend="SHELF")
print(fm.load("a", backend="shelf"), type(registry["shelf"]).__name__)
"""
    assert run(code).splitlines() == [
        "['memory', 'disk', 'zarr', 'shelf', 'gone', 'mislabelled', 'broken', 'lacking'] False",
        "7 Shelf",
    ]


@pytest.mark.parametrize(
    ("key", "error", "words"),
    [
        ("gone", "MissingDependencyError", "shelf_plugin_that_is_gone"),
        ("mislabelled", "BackendNotFoundError", "shelf_plugin:Shelf"),
        ("broken", "StorageResolutionError", "RuntimeError: it broke"),
        ("lacking", "StorageResolutionError", "AttributeError"),
    ],
)
def test_an_entry_point_that_does_not_hold_says_why(
    run: Run, key: str, error: str, words: str
) -> None:
    code = f"""
from polystore import BackendRegistry, StorageError
try:
    BackendRegistry()[{key!r}]
except StorageError as error:
    print(type(error).__name__, error)
"""
    said = run(code)
    assert said.startswith(error)
    assert words in said
    assert said.endswith(f"(backend {key})")


@pytest.mark.parametrize(
    ("name", "error", "words"),
    [
        ("a.gone", "MissingDependencyError", "shelf_plugin_that_is_gone"),
        ("a.broken", "UnsupportedFormatError", "RuntimeError: it broke"),
        (
            "a.none",
            "UnsupportedFormatError",
            "shelf_plugin:Shelf is not a polystore.formats.Format",
        ),
    ],
)
def test_a_format_of_an_entry_point_that_does_not_hold_says_why(
    run: Run, name: str, error: str, words: str
) -> None:
    code = f"""
from polystore import BackendRegistry, StorageError
try:
    BackendRegistry()["disk"].save(1, {name!r})
except StorageError as error:
    print(type(error).__name__, error)
"""
    said = run(code)
    assert said.startswith(error)
    assert words in said
    assert said.endswith(f"'{name}' (backend disk)")


def test_a_format_of_an_entry_point_serves_its_suffixes_and_takes_none_over(run: Run) -> None:
    code = """
from polystore import BackendRegistry, FileManager
fm = FileManager(BackendRegistry())
for name in ("a.rev", "b.rev.TXT", "c.txt"):
    fm.save("abc", name, backend="disk")
    print(open(name).read(), fm.load(name, backend="disk"))
"""
    assert run(code).splitlines() == ["cba abc", "cba abc", "abc abc"]
