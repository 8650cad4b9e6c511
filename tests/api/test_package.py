"""What a user imports, and what it costs."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from importlib.resources import files

import pytest

import polystore
import polystore_ray

HEAVY = ("ray", "zarr", "PIL", "tifffile", "skimage", "torch", "polystore_ray")


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


def test_local_mode_needs_no_ray() -> None:
    code = (
        "from polystore_ray import RayBackendRegistry\n"
        "memory = RayBackendRegistry(local=True)['memory']\n"
        "memory.save([1], '/a'); assert memory.load('/a') == [1]"
    )
    assert loaded_by(code) == {"polystore_ray"}


def test_import_polystore_takes_less_than_twice_import_numpy() -> None:
    timed = (
        "import time; start = time.perf_counter(); import {}; print(time.perf_counter() - start)"
    )
    in_a_new_process(timed.format("polystore"))  # what is compiled once is not counted
    seconds: dict[str, list[float]] = {"numpy": [], "polystore": []}
    for _ in range(9):
        for name, times in seconds.items():
            times.append(float(in_a_new_process(timed.format(name))))
    ratio = statistics.median(seconds["polystore"]) / statistics.median(seconds["numpy"])
    assert ratio < 2
