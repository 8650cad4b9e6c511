"""The upgrade procedure of the documentation, command by command, from one cluster to another."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import ray

from polystore import FileManager
from polystore_ray import RayBackendRegistry
from tests.cli.commands import run_here

PAGE = Path(__file__).parents[2] / "docs/dumps.rst"


def commands() -> tuple[list[list[str]], list[list[str]]]:
    """Return the commands before and after Ray is stopped."""
    upgrade = PAGE.read_text().split("\nUpgrade\n")[1].split("\nReference\n")[0]
    before, after = upgrade.split("3. Stop Ray on all nodes")
    lines = (re.findall(r"^ +polystore (.+)$", part, re.MULTILINE) for part in (before, after))
    first, second = ([shlex.split(line) for line in part] for part in lines)
    return first, second


@pytest.fixture
def clusters() -> Iterator[None]:
    ray.shutdown()
    start()
    yield
    ray.shutdown()


def start() -> None:
    ray.init(
        address="local",
        num_cpus=1,
        object_store_memory=100 * 2**20,
        include_dashboard=False,
        log_to_driver=False,
    )


def test_the_upgrade_procedure_carries_a_store_over(clusters: None, tmp_path: Path) -> None:
    registry = RayBackendRegistry("plates", lifetime="detached", max_bytes=2**30)
    fm = FileManager(registry)
    fm.save(np.arange(90_000), "/plate/A01.npy", backend="memory")
    fm.save("notes", "/notes", backend="memory")
    version = registry["memory"].stat("/plate/A01.npy")["version"]
    before, after = commands()
    assert [command[0] for command in before] == ["dump", "verify", "--store"]
    assert [command[0] for command in after] == ["doctor", "restore", "--store"]
    run(before, tmp_path)
    ray.shutdown()
    start()
    run(after, tmp_path)
    restored = RayBackendRegistry("plates", lifetime="detached", max_bytes=2**30)
    assert restored["memory"].load("/plate/A01.npy").sum() == np.arange(90_000).sum()
    assert restored["memory"].stat("/plate/A01.npy")["version"] == version
    assert restored.status().files == 2
    restored.shutdown()


def run(commands: list[list[str]], directory: Path) -> None:
    for command in commands:
        done = run_here(*(word.replace("/shared", str(directory)) for word in command))
        assert done.code == 0, (command, done)
