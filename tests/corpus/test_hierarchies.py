"""Zarr hierarchies of other writers are loaded as they were meant, and changed in place.

After each change the writer's own package reads what was changed, and the rest as it was. The
writers that are installed take part; with ``POLYSTORE_CORPUS=all``, all of them have to.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
import zarr
from hierarchies import HIERARCHIES, Arrays, Hierarchy
from zarr.core.buffer import cpu, default_buffer_prototype

from polystore import ZarrBackend
from polystore_ray import RayBackendRegistry
from polystore_ray.zarr import ClusterStore

pytestmark = pytest.mark.filterwarnings("ignore")  # of the writers

ALL = os.environ.get("POLYSTORE_CORPUS") == "all"
WANTED = [hierarchy for hierarchy in HIERARCHIES if ALL or hierarchy.is_installed()]
NUMBERS = "biufc"
# What an overwrite or an append may change.
OF_SHAPE = ("shape", "chunk_key_encoding", "dimension_separator", "consolidated_metadata")


class Route:
    """A hierarchy in a folder, and a backend that reaches it one way or another."""

    def __init__(self, kind: str, folder: Path) -> None:
        self.folder = folder
        self._memory = f"/{folder.parent.name}/s.zarr"
        self.backend: Any
        if kind == "rooted":
            self.backend, self.top = ZarrBackend(folder.parent), f"/{folder.name}"
        elif kind == "hosted":
            registry = RayBackendRegistry("corpus", local=True)
            self.backend, self.top = registry["zarr"], str(folder)
        else:
            self.backend, self.top = ZarrBackend(), str(folder)
        self.is_remote = kind == "memory"
        if self.is_remote:
            self.top = f"memory:/{self._memory}"
            fsspec.filesystem("memory").put(str(folder), self._memory, recursive=True)

    def path(self, name: str) -> str:
        return f"{self.top}/{name}"

    def pull(self) -> None:
        """Have in the folder what is in the store."""
        if self.is_remote:
            files = fsspec.filesystem("local")
            files.rm(str(self.folder), recursive=True)
            fsspec.filesystem("memory").get(self._memory, str(self.folder), recursive=True)


@pytest.fixture(params=["rooted", "unrooted", "memory", "hosted"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=WANTED, ids=lambda hierarchy: hierarchy.name)
def writer(request: pytest.FixtureRequest) -> Hierarchy:
    return request.param  # type: ignore[no-any-return]


def test_arrays_are_what_their_writer_meant(writer: Hierarchy, kind: str, tmp_path: Path) -> None:
    meant = writer.write(tmp_path / "s.zarr")
    route = Route(kind, tmp_path / "s.zarr")
    before = metadata(route.folder)
    for name, values in meant.items():
        check(route.backend.load(route.path(name)), values, name)
        region: Any = (slice(None, None, -2),) * values.ndim
        check(route.backend.load(route.path(name), region=region), values[region], name)
    found = writer.read(route.folder)

    # Into a region, what is there: all stays the same.
    for name, values in meant.items():
        if values.size and values.ndim:
            part: Any = (slice(0, 2), *[0] * (values.ndim - 1))
            route.backend.save(values[part], route.path(name), region=part)
    route.pull()
    check_all(writer.read(route.folder), found)
    assert metadata(route.folder) == before

    changed = {name: values for name, values in meant.items() if values.dtype.kind in NUMBERS}
    changed = {
        name: values[..., ::-1] if values.ndim else values for name, values in changed.items()
    }
    for name, values in changed.items():
        route.backend.save(values, route.path(name), overwrite=True)
    check_folder(route, writer, {**meant, **changed}, before)
    for name in changed:
        route.backend.save(meant[name], route.path(name), overwrite=True)
    route.pull()
    check_all(writer.read(route.folder), found)

    lines = {name: values for name, values in changed.items() if values.ndim}
    grown = {name: np.concatenate([x, x[:2]], dtype=x.dtype) for name, x in lines.items()}
    for name, values in grown.items():
        route.backend.append(values[len(meant[name]) :], route.path(name))
        route.backend.save(values, route.path(name), region=...)
    check_folder(route, None, {**meant, **grown}, before)


def test_members_come_and_go(writer: Hierarchy, kind: str, tmp_path: Path) -> None:
    meant = writer.write(tmp_path / "s.zarr")
    route = Route(kind, tmp_path / "s.zarr")
    before = metadata(route.folder)
    arrays = dict(meant)
    groups = sorted({"", *(name.rpartition("/")[0] for name in meant)})
    for group in groups:
        path = f"{group}/new" if group else "new"
        arrays[path] = np.arange(6.0).reshape(2, 3)
        route.backend.save(arrays[path], route.path(path))
    for name in [name for name in meant if "/" not in name]:
        route.backend.copy(route.path(name), route.path(f"copy-{name}"))
        arrays[f"copy-{name}"] = meant[name]
    check_folder(route, None, arrays, before)
    for name in list(meant)[::2]:
        route.backend.delete(route.path(name))
        del arrays[name]
    check_folder(route, None, arrays, {})


def test_a_cluster_store_has_what_its_writer_meant(writer: Hierarchy, tmp_path: Path) -> None:
    folder = tmp_path / "s.zarr"
    meant = writer.write(folder)
    found = writer.read(folder)
    store = ClusterStore("/s.zarr", RayBackendRegistry(f"corpus-{tmp_path.name[-20:]}", local=True))
    for key in keys(folder):
        data = cpu.Buffer.from_bytes((folder / key).read_bytes())
        asyncio.run(store.set(key, data))
    for name, values in meant.items():
        array = zarr.open_array(store, path=name, mode="r+")
        check(array[...], values, name)
        if values.ndim and values.size:
            array[:1] = array[:1]
            array.append(array[:2])
            array.resize(values.shape)
    for key in keys(folder):
        (folder / key).unlink()
    for key, found_there in asyncio.run(contents(store)).items():
        (folder / key).parent.mkdir(parents=True, exist_ok=True)
        (folder / key).write_bytes(found_there)
    check_all(writer.read(folder), found)


async def contents(store: ClusterStore) -> dict[str, bytes]:
    found = {}
    async for key in store.list():
        value = await store.get(key, default_buffer_prototype())
        assert value is not None
        found[key] = value.to_bytes()
    return found


def keys(folder: Path) -> list[str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return [path.relative_to(folder).as_posix() for path in files]


def check(found: Any, meant: Any, name: str) -> None:
    """Check that two arrays are the same, NaN being the same as NaN."""
    found, meant = np.asarray(found), np.asarray(meant)
    assert found.shape == meant.shape, name
    if meant.dtype.kind in NUMBERS:
        assert found.dtype == meant.dtype, name
    np.testing.assert_array_equal(found, meant, name)


def check_all(found: dict[str, Any], meant: dict[str, Any]) -> None:
    assert found.keys() == meant.keys()
    for name, values in meant.items():
        check(found[name], values, name)


def check_folder(
    route: Route, writer: Hierarchy | None, arrays: Arrays, before: dict[str, Any]
) -> None:
    """Check what zarr finds, and that metadata are what they were but for shapes."""
    route.pull()
    for name, values in arrays.items():
        check(zarr.open_array(route.folder / name, mode="r")[...], values, name)
    if any((route.folder / name).exists() for name in ("zarr.json", ".zgroup")):
        for use_consolidated in (None, False):
            group = zarr.open_group(route.folder, mode="r", use_consolidated=use_consolidated)
            members: dict[str, Any] = dict(group.members(max_depth=None))
            there = {name for name, node in members.items() if isinstance(node, zarr.Array)}
            assert there == arrays.keys()
            for name in there:
                assert members[name].shape == arrays[name].shape, name
    if writer is not None:
        writer.read(route.folder)
    after = metadata(route.folder)
    for name, values in before.items():
        assert after[name] == values, name


def metadata(folder: Path) -> dict[str, Any]:
    """Return the metadata of a hierarchy, in one spelling and without what a change may change."""
    found = {}
    for path in metadata_files(folder):
        read = json.loads(path.read_text())
        kept = {name: value for name, value in read.items() if name not in OF_SHAPE}
        if path.name == "zarr.json" and kept["node_type"] == "array":
            array = zarr.open_array(path.parent, mode="r").metadata.to_dict()
            kept = {name: value for name, value in array.items() if name not in OF_SHAPE}
        found[path.relative_to(folder).as_posix()] = json.dumps(kept, sort_keys=True, default=str)
    return found


def metadata_files(folder: Path) -> Iterator[Path]:
    for path in folder.rglob("*"):
        if path.name in ("zarr.json", ".zarray", ".zgroup", ".zattrs"):
            yield path
