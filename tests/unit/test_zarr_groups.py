"""Zarr hierarchies of other programs: their format, their consolidated metadata, their arrays."""

from __future__ import annotations

import errno
import json
import os
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
import zarr
from fsspec.implementations.memory import MemoryFileSystem
from s3_server import s3_server
from zarr.codecs import BytesCodec, GzipCodec, TransposeCodec
from zarr.storage import FsspecStore, LocalStore

from polystore import CorruptDataError, UnsupportedFormatError, VFSTypeError, ZarrBackend
from polystore.zarr.array import groups
from polystore.zarr.object_store import client

pytestmark = [
    pytest.mark.filterwarnings("ignore:Consolidated metadata is currently not part"),
    pytest.mark.filterwarnings("ignore:Object at n.json is not recognized"),
    pytest.mark.filterwarnings("ignore:Object at counts.json is not recognized"),
]

ROWS = np.arange(12.0).reshape(3, 4)


class Hierarchy:
    """A store of zarr that others make below ``s.zarr``, and the backend under test over it."""

    def __init__(self, backend: ZarrBackend, top: str, shared: Callable[[], Any]) -> None:
        self.backend = backend
        self.top = top
        self.shared = shared

    def path(self, name: str) -> str:
        return f"{self.top}/{name}"

    def group(self, **options: Any) -> zarr.Group:
        return zarr.open_group(self.shared(), mode="r", **options)

    def made(self, zarr_format: Any, *, consolidated: bool = True) -> None:
        """Make a store with two variables, and one in a group, as zarr does."""
        group = zarr.create_group(self.shared(), zarr_format=zarr_format)
        for name in ("a", "b", "inner/c"):
            array = group.create_array(name, shape=(4,), chunks=(2,), dtype="f8")
            array[:] = 1
        if consolidated:
            zarr.consolidate_metadata(self.shared())


@pytest.fixture(params=["rooted", "unrooted", "memory", "s3"])
def hierarchy(request: Any, tmp_path: Path) -> Hierarchy:
    if request.param == "rooted":
        backend = ZarrBackend(tmp_path)
        return Hierarchy(backend, "/s.zarr", lambda: LocalStore(tmp_path / "s.zarr"))
    if request.param == "unrooted":
        top = str(tmp_path / "s.zarr")
        return Hierarchy(ZarrBackend(), top, lambda: LocalStore(top))
    options: dict[str, Any] = {}
    url = f"memory://{tmp_path.name}"
    if request.param == "s3":
        server = s3_server()
        options, url = server.options, server.place()
    backend = ZarrBackend(url, storage_options=options)
    top = f"{url}/s.zarr"
    return Hierarchy(backend, "/s.zarr", lambda: FsspecStore.from_url(top, storage_options=options))


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_a_new_member_has_the_format_of_its_group(hierarchy: Hierarchy, zarr_format: int) -> None:
    hierarchy.made(zarr_format, consolidated=False)
    backend = hierarchy.backend
    backend.save(np.arange(3), hierarchy.path("new"))
    backend.save(np.arange(3), hierarchy.path("made/deep/new"), parents=True)
    backend.ensure_directory(hierarchy.path("empty/deep"))
    group = hierarchy.group()
    assert sorted(group.keys()) == ["a", "b", "empty", "inner", "made", "new"]
    for name in ("new", "made/deep/new", "made", "made/deep", "empty", "empty/deep"):
        assert group[name].metadata.zarr_format == zarr_format
    assert np.array_equal(group["made/deep/new"][:], [0, 1, 2])  # type: ignore[arg-type, index]


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("shape", [(), (4,), (5, 6)])
def test_an_overwritten_array_stays_in_its_format(
    hierarchy: Hierarchy, zarr_format: Any, shape: tuple[int, ...]
) -> None:
    hierarchy.made(zarr_format, consolidated=False)
    backend, path = hierarchy.backend, hierarchy.path("x")
    for number in range(3):
        value = np.full(shape, number, "i4")
        backend.save(value, path, overwrite=number > 0, attributes={"n": 1} if not number else None)
        found: Any = hierarchy.group()["x"]
        assert (found.metadata.zarr_format, dict(found.attrs)) == (zarr_format, {"n": 1})
        assert np.array_equal(found[...], value)
        assert np.array_equal(backend.load(path), value)
    if shape:
        backend.append(np.full((2, *shape[1:]), 9, "i4"), path)
        assert hierarchy.group()["x"].shape == (shape[0] + 2, *shape[1:])  # type: ignore[union-attr]
    assert hierarchy.group()["x"].metadata.zarr_format == zarr_format


