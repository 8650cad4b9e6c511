"""What a user imports, and what it costs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import pytest

import polystore
import polystore_ray

HEAVY = (
    "ray",
    "zarr",
    "PIL",
    "tifffile",
    "imagecodecs",
    "skimage",
    "torch",
    "tqdm",
    "polystore_ray",
)


def in_a_new_process(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    return done.stdout


@pytest.mark.parametrize("package", [polystore, polystore_ray])
def test_every_exported_name_is_there_and_typed(package: object) -> None:
    names = package.__all__  # type: ignore[attr-defined]
    assert len(names) == len(set(names))
    for name in names:
        assert getattr(package, name) is not None
    assert files(package).joinpath("py.typed").is_file()  # type: ignore[arg-type]


def loaded_by(code: str) -> set[str]:
    output = in_a_new_process(f"{code}\nimport json, sys; print(json.dumps(list(sys.modules)))")
    return set(json.loads(output)) & set(HEAVY)


def test_import_polystore_loads_no_heavy_package() -> None:
    assert loaded_by("import polystore") == set()


def test_the_atomic_helpers_are_names_of_the_package() -> None:
    from polystore import atomic

    for name in ("atomic_update_json", "atomic_write", "atomic_write_json", "file_lock"):
        assert getattr(polystore, name) is getattr(atomic, name)


def test_a_registry_imports_no_backend_before_it_is_accessed() -> None:
    code = (
        "import sys, polystore\n"
        "registry = polystore.BackendRegistry()\n"
        "assert list(registry) == ['memory', 'disk', 'zarr'] and 'zarr' in registry\n"
        "assert len(registry) == 3 and repr(registry)\n"
        "late = {'polystore.memory', 'polystore.disk', 'polystore.zarr'}\n"
        "print(sorted(late & set(sys.modules)))\n"
        "registry['disk']\n"
        "print(sorted(late & set(sys.modules)))"
    )
    assert in_a_new_process(code) == "[]\n['polystore.disk']\n"


def test_a_registry_writes_nothing_to_disk(tmp_path: Path) -> None:
    code = (
        "from polystore import BackendRegistry, FileManager\n"
        "fm = FileManager(BackendRegistry())\n"
        "fm.save(1, '/a', backend='memory'); fm.exists('b', backend='disk')"
    )
    folders = {"HOME": "home", "XDG_CACHE_HOME": "cache", "TMPDIR": "temporary"}
    places = {name: str(tmp_path / folder) for name, folder in folders.items()}
    for place in (*places.values(), str(tmp_path / "here")):
        Path(place).mkdir()
    subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **places, "PYTHONDONTWRITEBYTECODE": "1"},
        cwd=tmp_path / "here",
        check=True,
        timeout=120,
    )
    assert [file for file in tmp_path.rglob("*") if not file.is_dir()] == []
    assert len(list(tmp_path.rglob("*"))) == 4


@pytest.mark.parametrize(
    ("package", "name", "extra"),
    [("tifffile", "a.tif", "images"), ("PIL", "a.png", "images"), ("torch", "a.pt", "torch")],
)
def test_a_format_whose_package_is_missing_names_the_extra(
    tmp_path: Path, package: str, name: str, extra: str
) -> None:
    code = (
        "import sys\n"
        f"sys.modules[{package!r}] = None\n"
        "from polystore import BackendRegistry, MissingDependencyError\n"
        "from polystore.formats import known_suffixes\n"
        "disk = BackendRegistry()['disk']\n"
        f"for use in (lambda: disk.save([1], {name!r}), lambda: disk.load({name!r})):\n"
        "    try: use()\n"
        "    except MissingDependencyError as error: print(error)\n"
        f"assert {name[1:]!r} in known_suffixes()"
    )
    (tmp_path / name).write_bytes(b"x")
    done = subprocess.run(
        [sys.executable, "-c", code.replace(f"[1], {name!r}", f"[1], 'new{name[1:]}'")],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
        timeout=120,
    )
    for line, path in zip(done.stdout.splitlines(), (f"new{name[1:]}", name), strict=True):
        assert repr(package) in line
        assert f"pip install '.[{extra}]': '{path}' (backend disk)" in line


def test_local_mode_needs_no_ray() -> None:
    code = (
        "from polystore_ray import RayBackendRegistry\n"
        "memory = RayBackendRegistry(local=True)['memory']\n"
        "memory.save([1], '/a'); assert memory.load('/a') == [1]"
    )
    assert loaded_by(code) == {"polystore_ray"}


def test_import_polystore_loads_little_beside_numpy() -> None:
    """Time is for `tests/bench/core.py`: here is what it depends on."""
    listed = "import json, sys; {}; print(json.dumps(list(sys.modules)))"
    names = ("import numpy", "import numpy; import polystore")
    numpy, both = (set(json.loads(in_a_new_process(listed.format(name)))) for name in names)
    added = both - numpy
    others = {name.partition(".")[0] for name in added} - sys.stdlib_module_names
    assert others == {"polystore", "metaclass_registry"}
    assert len(added) < 75
