"""More than fits: budgets, limits, spilling, and a disk that is full."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray

from polystore import StorageError, StorageFullError
from polystore_ray import RayBackendRegistry

MIB = 2**20
CAPACITY = 120 * MIB


def start(**options: Any) -> None:
    ray.shutdown()
    ray.init(
        address="local",
        num_cpus=2,
        object_store_memory=CAPACITY,
        include_dashboard=False,
        log_to_driver=False,
        **options,
    )


@pytest.fixture(scope="module")
def small_ray() -> Iterator[None]:
    start()
    yield
    ray.shutdown()


@pytest.fixture
def registry(small_ray: None) -> Iterator[RayBackendRegistry]:
    registry = RayBackendRegistry("capacity")
    yield registry
    registry.shutdown()


def value(number: int, mib: int = 10) -> Any:
    return np.random.default_rng(number).integers(0, 255, mib * MIB, dtype=np.uint8)


def save_others(registry: RayBackendRegistry, numbers: list[int]) -> None:
    for number in numbers:
        registry["memory"].save(value(number), f"/{number}", parents=True)


def test_three_times_the_capacity_is_kept_and_read_back(registry: RayBackendRegistry) -> None:
    memory = registry["memory"]
    count = 3 * CAPACITY // (10 * MIB)
    for first in range(0, count, 6):
        for number in range(first, first + 3):
            memory.save(value(number), f"/{number}")
        others = list(range(first + 3, first + 6))
        ray.get(ray.remote(num_cpus=0, max_calls=1)(save_others).remote(registry, others))
    [node] = registry.status().nodes
    assert node.capacity == CAPACITY
    assert node.pinned_bytes <= 0.8 * CAPACITY
    assert node.adopted_bytes + node.pinned_bytes >= 3 * CAPACITY - 10 * MIB
    assert node.spilled_bytes
    for number in range(count):
        np.testing.assert_array_equal(memory.load(f"/{number}"), value(number))
    memory.delete_all("/0")


def test_small_values_beyond_what_the_controller_holds_are_packed(
    registry: RayBackendRegistry,
) -> None:
    memory = registry["memory"]
    for number in range(8):
        memory.save_batch([b"x" * 60_000], [f"/{number}"])
    assert registry.status().objects == 0
    # The limit is far above what a test can fill: it is lowered in the running controller.
    connection = registry._connect()

    def lower(controller: Any) -> None:
        controller._controller.state.ledger._inline_most = 200_000

    ray.get(connection.handles.controller.__ray_call__.remote(lower))
    for number in range(8, 40):
        memory.save(bytes([number]) * 60_000, f"/{number}")
    deadline = time.monotonic() + 20
    while registry.status().inline_bytes > 200_000 and time.monotonic() < deadline:
        time.sleep(0.1)
    status = registry.status()
    assert status.inline_bytes <= 200_000
    assert status.objects > 0
    for number in range(8, 40):
        assert memory.load(f"/{number}") == bytes([number]) * 60_000
    assert memory.load("/3") == b"x" * 60_000


def test_a_save_beyond_max_bytes_is_refused_before_its_bytes_move(small_ray: None) -> None:
    registry = RayBackendRegistry("limited", max_bytes=25 * MIB)
    memory = registry["memory"]
    memory.save(value(1), "/1")
    memory.save(value(2), "/2")
    with pytest.raises(StorageFullError, match=f"of at most {25 * MIB} bytes"):
        memory.save(value(3), "/3")
    memory.save(value(3, 14), "/2", overwrite=True)
    memory.delete("/1")
    memory.save(value(4), "/4")
    with pytest.raises(StorageError, match="max_bytes=26214400, not 5"):
        RayBackendRegistry("limited", max_bytes=5)["memory"].exists("/4")
    assert RayBackendRegistry("limited")["memory"].exists("/4")
    registry.shutdown()


def test_a_full_disk_is_an_error_and_loses_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    start(
        object_spilling_directory=str(tmp_path),
        _system_config={"local_fs_capacity_threshold": 0.0001},
    )
    registry = RayBackendRegistry("full", timeout=15)
    memory = registry["memory"]
    saved: list[int] = []

    def fill() -> None:
        for number in range(60):
            memory.save(value(number), f"/{number}")
            saved.append(number)

    with pytest.raises(StorageError) as caught:
        fill()
    assert "backend memory" in str(caught.value)
    assert len(saved) >= 3
    for number in saved:
        np.testing.assert_array_equal(memory.load(f"/{number}"), value(number))
    memory.save("small", "/small")
    for number in saved[2:]:
        memory.delete(f"/{number}")
    memory.save(value(99, 5), "/again")
    np.testing.assert_array_equal(memory.load("/again"), value(99, 5))
    registry.shutdown()
    ray.shutdown()
