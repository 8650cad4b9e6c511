"""What a backend offers beyond the five abstract methods, as types; what it declares to hosts."""

from __future__ import annotations

from typing import Any

import pytest
from test_base import Documented, Five, Trees

from polystore import (
    DiskBackend,
    FileManager,
    Hostable,
    MemoryBackend,
    StorageBackend,
    UnsupportedOperationError,
    VFSTypeError,
    ZarrBackend,
)
from polystore.capabilities import (
    Capability,
    Deletable,
    HasDirectories,
    HasLinks,
    MakesParents,
    ReportsLoading,
    ReportsSaving,
    Resizable,
    Watchable,
)
from polystore.hostable import hostable
from polystore_ray import RayBackendRegistry

CAPABILITIES: list[type[Capability]] = [
    Deletable,
    HasDirectories,
    HasLinks,
    Resizable,
    Watchable,
    MakesParents,
    ReportsLoading,
    ReportsSaving,
]
TREE = [Deletable, HasDirectories, HasLinks]
REPORTS = [ReportsLoading, ReportsSaving]


@pytest.mark.parametrize(
    ("cls", "offered"),
    [
        (Five, REPORTS),
        (Trees, [*TREE, *REPORTS]),
        (Documented, []),
        (MemoryBackend, [*TREE, MakesParents, *REPORTS]),
        (DiskBackend, [*TREE, Watchable, MakesParents, *REPORTS]),
        (ZarrBackend, [*TREE, Resizable, Watchable, MakesParents, *REPORTS]),
    ],
)
def test_a_class_has_the_capabilities_whose_methods_it_implements(
    cls: type[StorageBackend], offered: list[type[Capability]]
) -> None:
    assert [each for each in CAPABILITIES if issubclass(cls, each)] == offered


def test_a_subclass_may_add_a_capability() -> None:
    class Growing(Five):
        def append(self, values: Any, path: Any, *args: Any, **options: Any) -> int:
            return 0

        def resize(self, path: Any, shape: Any, *args: Any, **options: Any) -> None: ...

    assert isinstance(Growing(), Resizable)
    assert not isinstance(Growing(), Deletable)


def test_the_contract_has_no_methods_for_the_cluster() -> None:
    public = {name for name in dir(StorageBackend) if not name.startswith("_")}
    assert public == {
        *("load", "load_batch", "exists", "is_file", "is_dir", "is_symlink", "stat"),
        *("list_dir", "list_files", "walk", "save", "save_batch", "append", "resize"),
        *(
            "ensure_directory",
            "create_symlink",
            "watch",
            "delete",
            "delete_all",
            "copy",
            "move",
            "close",
        ),
        *("watch", "aload", "aload_batch", "asave", "asave_batch"),
    }


def test_a_backend_declares_to_hosts_what_differs_from_the_defaults() -> None:
    class Device(Five):
        _host_options = {"num_gpus": 1}  # noqa: RUF012 - as an author writes it

        @classmethod
        def portable_path(cls, path: Any, /, **options: Any) -> str:
            return f"/device/{path}"

    declared: Any = hostable(Device)
    assert declared is hostable(Device)
    assert declared._host_options == {"num_gpus": 1}
    assert declared.portable_path("a") == "/device/a"
    assert declared.portable_options(root="b") == {"root": "b"}
    assert declared._saves_regions_together is False
    assert Hostable().content_identity("a") is None


def test_a_class_that_derives_from_hostable_is_its_own_declaration() -> None:
    class Derived(Five, Hostable):
        pass

    assert hostable(Derived) is Derived
    with pytest.raises(VFSTypeError):
        Derived.portable_path(3)  # type: ignore[arg-type]


def test_a_move_out_of_a_backend_that_cannot_delete_copies_nothing() -> None:
    fm = FileManager({"five": Five(), "memory": MemoryBackend()})
    fm.save(1, "/a", "five")
    with pytest.raises(UnsupportedOperationError, match="Five does not support delete"):
        fm.move("/a", "/a", "five", to_backend="memory")
    assert not fm.exists("/a", "memory")


# Every method that takes a list refuses a single value


class Lenient(Documented):
    """A custom backend whose own batches check nothing."""


@pytest.fixture(params=["plain", "local"])
def fm(request: pytest.FixtureRequest, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.chdir(tmp_path)
    backends: Any = {"memory": MemoryBackend(), "disk": DiskBackend(), "zarr": ZarrBackend()}
    if request.param == "plain":
        yield FileManager(backends | {"lenient": Lenient()})
    else:
        registry = RayBackendRegistry("lists", local=True)
        yield FileManager({key: registry[key] for key in backends})
        registry.shutdown()


def test_a_single_value_is_no_batch(fm: FileManager) -> None:
    for key, backend in fm.registry.items():
        calls: dict[str, Any] = {
            "load_batch of a manager": lambda key=key: fm.load_batch("ab", key),
            "save_batch of a manager": lambda key=key: fm.save_batch("xy", ["a", "b"], key),
            "paths of a manager": lambda key=key: fm.save_batch([1, 2], "ab", key),
            "copy": lambda key=key: fm.copy("ab", ["c", "d"], key),
            "stack": lambda key=key: fm.stack("ab", "c", key, to_backend="zarr"),
        }
        if key != "lenient":
            calls |= {
                "load_batch": lambda b=backend: b.load_batch("ab"),
                "load_batch of bytes": lambda b=backend: b.load_batch(b"ab"),
                "save_batch of paths": lambda b=backend: b.save_batch([1, 2], "ab"),
                "save_batch of values": lambda b=backend: b.save_batch("xy", ["a", "b"]),
            }
        for name, call in calls.items():
            with pytest.raises(VFSTypeError, match="list") as caught:
                call()
            assert caught.value.backend == key, name
        assert not backend.exists("a")


def test_the_memory_of_a_store_wants_lists_too() -> None:
    registry = RayBackendRegistry("lists", local=True)
    memory = registry["memory"]
    for call in (memory.refs, memory.locations, lambda paths: memory.map(len, paths)):
        with pytest.raises(VFSTypeError, match="list"):
            call("ab")
    registry.shutdown()
