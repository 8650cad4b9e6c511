"""What code that was written for the PyPI package polystore 0.x finds here."""

from __future__ import annotations

import warnings
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import polystore
from polystore import (
    BackendRegistry,
    DiskBackend,
    FileManager,
    MemoryBackend,
    PathExistsError,
    PathNotFoundError,
    StorageBackend,
    StorageError,
    VFSTypeError,
    ZarrBackend,
)
from polystore.backend_registry import cleanup_all_backends, register_cleanup_callback


@pytest.mark.parametrize(
    ("module", "name", "meant"),
    [
        ("polystore.base", "DiskStorageBackend", DiskBackend),
        ("polystore.base", "MemoryStorageBackend", MemoryBackend),
        ("polystore.base", "ZarrStorageBackend", ZarrBackend),
        ("polystore.disk", "DiskStorageBackend", DiskBackend),
        ("polystore.exceptions", "MetadataNotFoundError", PathNotFoundError),
        ("polystore.memory", "MemoryStorageBackend", MemoryBackend),
        ("polystore.zarr", "ZarrStorageBackend", ZarrBackend),
    ],
)
def test_a_former_name_means_the_present_class(module: str, name: str, meant: type) -> None:
    assert getattr(import_module(module), name) is meant


def test_a_name_that_never_was_is_missing_as_elsewhere() -> None:
    with pytest.raises(AttributeError, match=r"polystore\.base.*VirtualBackend"):
        import_module("polystore.base").VirtualBackend  # noqa: B018


@pytest.mark.parametrize("module", ["polystore", "polystore.base"])
def test_the_shared_registry_is_a_global_whose_memory_can_be_reset(module: str) -> None:
    names: Any = import_module(module)
    names.ensure_storage_registry()
    memory = names.storage_registry["memory"]
    assert memory is BackendRegistry()["memory"]
    memory.save(1, "/former/a", parents=True)
    names.reset_memory_backend()
    assert memory.is_dir("/former")
    assert not memory.exists("/former/a")
    memory.delete("/former")


def test_cleanups_call_what_was_registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("polystore.backend_registry._callbacks", [])
    calls: list[int] = []
    register_cleanup_callback(lambda: calls.append(1))
    memory = BackendRegistry()["memory"]
    polystore.compat.cleanup_backend_connections()
    assert (calls, BackendRegistry()["memory"] is memory) == ([1], True)
    cleanup_all_backends()
    assert (calls, BackendRegistry()["memory"] is memory) == ([1, 1], False)


def test_a_registry_takes_an_instance_for_itself_alone(tmp_path: Path) -> None:
    registry, mine = BackendRegistry(), DiskBackend(tmp_path)
    registry["Disk"] = registry["of_mine"] = mine
    assert registry["disk"] is registry["OF_MINE"] is mine
    assert "of_mine" in registry
    assert list(registry).count("disk") == 1
    assert len(registry) == len(list(registry)) == len(BackendRegistry()) + 1
    assert BackendRegistry()["disk"] is not mine
    assert "of_mine" not in BackendRegistry()
    with pytest.raises(VFSTypeError, match=r"not <class .*DiskBackend'> \(backend disk\)"):
        registry["disk"] = DiskBackend  # type: ignore[assignment]


@pytest.mark.parametrize(("registry", "error"), [(None, ValueError), (5, TypeError)])
def test_a_file_manager_says_what_a_registry_is(registry: Any, error: type) -> None:
    with pytest.raises(error, match=r"BackendRegistry\(\).*dict, not (NoneType|int)") as caught:
        FileManager(registry)
    assert isinstance(caught.value, StorageError)
    with pytest.raises(VFSTypeError, match="needs a registry"):
        FileManager()