def test_the_format_is_an_option_where_there_is_no_group_yet(hierarchy: Hierarchy) -> None:
    backend = hierarchy.backend
    backend.save(ROWS, hierarchy.path("old/0"), parents=True, zarr_format=2)
    backend.save(ROWS, hierarchy.path("old/1"))
    group: Any = hierarchy.group()
    assert group.metadata.zarr_format == 2
    assert sorted(group["old"].keys()) == ["0", "1"]
    with pytest.raises(UnsupportedFormatError, match="format 2"):
        backend.save(ROWS, hierarchy.path("old/2"), zarr_format=3)
    with pytest.raises(VFSTypeError):
        backend.save(ROWS, hierarchy.path("old/2"), zarr_format=4)  # type: ignore[arg-type]
    assert sorted(hierarchy.group()["old"].keys()) == ["0", "1"]  # type: ignore[union-attr]


def test_a_backend_makes_groups_of_the_format_that_it_is_given(tmp_path: Path) -> None:
    backend = ZarrBackend(tmp_path / "p.zarr", zarr_format=2)
    backend.save(ROWS, "/0/image", parents=True)
    group = zarr.open_group(tmp_path / "p.zarr", mode="r", zarr_format=2)
    assert group["0/image"].metadata.zarr_format == 2
    with pytest.raises(VFSTypeError):
        ZarrBackend(tmp_path, zarr_format="2")  # type: ignore[arg-type]


CHANGES: dict[str, Callable[[ZarrBackend, Callable[[str], str]], Any]] = {
    "append": lambda backend, path: backend.append(np.ones(3), path("inner/c")),
    "resize": lambda backend, path: backend.resize(path("inner/c"), (2,)),
    "save": lambda backend, path: backend.save(np.ones(3), path("inner/d")),
    "overwrite": lambda backend, path: backend.save(np.ones((3, 3)), path("a"), overwrite=True),
    "delete": lambda backend, path: backend.delete(path("a")),
    "delete_all": lambda backend, path: backend.delete_all(path("inner")),
    "move": lambda backend, path: backend.move(path("a"), path("inner/a")),
    "copy": lambda backend, path: backend.copy(path("inner"), path("other")),
    "ensure_directory": lambda backend, path: backend.ensure_directory(path("inner/new")),
    "parents": lambda backend, path: backend.save({"n": 1}, path("p/n.json"), parents=True),
}


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("change", CHANGES)
def test_no_consolidated_metadata_is_stale(
    hierarchy: Hierarchy, change: str, zarr_format: int
) -> None:
    hierarchy.made(zarr_format)
    hierarchy.group(use_consolidated=True)
    CHANGES[change](hierarchy.backend, hierarchy.path)
    assert shapes(hierarchy.group()) == shapes(hierarchy.group(use_consolidated=False))


def shapes(group: zarr.Group) -> dict[str, Any]:
    return {name: getattr(node, "shape", None) for name, node in group.members(max_depth=None)}


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_what_zarr_does_not_see_leaves_consolidated_metadata(
    hierarchy: Hierarchy, zarr_format: int
) -> None:
    hierarchy.made(zarr_format)
    backend = hierarchy.backend
    backend.save({"cells": 3}, hierarchy.path("inner/counts.json"))
    backend.save({"cells": 4}, hierarchy.path("inner/counts.json"), overwrite=True)
    backend.save(np.zeros(2), hierarchy.path("inner/c"), region=slice(1, 3))
    backend.load(hierarchy.path("inner/c"))
    backend.delete(hierarchy.path("inner/counts.json"))
    for refused in (
        lambda: backend.save(np.zeros(2), hierarchy.path("a")),
        lambda: backend.delete(hierarchy.path("inner")),
        lambda: backend.append(np.zeros((2, 2)), hierarchy.path("a")),
        lambda: backend.copy(hierarchy.path("a"), hierarchy.path("b")),
        lambda: backend.move(hierarchy.path("a"), hierarchy.path("b")),
    ):
        with pytest.raises(Exception, match=r"s\.zarr"):
            refused()
    assert len(shapes(hierarchy.group(use_consolidated=True))) == 4


