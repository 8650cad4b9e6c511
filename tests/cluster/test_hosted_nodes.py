"""Hosted backends on three nodes: every call on the node that it names, or on the caller's."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import ray

from polystore import FileManager, ReadOnlyBackend
from polystore.exceptions import InvalidPathError, StorageError, UnsupportedOperationError
from polystore_ray import NodeNotFoundError, RayBackendRegistry, StoreUnavailableError
from tests.cluster.nodes import MIB, Nodes, eventually


@pytest.fixture
def roots(nodes: Nodes, tmp_path: Path) -> dict[str, Path]:
    return {node: tmp_path / node[:8] for node in (nodes.head, nodes.one, nodes.two)}


@pytest.fixture
def registry(
    request: pytest.FixtureRequest, roots: dict[str, Path]
) -> Iterator[RayBackendRegistry]:
    backends = {f"disk@{node}": {"root": root} for node, root in roots.items()}
    registry = RayBackendRegistry(request.node.name[:60], backends=backends)
    yield registry
    registry.shutdown()


def save(backend: Any, text: str) -> str:
    backend.save(text, f"/{text}.txt")
    return ray.get_runtime_context().get_node_id()


def files(roots: dict[str, Path]) -> dict[str, list[str]]:
    return {node: sorted(file.stem for file in root.iterdir()) for node, root in roots.items()}


def test_every_call_is_made_on_the_right_disk(
    nodes: Nodes, registry: RayBackendRegistry, roots: dict[str, Path]
) -> None:
    for node in roots:
        # The caller's own, wherever the proxy was made.
        assert nodes.run(node, save, registry["disk"], f"own-{node[:4]}") == node
        # Another's, from all of them: by the whole id, by a prefix, and in a file manager's call.
        registry[f"disk@{node}"].save("x", "/by-id.txt")
        registry.on(node[:8].upper())["disk"].save("x", "/by-prefix.txt")
        nodes.run(nodes.two, save, registry[f"disk@{node}"], "from-two")
        fm = FileManager(registry)
        fm.save("x", "/d/a.txt", backend=f"disk@{node}")
        assert fm.list_files("/", backend=f"disk@{node}", recursive=True)[-1] == "/d/a.txt"
        fm.delete_all("/d", backend=f"disk@{node}")
    assert files(roots) == {
        node: sorted([f"own-{node[:4]}", "by-id", "by-prefix", "from-two"]) for node in roots
    }
    hosts = {part.node for part in registry.status().nodes if "disk" in part.backends}
    assert hosts == set(roots)


def test_a_file_that_another_node_keeps_is_read_once(
    nodes: Nodes, registry: RayBackendRegistry
) -> None:
    there = registry[f"disk@{nodes.one}"]
    there.save(np.arange(MIB), "/a.npy")
    time.sleep(2.1)  # or the next change could bear the same time
    arrays = [there.load("/a.npy") for _ in range(3)]
    assert {int(array.sum()) for array in arrays} == {MIB * (MIB - 1) // 2}
    [part] = [part for part in registry.status().nodes if part.node == nodes.one]
    assert (part.cached, part.cache_misses, part.cache_hits) == (1, 1, 2)


def test_a_node_is_named_by_what_ray_calls_it_and_by_a_label(
    nodes: Nodes, registry: RayBackendRegistry, tmp_path: Path
) -> None:
    late = nodes.add(labels={"zone": "Far"}, node_name="worker-9")
    for name in (late, "worker-9", "zone=Far"):
        FileManager(registry).save(
            "x", tmp_path / f"{name[:8]}.txt", backend=f"disk@{name}", overwrite=True
        )
    assert {f.stem for f in tmp_path.glob("*.txt")} == {late[:8], "worker-9", "zone=Far"}
    nodes.remove(late)

    def is_gone() -> bool:
        try:
            registry["disk@worker-9"].exists("/")
        except NodeNotFoundError:
            return True
        except StorageError:
            return False  # its host is dying
        return False

    assert eventually(is_gone)
    with pytest.raises((NodeNotFoundError, StoreUnavailableError)):
        registry[f"disk@{late}"].exists("/")


def test_wrong_names_list_the_nodes(nodes: Nodes, registry: RayBackendRegistry) -> None:
    with pytest.raises(NodeNotFoundError, match="'worker-17'") as found:
        FileManager(registry).load("/a.txt", backend="disk@worker-17")
    assert all(node in str(found.value) for node in (nodes.head, nodes.one, nodes.two))
    address = next(n["NodeManagerAddress"] for n in ray.nodes() if n["NodeID"] == nodes.head)
    with pytest.raises(NodeNotFoundError, match=f"{address}.*several") as found:
        registry[f"disk@{address}"].exists("/")
    assert nodes.one in str(found.value)
    with pytest.raises(UnsupportedOperationError, match="same on all nodes"):
        FileManager(registry).exists("/", backend=f"memory@{nodes.one}")


class Special(ReadOnlyBackend):
    """A backend that runs where a device is."""

    _backend_type = "hosted_special"
    _host_options: ClassVar[dict[str, Any]] = {
        "resources": {"microscope": 1},
        "label_selector": {"room": "in(a, b)"},
    }

    def load(self, path: Any) -> Any:
        return ray.get_runtime_context().get_node_id()

    def is_file(self, path: Any) -> bool:
        return True

    def is_dir(self, path: Any) -> bool:
        return False

    def list_dir(self, path: Any) -> list[str]:
        return []


def test_a_backend_runs_where_there_is_what_it_needs(
    nodes: Nodes, registry: RayBackendRegistry
) -> None:
    able = nodes.add(resources={"microscope": 1}, labels={"room": "b"})
    with pytest.raises(
        NodeNotFoundError, match=r"1 microscope and the label room.*in\(a, b\)"
    ) as it:
        registry["hosted_special"].load("/a")
    assert able in str(it.value)
    assert nodes.one not in str(it.value)
    assert registry["hosted_special@room=b"].load("/a") == able
    assert ray.available_resources().get("microscope", 0) == 0
    registry.shutdown()
    nodes.remove(able)


def test_no_path_leads_out_of_a_root_of_another_node(
    nodes: Nodes, registry: RayBackendRegistry, roots: dict[str, Path]
) -> None:
    there = registry[f"disk@{nodes.one}"]
    assert there.list_dir("/") == []
    (roots[nodes.one] / "link").symlink_to(roots[nodes.one].parent)
    for path in ("../../up.txt", "/../up.txt", "/link/up.txt"):
        with pytest.raises(InvalidPathError, match=r"up\.txt.*\(backend disk\)"):
            there.save("x", path, overwrite=True)
    assert not list(roots[nodes.one].parent.glob("up.txt"))
