"""The zarr backend: what zarr itself sees of it, and what a hostile tree could do."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from zarr.codecs import GzipCodec

from polystore import (
    CorruptDataError,
    DirectoryNotEmptyError,
    InvalidPathError,
    PathExistsError,
    PathIsDirectoryError,
    PathNotFoundError,
    StorageError,
    UnsupportedFormatError,
    ZarrBackend,
)
from polystore.filesystem import temporaries
from polystore.filesystem.dir_fd import Location
from polystore.zarr.local.rooted_store import KeyFiles
from polystore.zarr.local.values import ArrayValues

IMAGE = np.arange(600 * 500, dtype=np.uint16).reshape(600, 500)


@pytest.fixture(params=["rooted", "unrooted"])
def store(request: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ZarrBackend:
    if request.param == "rooted":
        return ZarrBackend(tmp_path)
    monkeypatch.chdir(tmp_path)
    return ZarrBackend()


def test_a_tree_is_a_hierarchy_that_zarr_opens(store: ZarrBackend, tmp_path: Path) -> None:
    store.save(IMAGE, "plate/well/image", parents=True)
    store.ensure_directory("plate/empty/deep")
    plate = zarr.open_group(tmp_path / "plate", mode="r")
    assert sorted(plate.group_keys()) == ["empty", "well"]
    assert np.array_equal(plate["well/image"], IMAGE)  # type: ignore[arg-type]
    assert store.list_dir("plate") == ["empty", "well"]
    assert [path.lstrip("/") for path in store.list_files("plate", recursive=True)] == [
        "plate/well/image"
    ]


def test_a_rooted_store_is_a_group_itself(tmp_path: Path) -> None:
    ZarrBackend(tmp_path / "new.zarr").save(IMAGE, "a")
    assert list(zarr.open_group(tmp_path / "new.zarr", mode="r").array_keys()) == ["a"]


def test_chunks_shards_codecs_and_fill_value_are_the_callers(store: ZarrBackend) -> None:
    store.save(
        IMAGE,
        "a",
        chunks=(50, 50),
        shards=(300, 250),
        compressors=[GzipCodec(level=3)],
        fill_value=7,
        attributes={"unit": "um"},
    )
    array = store.open("a")
    assert isinstance(array, zarr.Array)
    assert (array.chunks, array.shards, array.fill_value) == ((50, 50), (300, 250), 7)
    assert array.compressors == (GzipCodec(level=3),)
    assert dict(array.attrs) == {"unit": "um"}
    assert np.array_equal(store.load("a"), IMAGE)
    store.save(IMAGE, "b", shards=(600, 500))
    default = store.open("b")
    assert isinstance(default, zarr.Array)
    assert default.shards == (600, 500)


def test_chunks_are_about_a_mebibyte_and_zstandard(store: ZarrBackend) -> None:
    store.save(np.zeros((3000, 2000), np.float32), "a")
    array = store.open("a")
    assert isinstance(array, zarr.Array)
    assert 2**18 < np.prod(array.chunks) * 4 <= 2**20
    assert "Zstd" in type(array.compressors[0]).__name__


def test_options_that_do_not_fit_are_refused_and_leave_nothing(
    store: ZarrBackend, tmp_path: Path
) -> None:
    for options in ({"chunks": (7,)}, {"chunks": (7, 7), "shards": (50, 50)}, {"fill_value": "x"}):
        with pytest.raises(UnsupportedFormatError, match="'a'"):
            store.save(IMAGE, "a", **options)
    assert store.list_dir(".") == []


def test_attributes_are_kept(store: ZarrBackend) -> None:
    store.save(IMAGE, "a", attributes={"unit": "um"})
    store.save(IMAGE[:5], "a", overwrite=True)
    store.save(9, "a", region=(0, 0))
    store.copy("a", "b")
    store.move("b", "c")
    assert dict(store.open("c").attrs) == {"unit": "um"}
    assert (store.load("c")[0, 0], store.load("c").shape) == (9, (5, 500))
    store.save(IMAGE, "a", overwrite=True, attributes={})
    assert dict(store.open("a").attrs) == {}


def test_open_is_lazy_and_never_creates(store: ZarrBackend, tmp_path: Path) -> None:
    with pytest.raises(PathNotFoundError):
        store.open("none")
    with pytest.raises(PathNotFoundError):
        store.open("none", mode="r+")
    for question in (store.exists, store.is_file, store.is_dir, store.is_symlink, store.stat):
        question("none")
    assert store.list_dir(".") == []
    assert not (tmp_path / "none").exists()
    store.save(IMAGE, "a")
    array = store.open("a")
    with pytest.raises(ValueError, match="read-only"):
        array[0] = 1  # type: ignore[index]
    store.open("a", mode="r+")[0] = 1  # type: ignore[index]
    assert (store.load("a", region=0) == 1).all()


def test_open_of_a_directory_is_the_group_and_of_a_file_an_error(
    store: ZarrBackend, tmp_path: Path
) -> None:
    store.save(IMAGE, "d/a", parents=True)
    group = store.open("d")
    assert isinstance(group, zarr.Group)
    assert np.array_equal(group["a"], IMAGE)  # type: ignore[arg-type]
    store.save("text", "d/notes.txt")
    (tmp_path / "plain").mkdir()
    for path in ("d/notes.txt", "plain"):
        with pytest.raises(UnsupportedFormatError):
            store.open(path)


def test_other_values_are_files_beside_the_arrays(store: ZarrBackend, tmp_path: Path) -> None:
    store.save({"cells": 3}, "d/counts.json", parents=True)
    store.save(np.array(["a", "b"]), "d/names.npy")
    store.save(IMAGE, "d/image.npy")
    assert store.list_dir("d") == ["counts.json", "image.npy", "names.npy"]
    assert (tmp_path / "d/counts.json").is_file()
    assert (tmp_path / "d/image.npy").is_dir()
    assert store.load("d/counts.json") == {"cells": 3}
    assert store.load("d/names.npy").tolist() == ["a", "b"]
    store.save({"cells": 4}, "d/image.npy.json")
    for value in (np.array(["c"]), IMAGE, np.array(["c"])):
        store.save(value, "d/image.npy", overwrite=True)
        assert np.array_equal(store.load("d/image.npy"), value)
    with pytest.raises(UnsupportedFormatError, match="suffix"):
        store.save("text", "d/text")
    assert store.list_dir("d")[-1] == "names.npy"


def test_metadata_names_cannot_be_taken(store: ZarrBackend) -> None:
    store.save(IMAGE, "d/a", parents=True)
    for use in (
        lambda: store.save({}, "d/zarr.json", overwrite=True),
        lambda: store.ensure_directory("d/zarr.json"),
        lambda: store.copy("d/a", "d/.zarray"),
        lambda: store.create_symlink("d/a", "d/.zgroup"),
    ):
        with pytest.raises(InvalidPathError):
            use()
    assert np.array_equal(store.load("d/a"), IMAGE)


def test_an_array_has_nothing_below_it(store: ZarrBackend) -> None:
    store.save(IMAGE, "a")
    with pytest.raises(StorageError):
        store.save(IMAGE, "a/b", parents=True)
    with pytest.raises(PathExistsError):
        store.ensure_directory("a/b")
    assert os.path.basename(str(store.list_files(".", recursive=True)[0])) == "a"


@pytest.mark.parametrize("method", ["delete", "delete_all"])
@pytest.mark.parametrize("value", ["in a file", IMAGE], ids=["file", "array"])
def test_a_value_is_deleted_that_was_of_the_other_kind_when_it_was_looked_at(
    store: ZarrBackend, monkeypatch: pytest.MonkeyPatch, method: str, value: Any
) -> None:
    store.save(value, "value.json")
    looked = 0

    is_directory = Location.is_directory

    def mistaken(place: Location) -> bool:
        nonlocal looked
        looked += 1
        return is_directory(place) != (looked == 1)

    monkeypatch.setattr(Location, "is_directory", mistaken)
    getattr(store, method)("value.json")
    assert looked > 0
    assert not store.exists("value.json")
    assert store.list_dir(".") == []


def test_a_directory_that_went_and_came_again_is_there(
    store: ZarrBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.ensure_directory("group")
    store.save(IMAGE, "array")
    # It was gone when looked at.
    monkeypatch.setattr(ArrayValues, "has_directory", lambda *_: False)
    store.ensure_directory("group")
    with pytest.raises(PathExistsError):
        store.ensure_directory("array")


def test_a_group_is_deleted_only_when_it_is_empty(store: ZarrBackend) -> None:
    store.save(IMAGE, "d/a", parents=True)
    with pytest.raises(DirectoryNotEmptyError):
        store.delete("d")
    store.delete("d/a")
    store.delete("d")
    assert store.list_dir(".") == []


def test_arrays_of_format_2_are_read(store: ZarrBackend, tmp_path: Path) -> None:
    group = zarr.open_group(tmp_path / "old", mode="w", zarr_format=2)
    group.create_array("a", shape=IMAGE.shape, dtype=IMAGE.dtype, chunks=(100, 100))[...] = IMAGE
    assert np.array_equal(store.load("old/a"), IMAGE)
    assert np.array_equal(store.load("old/a", region=(slice(5, 9),)), IMAGE[5:9])
    assert store.list_dir("old") == ["a"]
    assert store.stat("old/a")["shape"] == IMAGE.shape
    with pytest.raises(PathIsDirectoryError):
        store.load("old")


def test_a_damaged_array_is_corrupt_and_named(store: ZarrBackend, tmp_path: Path) -> None:
    store.save(IMAGE, "a")
    chunk = next(
        file for file in (tmp_path / "a").rglob("*") if file.name != "zarr.json" and file.is_file()
    )
    chunk.write_bytes(chunk.read_bytes()[:-9])
    with pytest.raises(CorruptDataError, match="'a'"):
        store.load("a")
    (tmp_path / "a/zarr.json").write_text('{"node_type": "array", "zarr_format": 3}')
    with pytest.raises(CorruptDataError, match="'a'"):
        store.load("a")
    assert store.stat("a")["type"] == "file"


def test_a_ragged_value_fits_no_region(store: ZarrBackend) -> None:
    store.save(IMAGE, "a")
    with pytest.raises(UnsupportedFormatError, match="does not fit the region"):
        store.save([[1], [1, 2]], "a", region=(slice(0, 2), slice(0, 2)))


def test_a_chunk_that_the_system_refuses_to_read_is_not_called_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = ZarrBackend(tmp_path)
    store.save(IMAGE, "a")
    read = KeyFiles.read

    def refused(self: KeyFiles, key: str, wanted: Any = None) -> bytes | None:
        if key.endswith(("zarr.json", ".zarray")):
            return read(self, key, wanted)
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(KeyFiles, "read", refused)
    for use in (lambda: store.load("a"), lambda: store.save(1, "a", region=(0, 0))):
        with pytest.raises(StorageError, match=r"Input/output error.*'a'") as caught:
            use()
        assert not isinstance(caught.value, CorruptDataError)


def test_links_inside_an_array_lead_nowhere(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    ZarrBackend().save(IMAGE, outside / "secret", parents=True)
    store = ZarrBackend(tmp_path / "root")
    store.save(np.ones_like(IMAGE), "a")
    inside = tmp_path / "root/a/c"
    inside.rename(tmp_path / "old")
    inside.symlink_to(outside / "secret/c")
    before = sorted((file, file.stat().st_mtime_ns) for file in outside.rglob("*"))
    with pytest.raises(StorageError):
        store.load("a")
    with pytest.raises(StorageError):
        store.save(1, "a", region=0)
    with pytest.raises(InvalidPathError):
        store.open("a")[...]  # type: ignore[index]
    assert sorted((file, file.stat().st_mtime_ns) for file in outside.rglob("*")) == before


def test_an_array_that_goes_with_its_tree_is_not_taken_for_a_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = ZarrBackend(tmp_path / "tree")
    backend.save(np.arange(3), "/a/b", parents=True)
    exchange = temporaries.exchange

    def exchange_late(new: Location, location: Location) -> bool:
        monkeypatch.setattr(temporaries, "exchange", exchange)
        (tmp_path / "tree" / "a").rename(tmp_path / "going")  # what deletes it has begun
        (tmp_path / "going" / "b" / "zarr.json").unlink()
        return exchange(new, location)

    monkeypatch.setattr(temporaries, "exchange", exchange_late)
    backend.save(np.arange(4), "/a/b", parents=True, overwrite=True)
    assert backend.load("/a/b").tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(
    "use",
    [
        lambda backend: backend.move("/a", "/b"),
        lambda backend: backend.copy("/a", "/b"),
        lambda backend: backend.append([1], "/a"),
        lambda backend: backend.list_dir("/a"),
    ],
)
def test_an_array_that_is_deleted_at_the_same_time_is_missing_and_no_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, use: Any
) -> None:
    backend = ZarrBackend(tmp_path / "tree")
    backend.save(np.arange(3), "/a")
    is_array = ArrayValues.is_array

    def is_array_late(self: ArrayValues, directory: Any) -> bool:
        monkeypatch.setattr(ArrayValues, "is_array", is_array)
        (tmp_path / "tree" / "a").rename(tmp_path / "going")
        (tmp_path / "going" / "zarr.json").unlink()
        return is_array(self, directory)

    monkeypatch.setattr(ArrayValues, "is_array", is_array_late)
    with pytest.raises(PathNotFoundError):
        use(backend)
