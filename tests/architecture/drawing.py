"""Draw the packages of the project from their imports: ``make architecture``.

Each package becomes one SVG file. A box is a module or a package directly inside it. A box imports
only boxes below it. An arrow that follows from two or more others is left out, and so are
``__init__`` and ``__main__``.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from xml.sax.saxutils import escape

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "docs" / "architecture"

Graph = dict[str, set[str]]  # from each box to the boxes that it imports

_LETTER, _BOX, _ROW = 7.6, 30, 84  # pixels: the width of a letter, the heights of a box and a row
_GAP, _MARGIN = 22, 14  # pixels between boxes, and around the drawing
_SWEEPS = 12  # over the rows, to bring boxes near the boxes that they import

_STYLE = """
.box { fill: #f3f6fa; stroke: #48607d; stroke-width: 1.2 }
.folder { fill: #dfe9f5 }
.arrow { fill: none; stroke: #8a97a8; stroke-width: 1.1 }
.head { fill: #8a97a8 }
text { font: 13px ui-monospace, monospace; text-anchor: middle; fill: #17202b }
@media (prefers-color-scheme: dark) {
.box { fill: #212a35; stroke: #8fa9c8 } .folder { fill: #2d3b4d }
.arrow { stroke: #77869a } .head { fill: #77869a } text { fill: #e6ecf3 } }
"""


def packages() -> Iterator[Path]:
    """Yield every package of the project with more than one module."""
    for top in ("polystore", "polystore_ray"):
        for found in sorted((ROOT / top).rglob("__init__.py")):
            if len(_boxes(found.parent)) > 1:
                yield found.parent


def dotted(path: Path) -> str:
    """Return the dotted name of a module or package."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


def imports(package: Path) -> Graph:
    """Return which modules and packages directly in a package import which others."""
    boxes = _boxes(package)
    prefix = dotted(package) + "."
    exported = _exported(package)
    graph: Graph = {name: set() for name in boxes}
    for name in boxes:
        path = package / name
        for module in sorted(path.rglob("*.py")) if path.is_dir() else [path.with_suffix(".py")]:
            for imported in _imported(module):
                target = imported.removeprefix(prefix).partition(".")[0]
                target = exported.get(target, target)
                if imported.startswith(prefix) and target in graph and target != name:
                    graph[name].add(target)
    return graph


def _boxes(package: Path) -> list[str]:
    modules = (p.stem for p in package.glob("*.py") if not p.stem.startswith("__"))
    folders = (p.parent.name for p in package.glob("*/__init__.py"))
    return sorted({*modules, *folders})


def _exported(package: Path) -> dict[str, str]:
    """Return the names that the ``__init__`` of a package exports, with the boxes they are from."""
    prefix = dotted(package) + "."
    paths = [path for path in _imported(package / "__init__.py") if path.startswith(prefix)]
    parts = [path.removeprefix(prefix).split(".") for path in paths]
    return {part[-1]: part[0] for part in parts if len(part) > 1}


def _imported(module: Path) -> Iterator[str]:
    """Yield the dotted names of all imports in a module, also those inside functions."""
    for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def drawing(graph: Graph, folders: set[str]) -> str:
    """Return the SVG drawing of a graph without cycles.

    Parameters
    ----------
    graph : dict from str to set of str
        From each box to the boxes that it imports.
    folders : set of str
        The boxes that are packages.
    """
    levels = {name: _level(graph, name) for name in graph}
    paths = [_path(start, end, levels) for start, end in _arrows(graph)]
    rows = _rows(levels, paths)
    place, width = _places(rows)
    height = len(rows) * _ROW - (_ROW - _BOX) + 2 * _MARGIN
    size = f'width="{width:.0f}" height="{height}" viewBox="0 0 {width:.0f} {height}"'
    lines = [f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img">']
    lines.append(f"<style>{_STYLE}</style>")
    for path in paths:
        points = [place[box] for box in path]
        lines.append(f'<path class="arrow" d="{_curve(points)}"/>')
        x, y = points[-1]
        head = f"{x:.0f},{y} {x - 4:.0f},{y - 8} {x + 4:.0f},{y - 8}"
        lines.append(f'<polygon class="head" points="{head}"/>')
    for name in sorted(graph):
        x, y = place[name]
        kind = "box folder" if name in folders else "box"
        w = _width(name)
        at = f'x="{x - w / 2:.0f}" y="{y}" width="{w:.0f}" height="{_BOX}" rx="5"'
        lines.append(f'<rect class="{kind}" {at}/>')
        label = escape(name) + "/" * (name in folders)
        lines.append(f'<text x="{x:.0f}" y="{y + _BOX * 0.65:.0f}">{label}</text>')
    return "\n".join([*lines, "</svg>"]) + "\n"


def _level(graph: Graph, name: str) -> int:
    """Return the number of boxes on the longest way down from a box."""
    return 1 + max((_level(graph, below) for below in graph[name]), default=-1)


def _arrows(graph: Graph) -> list[tuple[str, str]]:
    """Return the imports that do not follow from others."""

    def reached(name: str) -> set[str]:
        return graph[name].union(*map(reached, graph[name]))

    indirect = {name: set().union(*map(reached, graph[name])) for name in graph}
    return [
        (name, below) for name in sorted(graph) for below in sorted(graph[name] - indirect[name])
    ]


def _path(start: str, end: str, levels: dict[str, int]) -> list[str]:
    """Return an arrow with a point of its own in each row that it crosses."""
    crossed = range(levels[start] - 1, levels[end], -1)
    return [start, *(f"{start}>{end}>{level}" for level in crossed), end]


def _rows(levels: dict[str, int], paths: list[list[str]]) -> list[list[str]]:
    """Return boxes and points by row, the top row first, with few crossings of arrows."""
    level_of = dict(levels)
    neighbours: dict[str, set[str]] = {name: set() for name in levels}
    for path in paths:
        for above, below in pairwise(path):
            neighbours.setdefault(above, set()).add(below)
            neighbours.setdefault(below, set()).add(above)
            level_of.setdefault(below, level_of[above] - 1)
    top = max(levels.values())
    rows = [[n for n in sorted(level_of) if level_of[n] == level] for level in range(top, -1, -1)]
    for sweep in range(_SWEEPS):
        place, _ = _places(rows)
        side = 1 if sweep % 2 else -1
        for row in rows[::side]:
            row.sort(key=lambda n: _mean([place[m][0] for m in neighbours[n]], place[n][0]))
            x = float(_MARGIN)
            for name in row:
                place[name] = (x, 0)
                x += _width(name) + _GAP
    return rows


def _mean(values: list[float], default: float) -> float:
    return sum(values) / len(values) if values else default


def _width(name: str) -> float:
    return 6.0 if ">" in name else max(60.0, _LETTER * (len(name) + 1) + 20)


def _places(rows: list[list[str]]) -> tuple[dict[str, tuple[float, int]], float]:
    """Return the middle of the top edge of each box, with the rows centred, and the width."""
    widths = [sum(_width(name) + _GAP for name in row) - _GAP for row in rows]
    place = {}
    for number, (row, width) in enumerate(zip(rows, widths, strict=True)):
        x = _MARGIN + (max(widths) - width) / 2
        for name in row:
            place[name] = (x + _width(name) / 2, _MARGIN + number * _ROW)
            x += _width(name) + _GAP
    return place, max(widths) + 2 * _MARGIN


def _curve(points: list[tuple[float, int]]) -> str:
    x, y = points[0]
    found = [f"M{x:.0f},{y + _BOX}"]
    for number, ((x0, y0), (x1, y1)) in enumerate(pairwise(points)):
        begin = y0 + _BOX
        middle = (begin + y1) / 2
        found.append(f"C{x0:.0f},{middle:.0f} {x1:.0f},{middle:.0f} {x1:.0f},{y1}")
        if number < len(points) - 2:
            found.append(f"V{y1 + _BOX}")
    return " ".join(found)


def drawings() -> dict[str, str]:
    """Return the drawing of each package, by file name."""
    found = {}
    for package in packages():
        folders = {path.parent.name for path in package.glob("*/__init__.py")}
        found[f"{dotted(package)}.svg"] = drawing(imports(package), folders)
    return found


def main() -> None:
    """Write all drawings, and delete those of packages that are gone."""
    FOLDER.mkdir(exist_ok=True)
    made = drawings()
    for old in FOLDER.glob("*.svg"):
        if old.name not in made:
            old.unlink()
    for name, text in made.items():
        (FOLDER / name).write_text(text, encoding="utf-8")
    sys.stdout.write(f"{len(made)} drawings in {FOLDER.relative_to(ROOT)}\n")


if __name__ == "__main__":
    main()