class Anything(StorageBackend):
    """A backend that takes any option, as upstream's documentation writes them."""

    def __init__(self) -> None:
        self.given: list[dict[str, Any]] = []

    def load(self, path: Any, **options: Any) -> Any:
        self.given.append(options)

    def save(self, data: Any, path: Any, **options: Any) -> None:
        self.given.append(options)

    def is_file(self, path: Any) -> bool:
        return False

    is_dir = is_file

    def list_dir(self, path: Any) -> list[str]:
        return []


@pytest.fixture
def backends(tmp_path: Path) -> dict[str, Any]:
    return {"memory": MemoryBackend(), "disk": DiskBackend(tmp_path), "any": Anything()}


def test_a_manager_that_is_not_strict_drops_unknown_options_and_warns_once(
    backends: dict[str, Any],
) -> None:
    fm = FileManager(backends, strict=False)
    with pytest.warns(
        UserWarning, match=r"DiskBackend.save takes no chunk=, row=; dropped"
    ) as found:
        fm.save({}, "/0.json", "disk", row=1, chunk="a", durable=True)
    assert found[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fm.save({}, "/1.json", "disk", row=1, chunk="a")
    with pytest.warns(UserWarning, match="load_batch takes no config="):
        assert fm.load_batch(["/0.json"], "disk", config=None) == [{}]
    with pytest.warns(UserWarning, match="save_batch takes no row="):
        fm.save_batch([1], ["/a"], "memory", row=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fm.save(1, "/a", "any", row=1)
    assert backends["any"].given == [{"row": 1}]


def test_overwrite_can_be_the_default_of_a_manager(backends: dict[str, Any]) -> None:
    fm = FileManager(backends, overwrite=True)
    for backend in ("memory", "disk", "any"):
        for number in range(2):
            fm.save(number, "/a.json", backend)
            fm.save_batch([number], ["/b.json"], backend)
    assert fm.load("/a.json", "disk") == fm.load("/b.json", "memory") == 1
    assert backends["any"].given == [{}] * 4
    with pytest.raises(PathExistsError):
        fm.save(2, "/a.json", "disk", overwrite=False)


def test_a_stack_refuses_and_drops_options_as_a_save_does(
    backends: dict[str, Any], tmp_path: Path
) -> None:
    backends["zarr"] = ZarrBackend(tmp_path)
    fm = FileManager(backends)
    fm.save_batch([np.ones(2)] * 2, ["/a", "/b"], "memory")
    with pytest.raises(VFSTypeError, match=r"no chunk= \(did you mean 'chunks'\?\)"):
        fm.stack(["/a", "/b"], "/all", "memory", to_backend="zarr", chunk=(1, 2))
    lenient = FileManager(backends, strict=False, overwrite=True)
    with pytest.warns(UserWarning, match=r"takes no chunk="):
        lenient.stack(["/a", "/b"], "/all", "memory", to_backend="zarr", chunk=(1, 2))
    assert fm.load("/all", "zarr").shape == (2, 2)


def test_csv_text_is_saved_as_it_is(backends: dict[str, Any], tmp_path: Path) -> None:
    backends["disk"].save("name,count\nA01,3\n", "/a.csv")
    assert (tmp_path / "a.csv").read_bytes() == b"name,count\nA01,3\n"
    assert backends["disk"].load("/a.csv") == [["name", "count"], ["A01", 3]]
    with pytest.raises(ValueError, match="not CSV: row 1 has a misplaced quote"):
        backends["disk"].save('a"b,"', "/b.csv")
    assert not (tmp_path / "b.csv").exists()


@pytest.mark.parametrize("backend", ["memory", "disk", "zarr"])
def test_metadata_is_refused_by_its_name(
    backends: dict[str, Any], tmp_path: Path, backend: str
) -> None:
    backends["zarr"] = ZarrBackend(tmp_path)
    with pytest.raises(VFSTypeError, match=r"takes no metadata=; its options are .*overwrite"):
        FileManager(backends).save(1, "/a.json", backend, metadata={"scale": 1})
    assert not backends[backend].exists("/a.json")
