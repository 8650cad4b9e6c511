"""Wrong arguments of methods: refused as ours, in every backend, before anything is changed."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from polystore import DiskBackend, MemoryBackend, StorageError, VFSTypeError, ZarrBackend
from polystore_ray import RayBackendRegistry
from polystore_ray.client.memory import ClusterMemoryBackend
from polystore_ray.wire.decoding import decode, encode
from polystore_ray.wire.messages import Request


@pytest.fixture
def registry() -> RayBackendRegistry:
    return RayBackendRegistry("arguments", local=True)


@pytest.mark.parametrize("number", ["2", 1.5, math.nan, -1, True, [], {}])
@pytest.mark.parametrize("name", ["replicas", "if_version"])
def test_a_number_of_things_is_a_whole_one(
    registry: RayBackendRegistry, name: str, number: Any
) -> None:
    memory = registry["memory"]
    memory.save(1, "/a", overwrite=True)
    with pytest.raises(VFSTypeError, match=name):
        memory.save(2, "/a", overwrite=True, **{name: number})
    with pytest.raises(VFSTypeError):
        memory.save_batch([2], ["/a"], overwrite=True, bundled=number)
    assert memory.load("/a") == 1


@pytest.mark.parametrize("timeout", ["2", math.nan, -1, None, [], True])
def test_a_number_of_seconds_is_one(registry: RayBackendRegistry, timeout: Any) -> None:
    with pytest.raises(VFSTypeError, match="timeout"):
        registry.drain("local", timeout)


@pytest.mark.parametrize("fallback", [3, "disk", ("disk",), ("disk", 3), ("disk", "/a", "b"), []])
def test_a_fallback_is_a_backend_and_a_path(registry: RayBackendRegistry, fallback: Any) -> None:
    with pytest.raises(StorageError):
        registry["memory"].save(1, "/f", fallback=fallback)
    assert not registry["memory"].exists("/f")


def backends(top: Path) -> dict[str, Any]:
    (top / "z").mkdir()
    registry = RayBackendRegistry("arguments", local=True)
    return {
        "memory": MemoryBackend(),
        "cluster": registry["memory"],
        "disk": DiskBackend(top),
        "zarr": ZarrBackend(top / "z"),
    }


CALLS: list[Callable[[Any], Any]] = [
    lambda backend: backend.list_files("/", pattern=3),
    lambda backend: backend.list_files("/", extensions=3),
    lambda backend: backend.list_files("/", extensions=[None]),
    lambda backend: backend.load_batch(3),
    lambda backend: backend.load_batch("a"),
    lambda backend: backend.load_batch({"a"}),
    lambda backend: backend.load(3),
    lambda backend: backend.load("/a", region="x"),
]


@pytest.mark.parametrize("name", ["memory", "cluster", "disk", "zarr"])
def test_every_backend_refuses_what_is_no_argument(name: str, tmp_path: Path) -> None:
    backend = backends(tmp_path)[name]
    backend.save(np.arange(3), "/a" if name != "disk" else "/a.npy", overwrite=True)
    for call in CALLS:
        with pytest.raises(StorageError):
            call(backend)


def test_map_takes_a_function(registry: RayBackendRegistry) -> None:
    with pytest.raises(VFSTypeError, match="function"):
        registry["memory"].map(3, [])


class Text(str):
    """Text that says of itself what would be run elsewhere."""

    __slots__ = ()

    def __reduce__(self) -> Any:
        return exit, ()


def test_what_numpy_calls_a_number_and_a_class_calls_text_travels_as_plain(
    registry: RayBackendRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = registry["memory"]
    assert isinstance(memory, ClusterMemoryBackend)
    transport: Any = memory._connect()
    seen: list[Request] = []

    def handle(request: Request) -> Any:
        seen.append(decode(encode(request)))
        return real(request)

    real = transport._controller.handle
    monkeypatch.setattr(transport._controller, "handle", handle)
    memory.save(1, Text("/a.npy"), overwrite=np.True_, parents=np.True_)  # type: ignore[arg-type]
    version = memory.stat("/a.npy")["version"]
    memory.save(2, "/a.npy", if_version=np.int64(version), replicas=np.int8(1))  # type: ignore[arg-type]
    wanted = memory.list_files("/", Text("*"), {Text(".npy")}, recursive=np.True_)  # type: ignore[arg-type]
    assert wanted == ["/a.npy"]
    memory.create_symlink("/a.npy", "/l", overwrite=np.False_)  # type: ignore[arg-type]
    memory.save_batch([1], ["/b"], overwrite=np.True_, bundled=np.int64(9))
    assert len(seen) >= 5
