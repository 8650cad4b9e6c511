"""Copies, moves and stacks from one backend into another, in one process and in local mode."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from polystore import (
    BackendRegistry,
    BatchLengthError,
    CorruptDataError,
    DiskBackend,
    FileManager,
    MemoryBackend,
    PathExistsError,
    PathNotFoundError,
    ReadOnlyBackend,
    StorageError,
    UnsupportedFormatError,
    UnsupportedOperationError,
    VFSTypeError,
    ZarrBackend,
)
from polystore.transfer import copying as transfers
from polystore.transfer.copying import save_in_parts
from polystore_ray import RayBackendRegistry
from polystore_ray.client import chunks as handover
from polystore_ray.client.chunks import THREADS, hand_over


@pytest.fixture(params=["plain", "local"])
def fm(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.chdir(tmp_path)
    if request.param == "plain":
        yield FileManager(BackendRegistry.isolated())
    else:
        registry = RayBackendRegistry("transfers", local=True)
        yield FileManager(registry)
        registry.shutdown()


def filled(fm: FileManager, number: int = 9) -> list[str]:
    paths = [f"in/{i}.npy" for i in range(number)]
    fm.save_batch([np.full((2, 3), i) for i in range(number)], paths, "disk")
    return paths


@pytest.mark.parametrize("to_backend", ["memory", "zarr"])
def test_a_list_goes_into_another_backend_and_back(fm: FileManager, to_backend: str) -> None:
    sources = filled(fm)
    targets = [f"out/{i}" for i in range(9)]
    told: list[tuple[int, int]] = []
    fm.copy(
        sources,
        targets,
        "disk",
        to_backend=to_backend,
        progress=lambda done, total: told.append((done, total)),
    )
    assert [int(v[0, 0]) for v in fm.load_batch(targets, to_backend)] == list(range(9))
    assert told[-1] == (9, 9)
    assert sorted(told) == told
    back = [f"back/{i}.npy" for i in range(9)]
    fm.move(targets, back, to_backend, to_backend="disk")
    assert not any(fm.exists(path, to_backend) for path in targets)
    assert [int(v[0, 0]) for v in fm.load_batch(back, "disk")] == list(range(9))


def test_a_slash_at_the_end_of_a_tree_is_no_part_of_its_name(fm: FileManager) -> None:
    filled(fm, 2)
    assert fm.collect_dirs_and_files("in/", "disk") == (["in"], ["in/0.npy", "in/1.npy"])
    fm.copy("in/", "/all/", "disk", to_backend="memory")
    assert fm.list_files("/all", "memory") == ["/all/0.npy", "/all/1.npy"]
    fm.move("/all/", "out/", "memory", to_backend="disk")
    assert fm.list_files("out", "disk") == ["out/0.npy", "out/1.npy"]


def test_a_list_within_one_backend(fm: FileManager) -> None:
    sources = filled(fm, 3)
    told: list[tuple[int, int]] = []
    fm.copy(
        sources, ["c/0.npy", "c/1.npy", "c/2.npy"], "disk", progress=lambda *at: told.append(at)
    )
    assert told == [(1, 3), (2, 3), (3, 3)]
    fm.move(sources[:2], ["m/0.npy", "m/1.npy"], "disk")
    assert fm.list_files(".", "disk", recursive=True) == [
        "./c/0.npy",
        "./c/1.npy",
        "./c/2.npy",
        "./in/2.npy",
        "./m/0.npy",
        "./m/1.npy",
    ]
    with pytest.raises(PathNotFoundError) as raised:
        fm.move(["c/0.npy", "c/9.npy"], ["m/2.npy", "m/3.npy"], "disk")
    assert raised.value.written == ("m/2.npy",)


def test_what_is_wrong_with_lists_is_found_before_anything_is_written(fm: FileManager) -> None:
    sources = filled(fm, 2)
    with pytest.raises(BatchLengthError):
        fm.copy(sources, ["/a"], "disk", to_backend="memory")
    with pytest.raises(PathExistsError):
        fm.copy(sources, ["/a", "/a"], "disk", to_backend="memory")
    with pytest.raises(VFSTypeError):
        fm.copy(sources, "/a", "disk", to_backend="memory")
    with pytest.raises(VFSTypeError):
        fm.move("in/0.npy", ["/a"], "disk", to_backend="memory")
    assert fm.list_dir("/", "memory") == []


@pytest.mark.parametrize("operation", ["copy", "move"])
def test_a_failure_midway_names_what_was_written(fm: FileManager, operation: str) -> None:
    sources = filled(fm)
    Path("in/5.npy").write_bytes(b"no array")
    with pytest.raises(CorruptDataError, match=r"5\.npy") as raised:
        getattr(fm, operation)("in", "/t", "disk", to_backend="memory")
    written = fm.list_files("/t", "memory")
    assert set(raised.value.written) == set(written)
    assert f"{len(written)} of 9 values were copied" in "".join(raised.value.__notes__)
    assert fm.list_files("in", "disk") == sources


def test_a_copy_never_overwrites(fm: FileManager) -> None:
    [source] = filled(fm, 1)
    fm.save("kept", "/a", "memory")
    with pytest.raises(PathExistsError):
        fm.copy(source, "/a", "disk", to_backend="memory")
    with pytest.raises(PathExistsError):
        fm.copy([source], ["/a"], "disk", to_backend="memory")
    assert fm.load("/a", "memory") == "kept"


def test_an_empty_list_is_no_work(fm: FileManager) -> None:
    fm.copy([], [], "disk", to_backend="memory")
    fm.copy([], [], "disk")
    assert fm.list_dir("/", "memory") == []


def test_what_can_only_be_read_takes_no_copies(tmp_path: Path) -> None:
    class Seen(ReadOnlyBackend):
        def load(self, path: Any) -> Any:
            return "seen"

        def is_file(self, path: Any) -> bool:
            return str(path) == "/seen"

        def is_dir(self, path: Any) -> bool:
            return str(path) == "/"

        def list_dir(self, path: Any) -> list[str]:
            return ["seen"]

    fm = FileManager({"seen": Seen(), "memory": MemoryBackend()})
    fm.copy("/", "/all", "seen", to_backend="memory")
    assert fm.load("/all/seen", "memory") == "seen"
    with pytest.raises(UnsupportedOperationError, match="can only be read"):
        fm.copy("/all/seen", "/new", "memory", to_backend="seen")


def test_no_more_values_are_held_than_memory_has_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfers, "_HELD_BYTES", 1000)
    monkeypatch.setattr(transfers, "_HELD_VALUES", 4)
    loaded: list[int] = []
    batches: list[int] = []

    def values() -> Any:
        for size in (600, 600, 2000, *[1] * 5):
            loaded.append(size)
            yield np.zeros(size, np.uint8)

    def save_batch(part: list[Any], paths: Sequence[str]) -> None:
        assert len(loaded) == sum(batches) + len(part), "loaded before it was needed"
        assert len(part) == len(paths)
        batches.append(len(part))

    pairs = [(str(i), str(i)) for i in range(8)]
    save_in_parts(values(), pairs, save_batch, lambda _: None)
    assert batches == [2, 1, 4, 1]


# Stacks


@pytest.mark.parametrize("backend", ["memory", "disk", "zarr"])
@pytest.mark.parametrize(
    "options", [{}, {"chunks": (2, 2, 2)}, {"chunks": (1, 2, 3), "shards": (4, 2, 3)}]
)
def test_arrays_are_stacked(fm: FileManager, backend: str, options: dict[str, Any]) -> None:
    paths = [f"in/{i}.npy" for i in range(9)]
    fm.save_batch([np.full((2, 3), i, np.int16) for i in range(9)], paths, backend)
    told: list[tuple[int, int]] = []
    fm.stack(
        paths,
        "out/all",
        backend,
        to_backend="zarr",
        progress=lambda *at: told.append(at),
        **options,
    )
    loaded = fm.load("out/all", "zarr")
    assert loaded.dtype == np.int16
    np.testing.assert_array_equal(loaded, np.arange(9)[:, None, None] + np.zeros((2, 3)))
    assert told[-1] == (9, 9)
    assert fm.list_dir("out", "zarr") == ["all"]
    array: Any = ZarrBackend().open("out/all")
    assert array.chunks == options.get("chunks", (9, 2, 3))
    assert array.shards == options.get("shards")
    with pytest.raises(PathExistsError):
        fm.stack(paths, "out/all", backend, to_backend="zarr")


def test_a_large_array_has_chunks_of_its_own(fm: FileManager) -> None:
    fm.save_batch([np.zeros((1024, 700)), np.ones((1024, 700))], ["/a", "/b"], "memory")
    fm.stack(["/b", "/a"], "all", "memory", to_backend="zarr")
    array: Any = ZarrBackend().open("all")
    assert array.chunks[0] == 1
    assert np.prod(array.chunks) * 8 <= 2**20
    assert array[:, 5, 5].tolist() == [1, 0]


@pytest.mark.parametrize("odd", [np.zeros((3, 2)), np.zeros((2, 3), np.float32), "text"])
def test_what_is_not_like_the_first_is_not_stacked(fm: FileManager, odd: Any) -> None:
    fm.save_batch([np.zeros((2, 3)), np.zeros((2, 3)), odd], ["/a", "/b", "/c"], "memory")
    with pytest.raises(UnsupportedFormatError, match=r"stacked.*'/c'"):
        fm.stack(["/a", "/b", "/c"], "all", "memory", to_backend="zarr")
    if isinstance(odd, str):
        with pytest.raises(UnsupportedFormatError, match=r"'/c'"):
            fm.stack(["/c"], "all", "memory", to_backend="zarr")
    assert fm.list_dir(".", "zarr") == []


def test_what_cannot_be_stacked_says_why(fm: FileManager) -> None:
    fm.save(np.zeros(3), "/a", "memory")
    with pytest.raises(VFSTypeError, match="nothing to stack"):
        fm.stack([], "all", "memory", to_backend="zarr")
    with pytest.raises(VFSTypeError, match="list"):
        fm.stack("/a", "all", "memory", to_backend="zarr")
    with pytest.raises(PathNotFoundError, match="/none"):
        fm.stack(["/a", "/none"], "all", "memory", to_backend="zarr")
    with pytest.raises(StorageError, match="chonks"):
        fm.stack(["/a"], "all", "memory", to_backend="zarr", chonks=(1, 3))
    with pytest.raises(UnsupportedOperationError, match="resize"):
        fm.stack(["/a"], "/all", "memory")
    with pytest.raises(UnsupportedOperationError, match=r"resize.*backend disk"):
        fm.stack(["/a"], "all.npy", "memory", to_backend="disk")
    assert fm.list_dir("/", "memory") == ["a"]
    assert fm.list_dir(".", "zarr") == []


# Parts


def test_all_parts_are_handed_over_once_and_grow(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[int] = []
    sizes: list[int] = []

    def call(part: Sequence[int]) -> None:
        sizes.append(len(part))

    hand_over(call, list(range(5000)), done.extend)
    assert sorted(done) == list(range(5000))
    assert max(sizes) > 100
    assert len(sizes) < 200
    monkeypatch.setattr(handover, "_LONG", 0.0)
    monkeypatch.setattr(handover, "_SHORT", -1.0)
    sizes.clear()
    hand_over(call, list(range(20)), done.extend)
    assert sizes == [1] * 20


def test_several_parts_are_under_way_at_a_time() -> None:
    barrier = threading.Barrier(THREADS)
    hand_over(lambda _: barrier.wait(timeout=10), list(range(THREADS)), lambda _: None)


def test_after_an_error_nothing_is_begun_and_what_is_under_way_is_waited_for() -> None:
    begun: list[int] = []
    done: list[int] = []

    def call(part: Sequence[int]) -> None:
        begun.extend(part)
        if 0 in part:
            raise StorageError("no")
        time.sleep(0.2)

    with pytest.raises(StorageError, match="no"):
        hand_over(call, list(range(1000)), done.extend)
    assert set(begun) - {0} == set(done)
    assert len(begun) < 100


def test_a_walk_finds_directories_and_files(fm: FileManager) -> None:
    fm.save(1, "/a/b", "memory")
    walk: Callable[..., Any] = fm.registry["memory"].walk
    assert walk("/") == (["/", "/a"], ["/a/b"], [])
    assert walk("/", recursive=False) == (["/", "/a"], [], [])
    assert isinstance(DiskBackend().walk("."), tuple)
