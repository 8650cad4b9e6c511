"""Arrays that many change at once: regions, appends and resizes, by threads and by processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from s3_server import s3_server

from polystore import (
    CorruptDataError,
    DiskBackend,
    FileLockError,
    FileLockTimeoutError,
    FileManager,
    MemoryBackend,
    PathNotFoundError,
    UnsupportedFormatError,
    UnsupportedOperationError,
    VFSTypeError,
    ZarrBackend,
)
from polystore.filesystem import locks
from polystore.filesystem.dir_fd import Handle
from polystore.zarr.array import locks as zarr_locks
from polystore.zarr.array import updating as zarr_writing
from polystore.zarr.array.locks import lock_of
from polystore.zarr.local.rooted_store import KeyFiles
from polystore.zarr.local.shared_array import LocalLocks

SHAPE = (61, 47)
LAYOUTS: list[dict[str, Any]] = [
    {"chunks": (4, 4), "shards": (16, 12)},
    {"chunks": (13, 7)},
]
# What belongs at each place, so that the order of overlapping saves does not matter.
TRUTH = 1 + np.arange(SHAPE[0] * SHAPE[1], dtype=np.int32).reshape(SHAPE)


@pytest.fixture(params=["directory", "rooted", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ZarrBackend]:
    if request.param == "directory":
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(tmp_path)
            yield ZarrBackend()
    elif request.param == "rooted":
        yield ZarrBackend(tmp_path)
    else:
        yield ZarrBackend(f"memory://{uuid.uuid4().hex}")


def regions(seed: int, number: int) -> list[tuple[slice, ...]]:
    """Return overlapping regions that fit no shard, and together are the whole array."""
    random = np.random.default_rng(seed)
    bands = np.array_split(np.arange(SHAPE[0]), number)
    found: list[tuple[slice, ...]] = []
    for band in bands:
        top = max(0, int(band[0]) - int(random.integers(0, 9)))
        bottom = min(SHAPE[0], int(band[-1]) + int(random.integers(1, 9)))
        cut = int(random.integers(1, SHAPE[1]))
        found += [(slice(top, bottom), slice(0, cut)), (slice(top, bottom), slice(cut, None))]
    return found


def together(work: Iterable[Callable[[], Any]]) -> list[Any]:
    """Return the results of functions that are called at once."""
    calls = list(work)
    barrier = threading.Barrier(len(calls))

    def run(call: Callable[[], Any]) -> Any:
        barrier.wait()
        return call()

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(run, calls))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_overlapping_regions_of_threads_lose_nothing(
    store: ZarrBackend, layout: dict[str, Any]
) -> None:
    for round_ in range(2):
        store.save(np.zeros(SHAPE, np.int32), "a", overwrite=True, **layout)
        together(
            partial(store.save, TRUTH[region], "a", region=region) for region in regions(round_, 4)
        )
        np.testing.assert_array_equal(store.load("a"), TRUTH)


def test_elements_that_share_all_shards_are_not_lost(store: ZarrBackend) -> None:
    store.save(np.zeros(SHAPE, np.int32), "a", **LAYOUTS[0])
    parts = [(slice(start, None, 3), slice(None, None, -1)) for start in range(3)]
    together(partial(store.save, TRUTH[part], "a", region=part) for part in parts)
    np.testing.assert_array_equal(store.load("a"), TRUTH)


def test_writers_of_an_object_store_lose_nothing() -> None:
    server = s3_server()
    place = server.place()
    store = ZarrBackend(place, storage_options=server.options)
    store.save(np.zeros((0, 12), np.int32), "a", chunks=(4, 4), shards=(8, 12))
    parts = [slice(start, None, 3) for start in range(3)]
    starts = together(partial(store.append, np.full((3, 12), n), "a") for n in range(3))
    assert sorted(starts) == [0, 3, 6]
    together(partial(store.save, n, "a", region=(..., part)) for n, part in enumerate(parts))
    np.testing.assert_array_equal(store.load("a"), np.tile([0, 1, 2], (9, 4)))
    store.resize("a", (2, 5))
    store.resize("a", (4, 6))
    np.testing.assert_array_equal(store.load("a")[:2, :5], [[0, 1, 2, 0, 1]] * 2)
    assert np.count_nonzero(store.load("a")[2:]) == np.count_nonzero(store.load("a")[:, 5:]) == 0
    assert not [key for key in server.keys(place) if "polystore-tmp" in key]


def run(*codes: str) -> list[subprocess.Popen[str]]:
    """Start processes that run these codes."""
    head = "import os, signal, sys, time, numpy as np\nfrom polystore import *\n"
    return [
        subprocess.Popen([sys.executable, "-c", head + code], stdout=subprocess.PIPE, text=True)
        for code in codes
    ]


def test_regions_and_appends_of_processes_lose_nothing(tmp_path: Path) -> None:
    store = ZarrBackend(tmp_path)
    store.save(np.zeros((3, 40), np.int64), "/a", chunks=(5, 8), shards=(20, 40))
    code = (
        f"store = ZarrBackend({str(tmp_path)!r})\n"
        "for turn in range(8):\n"
        "    store.save({0}, '/a', region=(slice(0, 3), slice({0}, None, 4)))\n"
        "    print(store.append(np.full((turn % 3 + 1, 40), 100 * {0} + turn), '/a'))\n"
    )
    writers = run(*(code.format(number) for number in range(4)))
    places = [
        [int(line) for line in writer.communicate(timeout=120)[0].split()] for writer in writers
    ]
    loaded = store.load("/a")
    np.testing.assert_array_equal(loaded[:3], np.tile(np.arange(40) % 4, (3, 1)))
    expected = np.full(loaded.shape[0], -1)
    for number, starts in enumerate(places):
        for turn, start in enumerate(starts):
            assert (expected[start : start + turn % 3 + 1] == -1).all(), "two at one place"
            expected[start : start + turn % 3 + 1] = 100 * number + turn
    assert (loaded[3:] == expected[3:, None]).all()
    assert len(loaded) == 3 + 4 * sum(turn % 3 + 1 for turn in range(8))


def test_appends_of_threads_get_places_of_their_own(store: ZarrBackend) -> None:
    store.save(np.zeros((0, 5), np.int32), "a", chunks=(4, 5), shards=(8, 5))
    starts = together(
        partial(store.append, np.full((number, 5), number), "a") for number in range(1, 6)
    )
    loaded = store.load("a")
    assert loaded.shape == (15, 5)
    for number, start in enumerate(starts, 1):
        assert (loaded[start : start + number] == number).all()


def test_a_reader_sees_an_append_whole_or_not_at_all(store: ZarrBackend) -> None:
    store.save(np.ones((2, 6), np.int32), "a", chunks=(3, 2), shards=(6, 6))
    ended = threading.Event()

    def append() -> None:
        for _ in range(6):
            store.append(np.ones((4, 6)), "a")
        ended.set()

    thread = threading.Thread(target=append)
    thread.start()
    seen = set()
    while not ended.is_set():
        loaded = store.load("a")
        assert (loaded == 1).all()
        assert len(loaded) % 4 == 2
        seen.add(len(loaded))
    thread.join()
    assert len(store.load("a")) == 26
    assert len(seen) > 1


def test_an_append_on_any_axis_of_any_array(store: ZarrBackend, tmp_path: Path) -> None:
    expected = np.arange(6.0).reshape(2, 3)
    store.save(expected, "a", chunks=(2, 2), attributes={"unit": "um"})
    for axis, values in ((1, [[7], [8]]), (-2, np.ones((3, 4), np.uint8)), (0, np.ones((0, 4)))):
        assert store.append(values, "a", axis=axis) == expected.shape[axis]
        expected = np.append(expected, values, axis=axis)
        np.testing.assert_array_equal(store.load("a"), expected)
    array: Any = store.open("a")
    assert dict(array.attrs) == {"unit": "um"}
    assert array.chunks == (2, 2)


@pytest.mark.parametrize("chunks", [{"chunk_key_encoding": {"name": "v2", "separator": "/"}}, {}])
def test_an_array_of_another_program_grows_too(tmp_path: Path, chunks: dict[str, Any]) -> None:
    zarr.create_array(tmp_path / "a", data=np.ones((3, 3)), chunks=(2, 2), zarr_format=2, **chunks)
    store = ZarrBackend(tmp_path)
    assert store.append(np.full((2, 3), 5), "/a") == 3
    np.testing.assert_array_equal(
        zarr.open_array(tmp_path / "a")[...], [[1] * 3] * 3 + [[5] * 3] * 2
    )
    store.resize("/a", (1, 7))
    np.testing.assert_array_equal(store.load("/a"), [[1, 1, 1, 0, 0, 0, 0]])


def test_what_does_not_fit_is_not_appended(store: ZarrBackend) -> None:
    store.save(np.ones((2, 3)), "a")
    store.save({"no": "array"}, "b.json")
    for values in (np.ones(3), np.ones((2, 2)), np.ones((1, 2, 3)), 1, [["a", "b", "c"]]):
        with pytest.raises(UnsupportedFormatError, match=r"'a' \(backend zarr\)"):
            store.append(values, "a")
    for axis in (2, -3, "x"):
        with pytest.raises(VFSTypeError):
            store.append(np.ones((2, 3)), "a", axis=axis)  # type: ignore[arg-type]
    for shape in ((3,), (1, 2, 3), (-1, 3), ("a", 3)):
        with pytest.raises(VFSTypeError):
            store.resize("a", shape)  # type: ignore[arg-type]
    with pytest.raises(PathNotFoundError):
        store.append(np.ones((2, 3)), "none")
    for change in (partial(store.append, [1], "b.json"), partial(store.resize, "b.json", (1,))):
        with pytest.raises(UnsupportedOperationError, match="file"):
            change()
    np.testing.assert_array_equal(store.load("a"), np.ones((2, 3)))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_is_cut_off_comes_back_as_fill_values(
    store: ZarrBackend, layout: dict[str, Any]
) -> None:
    store.save(TRUTH, "a", fill_value=9, **layout)
    expected = TRUTH
    for shape in ((30, 20), (61, 47), (40, 3), (61, 30), (0, 30), (5, 5), (5, 5)):
        store.resize("a", shape)
        grown = np.full(shape, 9, np.int32)
        kept = tuple(map(slice, map(min, shape, expected.shape)))
        grown[kept] = expected[kept]
        expected = grown
        np.testing.assert_array_equal(store.load("a"), expected)


def test_another_program_left_what_a_resize_must_not_show(tmp_path: Path) -> None:
    store = ZarrBackend(tmp_path)
    store.save(TRUTH, "/a", chunks=(8, 8))
    zarr.open_array(tmp_path / "a", mode="r+").resize((20, 20))
    store.resize("/a", SHAPE)
    loaded = store.load("/a")
    np.testing.assert_array_equal(loaded[:20, :20], TRUTH[:20, :20])
    assert np.count_nonzero(loaded) == 400


def test_the_shards_that_a_region_touches_are_those_of_its_elements() -> None:
    random = np.random.default_rng(0)
    for _ in range(300):
        length, side, step = (int(random.integers(1, most)) for most in (60, 20, 30))
        start, stop = sorted(int(n) for n in random.integers(0, length + 1, 2))
        touched = {place // side for place in range(start, stop, step)}
        found = set(zarr_writing._touched(slice(start, stop, step), length, side))
        assert touched <= found
        assert found == touched or step < side
        assert set(zarr_writing._touched(start % length, length, side)) == {start % length // side}


def test_a_region_means_what_it_means_once_it_is_its_turn(tmp_path: Path) -> None:
    store = ZarrBackend(tmp_path)
    store.save(np.zeros(10, np.int32), "/a", chunks=(10,))
    array = Handle.at(str(tmp_path / "a"))
    with array, LocalLocks(array).shards(lock_of([[0]])):
        writer = threading.Thread(target=store.save, args=(1, "/a"), kwargs={"region": -1})
        writer.start()
        time.sleep(0.2)  # until it waits; were it not to, the test would assert less
        name = tmp_path / "a" / "zarr.json"
        name.write_text(name.read_text().replace("10\n  ],", "14\n  ],", 1))
    writer.join()
    assert np.flatnonzero(store.load("/a")).tolist() == [13]


def test_a_load_never_shows_what_was_cut_off_meanwhile_as_fill_values(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = ZarrBackend(tmp_path)
    store.save(np.ones((8, 4)), "/a", chunks=(2, 4))
    real = zarr.Array.__getitem__

    def cut_off(array: Any, index: Any) -> Any:
        monkeypatch.setattr(zarr.Array, "__getitem__", real)
        store.resize("/a", (4, 4))
        return real(array, index)

    monkeypatch.setattr(zarr.Array, "__getitem__", cut_off)
    np.testing.assert_array_equal(store.load("/a"), np.ones((4, 4)))


def test_a_shard_that_is_replaced_between_its_index_and_its_chunks_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = ZarrBackend()
    place = tmp_path / "a"
    noise = np.random.default_rng(0).integers(0, 2**31, (8, 8))
    store.save(noise, place, chunks=(4, 4), shards=(8, 8))
    shard = place / "c" / "0" / "0"
    first = shard.read_bytes()
    store.save(7, place, region=(slice(0, 4),))  # which takes less room
    second = shard.read_bytes()
    shard.write_bytes(first)
    real = KeyFiles.read

    def replacing(self: Any, key: str, *arguments: Any) -> Any:
        found = real(self, key, *arguments)
        if key.startswith("c/") and shard.read_bytes() == first:
            shard.write_bytes(second)
        return found

    monkeypatch.setattr(KeyFiles, "read", replacing)
    part = (slice(1, 7), slice(1, 3))  # of all its chunks, a shard is read at once
    expected = np.where(np.arange(8)[:, None] < 4, 7, noise)[part]
    np.testing.assert_array_equal(store.load(place, region=part), expected)
    shard.write_bytes(second[:20] + bytes(len(second) - 20))
    with pytest.raises(CorruptDataError):
        store.load(place, region=part)


@pytest.mark.parametrize("step", ["append", "region"])
def test_a_killed_writer_leaves_no_lock_and_no_part(tmp_path: Path, step: str) -> None:
    store = ZarrBackend(tmp_path)
    store.save(np.ones((3, 4), np.int32), "/a", chunks=(4, 4))
    module = "local.shared_array" if step == "append" else "array.updating"
    killing = (
        f"import polystore.zarr.{module} as module\n"
        "def kill(*_, **__): os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    if step == "append":
        killing += "module.SharedDirectory.publish = kill\ncall = lambda store: store.append("
        killing += "np.full((6, 4), 5), '/a')\n"
    else:
        killing += "module.open_array = lambda *a, real=module.open_array, seen=[]: "
        killing += "(kill() if seen else seen.append(1)) or real(*a)\n"
        killing += "call = lambda store: store.save(7, '/a', region=(0, 0))\n"
    [process] = run(f"{killing}call(ZarrBackend({str(tmp_path)!r}))")
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    np.testing.assert_array_equal(store.load("/a"), np.ones((3, 4)))
    start = time.monotonic()
    store.resize("/a", (9, 4))
    assert time.monotonic() - start < 5
    np.testing.assert_array_equal(store.load("/a")[3:], np.zeros((6, 4)))


def test_a_writer_does_not_wait_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = ZarrBackend(tmp_path)
    store.save(np.ones((8, 4)), "/a", chunks=(2, 4))
    monkeypatch.setattr(locks, "_TIMEOUT", 0.1)
    array = Handle.at(str(tmp_path / "a"))
    with array, LocalLocks(array).shards(lock_of([[1], [0]])):
        store.save(2, "/a", region=(0, 0))  # another shard
        for change in (
            partial(store.save, 2, "/a", region=(2, 0)),
            partial(store.resize, "/a", (3, 3)),
        ):
            with pytest.raises(FileLockTimeoutError, match=r"lock.*'/a' \(backend zarr\)"):
                change()
    array = Handle.at(str(tmp_path / "a"))
    with array, LocalLocks(array).shape():
        store.save(2, "/a", region=(2, 0))
        with pytest.raises(FileLockTimeoutError):
            store.append(np.ones((1, 4)), "/a")


def test_who_waits_for_an_array_that_is_deleted_is_told(tmp_path: Path) -> None:
    store = ZarrBackend(tmp_path)
    store.save(np.ones((8, 4)), "/a")
    with ThreadPoolExecutor(1) as pool:
        array = Handle.at(str(tmp_path / "a"))
        with array, LocalLocks(array).shape():
            waiting = pool.submit(store.append, np.ones((1, 4)), "/a")
            time.sleep(0.2)
            store.delete("/a")
        with pytest.raises(PathNotFoundError):
            waiting.result(timeout=10)
    assert os.listdir(tmp_path) == ["zarr.json"]


def test_locks_do_not_travel_and_do_not_show(tmp_path: Path) -> None:
    store = ZarrBackend(tmp_path)
    store.save(np.ones((8, 4)), "/a", chunks=(1, 1))
    store.save(2, "/a", region=...)
    store.resize("/a", (9, 9))
    names = [name for name in os.listdir(tmp_path / "a") if "lock" in name]
    assert 0 < len(names) <= zarr_locks.LOCKS + 1
    store.copy("/a", "/b")
    assert not [name for name in os.listdir(tmp_path / "b") if "lock" in name]
    assert store.list_dir("/") == ["a", "b"]
    array: Any = store.open("/a")
    assert array.nchunks_initialized == 32
    store.delete("/a")
    assert store.list_dir("/") == ["b"]


def test_no_lock_file_is_made_out_of_a_root(tmp_path: Path) -> None:
    store, outside = ZarrBackend(tmp_path / "root"), tmp_path / "outside"
    outside.write_text("theirs")
    store.save(np.ones(4), "/a")
    [name] = [f".polystore-tmp~lock~{number:02}" for number in lock_of([[0]])]
    (tmp_path / "root" / "a" / name).symlink_to(outside)
    with suppress(FileLockError):  # as newer versions of the library say, that follow no link
        store.save(2, "/a", region=0)
    assert outside.read_text() == "theirs"


def test_the_file_manager_appends_and_resizes(tmp_path: Path) -> None:
    fm = FileManager(
        {"zarr": ZarrBackend(tmp_path), "memory": MemoryBackend(), "disk": DiskBackend()}
    )
    fm.save(np.zeros((1, 2)), "/d/a", "zarr")
    assert fm.append(np.ones((2, 2)), "/d/a", "zarr") == 1
    fm.resize("/d/a", (2, 2), "zarr")
    np.testing.assert_array_equal(fm.load("/d/a", "zarr"), [[0, 0], [1, 1]])
    fm.save(np.zeros((1, 2)), "/a", "memory")
    for change in (
        partial(fm.append, np.ones((1, 2)), "/a"),
        partial(fm.resize, "/a", (2, 2)),
    ):
        with pytest.raises(
            UnsupportedOperationError, match=r"does not support.*\(backend memory\)"
        ):
            change("memory")
