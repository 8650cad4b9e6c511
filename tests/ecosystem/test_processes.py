"""The recipes of the documentation that are programs of their own."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("recipe", "needs", "printed"),
    [
        ("processes_torch", ["torch"], ["[1.5, 5.5]"]),
        ("processes_dask", ["dask.bag"], ["[0.0, 4.0, 8.0, 12.0]", "24"]),
        ("processes_serve", ["starlette", "fastapi", "uvicorn"], ["12.0"]),
        ("intermediates_cubed", ["cubed"], ["45150.0", "[]"]),
        ("intermediates_xarray", ["dask.array", "xarray"], ["14336.0 0.0", "[]"]),
        ("intermediates_data", ["pyarrow"], [str([120.0 + 256 * i for i in range(8)]), "[]"]),
    ],
)
def test_a_recipe_prints_what_it_should(recipe: str, needs: list[str], printed: list[str]) -> None:
    for package in needs:
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed")
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / f"{recipe}.py")],
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
        env={key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
        | {"RAY_ADDRESS": "local", "RAY_USAGE_STATS_ENABLED": "0"},
    )
    assert done.stdout.splitlines() == printed, done.stderr
