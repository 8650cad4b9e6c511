"""Only `polystore.held` touches files; the modules above it reach them through it alone.

A path of several names that is given to the system leads wherever somebody has exchanged one of
the names for a link. So no other module may say it.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import polystore

MODULES = (
    "atomic",
    "attempts",
    "descent",
    "disk",
    "local_backend",
    "local_source",
    "places",
    "renames",
    "trees",
    "turns",
    "zarr",
    "zarr_arrays",
    "zarr_crossing",
    "zarr_files",
    "zarr_groups",
    "zarr_local",
    "zarr_locks",
    "zarr_store",
    "zarr_writing",
)

# What neither opens nor changes anything by its path.
HARMLESS = {
    *("os.DirEntry", "os.PathLike", "os.cpu_count", "os.getcwd", "os.getpid", "os.kill", "os.sep"),
    *("os.close", "os.dup", "os.fchmod", "os.fstat", "os.fsync", "os.utime"),  # of descriptors
    *("os.path.basename", "os.path.dirname", "os.path.isabs", "os.path.join", "os.path.split"),
    *("os.fsencode", "os.fspath", "os.path.samestat", "os.stat_result", "os.strerror"),
    *("os.urandom", "shutil.copyfileobj"),
}

# Where a path of the system is what is meant.
REASONS: dict[str, dict[str, str]] = {
    "descent": {
        "os.open": "of '.' and '..' in what is held, and of the root where a walk begins",
    },
    "places": {
        "os.path.isdir": "without a root, whether parents are missing",
        "os.path.islink": "without a root, as anybody on the system sees it",
        "os.path.normpath": "compares texts",
        "os.path.realpath": "without a root; below one, to compare where a link says it leads",
        "os.path.relpath": "compares texts",
        "os.stat": "without a root, what the system says of the caller's own path",
        "os.readlink": "compares texts, to find out whether a new link would lead to itself",
        "Path": "joins names to a text",
    },
    "trees": {
        "os.open": "of '.' in a directory that is held",
    },
    "zarr_groups": {
        "os.path.abspath": "compares texts",
        "os.path.normpath": "compares texts",
    },
    "local_source": {
        "os.path.realpath": "the root itself, which its owner names",
        "Path": "the root itself, and the working directory",
    },
    "atomic": {
        "os.makedirs": "atomic_write has no root",
        "os.path.islink": "atomic_write has no root",
        "os.path.realpath": "atomic_write has no root",
        "os.stat": "of /proc",
        "Path": "of /proc",
    },
}
FILES = {"os", "io", "shutil", "pathlib", "glob", "tempfile", "mmap", "Path", "open", "LocalStore"}


def uses(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Yield each name by which a module could touch files, with its line."""
    inner = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute | ast.Name) and id(node) not in inner:
            name = ast.unparse(node)
            if re.fullmatch(r"[\w.]+", name) is None:
                continue  # of what a call returns
            if name.partition(".")[0] in FILES and name != "io.TextIOWrapper":
                yield ("Path" if name.startswith("Path.") else name), node.lineno


@pytest.mark.parametrize("module", MODULES)
def test_a_module_touches_no_file_but_through_what_is_held_open(module: str) -> None:
    source = Path(str(polystore.__file__)).with_name(f"{module}.py").read_text()
    allowed = HARMLESS | REASONS.get(module, {}).keys()
    found = dict(uses(ast.parse(source)))
    refused = {name: line for name, line in found.items() if name not in allowed}
    refused = {name: line for name, line in refused.items() if not name.startswith("os.O_")}
    assert refused == {}, f"polystore/{module}.py: use polystore.held"
    assert REASONS.get(module, {}).keys() <= found.keys()


def test_the_rule_finds_what_it_is_there_for() -> None:
    code = "os.walk(a); open(b); Path(c, d).write_bytes(e); shutil.rmtree(f); os.remove(g)"
    assert {name for name, _ in uses(ast.parse(code))} == {
        "os.walk",
        "open",
        "Path",
        "shutil.rmtree",
        "os.remove",
    }
