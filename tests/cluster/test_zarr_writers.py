"""One zarr array on a file system that three nodes share, written by many tasks at once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from polystore import FileManager
from polystore_ray import HostLostError, RayBackendRegistry
from polystore_ray.rayapi.placement import named_hosts
from tests.cluster.nodes import Nodes

# Ray leaves a socket open when it looks for a free port for a node.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")

SHAPE = (256, 200)
LAYOUT: dict[str, Any] = {"chunks": (12, 10), "shards": (48, 40)}
TASKS = 64
# What belongs at each place, so that the order of overlapping saves does not matter.
TRUTH = 1 + np.arange(SHAPE[0] * SHAPE[1], dtype=np.int32).reshape(SHAPE)


@pytest.fixture
def fm(nodes: Nodes, request: pytest.FixtureRequest) -> Iterator[FileManager]:
    registry = RayBackendRegistry(request.node.name[:60])
    yield FileManager(registry)
    registry.shutdown()


def everywhere(nodes: Nodes, function: Any, arguments: list[tuple[Any, ...]]) -> list[Any]:
    """Return the results of tasks, one for each tuple of arguments, on all nodes in turn."""
    task: Any = ray.remote(num_cpus=0.5)(function)
    where = [
        NodeAffinitySchedulingStrategy(node, soft=False)
        for node in (nodes.head, nodes.one, nodes.two)
    ]
    started = [
        task.options(scheduling_strategy=where[i % 3]).remote(*given)
        for i, given in enumerate(arguments)
    ]
    return ray.get(started, timeout=250)


def overlapping(seed: int) -> list[tuple[slice, slice]]:
    """Return as many regions as there are tasks, that fit no chunk and cover the array."""
    random = np.random.default_rng(seed)
    rows, columns = SHAPE[0] // 8, SHAPE[1] // 8
    found = []
    for task in range(TASKS):
        top, left = task // 8 * rows, task % 8 * columns
        above, below, before, after = (int(n) for n in random.integers(0, 9, 4))
        found.append(
            (
                slice(max(0, top - above), top + rows + below),
                slice(max(0, left - before), left + columns + after),
            )
        )
    return found


def write(fm: FileManager, path: str, region: Any, values: Any) -> None:
    try:
        fm.save(values, path, "zarr", region=region)
    except HostLostError:  # and so may be half written
        fm.save(values, path, "zarr", region=region)


def test_overlapping_regions_of_many_tasks_lose_nothing(
    nodes: Nodes, fm: FileManager, tmp_path: Path, soaking: bool, done: Counter[str]
) -> None:
    path = str(tmp_path / "a")
    for round_ in range(50 if soaking else 1):
        fm.save(np.zeros(SHAPE, np.int32), path, "zarr", overwrite=True, **LAYOUT)
        regions = overlapping(round_)
        everywhere(nodes, write, [(fm, path, region, TRUTH[region]) for region in regions])
        np.testing.assert_array_equal(fm.load(path, "zarr"), TRUTH)
        done[f"times {TASKS} tasks wrote overlapping regions of one array"] += 1


def test_elements_that_share_every_shard_are_not_lost(
    nodes: Nodes, fm: FileManager, tmp_path: Path, soaking: bool, done: Counter[str]
) -> None:
    path = str(tmp_path / "a")
    # Of few shards, since each task writes all of them, one task after another.
    truth = TRUTH[:50, :44]
    parts = [(slice(i // 8, None, 8), slice(i % 8, None, 8)) for i in range(TASKS)]
    for _ in range(50 if soaking else 1):
        empty = np.zeros_like(truth)
        fm.save(empty, path, "zarr", overwrite=True, chunks=(16, 20), shards=(32, 40))
        everywhere(nodes, write, [(fm, path, part, truth[part]) for part in parts])
        np.testing.assert_array_equal(fm.load(path, "zarr"), truth)
        done[f"times {TASKS} tasks wrote elements of the same shards"] += 1


def test_appends_of_many_tasks_get_places_of_their_own(
    nodes: Nodes, fm: FileManager, tmp_path: Path
) -> None:
    def append(fm: FileManager, path: str, number: int) -> int:
        return fm.append(np.full((number % 5 + 1, 30), number), path, "zarr")

    path = str(tmp_path / "a")
    fm.save(np.zeros((0, 30), np.int32), path, "zarr", chunks=(4, 30), shards=(16, 30))
    starts = everywhere(nodes, append, [(fm, path, number) for number in range(24)])
    loaded = fm.load(path, "zarr")
    assert len(loaded) == sum(number % 5 + 1 for number in range(24))
    for number, start in enumerate(starts):
        assert (loaded[start : start + number % 5 + 1] == number).all()


def test_the_loss_of_a_host_among_writers_loses_nothing_of_others(
    nodes: Nodes, fm: FileManager, tmp_path: Path
) -> None:
    path = str(tmp_path / "a")
    fm.save(np.zeros(SHAPE, np.int32), path, "zarr", **LAYOUT)

    def kill_host(fm: FileManager, path: str, region: Any, values: Any) -> None:
        write(fm, path, region, values)
        namespace = next(
            actor["namespace"]
            for actor in ray.util.list_named_actors(all_namespaces=True)
            if f"/{fm.registry._store}/" in actor["namespace"]  # type: ignore[attr-defined]
        )
        here = ray.get_runtime_context().get_node_id()
        ray.kill(named_hosts(namespace)["zarr", here])

    def one_kills(number: int, *arguments: Any) -> None:
        (kill_host if number == TASKS // 2 else write)(*arguments)

    everywhere(
        nodes,
        one_kills,
        [(i, fm, path, region, TRUTH[region]) for i, region in enumerate(overlapping(0))],
    )
    np.testing.assert_array_equal(fm.load(path, "zarr"), TRUTH)
