"""The recipes in CONTRIBUTING.md work as they are written."""

from __future__ import annotations

import os
import pkgutil
import re
import subprocess
import sys
from inspect import signature
from pathlib import Path

from click.testing import CliRunner

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
[ENTRY_POINT] = re.findall(r"^```toml\n.*?\n(.*?) = \"(.*?)\"\n```", PAGE, re.DOTALL | re.MULTILINE)


def save_blocks(folder: Path) -> None:
    """Save each block that begins with a file name under this name."""
    for block in BLOCKS:
        name = re.match(r'"""(?:tests/cli/)?(\w+\.py):', block)
        if name is not None:
            (folder / name[1]).write_text(block, encoding="utf-8")


def run(folder: Path, *arguments: str) -> str:
    paths = os.pathsep.join([str(folder), str(ROOT)])
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_format_works_by_its_entry_point(tmp_path: Path) -> None:
    save_blocks(tmp_path)
    info = tmp_path / "npy_gz-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: npy-gz\nVersion: 1.0\n")
    suffix, place = ENTRY_POINT
    (info / "entry_points.txt").write_text(f"[polystore.formats]\n{suffix[1:-1]} = {place}\n")
    code = """
import numpy as np
from polystore import CorruptDataError, DiskBackend, UnsupportedFormatError
disk = DiskBackend("files")
disk.save(np.arange(6).reshape(2, 3), "/a.NPY.gz", parents=True)
print(disk.load("/a.npy.gz".replace("npy", "NPY")).sum(), disk.load("/a.NPY.gz", region=1))
for value in ([1], np.ma.masked_array([1], [1]), np.array([object()])):
    try:
        disk.save(value, "/b.npy.gz")
    except UnsupportedFormatError:
        print("refused")
open("files/c.npy.gz", "wb").write(b"damaged")
try:
    disk.load("/c.npy.gz")
except CorruptDataError:
    print("damaged")
"""
    assert run(tmp_path, "-c", code).splitlines() == [
        "15 [3 4 5]",
        "refused",
        "refused",
        "refused",
        "damaged",
    ]


def test_the_format_passes_its_check(tmp_path: Path) -> None:
    save_blocks(tmp_path)
    done = run(tmp_path, "-m", "pytest", "-q", "-c", os.devnull, "--rootdir=.", "test_npy_gz.py")
    assert "1 passed" in done


def test_the_backend_passes_the_kit(tmp_path: Path) -> None:
    save_blocks(tmp_path)
    done = run(
        tmp_path, "-m", "pytest", "-q", "-c", os.devnull, "--rootdir=.", "test_zip_backend.py"
    )
    assert int(done.rpartition(" passed")[0].split()[-1]) > 30


def test_the_command_works(tmp_path: Path) -> None:
    from polystore_ray.cli.__main__ import polystore_command

    [source] = [block for block in BLOCKS if "@click.command" in block]
    found: dict[str, object] = {"__name__": "exists"}
    (tmp_path / "a.txt").write_text("a")
    exec(compile(source, "exists.py", "exec"), found)
    command = found["exists"]
    polystore_command.add_command(command)  # type: ignore[arg-type]
    try:
        for name, code in (("a.txt", 0), ("b.txt", 1)):
            given = ["--local", "exists", f"disk:{tmp_path / name}"]
            assert CliRunner().invoke(polystore_command, given).exit_code == code
    finally:
        del polystore_command.commands["exists"]


ENTRY_POINT_GROUPS = {"polystore.formats", "polystore.backends"}


def check_name(name: str, parameters: str) -> None:
    """Fail unless a dotted name leads to a module or to what is in one, with these parameters."""
    try:
        found = pkgutil.resolve_name(name)
    except (ImportError, AttributeError) as error:
        raise AssertionError(f"CONTRIBUTING.md names {name}") from error
    if parameters:
        assert len(signature(found).parameters) == len(parameters.split(",")), name


MADE = {"docs/_build/html", "polystore_ray/cli/exists.py"}  # by the reader


def test_the_files_and_names_that_the_recipes_mention_exist() -> None:
    places = "polystore|polystore_ray|tests|examples|docs"
    for path in set(re.findall(rf"`((?:{places})/[\w/.]*\w/?)`", PAGE)) - MADE:
        assert (ROOT / path).exists(), path
    for name, path in (
        ("_BUILT_IN", "polystore/formats/registry.py"),
        ("BUILTIN_BACKENDS", "polystore/registration.py"),
        ("_COMMANDS", "polystore_ray/cli/__main__.py"),
        ("ROUND_TRIPS", "tests/unit/test_formats.py"),
        ("SUFFIXES", "tests/fuzz/targets.py"),
    ):
        assert f"`{name}`" in PAGE
        source = (ROOT / path).read_text(encoding="utf-8")
        assert re.search(rf"^{name}\b", source, re.MULTILINE), path
    for name, parameters in re.findall(r"`(polystore[\w.]*\.\w+)(?:\((.*?)\))?", PAGE):
        if name not in ENTRY_POINT_GROUPS:
            check_name(name, parameters)
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"`make ([\w-]+)`", PAGE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
