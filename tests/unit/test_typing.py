"""What mypy says about code that uses the file manager wrongly."""

from __future__ import annotations

from pathlib import Path

import pytest
from mypy import api

WRONG = {
    "FileManager(5)": "arg-type",
    "FileManager({'a': object()})": "dict-item",
    "fm.load(3, 'disk')": "arg-type",
    "fm.load('a', 3)": "arg-type",
    "fm.load('a')": "call-arg",
    "fm.exists('a', 'disk').upper()": "attr-defined",
    "fm.list_dir('a', 'disk').keys()": "attr-defined",
    "fm.stat('a', 'disk')['sise']": "typeddict-item",
    "fm.stat('a', 'disk')['size'].upper()": "attr-defined",
    "fm.save(1, 'a', 'disk', parents='no')": "arg-type",
    "fm.save_batch([1], 3, 'disk')": "arg-type",
    "fm.copy('a', 'b', 'disk', to_backend=1)": "arg-type",
    "fm.resize('a', 'ten', 'zarr')": "arg-type",
    "backend.stat('a')['sise']": "typeddict-item",
    "backend.list_files('a', recursive='yes')": "arg-type",
    "fm.aload('a', 3)": "arg-type",
}
RIGHT = """
fm.save(1, Path("a"), Key.DISK, overwrite=True)
fm.load("a", "disk", region=...)
fm.stat("a", "disk")["type"] == "file"
FileManager({"mine": backend, "seen": seen})
FileManager(BackendRegistry())
FileManager(RayBackendRegistry())
if isinstance(backend, HasDirectories):
    backend.ensure_directory("a")
"""
PREAMBLE = """
from enum import Enum
from pathlib import Path
from polystore import BackendRegistry, FileManager, ReadOnlyBackend, StorageBackend
from polystore.capabilities import HasDirectories
from polystore_ray import RayBackendRegistry

class Key(Enum):
    DISK = "disk"

fm: FileManager
backend: StorageBackend
seen: ReadOnlyBackend
"""


@pytest.mark.timeout(600)
def test_mypy_finds_wrong_calls_and_no_others(tmp_path: Path) -> None:
    lines = [*PREAMBLE.splitlines(), *RIGHT.splitlines()]
    expected = {len(lines) + number: code for number, code in enumerate(WRONG.values(), 1)}
    file = tmp_path / "uses.py"
    file.write_text("\n".join([*lines, *WRONG]) + "\n")
    root = Path(__file__).parents[2]
    config = ["--config-file", str(root / "pyproject.toml")]
    output, errors, _ = api.run([*config, "--disable-error-code=unused-coroutine", str(file)])
    assert errors == ""
    found = {
        int(line.split(":")[1]): line.rsplit("[", 1)[1].rstrip("]")
        for line in output.splitlines()
        if ": error: " in line
    }
    assert found == expected, output
