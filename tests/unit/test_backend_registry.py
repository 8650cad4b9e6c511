"""Contract lines 1 to 7: registration and the registry."""

from __future__ import annotations

import importlib
import subprocess
import sys
import threading
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import Any

import cloudpickle
import pytest
from metaclass_registry import DuplicateRegistryKeyError
from metaclass_registry.testing import restored_registry

from polystore import (
    BackendNotFoundError,
    BackendRegistry,
    DiskBackend,
    MissingDependencyError,
    PathExistsError,
    ReadOnlyBackend,
    StorageBackend,
    StorageResolutionError,
    UnsupportedOperationError,
    VFSTypeError,
    registration,
)
from polystore.backend_registry import (
    cleanup_all_backends,
    create_storage_registry,
    get_backend_instance,
)
from polystore.registration import BackendBase, register_backend


class Five:
    """The five methods an author has to write."""

    made = 0

    def __init__(self) -> None:
        type(self).made += 1

    def load(self, path: Any) -> Any:
        return path

    def save(self, data: Any, path: Any) -> None:
        pass

    def is_file(self, path: Any) -> bool:
        return True

    def is_dir(self, path: Any) -> bool:
        return False

    def list_dir(self, path: Any) -> list[str]:
        return []


@pytest.fixture(autouse=True)
def _definitions_end_with_the_test() -> Iterator[None]:
    abstract = dict(registration._ABSTRACT)
    others = tuple(
        key for key in registration._REGISTRY if key not in registration.BUILTIN_BACKENDS
    )
    with restored_registry(BackendBase, released=others):
        yield
    registration._ABSTRACT.clear()
    registration._ABSTRACT.update(abstract)


def define(key: str, name: str = "Mine", **members: Any) -> Any:
    meta: Any = type(StorageBackend)
    return meta(name, (Five, StorageBackend), {"_backend_type": key, **members})


def test_a_concrete_class_registers_when_it_is_defined() -> None:
    cls = define("mine")
    registry = BackendRegistry.isolated()
    assert list(registry) == ["memory", "disk", "zarr", "mine"]
    assert type(registry["mine"]) is cls


def test_keys_compare_without_regard_to_case_and_enum_members_are_keys() -> None:
    class Key(Enum):
        MINE = "Mine"

    define("MINE")
    registry = BackendRegistry.isolated()
    not_a_key: Any = 17
    assert registry["mine"] is registry["MiNe"] is registry[Key.MINE]
    assert "Mine" in registry
    assert "MEMORY" in registry
    assert not_a_key not in registry


def test_a_read_only_backend_registers_too() -> None:
    define_read_only: Any = type(ReadOnlyBackend)
    define_read_only("Archive", (Five, ReadOnlyBackend), {"_backend_type": "archive"})
    assert "archive" in BackendRegistry()


def test_looking_an_abstract_class_up_says_what_it_lacks() -> None:
    class Half(StorageBackend):
        _backend_type = "half"

        def load(self, path: Any) -> Any:
            return path

        def save(self, data: Any, path: Any) -> None: ...

        def is_file(self, path: Any) -> bool:
            return True

        def is_dir(self, path: Any) -> bool:
            return False

    registry = BackendRegistry()
    assert "half" not in registry
    with pytest.raises(BackendNotFoundError) as caught:
        registry["half"]
    assert str(caught.value) == "'half' is declared by Half, which is abstract: it lacks list_dir"


def test_an_unknown_key_names_the_known_ones() -> None:
    with pytest.raises(BackendNotFoundError, match=r"'mnemory'.*memory, disk, zarr") as caught:
        BackendRegistry()["mnemory"]
    assert isinstance(caught.value, KeyError)
    assert BackendRegistry().get("mnemory") is None


def test_a_subclass_that_inherits_its_key_registers_nothing_and_hijacks_nothing() -> None:
    cls = define("mine")

    type(cls)("Special", (cls,), {})
    assert type(BackendRegistry.isolated()["mine"]) is cls