def test_a_group_keeps_its_attributes_without_consolidated_metadata(hierarchy: Hierarchy) -> None:
    hierarchy.made(3)
    zarr.open_group(hierarchy.shared(), mode="r+").attrs["multiscales"] = [{"version": "0.5"}]
    zarr.consolidate_metadata(hierarchy.shared())
    hierarchy.backend.delete(hierarchy.path("a"))
    assert dict(hierarchy.group().attrs) == {"multiscales": [{"version": "0.5"}]}


@pytest.mark.skipif(sys.platform == "win32", reason="links need a privilege there")
def test_a_link_into_a_consolidated_group_is_a_change_of_it(tmp_path: Path) -> None:
    hierarchy = Hierarchy(ZarrBackend(), str(tmp_path / "s"), lambda: LocalStore(tmp_path / "s"))
    hierarchy.made(3)
    hierarchy.backend.save(np.ones(3), str(tmp_path / "outside"))
    hierarchy.backend.create_symlink(str(tmp_path / "outside"), hierarchy.path("link"))
    assert hierarchy.group()["link"].shape == (3,)  # type: ignore[union-attr]
    zarr.consolidate_metadata(hierarchy.shared())
    hierarchy.backend.append(np.ones(2), hierarchy.path("link"))
    assert hierarchy.group()["link"].shape == (5,)  # type: ignore[union-attr]


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("consolidated", [True, False])
@pytest.mark.filterwarnings("ignore:Failed to open Zarr store with consolidated")
@pytest.mark.filterwarnings("ignore::zarr.errors.UnstableSpecificationWarning")
def test_xarray_reads_what_was_saved_into_its_store(
    tmp_path: Path, zarr_format: Any, consolidated: bool
) -> None:
    place = tmp_path / "s.zarr"
    data = {"t": (("y", "x"), ROWS, {"units": "K"}), "u": (("x",), np.arange(4))}
    options: Any = {"zarr_format": zarr_format, "consolidated": consolidated}
    xr.Dataset(data).to_zarr(place, **options)
    backend = ZarrBackend(tmp_path)
    backend.save(np.zeros((3, 4)), "/s.zarr/t", overwrite=True)
    backend.append(np.full((2, 4), 7.0), "/s.zarr/t")
    backend.save(np.zeros(4, int), "/s.zarr/v", dimension_names=["x"])
    found = xr.open_zarr(place)
    assert found["t"].dims == ("y", "x")
    assert found["t"].attrs == {"units": "K"}
    assert found["t"].values.tolist() == [[0] * 4] * 3 + [[7] * 4] * 2
    # Not NaN: what is equal to the fill value is there.
    assert found["v"].dtype.kind == "i"
    assert found["v"].values.tolist() == [0, 0, 0, 0]


OLD: dict[str, Any] = {
    "shape": (8, 6),
    "dtype": "i4",
    "chunks": (2, 3),
    "fill_value": 7,
    "attributes": {"unit": "um"},
}
NEW_CODECS: dict[str, Any] = {
    "shards": {"shape": (4, 6), "index_location": "start"},
    "compressors": [GzipCodec(level=3)],
    "serializer": BytesCodec(endian="big"),
    "filters": [TransposeCodec(order=(1, 0))],
    "dimension_names": ["y", None],
    "chunk_key_encoding": {"name": "default", "separator": "."},
}


def described(hierarchy: Hierarchy, zarr_format: int = 3) -> dict[str, Any]:
    array: Any = hierarchy.group()["x"]
    found: dict[str, Any] = json.loads(json.dumps(array.metadata.to_dict(), default=str))
    for changing in ("shape", "chunk_key_encoding", "dimension_separator"):
        found.pop(changing, None)
    return found


def old_array(hierarchy: Hierarchy, zarr_format: Any, **options: Any) -> None:
    group = zarr.create_group(hierarchy.shared(), zarr_format=zarr_format)
    group.create_array("x", **{**OLD, **options})


@pytest.mark.parametrize("codecs", [NEW_CODECS, {"compressors": None}, {}])
def test_what_the_caller_did_not_change_stays(hierarchy: Hierarchy, codecs: dict[str, Any]) -> None:
    old_array(hierarchy, 3, **codecs)
    before = described(hierarchy)
    value = np.arange(70, dtype="i4").reshape(10, 7)
    for _ in range(2):
        hierarchy.backend.save(value, hierarchy.path("x"), overwrite=True)
        assert described(hierarchy) == before
        assert np.array_equal(hierarchy.group()["x"][...], value)  # type: ignore[arg-type, index]
    hierarchy.backend.save(value, hierarchy.path("x"), overwrite=True, fill_value=3)
    assert described(hierarchy) == {**before, "fill_value": 3}
    hierarchy.backend.save(value, hierarchy.path("x"), overwrite=True, attributes={"n": 1})
    assert described(hierarchy) == {**before, "fill_value": 3, "attributes": {"n": 1}}


