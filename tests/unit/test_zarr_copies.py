"""Copies of zarr hierarchies: all that is stored arrives, whatever an array is made of."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import numcodecs
import numpy as np
import pytest
import tifffile
import zarr
from zarr.codecs import GzipCodec, TransposeCodec
from zarr.storage import LocalStore

from polystore import (
    FileManager,
    MemoryBackend,
    UnsupportedFormatError,
    UnsupportedOperationError,
    ZarrBackend,
)
from polystore.zarr.local.rooted_store import TreeStore

pytestmark = [
    pytest.mark.filterwarnings("ignore:Consolidated metadata is currently not part"),
    pytest.mark.filterwarnings("ignore::zarr.errors.UnstableSpecificationWarning"),
]

ROWS = np.arange(12.0).reshape(3, 4)


def made(place: Path, zarr_format: Any) -> None:
    """Make a hierarchy of arrays of every kind, with metadata of every kind."""
    group = zarr.create_group(LocalStore(place), zarr_format=zarr_format, attributes={"µ": [1]})
    for name, options in (OLD if zarr_format == 2 else NEW).items():
        chosen = dict(options)
        values = chosen.pop("values", ROWS)
        array = group.create_array(name, shape=values.shape, dtype=values.dtype, **chosen)
        array[...] = values
        array.attrs["unit"] = "µm"
    inner = group.create_group("inner", attributes={"deep": float("inf")})
    inner.create_array("x", shape=(4,), chunks=(3,), dtype="u2", fill_value=7)
    zarr.consolidate_metadata(LocalStore(place), zarr_format=zarr_format)


COMMON: dict[str, dict[str, Any]] = {
    "texts": {"values": np.array(["a", "bb", ""]), "chunks": (2,)},
    "records": {"values": np.zeros(3, [("a", "<i4"), ("b", "<f8")]), "chunks": (2,)},
    "nan": {"fill_value": np.nan, "chunks": (2, 3)},
    "scalar": {"values": np.array(3.5)},
    "empty": {"values": np.zeros((0, 3), "i2"), "chunks": (1, 1)},
}
OLD: dict[str, dict[str, Any]] = COMMON | {
    "fortran": {"order": "F", "chunks": (2, 2)},
    "filters": {"filters": [numcodecs.Shuffle(8)], "compressors": numcodecs.Zlib(3)},
    "times": {"values": np.arange(3).astype("M8[s]"), "chunks": (2,)},
}
NEW: dict[str, dict[str, Any]] = COMMON | {
    "sharded": {"chunks": (1, 2), "shards": (3, 4), "dimension_names": ["y", None]},
    "turned": {"filters": [TransposeCodec(order=(1, 0))], "compressors": [GzipCodec(level=2)]},
    "dotted": {"chunk_key_encoding": {"name": "default", "separator": "."}, "chunks": (2, 2)},
}


def stored(place: Path) -> dict[str, Any]:
    """Return all that is stored: chunks as they are, and metadata as they read."""
    found: dict[str, Any] = {}
    for path in place.rglob("*"):
        if path.is_dir() or path.name == ".zmetadata":
            continue
        found[path.relative_to(place).as_posix()] = path.read_bytes()
        if path.name in ("zarr.json", ".zgroup", ".zattrs", ".zarray"):
            metadata = json.loads(path.read_text())
            metadata.pop("consolidated_metadata", None)
            found[path.relative_to(place).as_posix()] = json.dumps(metadata, sort_keys=True)
    return found


def into_a_store(source: Path, target: Path) -> None:
    url = f"memory://{target.parent.name}/copies"
    backend = ZarrBackend()
    backend.ensure_directory(url)
    backend.copy(str(source), f"{url}/a.zarr")
    backend.copy(f"{url}/a.zarr", f"{url}/b.zarr")  # in the store itself
    fsspec.filesystem("memory").get(
        f"/{target.parent.name}/copies/b.zarr", str(target), recursive=True
    )


def out_of_a_store(source: Path, target: Path) -> None:
    url = f"memory://{target.parent.name}/s.zarr"
    fsspec.filesystem("memory").put(str(source), f"/{target.parent.name}/s.zarr", recursive=True)
    ZarrBackend().copy(url, str(target))


def within_a_directory(source: Path, target: Path) -> None:
    ZarrBackend().copy(str(source), str(target))


def between_two_backends(source: Path, target: Path) -> None:
    backends = {"here": ZarrBackend(), "there": ZarrBackend(target.parent / "deep", zarr_format=3)}
    fm = FileManager(backends)
    fm.copy(str(source), "/made/by/s.zarr", backend="here", to_backend="there")
    (target.parent / "deep/made/by/s.zarr").rename(target)


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize(
    "copy", [into_a_store, out_of_a_store, within_a_directory, between_two_backends]
)
def test_a_copy_is_all_that_was_stored(
    tmp_path: Path, copy: Callable[[Path, Path], None], zarr_format: int
) -> None:
    source, target = tmp_path / "source.zarr", tmp_path / "target.zarr"
    made(source, zarr_format)
    copy(source, target)
    assert stored(target) == stored(source)
    members = zarr.open_group(target, mode="r").members(max_depth=None)
    assert len(members) == len(COMMON) + 3 + 2


def test_arrays_in_a_directory_that_is_no_group_stay_in_their_format(tmp_path: Path) -> None:
    source = tmp_path / "arrays"
    zarr.create_array(LocalStore(source / "0"), data=ROWS, zarr_format=2, fill_value=None)
    backend = ZarrBackend()
    fm = FileManager({"here": backend, "there": ZarrBackend(tmp_path / "rooted")})
    url = f"memory://{tmp_path.name}"
    backend.copy(str(source), f"{url}/bare")
    backend.copy(f"{url}/bare", f"{url}/again")
    backend.copy(f"{url}/again", str(tmp_path / "back"))
    fm.copy(str(source), "/copy", backend="here", to_backend="there")
    for place in (tmp_path / "back", tmp_path / "rooted/copy"):
        group: Any = zarr.open_group(place, mode="r")
        assert group["0"].metadata.zarr_format == 2
        assert np.array_equal(group["0"][:], ROWS)


@pytest.fixture(params=["directory", "store", "backends"])
def two_formats(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Any, ZarrBackend]:
    """Give what copies from a group of format 2 into one of format 3, and the backend of that."""
    top = f"memory://{tmp_path.name}-two" if request.param == "store" else str(tmp_path / "two")
    backend = ZarrBackend(top)
    if request.param != "store":
        backend.ensure_directory("/old")
        (tmp_path / "two/old/zarr.json").unlink()
        made(tmp_path / "two/old", 2)
    else:
        made(tmp_path / "old", 2)
        fsspec.filesystem("memory").put(
            str(tmp_path / "old"), f"/{tmp_path.name}-two/old", recursive=True
        )
    backend.ensure_directory("/new")
    if request.param != "backends":
        return backend.copy, backend
    fm = FileManager({"a": backend, "b": ZarrBackend(tmp_path / "two")})
    return lambda s, t: fm.copy(s, t, backend="a", to_backend="b"), backend


def test_an_array_takes_the_format_of_the_group_that_it_is_copied_into(
    two_formats: tuple[Any, ZarrBackend],
) -> None:
    copy, backend = two_formats
    copy("/old/fortran", "/new/fortran")
    found: Any = backend.open("/new")
    assert found["fortran"].metadata.zarr_format == 3
    assert dict(found["fortran"].attrs) == {"unit": "µm"}
    assert np.array_equal(found["fortran"][:], ROWS)
    with pytest.raises(UnsupportedFormatError, match=r"(?s)another zarr format.*<U2"):
        copy("/old/texts", "/new/texts")
    assert not backend.exists("/new/texts")
    copy("/old/inner", "/new/inner")  # a store of its own
    assert backend.open("/new/inner").metadata.zarr_format == 2
    assert backend.load("/new/inner/x").tolist() == [7] * 4


def test_a_copy_is_of_one_array_if_another_replaces_it_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = ZarrBackend()
    source = str(tmp_path / "x")
    backend.save(np.full(400, 1), source, chunks=(8,))
    get = TreeStore.get
    replaced: list[str] = []

    async def get_late(store: TreeStore, key: str, *arguments: Any, **options: Any) -> Any:
        if key.startswith("c/") and not replaced:
            replaced.append(key)
            await asyncio.to_thread(backend.save, np.full(400, 2), source, overwrite=True)
        return await get(store, key, *arguments, **options)

    monkeypatch.setattr(TreeStore, "get", get_late)
    backend.copy(source, f"memory://{tmp_path.name}/x")
    assert replaced
    assert backend.load(f"memory://{tmp_path.name}/x").tolist() == [2] * 400


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_what_another_backend_does_not_keep_is_refused(tmp_path: Path, zarr_format: int) -> None:
    made(tmp_path / "s.zarr", zarr_format)
    store = ZarrBackend(f"memory://{tmp_path.name}-apart")
    ZarrBackend().copy(str(tmp_path / "s.zarr"), f"memory://{tmp_path.name}-apart/s.zarr")
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((3, 4), "u1"), description="scale: 2 um")
    store.save((tmp_path / "a.tif").read_bytes(), "/a.tif", suffix=".bin")
    memory = MemoryBackend()
    fm = FileManager({"here": ZarrBackend(tmp_path), "store": store, "memory": memory})
    for backend in ("here", "store"):
        for path, what in {"/s.zarr/nan": "attributes", "/s.zarr": "attributes"}.items():
            with pytest.raises(UnsupportedOperationError, match=rf"not keep.*{what}.*lossy=True"):
                fm.copy(path, "/x", backend, to_backend="memory")
        with pytest.raises(UnsupportedOperationError, match="ImageDescription"):
            fm.copy("/a.tif", "/x", backend, to_backend="memory")
        assert not memory.exists("/x")
        fm.copy("/s.zarr/inner/x", "/y", backend, to_backend="memory")
        fm.move("/y", f"/{backend}", "memory", to_backend="here")
        assert fm.load(f"/{backend}", "here").tolist() == [7] * 4
