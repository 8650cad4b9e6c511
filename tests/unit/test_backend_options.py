"""Options of backends: checked where they are given, applied in every host, one store one set."""

from __future__ import annotations

import os
import threading
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from polystore import BackendNotFoundError, FileManager, StorageBackend, VFSTypeError
from polystore.exceptions import (
    InvalidPathError,
    StorageResolutionError,
    UnsupportedOperationError,
)
from polystore_ray import NodeNotFoundError, RayBackendRegistry
from polystore_ray.config.backends import BackendOptions, options_on
from polystore_ray.config.nodes import Node


class Labelled(StorageBackend):
    """One whose constructor cannot do without an argument."""

    _backend_type = "labelled"

    def __init__(self, label: str, *, loud: bool = False) -> None:
        self.label = label.upper() if loud else label

    def load(self, path: Any) -> str:
        return f"{self.label}:{path}"

    def save(self, data: Any, path: Any) -> None:
        raise NotImplementedError

    def is_file(self, path: Any) -> bool:
        return True

    def is_dir(self, path: Any) -> bool:
        return False

    def list_dir(self, path: Any) -> list[str]:
        return []


@pytest.fixture
def store() -> str:
    return uuid.uuid4().hex


def registry(store: str, backends: Any = None) -> RayBackendRegistry:
    return RayBackendRegistry(store, local=True, backends=backends)


def test_options_reach_the_constructor(store: str, tmp_path: Path) -> None:
    found = registry(store, {"Labelled": {"label": "a", "loud": True}, "disk": {"root": tmp_path}})
    assert found["labelled"].load("x") == "A:x"
    found["disk"].save(np.ones(2), "sub/a.npy", parents=True)
    assert (tmp_path / "sub" / "a.npy").exists()
    assert found["disk"].list_files("sub") == ["/sub/a.npy"]
    with pytest.raises(InvalidPathError):
        found["disk"].load("../../etc/passwd")


def test_a_relative_root_is_that_of_who_gives_it(
    store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    found = registry(store, {"disk": {"root": "data"}, "zarr": {"root": "arrays"}})
    monkeypatch.chdir(os.sep)
    found["disk"].save("x", "/a.txt")
    found["zarr"].save(np.ones(2), "b")
    assert (tmp_path / "data" / "a.txt").read_text() == "x"
    assert (tmp_path / "arrays" / "b" / "zarr.json").exists()


def test_a_missing_argument_says_where_it_is_given(store: str) -> None:
    with pytest.raises(VFSTypeError, match=r"'label'.*backends=\{'labelled'"):
        registry(store)["labelled"].load("x")


@pytest.mark.parametrize(
    ("backends", "error", "text"),
    [
        ({"disk": {"roots": "/data"}}, VFSTypeError, r"'roots'.*DiskBackend\(root"),
        ({"labelled": {"loud": True}}, VFSTypeError, "'label'"),
        ({"labelled": {"label": threading.Lock()}}, VFSTypeError, "'label'.*pickle"),
        ({"nowhere": {}}, BackendNotFoundError, "nowhere"),
        ({"memory": {"root": "/"}}, VFSTypeError, "max_bytes"),
        ({"disk@a": {"roots": "/data"}}, VFSTypeError, "'roots'"),
    ],
)
def test_options_are_checked_where_they_are_given(
    store: str, backends: Any, error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        registry(store, backends)


def test_who_makes_the_store_decides(store: str, tmp_path: Path) -> None:
    given = {"disk": {"root": str(tmp_path)}}
    registry(store, given)["disk"].save("x", "/a.txt")
    assert registry(store)["disk"].load("a.txt") == "x"
    assert registry(store, {"disk": {"root": "".join([*str(tmp_path)])}})["disk"].exists("/a.txt")
    others: list[Any] = [{"disk": {"root": "/secret"}}, {"disk": {}}, {"zarr": {"root": "/secret"}}]
    for other in others:
        with pytest.raises(StorageResolutionError, match=f"{store}.*root") as found:
            registry(store, other)["disk"].exists("/a.txt")
        assert "secret" not in str(found.value)


def test_a_node_has_what_is_given_for_all_and_then_its_own() -> None:
    given = {
        "disk@zone=far": BackendOptions.of("disk", {"root": "/far"}),
        "disk": BackendOptions.of("disk", {"root": "/data", "x": 1}),
        "zarr": BackendOptions.of("zarr", {"root": "/zarr"}),
    }
    near, far = Node("1" * 8), Node("2" * 8, (), {"zone": "far"})
    assert options_on(given, "disk", near).open() == {"root": "/data", "x": 1}
    assert options_on(given, "disk", far).open() == {"root": "/far", "x": 1}
    assert options_on(None, "disk", far).open() == {}


def test_a_key_names_a_node_in_local_mode_too(store: str, tmp_path: Path) -> None:
    found = registry(store, {"disk@local": {"root": tmp_path}})
    fm = FileManager(found)
    fm.save("x", "/a.txt", backend="disk@local")
    assert (tmp_path / "a.txt").read_text() == "x"
    assert fm.load("/a.txt", backend="disk") == "x"
    assert FileManager(found.on("local")).list_dir("/", backend="disk") == ["a.txt"]
    with pytest.raises(NodeNotFoundError, match=r"'node-9'.*local"):
        fm.load("/a.txt", backend="disk@node-9")


def test_what_a_registry_of_a_node_is_in_a_mapping(store: str) -> None:
    found = registry(store)
    assert "disk@anywhere" in found
    assert "nothing@anywhere" not in found
    assert not any("@" in key for key in found)
    on = found.on("local")
    assert list(on) == [key for key in found if key != "memory"]
    assert len(on) == len(found) - 1
    assert "Disk" in on
    assert "memory" not in on
    assert object() not in on
    assert repr(on["disk"]) == "HostedBackend('disk@local')"
    for memory in (lambda: found["memory@local"], lambda: on["memory"]):
        with pytest.raises(UnsupportedOperationError, match="the same on all nodes"):
            memory()
    with pytest.raises(BackendNotFoundError, match="nothing"):
        found["nothing@local"]


def test_a_store_that_exists_with_other_options_is_named_with_its_lifetime() -> None:
    RayBackendRegistry("sized", lifetime="detached", local=True, max_bytes=10)["memory"].exists("/")
    other = RayBackendRegistry("sized", lifetime="detached", local=True, max_bytes=20)
    with pytest.raises(StorageResolutionError, match=r"store 'sized' \(lifetime='detached'\)"):
        other["memory"].exists("/")
    other.shutdown()