def test_what_the_caller_did_not_change_stays_in_format_2(hierarchy: Hierarchy) -> None:
    from numcodecs import Blosc, Delta

    options: dict[str, Any] = {
        "compressors": Blosc(cname="lz4"),
        "filters": [Delta("<i4")],
        "order": "F",
        "attributes": {"_ARRAY_DIMENSIONS": ["y", "x"], "unit": "um"},
    }
    old_array(hierarchy, 2, **options)
    before = described(hierarchy)
    value = np.arange(70, dtype="i4").reshape(10, 7)
    hierarchy.backend.save(value, hierarchy.path("x"), overwrite=True)
    assert described(hierarchy) == before
    hierarchy.backend.save(value, hierarchy.path("x"), overwrite=True, attributes={"n": 1})
    found: Any = hierarchy.group()["x"]
    assert dict(found.attrs) == {"n": 1, "_ARRAY_DIMENSIONS": ["y", "x"]}
    assert np.array_equal(found[...], value)


@pytest.mark.parametrize("dtype", ["u1", "f4", "c16", "bool", ">i4"])
@pytest.mark.parametrize("shape", [(3, 4), (9,), ()])
@pytest.mark.parametrize("zarr_format", [2, 3])
def test_of_another_kind_it_keeps_what_fits(
    tmp_path: Path, dtype: str, shape: tuple[int, ...], zarr_format: Any
) -> None:
    hierarchy = Hierarchy(ZarrBackend(tmp_path), "/s.zarr", lambda: LocalStore(tmp_path / "s.zarr"))
    old_array(hierarchy, zarr_format, **(NEW_CODECS if zarr_format == 3 else {}))
    value = np.arange(np.prod(shape, dtype=int)).reshape(shape).astype(dtype)
    hierarchy.backend.save(value, "/s.zarr/x", overwrite=True)
    found: Any = hierarchy.group()["x"]
    assert found.dtype.kind == np.dtype(dtype).kind
    assert np.array_equal(found[...], value)
    assert dict(found.attrs) == {"unit": "um"}
    assert found.fill_value == (
        0 if dtype == "bool" and zarr_format == 3 else None if dtype == "bool" else 7
    )
    if len(shape) == 2:
        assert found.chunks == (2, 3)


@pytest.mark.parametrize(
    ("given", "chunks", "shards"),
    [
        ({"chunks": (2, 2)}, (2, 2), (4, 6)),
        ({"chunks": (3, 3)}, (3, 3), None),
        ({"shards": (8, 12)}, (2, 3), (8, 12)),
        ({"chunks": (1, 1), "shards": (5, 5)}, (1, 1), (5, 5)),
    ],
)
def test_chunks_and_shards_that_are_given_take_no_others_along(
    tmp_path: Path, given: dict[str, Any], chunks: Any, shards: Any
) -> None:
    hierarchy = Hierarchy(ZarrBackend(tmp_path), "/s.zarr", lambda: LocalStore(tmp_path / "s.zarr"))
    old_array(hierarchy, 3, **NEW_CODECS)
    hierarchy.backend.save(np.ones((8, 6), "i4"), "/s.zarr/x", overwrite=True, **given)
    found: Any = hierarchy.group()["x"]
    assert (found.chunks, found.shards) == (chunks, shards)


def test_a_copy_into_another_store_keeps_metadata_and_format(tmp_path: Path) -> None:
    old_array(Hierarchy(ZarrBackend(), "", lambda: LocalStore(tmp_path / "s.zarr")), 2)
    zarr.open_group(tmp_path / "s.zarr", mode="r+").attrs["multiscales"] = [{"version": "0.4"}]
    url = f"memory://{tmp_path.name}-copy"
    backend = ZarrBackend()
    backend.copy(str(tmp_path / "s.zarr"), f"{url}/s.zarr")
    group: Any = zarr.open_group(FsspecStore.from_url(f"{url}/s.zarr"), mode="r")
    assert (group.metadata.zarr_format, dict(group.attrs)) == (
        2,
        {"multiscales": [{"version": "0.4"}]},
    )
    assert (group["x"].chunks, group["x"].fill_value) == ((2, 3), 7)


