"""Watches of directories on disk and of zarr hierarchies."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import sys
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import watchfiles
import zarr

from polystore import (
    DiskBackend,
    Event,
    MemoryBackend,
    MissingDependencyError,
    PathNotDirectoryError,
    PathNotFoundError,
    StorageError,
    StorageResolutionError,
    UnsupportedOperationError,
    VFSTypeError,
    ZarrBackend,
)
from polystore.filesystem import watching
from polystore.filesystem.temporaries import temporary_name
from tests.cluster.nodes import eventually

LONG = 60.0  # seconds, in which a slow machine reports a change
END = "/~end.json"  # sorts after all other paths

Short = tuple[str, str]


@pytest.fixture(autouse=True)
def _short_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "_STEP", 10)
    monkeypatch.setattr(watching, "_WAIT", 20)


@pytest.fixture(params=[DiskBackend, ZarrBackend])
def backend(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    return request.param(tmp_path / "root")


@pytest.fixture
def disk(tmp_path: Path) -> DiskBackend:
    return DiskBackend(tmp_path / "root")


@pytest.fixture
def store(tmp_path: Path) -> ZarrBackend:
    return ZarrBackend(tmp_path / "root")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "root"


def short(events: Iterable[Event]) -> list[Short]:
    return [(event.kind, event.path) for event in events]


def told(backend: Any, events: Iterator[Event]) -> list[Event]:
    """Return the events until now."""
    backend.save(0, END, overwrite=True)
    found: list[Event] = []
    for event in events:
        if event.path == END:
            return found
        found.append(event)
    raise AssertionError(found)


def listeners() -> int:
    """Return how many threads of watches this process has."""
    count = 0
    for task in os.listdir("/proc/self/task"):
        with suppress(OSError):  # it has ended by now
            count += Path(f"/proc/self/task/{task}/comm").read_text().startswith("notify-rs")
    return count


# What happens


def test_a_save_is_one_event_and_tells_what_it_did(backend: Any) -> None:
    with backend.watch("/", timeout=LONG) as events:
        backend.save("1", "/counts.txt")
        created = next(events)
        backend.save("123", "/counts.txt", overwrite=True)
        replaced = next(events)
        backend.delete("/counts.txt")
        deleted = next(events)
        assert told(backend, events) == []
    assert created == Event("created", "/counts.txt", 1, size=1)
    assert replaced == Event("replaced", "/counts.txt", 2, size=3)
    assert deleted == Event("deleted", "/counts.txt", 3)


def test_a_watch_begins_with_the_call(backend: Any) -> None:
    backend.save(1, "/before.json")
    events = backend.watch("/", timeout=0)
    backend.save(1, "/a.json")
    assert short(events) == [("created", "/a.json")]


def test_paths_of_the_whole_tree_are_named_as_listings_name_them(backend: Any) -> None:
    backend.ensure_directory("/plate")
    events = backend.watch("/plate", timeout=0)
    backend.save(1, "/other.json")
    backend.save(1, "/plate/well/a.json", parents=True)
    assert [(event.kind, event.type, event.path) for event in events] == [
        ("created", "directory", "/plate/well"),
        ("created", "file", "/plate/well/a.json"),
    ]
    assert backend.list_files("/plate", recursive=True) == ["/plate/well/a.json"]


def test_a_watch_of_one_level_leaves_the_others_out(backend: Any) -> None:
    backend.ensure_directory("/well")
    with backend.watch("/", recursive=False, timeout=LONG) as events:
        backend.save(1, "/well/a.json")
        backend.save(1, "/new/b.json", parents=True)
        backend.save(1, "/c.json")
        assert sorted(short(told(backend, events))) == [("created", "/c.json"), ("created", "/new")]


def test_each_path_of_a_moved_tree_has_an_event(backend: Any, tmp_path: Path) -> None:
    backend.save(1, "/old/well/a.json", parents=True)
    events = backend.watch("/", timeout=0)
    backend.move("/old", "/new")
    assert short(events) == [
        *(("deleted", path) for path in ("/old/well/a.json", "/old/well", "/old")),
        *(("created", path) for path in ("/new", "/new/well", "/new/well/a.json")),
    ]


def test_files_in_many_new_directories_are_told_once(disk: DiskBackend) -> None:
    paths = [f"/{plate}/{well}/{field}.json" for plate in "ab" for well in "abc" for field in "abc"]
    with disk.watch("/", timeout=LONG) as events:
        for path in paths:
            disk.save(1, path, parents=True)
        files = [event for event in told(disk, events) if event.type == "file"]
    assert sorted(short(files)) == [("created", path) for path in paths]


def test_the_numbers_of_events_increase_one_by_one(disk: DiskBackend) -> None:
    with disk.watch("/", timeout=LONG) as events:
        disk.save(1, "/a/b/c.json", parents=True)
        disk.delete_all("/a")
        found = [event.number for event in told(disk, events)]
    assert found == [*range(1, len(found) + 1)]


def test_a_file_in_the_place_of_a_directory_is_created(backend: Any) -> None:
    backend.save(1, "/a.json/b.json", parents=True)
    events = backend.watch("/", timeout=0)
    backend.delete_all("/a.json")
    backend.save(1, "/a.json")
    assert [(event.kind, event.type, event.path) for event in events] == [
        ("deleted", "file", "/a.json/b.json"),
        ("deleted", "directory", "/a.json"),
        ("created", "file", "/a.json"),
    ]


def test_temporaries_have_no_events(backend: Any, root: Path) -> None:
    with backend.watch("/", timeout=LONG) as events:
        for name in (temporary_name(), f"{temporary_name()}/new"):
            (root / name).parent.mkdir(exist_ok=True)
            (root / name).write_bytes(b"1")
        assert told(backend, events) == []


def test_new_modes_and_pipes_are_no_events(disk: DiskBackend, root: Path) -> None:
    disk.save(1, "/a.json")
    with disk.watch("/", timeout=LONG) as events:
        (root / "a.json").chmod(0o600)
        os.mkfifo(root / "pipe")
        assert told(disk, events) == []


def test_a_name_that_is_not_text_does_not_end_a_watch(disk: DiskBackend, root: Path) -> None:
    with disk.watch("/", timeout=LONG) as events:
        (root / os.fsdecode(b"\xff.json")).write_bytes(b"1")
        assert short([next(events)]) == [("created", "/\udcff.json")]
        disk.save(1, "/a.json")
        assert short([next(events)]) == [("created", "/a.json")]


def test_paths_without_a_root_are_as_they_were_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    disk = DiskBackend()
    disk.ensure_directory("data")
    disk.create_symlink("data", "link")
    plain, linked, here = (disk.watch(path, timeout=0) for path in ("data/", "link", "."))
    disk.save(1, "data/a.json")
    assert short(plain) == [("created", "data/a.json")]
    assert short(linked) == [("created", "link/a.json")]
    assert short(here) == [("created", "./data/a.json")]


@pytest.mark.parametrize("seed", range(2))
def test_the_events_of_writers_that_race_add_up_to_the_tree(backend: Any, seed: int) -> None:
    def work(number: int) -> None:
        chance = random.Random(f"{seed} {number}")
        for _ in range(60):
            directory = chance.choice(["", "/a", "/a/b", "/c"])
            path = f"{directory}/{chance.choice('xyz')}.npy"
            with suppress(StorageError):  # another one was faster
                match chance.randrange(5):
                    case 0 | 1:
                        backend.save(np.arange(3), path, parents=True, overwrite=True)
                    case 2:
                        backend.delete(path)
                    case 3:
                        backend.move(path, f"/{chance.choice('xyz')}.npy")
                    case 4 if directory:
                        backend.move(directory, f"/{chance.choice('cde')}")

    with backend.watch("/", timeout=LONG) as events:
        with ThreadPoolExecutor(4) as threads:
            list(threads.map(work, range(4)))
        tree: dict[str, str] = {}
        for event in told(backend, events):
            if event.kind == "created":
                assert event.path not in tree
                tree[event.path] = event.type
            else:
                assert tree[event.path] == event.type
            if event.kind == "deleted":
                del tree[event.path]
    directories, files, _ = backend.walk("/")
    expected = dict.fromkeys(files, "file") | dict.fromkeys(directories, "directory")
    del expected["/"], expected[END]
    assert tree == expected


# Arrays


def test_an_array_is_one_value(store: ZarrBackend) -> None:
    values = np.arange(10_000).reshape(100, 100)
    store.ensure_directory("/plate")
    with store.watch("/", timeout=LONG) as events:
        store.save(values, "/plate/image", chunks=(10, 10))
        assert short(told(store, events)) == [("created", "/plate/image")]
        store.save(values + 1, "/plate/image", overwrite=True)
        assert short(told(store, events)) == [("replaced", "/plate/image")]
        store.delete("/plate/image")
        assert [each[:4] for each in told(store, events)] == [
            ("deleted", "/plate/image", 5, "file")
        ]


@pytest.mark.parametrize("recursive", [True, False])
def test_a_change_of_a_part_of_an_array_is_about_the_array(
    store: ZarrBackend, recursive: bool
) -> None:
    store.save(np.zeros((40, 40)), "/image", chunks=(10, 10))
    with store.watch("/", recursive=recursive, timeout=LONG) as events:
        # A machine that is slow enough looks in the midst of it.
        store.save(np.ones((20, 20)), "/image", region=(slice(20), slice(20)))
        assert set(short(told(store, events))) == {("replaced", "/image")}
        store.append(np.ones((20, 40)), "/image")
        assert set(short(told(store, events))) == {("replaced", "/image")}
        store.resize("/image", (10, 10))
        assert set(short(told(store, events))) == {("replaced", "/image")}


def test_an_array_that_has_been_replaced_is_watched_on(store: ZarrBackend) -> None:
    store.save(np.zeros((4, 4)), "/image", chunks=(2, 2))
    with store.watch("/", timeout=LONG) as events:
        for number in range(5):
            store.save(np.zeros((4, 4)), "/image", overwrite=True)
            assert short([next(events)]) == [("replaced", "/image")]
            store.save(np.full((2, 2), number + 1), "/image", region=(slice(2), slice(2)))
            assert short([next(events)]) == [("replaced", "/image")]


def test_metadata_of_groups_have_no_events(store: ZarrBackend, root: Path) -> None:
    store.save(np.zeros(2), "/plate/image", parents=True)
    with pytest.warns(zarr.errors.ZarrUserWarning):
        zarr.consolidate_metadata(root)
    with store.watch("/", timeout=LONG) as events:
        store.save(np.zeros(3), "/plate/labels")  # takes the consolidated metadata away
        assert short(told(store, events)) == [("created", "/plate/labels")]


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_an_array_of_another_program_becomes_a_value(
    store: ZarrBackend, root: Path, zarr_format: Any
) -> None:
    with store.watch("/", timeout=LONG) as events:
        zarr.create_array(root / "image", shape=(4,), dtype="i4", zarr_format=zarr_format)
        last = [event for event in told(store, events) if event.kind == "created"][-1]
    assert (last.path, last.type) == ("/image", "file")


def test_an_array_that_becomes_a_group_is_a_directory(store: ZarrBackend, root: Path) -> None:
    store.save(np.zeros(2), "/node")
    group = root / "group.json"
    group.write_text('{"zarr_format": 3, "node_type": "group", "attributes": {}}')
    with store.watch("/", timeout=LONG) as events:
        group.rename(root / "node/zarr.json")
        found = [(event.kind, event.path, event.type) for event in told(store, events)]
    assert ("deleted", "/node", "file") in found
    assert ("created", "/node", "directory") in found


# Roots and links


def test_nothing_outside_a_root_is_told(backend: Any, root: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    (outside / "in").mkdir(parents=True)
    (root / "before").symlink_to(outside)
    with backend.watch("/", timeout=LONG) as events:
        (root / "after").symlink_to(outside)
        assert next(events)[:4] == ("created", "/after", 1, "symlink")
        (outside / "in/a.json").write_text("1")
        (outside / "b.json").write_text("1")
        assert told(backend, events) == []
        (root / "before").unlink()
        assert short(told(backend, events)) == [("deleted", "/before")]


def test_a_link_to_a_directory_is_not_followed(backend: Any) -> None:
    backend.ensure_directory("/plate")
    backend.create_symlink("/plate", "/link")
    with backend.watch("/", timeout=LONG) as events:
        backend.save(1, "/link/a.json")
        assert short(told(backend, events)) == [("created", "/plate/a.json")]
        backend.save(1, "/b.json")
        backend.create_symlink("/b.json", "/to_b")
        backend.create_symlink("/plate/a.json", "/to_b", overwrite=True)
        assert [event.type for event in told(backend, events)][-1] == "symlink"


@pytest.mark.parametrize("path", ["/../outside", "/link"])
def test_no_watch_leaves_a_root(backend: Any, root: Path, tmp_path: Path, path: str) -> None:
    (tmp_path / "outside").mkdir()
    (root / "link").symlink_to(tmp_path / "outside")
    with pytest.raises(StorageResolutionError):
        backend.watch(path)


# The end


def test_a_watch_ends_after_its_timeout_with_all_that_was_done(
    disk: DiskBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watchfiles, "watch", silent)
    events = disk.watch("/", timeout=0)
    for name in "abc":
        disk.save(1, f"/{name}.json")
    assert short(events) == [("created", f"/{name}.json") for name in "abc"]
    assert list(events) == []
    assert list(disk.watch("/", timeout=0.1)) == []


def silent(*_: object, **__: object) -> Iterator[set[Any]]:
    """What a system reports that loses all."""
    while True:
        yield set()


def test_what_the_system_does_not_report_is_found(
    disk: DiskBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watchfiles, "watch", silent)
    monkeypatch.setattr(watching, "_COMPARED_EVERY", 0.0)
    with disk.watch("/") as events:
        disk.save(1, "/a.json")
        assert short([next(events)]) == [("created", "/a.json")]
        disk.save(2, "/a.json", overwrite=True)
        assert short([next(events)]) == [("replaced", "/a.json")]


def test_polling_can_take_the_place_of_reports(
    disk: DiskBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WATCHFILES_FORCE_POLLING", "1")
    with disk.watch("/", timeout=LONG) as events:
        disk.save(1, "/a.json")
        assert short([next(events)]) == [("created", "/a.json")]


@pytest.mark.parametrize("replaced", [False, True])
def test_a_watch_of_a_directory_that_goes_away_tells_of_it_and_raises(
    backend: Any, root: Path, replaced: bool
) -> None:
    backend.save(1, "/plate/a.json", parents=True)
    with backend.watch("/plate", timeout=LONG) as events:
        (root / "plate").rename(root / "old")
        if replaced:
            shutil.copytree(root / "old", root / "plate")
        assert short([next(events), next(events)]) == [
            ("deleted", "/plate/a.json"),
            ("deleted", "/plate"),
        ]
        with pytest.raises(PathNotFoundError, match="watch the path again") as raised:
            next(events)
    assert (raised.value.path, raised.value.backend) == ("/plate", backend._backend_type)
    assert list(events) == []


def test_a_missing_directory_is_not_watched(backend: Any) -> None:
    backend.save(1, "/a.json")
    with pytest.raises(PathNotFoundError):
        backend.watch("/missing")
    with pytest.raises(PathNotDirectoryError):
        backend.watch("/a.json")


def test_an_array_is_not_watched_alone(store: ZarrBackend) -> None:
    store.save(np.zeros(2), "/image")
    with pytest.raises(PathNotDirectoryError):
        store.watch("/image")


def test_the_listening_thread_ends_with_the_watch(disk: DiskBackend) -> None:
    events = disk.watch("/", timeout=LONG)
    assert eventually(lambda: listeners() == 1)
    events.close()
    assert list(events) == []
    list(disk.watch("/", timeout=0))
    disk.watch("/")  # nobody keeps it
    assert eventually(lambda: listeners() == 0)


@pytest.mark.parametrize("timeout", [-1, "1", float("nan")])
def test_a_timeout_is_a_number_of_seconds(disk: DiskBackend, timeout: Any) -> None:
    with pytest.raises(VFSTypeError, match="timeout"):
        disk.watch("/", timeout=timeout)


@pytest.mark.parametrize(
    "error",
    [
        OSError("OS file watch limit reached."),
        RuntimeError("Error creating recommended watcher: Too many open files (os error 24)"),
    ],
)
def test_a_system_at_its_limits_says_what_to_do(
    disk: DiskBackend, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def full(*_: object, **__: object) -> Iterator[Any]:
        raise error
        yield

    monkeypatch.setattr(watchfiles, "watch", full)
    with pytest.raises(StorageResolutionError, match=r"fs\.inotify\.max_user_watches"):
        disk.watch("/")


# Asynchronously


def test_a_coroutine_watches_until_it_is_cancelled(disk: DiskBackend) -> None:
    async def run() -> Short:
        events = disk.awatch("/")
        first = asyncio.ensure_future(anext(events))
        while not first.done():  # the watch begins some time after the call
            await disk.asave(1, "/a.json", overwrite=True)
            await asyncio.wait([first], timeout=0.2)
        kind, path, *_ = await first
        second = asyncio.ensure_future(anext(events))
        await asyncio.sleep(0)
        second.cancel()
        with pytest.raises(asyncio.CancelledError):
            await second
        return kind, path

    assert asyncio.run(run())[1] == "/a.json"
    assert eventually(lambda: listeners() == 0)


def test_a_coroutine_that_is_told_the_end_goes_on(disk: DiskBackend) -> None:
    async def run() -> list[Event]:
        return [event async for event in disk.awatch("/", timeout=0)]

    assert asyncio.run(run()) == []


# Where there are none


def test_a_missing_package_is_named_with_its_extra(
    disk: DiskBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "watchfiles", None)
    monkeypatch.delitem(sys.modules, "polystore.filesystem.watching")
    with pytest.raises(MissingDependencyError, match=r"pip install '\.\[watch\]'"):
        disk.watch("/")


def test_object_stores_and_memory_are_not_watched() -> None:
    with pytest.raises(UnsupportedOperationError, match="list the directory again"):
        ZarrBackend("memory://watched").watch("/")
    with pytest.raises(UnsupportedOperationError, match="list the directory again"):
        MemoryBackend().watch("/")
