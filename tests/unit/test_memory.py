"""Contract lines 15, 16, 18, 23 and 26: the memory backend, beside what the kit tests."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest

from polystore import BatchLengthError, MemoryBackend, PathNotFoundError, VFSTypeError


@pytest.fixture
def memory() -> MemoryBackend:
    return MemoryBackend()


def handle(name: str, module: str) -> Any:
    return type(name, (), {"__module__": module, "__reduce__": lambda self: (int, ())})()


@pytest.mark.parametrize("name", ["ObjectRef", "ObjectRefGenerator", "ActorHandle"])
def test_a_handle_of_ray_is_refused_wherever_it_hides(memory: MemoryBackend, name: str) -> None:
    ref = handle(name, "ray._raylet")
    memory.save(1, "/old")
    for value in (ref, [1, {"deep": (ref,)}], np.array([ref], dtype=object)):
        uses: list[Callable[[], None]] = [
            partial(memory.save, value, "/a"),
            partial(memory.save, value, "/old", overwrite=True),
            partial(memory.save_batch, [0, value], ["/b", "/a"]),
        ]
        for use in uses:
            with pytest.raises(VFSTypeError, match=rf"a Ray {name}.*'/(a|old)' \(backend memory\)"):
                use()
    assert memory.list_dir("/") == ["old"]
    assert memory.load("/old") == 1
    memory.save(handle(name, "another.module"), "/allowed")


def test_what_does_not_pickle_is_named_with_its_path(memory: MemoryBackend) -> None:
    for value in (threading.Lock(), [threading.Lock()], (i for i in range(3))):
        with pytest.raises(VFSTypeError, match=r"does not pickle.*'/a' \(backend memory\)"):
            memory.save(value, "/a")
    assert memory.list_dir("/") == []


def test_values_of_code_without_a_module_are_saved(memory: MemoryBackend) -> None:
    offset = 3
    memory.save(lambda x: x + offset, "/function")
    local = type("Local", (), {"value": 7})
    memory.save(local(), "/object")
    assert memory.load("/function")(4) == 7
    assert memory.load("/object").value == 7


def test_a_batch_is_seen_whole_or_not_at_all(memory: MemoryBackend) -> None:
    paths = [f"/d/{number}" for number in range(200)]
    memory.ensure_directory("/d")
    done = threading.Event()
    seen: set[int] = set()
    mixed: list[Any] = []

    def look() -> None:
        while not done.is_set():
            seen.add(len(memory.list_dir("/d")))
            try:
                if len(set(memory.load_batch(paths))) != 1:
                    mixed.append(1)
            except PathNotFoundError:
                pass

    lookers = [threading.Thread(target=look) for _ in range(3)]
    for looker in lookers:
        looker.start()
    try:
        for generation in range(40):
            memory.save_batch([generation] * 200, paths, overwrite=True)
    finally:
        done.set()
        for looker in lookers:
            looker.join()
    assert seen <= {0, 200}
    assert not mixed


def test_a_tree_moves_in_one_step(memory: MemoryBackend) -> None:
    memory.save_batch([1] * 50, [f"/a/{number}" for number in range(50)], parents=True)
    done = threading.Event()
    seen: set[int] = set()

    def look() -> None:
        while not done.is_set():
            files = memory.list_files("/", recursive=True)
            seen.add(len(files))
            seen.add(-len({file.split("/")[1] for file in files}))

    looker = threading.Thread(target=look)
    looker.start()
    try:
        for _ in range(200):
            memory.move("/a", "/b")
            memory.move("/b", "/a")
    finally:
        done.set()
        looker.join()
    assert seen == {50, -1}


def test_the_lengths_of_a_batch_are_compared_first(memory: MemoryBackend) -> None:
    with pytest.raises(BatchLengthError, match="2 values for 1 paths") as caught:
        memory.save_batch([threading.Lock(), 1], ["/a"])
    assert isinstance(caught.value, ValueError)


def calls_of(function: Any) -> int:
    """Return how many calls of Python and C functions a function makes."""
    count = 0

    def counted(frame: Any, event: str, argument: Any) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(counted)
    try:
        function()
    finally:
        sys.setprofile(None)
    return count


def test_the_cost_of_a_listing_grows_with_what_it_lists(memory: MemoryBackend) -> None:
    memory.save_batch([0] * 10, [f"/small/{number}" for number in range(10)], parents=True)
    listings = (
        lambda: memory.list_dir("/small"),
        lambda: memory.list_files("/small", "*", {"1"}, recursive=True),
        lambda: memory.stat("/small/3"),
        lambda: memory.load("/small/3"),
    )
    for listing in listings:
        listing()  # what is compiled and cached once is not counted
    before = [calls_of(listing) for listing in listings]
    paths = [f"/large/{number % 100}/{number}" for number in range(20_000)]
    memory.save_batch([0] * len(paths), paths, parents=True)
    memory.save_batch([0] * 5000, [f"/{number}" for number in range(5000)])
    assert [calls_of(listing) for listing in listings] == before
    assert calls_of(lambda: memory.list_files("/large", recursive=True)) > 20_000


def test_each_save_has_a_newer_version_and_time(memory: MemoryBackend) -> None:
    facts = []
    for value in range(5):
        memory.save(value, "/a", overwrite=True)
        facts.append(memory.stat("/a"))
    versions = [each["version"] for each in facts]
    assert versions == sorted(set(versions))
    times = [each["modified"] for each in facts]
    assert times == sorted(times)


def test_a_closed_backend_has_forgotten_everything(memory: MemoryBackend) -> None:
    with memory:
        memory.save(1, "/a")
    assert memory.list_dir("/") == []


def test_clear_files_only_keeps_the_directories() -> None:
    memory = MemoryBackend()
    for path in ("/a", "/d/b", "/d/e/c"):
        memory.save(1, path, parents=True)
    memory.create_symlink("/d", "/link")
    memory.clear_files_only()
    assert memory.walk("/") == (["/", "/d", "/d/e"], [], [])
    memory.save(2, "/d/e/c")
    assert memory.load("/d/e/c") == 2