def test_the_same_declaration_defined_again_replaces() -> None:
    registry = BackendRegistry.isolated()
    first = define("mine")
    old = registry["mine"]
    second = define("mine")
    assert type(old) is first
    assert type(registry["mine"]) is second


MODULE = """
from polystore import StorageBackend

class Reloaded(StorageBackend):
    _backend_type = "reloaded"
    generation = {generation}
    def load(self, path): return self.generation
    def save(self, data, path): pass
    def is_file(self, path): return True
    def is_dir(self, path): return False
    def list_dir(self, path): return []
"""


def test_a_module_that_is_reloaded_replaces_its_backends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    registry = BackendRegistry.isolated()
    (tmp_path / "a_module_of_backends.py").write_text(MODULE.format(generation=1))
    module = importlib.import_module("a_module_of_backends")
    assert registry["reloaded"].load("a") == 1
    (tmp_path / "a_module_of_backends.py").write_text(MODULE.format(generation=2))
    importlib.reload(module)
    assert registry["reloaded"].load("a") == 2
    assert list(registry).count("reloaded") == 1


def test_a_notebook_cell_that_is_run_twice_replaces_its_backends() -> None:
    cell: dict[str, Any] = {"__name__": "__main__"}
    registry = BackendRegistry.isolated()
    for generation in (1, 2):
        exec(MODULE.format(generation=generation), cell)
        assert registry["reloaded"].load("a") == generation


def test_a_key_may_be_declared_by_a_member_of_an_enum_and_not_by_a_number() -> None:
    class Key(Enum):
        MINE = "Mine"

    cls = define(Key.MINE)  # type: ignore[arg-type]
    assert cls._backend_type == "mine"
    assert "mine" in BackendRegistry()
    with pytest.raises(VFSTypeError, match="int"):
        define(17)  # type: ignore[arg-type]


def test_a_subclass_of_a_built_in_backend_has_a_key_of_its_own(tmp_path: Path) -> None:
    class Plates(DiskBackend):
        _backend_type = "plates"

        def __init__(self) -> None:
            super().__init__(tmp_path)

    class Quiet(DiskBackend):
        pass

    registry = BackendRegistry.isolated()
    registry["plates"].save(b"x", "a.bin")
    with pytest.raises(PathExistsError, match="backend plates"):
        registry["plates"].save(b"x", "a.bin")
    assert type(registry["disk"]) is DiskBackend
    assert Quiet._backend_type == "disk"


def test_another_class_with_a_taken_key_raises_at_definition() -> None:
    define("mine")
    with pytest.raises(DuplicateRegistryKeyError, match="mine"):
        define("Mine", name="Other")
    for builtin in ("memory", "disk", "ZARR"):
        with pytest.raises(DuplicateRegistryKeyError, match="belongs to polystore"):
            define(builtin)


def test_looking_makes_no_instance_and_access_makes_one() -> None:
    cls = define("mine", made=0)
    registry = BackendRegistry.isolated()
    assert "mine" in registry
    assert len(registry) == 4
    assert list(registry.keys())[-1] == "mine"
    assert cls.made == 0
    assert registry["mine"] is registry.get("mine") is dict(registry.items())["mine"]
    assert cls.made == 1


def test_eight_threads_get_one_instance() -> None:
    def slow(self: Any) -> None:
        threading.Event().wait(0.05)

    define("slow", __init__=slow)
    registry = BackendRegistry.isolated()
    start = threading.Barrier(8)
    got: list[Any] = []

    def ask() -> None:
        start.wait()
        got.append(registry["slow"])

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({id(instance) for instance in got}) == 1


def test_a_constructor_that_fails_stays_visible_and_is_tried_again() -> None:
    tries: list[int] = []

    def fails_once(self: Any) -> None:
        tries.append(1)
        if len(tries) == 1:
            raise OSError("no drive")

    define("flaky", __init__=fails_once)
    registry = BackendRegistry.isolated()
    with pytest.raises(StorageResolutionError, match="no drive") as caught:
        registry["flaky"]
    assert isinstance(caught.value.__cause__, OSError)
    assert "flaky" in registry
    assert registry["memory"] is not None
    assert registry["flaky"] is registry["flaky"]
    assert len(tries) == 2


