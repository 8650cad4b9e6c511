"""Only `polystore.filesystem.dir_fd` touches files; modules above reach them through it.

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

HERE = Path(str(polystore.__file__)).parent
ONLY = {"filesystem.dir_fd"}
MODULES = sorted(
    ".".join(path.relative_to(HERE).with_suffix("").parts)
    for path in (
        HERE / "atomic.py",
        HERE / "disk.py",
        *(HERE / "filesystem").glob("*.py"),
        *(HERE / "zarr").rglob("*.py"),
    )
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
    "filesystem.descent": {
        "os.open": "of '.' and '..' in what is held, and of the root where a walk begins",
    },
    "filesystem.path_resolver": {
        "os.path.isdir": "without a root, whether parents are missing",
        "os.path.islink": "without a root, as anybody on the system sees it",
        "os.path.normpath": "compares texts",
        "os.path.realpath": "without a root; below one, to compare where a link says it leads",
        "os.path.relpath": "compares texts",
        "os.stat": "without a root, what the system says of the caller's own path",
        "Path": "joins names to a text",
    },
    "filesystem.lookup": {
        "os.path.realpath": "the root itself, which its owner names",
        "Path": "the root itself, and the working directory",
    },
    "filesystem.tree_operations": {
        "os.open": "of '.' in a directory that is held",
    },
    "atomic": {
        "os.makedirs": "atomic_write and file_lock have no root",
        "os.path.islink": "atomic_write has no root",
        "os.path.realpath": "atomic_write and file_lock have no root",
        "Path": "a text as a path",
    },
    "zarr.array.pipelines": {
        "LocalStore": "of the directory that is held, for zarrs, whose risk the caller has chosen",
    },
    "zarr.object_store.client": {
        "os": "hooks of a fork",
        "os.register_at_fork": "no file",
    },
    "zarr.object_store.reader": {
        "open": "of a copy in a new directory of its own",
        "tempfile.TemporaryDirectory": "that directory",
    },
    "zarr.object_store.tree": {
        "io.BytesIO": "no file",
    },
    "filesystem.watching": {
        "os.path.realpath": "of what the system names, which is looked at through the tree",
        "os.path.relpath": "of what the system names",
    },
    "filesystem.temporaries": {
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
            if isinstance(node.ctx, ast.Store):
                continue  # what is given this name
            name = ast.unparse(node)
            if re.fullmatch(r"[\w.]+", name) is None:
                continue  # of what a call returns
            if name.partition(".")[0] in FILES and name != "io.TextIOWrapper":
                yield ("Path" if name.startswith("Path.") else name), node.lineno


@pytest.mark.parametrize("module", [one for one in MODULES if one not in ONLY])
def test_a_module_touches_no_file_but_through_what_is_held_open(module: str) -> None:
    path = HERE.joinpath(*module.split(".")).with_suffix(".py")
    source = path.read_text(encoding="utf-8")
    allowed = HARMLESS | REASONS.get(module, {}).keys()
    found = dict(uses(ast.parse(source)))
    refused = {name: line for name, line in found.items() if name not in allowed}
    refused = {name: line for name, line in refused.items() if not name.startswith("os.O_")}
    assert refused == {}, f"{path}: use polystore.filesystem.dir_fd"
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
