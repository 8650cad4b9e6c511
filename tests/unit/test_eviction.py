"""Eviction: what a full store lets go of, in which order, and what it keeps."""

from __future__ import annotations

from itertools import count
from typing import Any

import numpy as np
import pytest

from polystore.exceptions import StorageFullError, VFSTypeError
from polystore_ray import DataEvictedError, DataLostError, RayBackendRegistry
from polystore_ray.client.memory import ClusterMemoryBackend
from polystore_ray.transport import leased_reads

SIZE = 100_000  # bytes of a value
ROOM = 4  # values

_stores = count()


def value(number: int) -> Any:
    return np.full(SIZE, number, dtype=np.uint8)


def registry(**options: Any) -> RayBackendRegistry:
    given = {"max_bytes": ROOM * SIZE, "eviction": "lru"} | options
    return RayBackendRegistry(f"evicting{next(_stores)}", local=True, **given)  # type: ignore[arg-type]


@pytest.fixture
def memory() -> ClusterMemoryBackend:
    made: ClusterMemoryBackend = registry()["memory"]
    return made


def fill(memory: ClusterMemoryBackend, numbers: range, **options: Any) -> None:
    for number in numbers:
        memory.save(value(number), f"/{number}", **({"evictable": True} | options))


def evicted(memory: ClusterMemoryBackend) -> list[int]:
    paths = [path for path in memory.list_files("/") if memory.stat(path).get("evicted")]
    return sorted(int(path[1:]) for path in paths)


def test_the_value_used_longest_ago_makes_room(memory: ClusterMemoryBackend) -> None:
    fill(memory, range(ROOM))
    memory.load("/0")
    fill(memory, range(ROOM, ROOM + 2))
    assert evicted(memory) == [1, 2]
    with pytest.raises(DataEvictedError, match=r"used longest ago.*max_bytes.*'/1'"):
        memory.load("/1")
    assert memory.load("/0")[0] == 0


def test_an_evicted_value_is_still_at_its_path(memory: ClusterMemoryBackend) -> None:
    fill(memory, range(ROOM + 1))
    assert memory.exists("/0")
    assert memory.stat("/0")["size"] == SIZE
    assert memory.lost() == []
    memory.save(value(9), "/0", overwrite=True)
    assert memory.load("/0")[0] == 9


def test_only_what_may_be_evicted_is(memory: ClusterMemoryBackend) -> None:
    fill(memory, range(2), evictable=False)
    fill(memory, range(2, ROOM + 1))
    assert evicted(memory) == [2]
    with pytest.raises(StorageFullError, match="evictable=True"):
        memory.save(np.zeros(3 * SIZE, dtype=np.uint8), "/large")
    assert evicted(memory) == [2]


def test_a_save_that_fails_evicts_nothing(memory: ClusterMemoryBackend) -> None:
    fill(memory, range(ROOM))
    for path in ("/0", "/missing/x"):
        with pytest.raises(OSError, match=path):
            memory.save(value(9), path)
    assert evicted(memory) == []


def test_what_is_replaced_makes_room_first(memory: ClusterMemoryBackend) -> None:
    fill(memory, range(ROOM))
    memory.save(value(9), "/3", overwrite=True, evictable=True)
    assert evicted(memory) == []


def test_what_is_replaced_at_one_of_its_paths_makes_room_as_others_do(
    memory: ClusterMemoryBackend,
) -> None:
    memory.save(np.zeros(3 * SIZE, np.uint8), "/0", evictable=True)
    memory.copy("/0", "/1")
    memory.save(np.ones(2 * SIZE, np.uint8), "/0", overwrite=True)
    assert evicted(memory) == [1]
    assert memory.load("/0")[0] == 1
    assert memory._connect().status().bytes == 2 * SIZE


def test_a_pinned_value_stays(memory: ClusterMemoryBackend) -> None:
    fill(memory, range(ROOM))
    memory.pin("/0")
    memory.copy("/0", "/copy")
    assert memory.stat("/copy")["pinned"]
    fill(memory, range(ROOM, ROOM + 2))
    assert memory.load("/0")[0] == 0
    memory.unpin("/0")
    memory.delete("/copy")
    fill(memory, range(ROOM + 2, 2 * ROOM + 2))
    assert 0 in evicted(memory)
    with pytest.raises(DataEvictedError):
        memory.pin("/0")


