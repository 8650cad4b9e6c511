"""Dumps on a cluster: nodes write what they hold, and another store takes it all."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray

from polystore_ray import DataLostError, RayBackendRegistry, TooFewNodesError
from polystore_ray.dumps import dump, restore, tasks, verify
from polystore_ray.dumps.files import files_at
from polystore_ray.testing import faults
from tests.cli.commands import run_here
from tests.cluster.nodes import MIB, Nodes, eventually, first, kill, save


@pytest.fixture
def registry(nodes: Nodes, request: pytest.FixtureRequest) -> Iterator[RayBackendRegistry]:
    registry = RayBackendRegistry(request.node.name[:60])
    yield registry
    registry.shutdown()


@pytest.fixture
def other(nodes: Nodes, request: pytest.FixtureRequest) -> Iterator[RayBackendRegistry]:
    registry = RayBackendRegistry("other-" + request.node.name[:50])
    yield registry
    registry.shutdown()


def test_nodes_write_what_they_hold_and_another_store_takes_it(
    nodes: Nodes, registry: RayBackendRegistry, other: RayBackendRegistry, tmp_path: Path
) -> None:
    """The savers have ended, so that only the volumes have the bytes."""
    memory = registry["memory"]
    for number, node in enumerate([nodes.head, nodes.one, nodes.two]):
        kill(nodes.run(node, save, registry, f"/{number}", number))
    memory.save_batch(
        [f"small {i}" for i in range(2000)], [f"/s/{i}" for i in range(2000)], parents=True
    )
    memory.save(np.full(MIB, 9), "/twice", replicas=2)
    memory.copy("/1", "/one-again")
    before = {name: memory.stat(f"/{name}") for name in memory.list_dir("/")}
    seen: list[tuple[int, int]] = []
    manifest = dump(registry, tmp_path / "dump", progress=lambda *now: seen.append(now))
    assert (manifest.values, manifest.lost) == (2005, 0)
    assert seen[-1] == (2005, 2005)
    assert len([1 for _, objects in manifest.parts() if objects]) == 3  # one for each node
    assert verify(tmp_path / "dump") == manifest
    registry.shutdown()
    restore(other, tmp_path / "dump")
    memory = other["memory"]
    assert {name: memory.stat(f"/{name}") for name in memory.list_dir("/")} == before
    for number in range(3):
        assert first(other, f"/{number}") == (number, False)
        assert nodes.run(nodes.two, first, other, f"/{number}") == (number, False)
    assert len(memory.locations(["/twice"])[0]) == 2
    assert memory.load_batch([f"/s/{i}" for i in (0, 1999)]) == ["small 0", "small 1999"]
    held = {node for nodes_ in memory.locations(["/0", "/1", "/2"]) for node in nodes_}
    assert len(held) > 1  # the work was spread
    local = RayBackendRegistry("restored-locally", local=True)
    restore(local, tmp_path / "dump")
    assert int(local["memory"].load("/twice")[0]) == 9
    local.shutdown()


def test_a_directory_that_nodes_do_not_share_is_written_and_read_by_the_caller(
    nodes: Nodes,
    registry: RayBackendRegistry,
    other: RayBackendRegistry,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kill(nodes.run(nodes.one, save, registry, "/a", 5))

    def not_here(*_: Any) -> None:
        return None

    monkeypatch.setattr(tasks, "_if_shared", not_here)
    with tempfile.TemporaryDirectory() as directory:
        assert dump(registry, directory).values == 1
        restore(other, directory)
    assert first(other, "/a") == (5, False)


def test_a_dump_of_replicated_values_needs_as_many_nodes_or_another_number(
    nodes: Nodes, registry: RayBackendRegistry, other: RayBackendRegistry, tmp_path: Path
) -> None:
    registry["memory"].save(np.zeros(MIB), "/a", replicas=3)
    dump(registry, tmp_path / "dump")
    files = files_at(tmp_path / "dump")
    [entries] = [entries for entries, objects in verify(files.where).parts() if objects]
    assert b'"replicas":3' in bytes(files.read(entries.name))
    late = nodes.add()
    registry["memory"].save(np.zeros(MIB), "/b", replicas=4)
    dump(registry, tmp_path / "more")
    nodes.remove(late)
    assert eventually(lambda: len([n for n in ray.nodes() if n["Alive"]]) == 3)
    with pytest.raises(TooFewNodesError, match="replicas=4 needs 4 nodes"):
        restore(other, tmp_path / "more")
    assert other["memory"].list_dir("/") == []
    restore(other, tmp_path / "more", replicas=1)
    assert other["memory"].stat("/b")["replicas"] == 1


def test_what_died_with_a_node_is_left_out_and_the_rest_is_rescued(
    nodes: Nodes, registry: RayBackendRegistry, other: RayBackendRegistry, tmp_path: Path
) -> None:
    late = nodes.add()
    kill(nodes.run(late, save, registry, "/gone", 1))
    nodes.run(nodes.one, save, registry, "/kept", 2)
    nodes.remove(late)
    assert eventually(lambda: registry.status().lost == 1)
    [lost] = registry["memory"].lost()
    assert (lost.path, lost.node) == ("/gone", late)
    with pytest.raises(DataLostError):
        registry["memory"].load("/gone")
    doctor = run_here("doctor", "--json")
    assert doctor.code == 1
    job = ray.get_runtime_context().get_job_id()
    [finding] = [
        finding
        for finding in doctor.json
        if finding["what"] == f"values of store {registry._store} of job {job}"
    ]
    assert (finding["verdict"], finding["seen"]) == ("failure", "1 are lost")
    given = ("--store", registry._store, "--job", job)
    assert run_here(*given, "lost").out.startswith("/gone  20")
    manifest = dump(registry, tmp_path / "dump")
    assert (manifest.values, manifest.lost) == (1, 1)
    restore(other, tmp_path / "dump")
    assert other["memory"].list_dir("/") == ["kept"]
    assert first(other, "/kept") == (2, False)


def test_a_dump_and_a_restore_outlive_their_controllers(
    nodes: Nodes, registry: RayBackendRegistry, other: RayBackendRegistry, tmp_path: Path
) -> None:
    paths = [f"/d/{i}" for i in range(20)]
    for number, path in enumerate(paths):
        registry["memory"].save(np.full(50_000, number), path, parents=True, replicas=2)
    registry["memory"].save("small", "/small")

    def once_killing(registry: RayBackendRegistry) -> Callable[[int, int], None]:
        def progress(_done: int, _total: int) -> None:
            if not killed:
                killed.append(faults.process_of(registry._connect().handles.controller))
                kill(killed[0])

        killed: list[int] = []
        return progress

    manifest = dump(registry, tmp_path / "dump", progress=once_killing(registry))
    assert (manifest.values, manifest.lost) == (21, 0)
    assert registry["memory"].list_dir("/") == ["d", "small"]
    restore(other, tmp_path / "dump", progress=once_killing(other))
    assert (registry.status().epoch, other.status().epoch) == (2, 2)
    assert other["memory"].list_dir("/") == ["d", "small"]
    for number, path in enumerate(paths):
        assert first(other, path) == (number, False)
