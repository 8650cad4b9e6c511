"""Every Python block of the READMEs runs, each in a process of its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
WITH_RAY = 1  # the number of the block that does on a cluster what the first does locally
BLOCKS = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)


def blocks(page: str) -> list[str]:
    return BLOCKS.findall((ROOT / page).read_text(encoding="utf-8"))


def run(code: str, folder: Path, **environment: str) -> str:
    script = folder / "example.py"
    script.write_text(code, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, str(script)],
        cwd=folder,
        env=os.environ | {"RAY_ADDRESS": "local"} | environment,
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("number", range(len(blocks("README.md"))))
def test_an_example_of_the_readme_runs_twice_and_again_in_a_new_process(
    number: int, tmp_path: Path
) -> None:
    code = blocks("README.md")[number]
    for _ in range(2):
        printed = run(f"{code}\n{code}", tmp_path)
        if number == WITH_RAY:
            totals = [int(line) for line in printed.splitlines() if line.isdecimal()]  # or Ray's
            assert len(totals) == 2
            assert all(2_000_000 < total < 2_200_000 for total in totals)


def test_the_example_for_a_cluster_runs_on_one(tmp_path: Path) -> None:
    from ray.cluster_utils import Cluster

    arguments = {"num_cpus": 1, "object_store_memory": 100 * 2**20, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=arguments)
    try:
        [example] = blocks("cluster/README.md")
        run(example, tmp_path, RAY_ADDRESS=cluster.address)
    finally:
        cluster.shutdown()