def test_eight_threads_on_a_constructor_that_fails_once_get_one_instance() -> None:
    tries: list[int] = []

    def fails_once(self: Any) -> None:
        tries.append(1)
        threading.Event().wait(0.02)
        if len(tries) == 1:
            raise OSError("no drive")

    define("flaky", __init__=fails_once)
    registry = BackendRegistry.isolated()
    got: list[Any] = []

    def ask() -> None:
        try:
            got.append(registry["flaky"])
        except StorageResolutionError as error:
            got.append(str(error))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    [told] = [each for each in got if isinstance(each, str)]
    assert told == "Mine() failed with OSError: no drive (backend flaky)"
    assert len({id(each) for each in got if not isinstance(each, str)}) == 1
    assert len(tries) == 2


def test_all_values_and_items_are_made_once() -> None:
    cls = define("mine", made=0)
    registry = BackendRegistry.isolated()
    assert [type(each) for each in registry.values()] == [
        type(each) for each in dict(registry.items()).values()
    ]
    assert list(registry) == list(registry.keys()) == [key for key, _ in registry.items()]
    assert cls.made == 1


def test_what_is_no_key_is_in_no_registry_and_refused() -> None:
    registry: Any = BackendRegistry()
    for key in (17, None, b"memory", ("memory",)):
        assert key not in registry
        with pytest.raises(VFSTypeError):
            registry[key]
    with pytest.raises(BackendNotFoundError, match="''"):
        registry[""]


def test_registries_share_instances_unless_isolated() -> None:
    shared, isolated = BackendRegistry(), BackendRegistry.isolated()
    assert shared["memory"] is BackendRegistry()["memory"]
    assert shared["memory"] is get_backend_instance("memory")
    assert shared["memory"] is create_storage_registry()["memory"]
    assert isolated["memory"] is not shared["memory"]


def test_cleanup_closes_what_was_made_and_lets_it_be_made_again() -> None:
    closed: list[str] = []
    define("mine", close=lambda self: closed.append("mine"))
    old = get_backend_instance("mine")
    cleanup_all_backends()
    assert closed == ["mine"]
    assert get_backend_instance("mine") is not old


def test_a_missing_package_is_named_with_its_cure_and_the_key_stays() -> None:
    def needs(self: Any) -> None:
        import a_package_that_is_not_there  # type: ignore[import-not-found]  # noqa: F401

    define("needy", __init__=needs)
    registry = BackendRegistry.isolated()
    with pytest.raises(MissingDependencyError, match=r"a_package_that_is_not_there.*pip install"):
        registry["needy"]
    assert "needy" in registry


def test_a_class_that_arrives_in_a_pickle_is_registered_by_hand() -> None:
    cls = define("travelled")
    cls.__module__ = "__main__"
    shipped = cloudpickle.dumps(cls)
    del registration._REGISTRY["travelled"]
    code = (
        "import sys, cloudpickle\n"
        "from polystore import BackendRegistry\n"
        "from polystore.registration import register_backend\n"
        "cls = cloudpickle.loads(bytes.fromhex(sys.argv[1]))\n"
        "assert 'travelled' not in BackendRegistry()\n"
        "register_backend(cls); register_backend(cls)\n"
        "print(BackendRegistry()['travelled'].load('it works'))\n"
    )
    Five.__module__ = "__main__"
    try:
        shipped = cloudpickle.dumps(cls)
    finally:
        Five.__module__ = __name__
    done = subprocess.run(
        [sys.executable, "-c", code, shipped.hex()], capture_output=True, text=True, check=False
    )
    assert done.stdout == "it works\n", done.stderr


def test_register_backend_refuses_a_taken_key() -> None:
    define("mine")
    other = define("other", name="Other")
    other._backend_type = "mine"
    with pytest.raises(DuplicateRegistryKeyError):
        register_backend(other)


def test_a_registry_does_not_travel_and_says_what_does() -> None:
    with pytest.raises(UnsupportedOperationError, match="RayBackendRegistry"):
        cloudpickle.dumps(BackendRegistry())