def test_small_values_are_evicted_as_well() -> None:
    memory = registry(max_bytes=1000)["memory"]
    for number in range(20):
        memory.save(bytes(100), f"/{number}", evictable=True)
    held = [path for path in memory.list_files("/") if not memory.stat(path)["evicted"]]
    assert 3 < len(held) < 10
    assert memory.load(held[0]) == bytes(100)


def test_a_batch_makes_room_for_all_of_it(memory: ClusterMemoryBackend) -> None:
    fill(memory, range(ROOM))
    memory.save_batch([value(8), value(9)], ["/8", "/9"], evictable=True)
    assert evicted(memory) == [0, 1]
    memory.save_batch([value(7)] * ROOM, [f"/b{i}" for i in range(ROOM)], evictable=True)
    assert evicted(memory) == [0, 1, 2, 3, 8, 9]


def evicted_without_digits(memory: ClusterMemoryBackend) -> int:
    return sum(bool(memory.stat(path).get("evicted")) for path in memory.list_files("/"))


def test_the_bytes_are_counted_once(memory: ClusterMemoryBackend) -> None:
    fill(memory, range(ROOM + 2))
    memory.copy("/0", "/copy")
    for path in memory.list_files("/"):
        memory.delete(path)
    registry_of = memory._connect().status()
    assert registry_of.bytes == 0
    assert registry_of.evictions == 2
    fill(memory, range(ROOM))
    assert evicted(memory) == []


def test_what_a_reader_holds_stays_as_it_is(memory: ClusterMemoryBackend) -> None:
    fill(memory, range(ROOM))
    held = memory.load("/0")
    fill(memory, range(ROOM, 2 * ROOM))
    assert (held == 0).all()


def test_what_is_read_without_a_call_counts_as_used(
    memory: ClusterMemoryBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leased_reads, "_EVICTABLE_FOR", 0.0)
    fill(memory, range(ROOM))
    for _ in range(3):
        memory.load("/0")
    fill(memory, range(ROOM, ROOM + 1))
    for _ in range(3):
        memory.load("/0")
    fill(memory, range(ROOM + 1, ROOM + 4))
    assert evicted(memory) == [1, 2, 3, 4]


def test_nobody_reads_what_was_evicted_from_what_is_kept(memory: ClusterMemoryBackend) -> None:
    fill(memory, range(ROOM))
    for _ in range(3):
        memory.load("/0")
        assert not memory.stat("/0")["evicted"]
    fill(memory, range(ROOM, 2 * ROOM))
    assert memory.stat("/0")["evicted"]
    with pytest.raises(DataLostError):
        memory.load("/0")


def test_an_evicted_value_comes_back_from_its_fallback(tmp_path: Any) -> None:
    memory = registry()["memory"]
    np.save(tmp_path / "0.npy", value(0))
    memory.save(value(0), "/0", evictable=True, fallback=("disk", tmp_path / "0.npy"), ttl=3600)
    before = memory.stat("/0")
    memory.copy("/0", "/copy")
    fill(memory, range(1, ROOM + 1))
    assert evicted_without_digits(memory) == 2
    assert memory.load("/copy")[0] == 0
    assert not memory.stat("/0")["evicted"]
    kept = ("version", "modified", "expires", "size", "shape", "dtype", "evictable")
    assert {key: memory.stat("/0")[key] for key in kept} == {key: before[key] for key in kept}
    fill(memory, range(ROOM + 1, 2 * ROOM + 2))
    assert memory.stat("/0")["evicted"]
    memory.pin("/0")
    assert memory.load("/0")[0] == 0


def test_a_changed_part_is_not_evicted_unless_said(memory: ClusterMemoryBackend) -> None:
    fill(memory, range(ROOM))
    memory.save(np.uint8(7), "/0", region=0)
    fill(memory, range(ROOM, 2 * ROOM))
    assert memory.load("/0")[0] == 7


def test_eviction_needs_a_limit() -> None:
    with pytest.raises(VFSTypeError, match="max_bytes"):
        registry(max_bytes=None)
    with pytest.raises(VFSTypeError, match="lru"):
        registry(eviction="lfu")


def test_without_eviction_a_full_store_refuses() -> None:
    memory = registry(eviction=None)["memory"]
    fill(memory, range(ROOM))
    with pytest.raises(StorageFullError):
        fill(memory, range(ROOM, ROOM + 1))
    assert evicted(memory) == []