def test_arrays_without_a_fill_value_have_all_their_chunks(tmp_path: Path) -> None:
    # For a chunk that is missing zarr 2 shows whatever was in memory.
    backend = ZarrBackend(tmp_path, zarr_format=2)
    backend.save(np.ones(4), "/a", chunks=(2,))
    backend.save(np.zeros(4), "/a", overwrite=True)
    assert json.loads((tmp_path / "a/.zarray").read_bytes())["fill_value"] is None
    backend.save(np.zeros(2), "/a", region=slice(0, 2))
    assert sorted(path.name for path in (tmp_path / "a").iterdir() if path.name.isdigit()) == [
        "0",
        "1",
    ]


def test_a_damaged_chunk_found_through_a_group_is_an_error(tmp_path: Path) -> None:
    group = zarr.create_group(LocalStore(tmp_path / "g"), zarr_format=2)
    from numcodecs import Blosc

    array = group.create_array("in/a", shape=(100,), chunks=(100,), dtype="i4", compressors=Blosc())
    array[:] = np.arange(100)
    chunk = tmp_path / "g/in/a/0"
    if not chunk.exists():
        chunk = tmp_path / "g/in/a/0.0"
    data = bytearray(chunk.read_bytes())
    data[12:16] = (2**30).to_bytes(4, "little")
    chunk.write_bytes(data)
    opened: Any = ZarrBackend(tmp_path).open("/g")
    found = [
        opened["in/a"],
        opened["in"]["a"],
        dict(opened.members(max_depth=None))["in/a"],
        dict(dict(opened.groups())["in"].arrays())["a"],
        next(iter(next(iter(opened.group_values())).array_values())),
    ]
    for each in found:
        with pytest.raises(ValueError, match="claims to have"):
            each[:]


def test_what_lies_above_a_change_may_be_a_file_system_that_nobody_writes_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    removed = os.unlink

    def unlink(name: Any, **options: Any) -> None:
        if name == ".zmetadata":  # such a file system says so of what is missing, too
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), name)
        removed(name, **options)

    monkeypatch.setattr(os, "unlink", unlink)
    backend = ZarrBackend()
    backend.save(ROWS, tmp_path / "s.zarr/a", parents=True)
    backend.delete(tmp_path / "s.zarr/a")
    assert not backend.exists(tmp_path / "s.zarr/a")


def test_a_group_of_huge_metadata_takes_no_memory_of_who_saves_below_it(tmp_path: Path) -> None:
    backend = ZarrBackend(tmp_path)
    backend.ensure_directory("/g/inner")
    with (tmp_path / "g/zarr.json").open("wb") as metadata:
        metadata.truncate(3 * 2**30)  # of which the disk holds nothing
    tracemalloc.start()
    try:
        with pytest.raises(CorruptDataError, match="more than"):
            backend.save(ROWS, "/g/inner/a")
        assert tracemalloc.get_traced_memory()[1] < 2**28
    finally:
        tracemalloc.stop()
    assert backend.list_dir("/g/inner") == []


def test_of_huge_metadata_in_a_store_of_objects_only_the_start_is_read(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    read: list[int] = []
    whole = MemoryFileSystem.cat_file

    def cat_file(self: Any, path: str, **options: Any) -> bytes:
        data = bytes(whole(self, path, **options))
        read.append(len(data))
        return data

    backend = ZarrBackend(f"memory://{tmp_path.name}-huge")
    backend.ensure_directory("/g/inner")
    backend.save(ROWS, "/g/a")
    huge = b'{"consolidated_metadata": 1}' + b" " * 100_000
    for name in ("g", "g/a"):
        MemoryFileSystem().pipe_file(f"/{tmp_path.name}-huge/{name}/zarr.json", huge)
    monkeypatch.setattr(client, "MOST_METADATA", 10_000)
    monkeypatch.setattr(groups, "MOST_METADATA", 10_000)
    monkeypatch.setattr(MemoryFileSystem, "cat_file", cat_file)
    for question in (backend.stat, backend.is_file, backend.is_dir, backend.exists):
        question("/g")
        question("/g/a")
    backend.list_files("/", recursive=True)
    with pytest.raises(CorruptDataError, match="more than"):
        backend.save(ROWS, "/g/inner/a")
    assert max(read) == 10_001
