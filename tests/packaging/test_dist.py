"""The sdist and the wheel hold what they should, and nothing else."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """Return the wheel as it is built, here without an environment of its own."""
    out = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    [sdist] = out.glob("*.tar.gz")
    with tarfile.open(sdist) as files:
        names = {name.partition("/")[2] for name in files.getnames()}
    assert {"pyproject.toml", "README.md", "LICENSE", "polystore/py.typed"} <= names
    [built] = out.glob("*.whl")  # which `build` makes from the sdist
    return zipfile.ZipFile(built)


def test_a_wheel_has_every_module_and_the_marks_of_types(wheel: zipfile.ZipFile) -> None:
    inside = {name for name in wheel.namelist() if ".dist-info/" not in name}
    wanted = {"pytest_polystore.py"}
    for package in ("polystore", "polystore_ray"):
        for file in (ROOT / package).rglob("*"):
            if file.suffix in (".py", ".html", ".css", ".js") or file.name == "py.typed":
                wanted.add(file.relative_to(ROOT).as_posix())
    assert inside == wanted


def test_a_wheel_declares_its_commands_and_what_it_is(wheel: zipfile.ZipFile) -> None:
    [metadata] = [name for name in wheel.namelist() if name.endswith(".dist-info/METADATA")]
    text = wheel.read(metadata).decode()
    assert "License-Expression: MIT" in text
    assert "Classifier: Typing :: Typed" in text
    needs = [line for line in text.splitlines() if line.startswith("Requires-Dist: ray")]
    assert needs
    assert all("extra ==" in line for line in needs)
    points = wheel.read(metadata.replace("METADATA", "entry_points.txt")).decode()
    assert "polystore = polystore_ray.cli.__main__:main" in points
    assert "[pytest11]" in points
