"""The drawings in the documentation are those of today's imports."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from tests.architecture import drawing

MADE = drawing.drawings()
PAGE = (drawing.ROOT / "docs" / "architecture.rst").read_text(encoding="utf-8")


def test_there_is_a_drawing_of_each_package_and_no_other() -> None:
    assert {path.name for path in drawing.FOLDER.glob("*.svg")} == set(MADE)


@pytest.mark.parametrize("name", sorted(MADE))
def test_a_drawing_is_current(name: str) -> None:
    kept = (drawing.FOLDER / name).read_text(encoding="utf-8")
    assert kept == MADE[name], "run `make architecture`"


@pytest.mark.parametrize("name", sorted(MADE))
def test_the_page_shows_each_drawing(name: str) -> None:
    assert f"architecture/{name}" in PAGE


def package(folder: Path, **modules: str) -> Path:
    folder.mkdir(parents=True)
    for name, text in modules.items():
        (folder / f"{name}.py").write_text(text, encoding="utf-8")
    return folder


def test_imports_are_found_wherever_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drawing, "ROOT", tmp_path)
    top = package(
        tmp_path / "p",
        __init__="from p.low import Low",
        high="def f():\n    from p.inner.deep import x",
        middle="import p.low\nimport os",
        user="from p import Low, high",
        low="",
    )
    package(top / "inner", __init__="", deep="from p import middle")
    assert drawing.imports(top) == {
        "high": {"inner"},
        "inner": {"middle"},
        "low": set(),
        "middle": {"low"},
        "user": {"low", "high"},
    }


def test_a_box_is_above_all_boxes_that_it_imports() -> None:
    graph = {"a": {"b", "c"}, "b": {"c"}, "c": set(), "d": {"c"}}
    root = ET.fromstring(drawing.drawing(graph, {"d"}))
    texts = root.iter("{http://www.w3.org/2000/svg}text")
    height = {(text.text or "").rstrip("/"): float(text.attrib["y"]) for text in texts}
    assert height["a"] < height["b"] == height["d"] < height["c"]
    arrows = list(root.iter("{http://www.w3.org/2000/svg}path"))
    assert len(arrows) == 3  # that from a to c follows from the others
