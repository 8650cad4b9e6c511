"""Values that are made again, and stores that let values go, over the loss of processes."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray

from polystore_ray import DataEvictedError, Input, RayBackendRegistry, RecipeError
from polystore_ray.testing import faults
from tests.cluster.nodes import Nodes, eventually, kill

SIZE = 200_000  # bytes of a value
COUNT = 30


@pytest.fixture
def registry(nodes: Nodes) -> Iterator[RayBackendRegistry]:
    registry = RayBackendRegistry("recipes", lifetime="detached", replicas=2)
    yield registry
    registry.shutdown()


def made(number: int, log: str) -> Any:
    with (Path(log) / str(number)).open("a") as file:
        file.write("made\n")
    return np.full(SIZE, number, np.uint8)


def one_more(image: Any, log: str) -> Any:
    return made(int(image[0]) + 1, log)


def save_all(registry: RayBackendRegistry, log: str) -> int:
    memory = registry["memory"]
    for number in range(COUNT):
        image, recipe = np.full(SIZE, 2 * number, np.uint8), (made, (2 * number, log))
        memory.save(image, f"/{number}", replicas=1, recipe=recipe)
        more = one_more, (Input(f"/{number}"), log)
        memory.save(image + 1, f"/more{number}", replicas=1, recipe=more)
    return os.getpid()


def load_all(registry: RayBackendRegistry) -> list[int]:
    paths = [f"/more{number}" for number in range(COUNT)]
    return [int(image[-1]) for image in registry["memory"].load_batch(paths)]


def test_what_was_lost_with_a_node_is_made_again_once(
    nodes: Nodes, registry: RayBackendRegistry, tmp_path: Path
) -> None:
    late = nodes.add()
    kill(nodes.run(late, save_all, registry, str(tmp_path)))
    nodes.remove(late)
    assert eventually(lambda: registry.status().lost == 2 * COUNT)
    tasks = [nodes.start(node, load_all, registry) for node in (nodes.one, nodes.two)]
    wanted = [2 * number + 1 for number in range(COUNT)]
    assert load_all(registry) == wanted
    for task in tasks:
        assert ray.get(task, timeout=120) == wanted
    assert registry.status().lost == 0
    assert {file.name for file in tmp_path.iterdir()} == {str(n) for n in range(2 * COUNT)}
    assert {file.read_text() for file in tmp_path.iterdir()} == {"made\n"}


@pytest.fixture
def full(nodes: Nodes) -> Iterator[RayBackendRegistry]:
    """Return a store with room for three values."""
    registry = RayBackendRegistry("full", lifetime="detached", max_bytes=3 * SIZE, eviction="lru")
    yield registry
    registry.shutdown()


def evict_all(memory: Any) -> None:
    memory.save(np.zeros(3 * SIZE, np.uint8), "/large", evictable=True)
    memory.delete("/large")


def test_a_recipe_that_fails_in_a_task_says_why(full: RayBackendRegistry, tmp_path: Path) -> None:
    memory, missing = full["memory"], str(tmp_path / "missing")
    image = np.zeros(SIZE, np.uint8)
    memory.save(image, "/a", evictable=True, recipe=(made, (1, missing)))
    memory.save(image, "/b", evictable=True, recipe=(one_more, (Input("/a"), "")))
    evict_all(memory)
    with pytest.raises(RecipeError, match=r"FileNotFoundError.*'/a' <- '/b'") as error:
        memory.load("/b")
    assert error.value.chain == ("/a", "/b")
    assert "in made" in "".join(error.value.__notes__)


def test_whoever_waits_for_a_maker_that_ends_makes_the_value(
    full: RayBackendRegistry, tmp_path: Path
) -> None:
    memory = full["memory"]
    memory.save(made(1, str(tmp_path)), "/a", evictable=True, recipe=(made, (1, str(tmp_path))))
    evict_all(memory)
    [lacking] = memory._connect().ask("lacking", ["/a"])
    # As a process would that gets the turn, and ends.
    [recipe] = memory._connect().change("begin_making", [lacking[:2]], "somebody", 2.0)
    assert recipe is not None
    loading = threading.Thread(target=memory.load, args=("/a",))
    loading.start()
    assert int(memory.load("/a")[0]) == 1
    loading.join()
    assert (tmp_path / "1").read_text() == "made\nmade\n"


def test_a_store_evicts_over_the_loss_of_its_controller(nodes: Nodes) -> None:
    registry = RayBackendRegistry(
        "evicting", lifetime="detached", replicas=2, max_bytes=20 * SIZE, eviction="lru"
    )
    try:
        memory = registry["memory"]
        memory.save(b"kept", "/kept", evictable=True)
        memory.pin("/kept")
        assert eventually(lambda: registry.status().follower is not None)
        most = 0
        for number in range(60):
            memory.save(np.full(SIZE, number, np.uint8), f"/{number}", evictable=True)
            most = max(most, registry.status().bytes)
            if number == 30:
                victims = faults.Victims(registry._connect().store.namespace)
                faults.kill(faults.process_of(victims.controller()))
        assert most <= 20 * SIZE
        assert [int(memory.load(f"/{n}")[0]) for n in range(50, 60)] == [*range(50, 60)]
        assert memory.load("/kept") == b"kept"
        with pytest.raises(DataEvictedError):
            memory.load("/0")
        assert memory.stat("/0")["evicted"]
        held = [path for path in memory.list_files("/") if not memory.stat(path)["evicted"]]
        assert 10 <= len(held) <= 20
    finally:
        registry.shutdown()
