"""The check for leaks, which every test on Ray runs, finds each kind of leak and is cheap."""

from __future__ import annotations

import gc
import threading
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import ray

from polystore import PathExistsError
from polystore_ray import RayBackendRegistry
from tests.cluster.leaks import Resources
from tests.cluster.nodes import MIB, eventually

pytestmark = pytest.mark.usefixtures("ray_cluster")


def kinds(found: list[str]) -> set[str]:
    return {leak.partition(":")[0] for leak in found}


def test_a_thread_that_goes_on_is_found() -> None:
    before, end = Resources.now(), threading.Event()
    thread = threading.Thread(target=end.wait, name="left-over")
    thread.start()
    assert before.leaked(0.2) == ["threads: left-over (1)"]
    end.set()
    assert before.leaked() == []


def test_an_open_file_is_found(tmp_path: Path) -> None:
    before = Resources.now()
    with (tmp_path / "a").open("w"):
        assert before.leaked(0.2) == [f"files: {tmp_path / 'a'} (1)"]
    assert before.leaked() == []


def test_a_store_that_is_not_ended_is_found() -> None:
    before = Resources.now()
    registry = RayBackendRegistry("left-over", lifetime="detached")
    registry["memory"].save(np.zeros(100_000), "/a")
    assert "actors" in kinds(before.leaked(0.2))
    registry.shutdown()
    assert before.leaked() == []


def test_a_reference_that_is_kept_is_found() -> None:
    before = Resources.now()
    kept = [ray.put(1), ray.put(2)]
    assert before.leaked(0.2) == ["objects: references (2)"]
    kept.clear()
    assert before.leaked() == []


def test_a_check_takes_less_than_50_ms() -> None:
    times = []
    for _ in range(10):
        start = time.perf_counter()
        assert Resources.now().leaked() == []
        times.append(time.perf_counter() - start)
    assert min(times) < 0.05


@ray.remote(num_cpus=0)
class Saver:
    """A process in which Python looks for no cycles, as in one that has nothing to do."""

    def __init__(self) -> None:
        gc.disable()

    def save(self, registry: RayBackendRegistry) -> None:
        for number in range(5):
            with suppress(PathExistsError):
                registry["memory"].save(np.full(MIB, number), "/once")


def used() -> float:
    there: float = ray.cluster_resources()["object_store_memory"]
    free: float = ray.available_resources()["object_store_memory"]
    return there - free


def test_a_save_that_fails_leaves_no_object() -> None:
    registry = RayBackendRegistry("failing", lifetime="detached")
    registry["memory"].ensure_directory("/")
    assert eventually(lambda: used() < MIB)
    saver = Saver.remote()  # type: ignore[attr-defined]
    ray.get(saver.save.remote(registry))
    assert eventually(lambda: used() < 2 * 8 * MIB)  # one of them is saved
    del saver
    registry.shutdown()
