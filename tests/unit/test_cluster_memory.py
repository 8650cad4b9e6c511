"""The cluster memory in local mode: what a change of a part leaves as it was, and when it ends."""

from __future__ import annotations

import pickle
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from polystore import StorageError
from polystore_ray import RayBackendRegistry
from polystore_ray.errors import CallTimeoutError

WRITERS, ROUNDS = 16, 50


@pytest.fixture
def registry() -> Iterator[RayBackendRegistry]:
    registry = RayBackendRegistry("parts", local=True)
    yield registry
    registry.shutdown()


def test_a_region_save_keeps_replicas_and_fallback(
    registry: RayBackendRegistry, tmp_path: Path
) -> None:
    memory = registry["memory"]
    registry["disk"].save(np.zeros(100_000), tmp_path / "a.npy")
    memory.save(np.zeros(100_000), "/a", replicas=3, fallback=("disk", tmp_path / "a.npy"))
    memory.save(1.0, "/a", region=slice(0, 10))
    facts = memory.why("/a")
    assert (facts["wanted"], facts["fallback"]) == (3, ("disk", str(tmp_path / "a.npy")))
    memory.save(2.0, "/a", region=slice(0, 10), replicas=2)
    assert memory.why("/a")["wanted"] == 2


def test_many_writers_of_disjoint_regions_all_get_their_turn(registry: RayBackendRegistry) -> None:
    memory = registry["memory"]
    memory.save(np.zeros((WRITERS, 1000), np.int64), "/a")
    failed: list[Exception] = []

    def write(row: int) -> None:
        try:
            for round_ in range(1, ROUNDS + 1):
                memory.save(round_, "/a", region=(row,))
        except Exception as error:  # noqa: BLE001 - a thread has nobody else to tell
            failed.append(error)

    writers = [threading.Thread(target=write, args=(row,)) for row in range(WRITERS)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert failed == []
    assert (memory.load("/a") == ROUNDS).all()


def test_a_region_save_that_others_always_precede_ends_in_time(
    registry: RayBackendRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    others, memory = (
        registry["memory"],
        RayBackendRegistry("parts", local=True, timeout=0.3)["memory"],
    )
    memory.save(np.zeros(100), "/a")
    load = memory._load

    def load_and_be_late(*arguments: Any) -> Any:
        found = load(*arguments)
        others.save(np.ones(100), "/a", overwrite=True)
        return found

    monkeypatch.setattr(memory, "_load", load_and_be_late)
    with pytest.raises(CallTimeoutError, match="nothing was saved"):
        memory.save(2.0, "/a", region=0)
    assert (others.load("/a") == 1).all()


def test_the_bytes_of_a_value_that_a_link_replaces_are_released(
    registry: RayBackendRegistry,
) -> None:
    memory = registry["memory"]
    memory.save_batch([np.zeros(100_000), np.ones(100_000)], ["/a", "/b"])
    memory.create_symlink("/a", "/b", overwrite=True)
    status = registry.status()
    assert (status.files, status.bytes, status.nodes[0].pinned) == (1, 800_000, 1)
    assert memory.load("/b").sum() == 0


def test_an_error_of_the_memory_names_the_store_and_its_lifetime(
    registry: RayBackendRegistry,
) -> None:
    memory = registry["memory"]
    memory.save(1, "/a")
    calls: list[Callable[[], Any]] = [
        lambda: memory.load("/none"),
        lambda: memory.save(1, "/a"),
        lambda: memory.save_batch([1], ["/a"]),
        lambda: memory.delete("/none"),
        lambda: memory.list_dir("/none"),
        lambda: memory.refs(["/none"]),
        lambda: memory.locations(["/none"]),
        lambda: memory.why("/none"),
        lambda: memory.lost("/none"),
        lambda: memory.map(len, ["/none"]),
        lambda: memory.persist("/none", "disk", "/none.npy"),
        lambda: memory.save_versions([1], ["/a"], [9]),
        lambda: memory.save_ref(None, "/b"),
    ]
    for call in calls:
        with pytest.raises(StorageError, match=r"\(backend memory, store 'parts', local\)"):
            call()
    with pytest.raises(StorageError, match=r"\(backend disk\)"):
        registry["disk"].load("/none.npy")


def test_a_memory_that_was_read_can_be_passed_to_a_task(registry: RayBackendRegistry) -> None:
    memory = registry["memory"]
    memory.save(np.zeros(100_000), "/a")
    memory.load("/a")
    assert pickle.loads(pickle.dumps(memory)).load("/a").sum() == 0


def test_a_reader_sees_that_a_link_replaced_a_file(registry: RayBackendRegistry) -> None:
    memory = registry["memory"]
    for one, two in ((np.zeros(100_000), np.ones(100_000)), (0, 1)):
        memory.save_batch([one, two], ["/a", "/b"], overwrite=True)
        for _ in range(3):  # the answers are kept
            assert np.max(memory.load("/a")) == 0
            assert memory.stat("/a")["type"] == "file"
        memory.create_symlink("/b", "/a", overwrite=True)
        assert np.max(memory.load("/a")) == 1
        assert memory.stat("/a")["type"] == "symlink"
        memory.delete("/a")


def test_threads_that_change_packs_do_not_meet_in_their_upkeep(
    registry: RayBackendRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = registry["memory"]
    paths = [f"/{number}" for number in range(4)]
    memory.save_batch([np.full(80_000, n, np.uint8) for n in range(4)], paths, bundled=100_000)
    volume = registry._connect()._volume
    adopt = volume.adopt

    def adopt_too_late(*arguments: Any) -> Any:
        monkeypatch.setattr(volume, "adopt", adopt)
        memory.delete_all("/3")  # as another thread would, in between
        return adopt(*arguments)

    for path in paths[:2]:
        memory.delete(path)
    monkeypatch.setattr(volume, "adopt", adopt_too_late)
    memory.delete(paths[2])
    assert (memory.list_files("/"), registry.status().objects) == ([], 0)
