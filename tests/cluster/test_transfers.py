"""Values on their way between backends and nodes: the caller sees none of them."""

from __future__ import annotations

import resource
from collections.abc import Callable, Iterator
from functools import wraps
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from polystore import CorruptDataError, DiskBackend, FileManager, PathExistsError, ZarrBackend
from polystore_ray import RayBackendRegistry
from polystore_ray.client.hosted import HostedBackend
from polystore_ray.client.memory import ClusterMemoryBackend
from tests.cluster.nodes import MIB, Nodes

# Ray leaves a socket open when it looks for a free port for a node.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")

FILES = 60


@pytest.fixture
def fm(
    nodes: Nodes, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[FileManager]:
    """Return a file manager through which no value comes into this process, or goes from it."""

    def refusing(method: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(method)
        def refused(self: Any, data: Any, *arguments: Any, **options: Any) -> Any:
            if isinstance(data, np.ndarray) and not data.size:
                return method(self, data, *arguments, **options)
            raise AssertionError("the caller handled a value")

        return refused

    for cls in (HostedBackend, ClusterMemoryBackend):
        for name in ("load", "load_batch", "save", "save_batch"):
            monkeypatch.setattr(cls, name, refusing(getattr(cls, name)))
    registry = RayBackendRegistry(request.node.name[:60])
    yield FileManager(registry)
    monkeypatch.undo()
    registry.shutdown()


def image(number: int) -> np.ndarray[Any, Any]:
    return np.full((50, 40 + number % 3), number, np.uint16)


def plate(top: Path) -> list[str]:
    """Make a tree of images; return their paths from there."""
    names = [f"{'even' if i % 2 == 0 else 'odd/deep'}/{i}.npy" for i in range(FILES)]
    DiskBackend(top).save_batch([image(i) for i in range(FILES)], names, parents=True)
    (top / "empty").mkdir()
    return names


def saved(registry: RayBackendRegistry, key: str, paths: list[str]) -> list[Any]:
    return [int(value[0, 0]) for value in registry[key].load_batch(paths)]


def test_a_tree_goes_from_a_disk_to_the_memory_to_another_nodes_disk(
    nodes: Nodes, fm: FileManager, tmp_path: Path
) -> None:
    names = plate(tmp_path / "plate")
    told: list[tuple[int, int]] = []
    fm.copy(
        tmp_path / "plate",
        "/plate",
        f"disk@{nodes.one}",
        to_backend="memory",
        progress=lambda done, total: told.append((done, total)),
    )
    assert told[-1] == (FILES, FILES)
    assert fm.is_dir("/plate/empty", "memory")
    held = {name: i for i, name in enumerate(names)}
    found = fm.list_files("/plate", "memory", recursive=True)
    assert {path.removeprefix("/plate/") for path in found} == set(names)
    values = nodes.run(nodes.two, saved, fm.registry, "memory", [f"/plate/{n}" for n in names])
    assert values == list(held.values())
    fm.move("/plate", tmp_path / "copy", "memory", to_backend=f"disk@{nodes.two}")
    assert not fm.exists("/plate", "memory")
    assert (tmp_path / "copy" / "empty").is_dir()
    for name, number in held.items():
        np.testing.assert_array_equal(np.load(tmp_path / "copy" / name), image(number))


def test_a_list_goes_from_one_nodes_disk_to_anothers(
    nodes: Nodes, fm: FileManager, tmp_path: Path
) -> None:
    names = plate(tmp_path / "a")
    fm.copy(
        [tmp_path / "a" / name for name in names],
        [tmp_path / "b" / f"{i}.npy" for i in range(FILES)],
        f"disk@{nodes.one}",
        to_backend=f"disk@{nodes.two}",
    )
    for number in range(FILES):
        np.testing.assert_array_equal(np.load(tmp_path / "b" / f"{number}.npy"), image(number))


def test_without_a_name_the_node_is_the_callers_also_in_a_host(
    nodes: Nodes, fm: FileManager, tmp_path: Path
) -> None:
    plate(tmp_path / "a")
    fm.copy(tmp_path / "a", tmp_path / "b", f"disk@{nodes.one}", to_backend="zarr")
    hosts = {part.node: part.backends for part in fm.registry.status().nodes}  # type: ignore[attr-defined]
    assert "zarr" in hosts[nodes.head]
    assert "zarr" not in hosts[nodes.one]


def test_a_failure_midway_names_what_was_written_and_overwrites_nothing(
    nodes: Nodes, fm: FileManager, tmp_path: Path
) -> None:
    names = plate(tmp_path / "a")
    sources = [str(tmp_path / "a" / name) for name in names]
    targets = [f"/t/{i}" for i in range(FILES)]
    Path(sources[FILES // 2]).write_bytes(b"no array")
    with pytest.raises(CorruptDataError, match=f"{FILES // 2}.npy.*backend disk") as raised:
        fm.copy(sources, targets, "disk", to_backend="memory")
    written = fm.list_files("/t", "memory")
    assert 0 < len(written) < FILES
    assert set(raised.value.written) == set(written)
    assert f"{len(written)} of {FILES} values were copied" in "".join(raised.value.__notes__)
    with pytest.raises(PathExistsError):
        fm.copy(sources[:1], written[:1], "disk", to_backend="memory")


def test_a_stack_is_written_by_tasks_near_the_bytes(
    nodes: Nodes, fm: FileManager, tmp_path: Path
) -> None:
    def save(registry: RayBackendRegistry, first: int) -> None:
        numbers = range(first, first + 8)
        registry["memory"].save_batch(
            [np.full((200, 300), n, np.float32) for n in numbers],
            [f"/s/{n}" for n in numbers],
            parents=True,
        )

    for number, node in enumerate((nodes.head, nodes.one, nodes.two)):
        nodes.run(node, save, fm.registry, 8 * number)
    told: list[tuple[int, int]] = []
    fm.stack(
        [f"/s/{n}" for n in range(24)],
        tmp_path / "zarr" / "all",
        "memory",
        to_backend="zarr",
        progress=lambda done, total: told.append((done, total)),
        chunks=(1, 200, 300),
        shards=(4, 200, 300),
    )
    assert told[-1] == (24, 24)
    stacked: Any = ZarrBackend().open(tmp_path / "zarr" / "all")
    assert stacked.shape == (24, 200, 300)
    assert stacked.shards == (4, 200, 300)
    assert stacked[:, 0, 0].tolist() == list(range(24))
    assert [path.name for path in (tmp_path / "zarr").iterdir() if path.is_dir()] == ["all"]


def test_the_caller_holds_no_more_for_more_files(
    nodes: Nodes, fm: FileManager, tmp_path: Path
) -> None:
    disk = DiskBackend()
    for number in range(12):
        disk.save(
            np.full(8 * MIB, number, np.uint8), tmp_path / "a" / f"{number}.npy", parents=True
        )
    fm.copy(tmp_path / "a" / "0.npy", "/first", "disk", to_backend="memory")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    fm.copy(tmp_path / "a", "/a", "disk", to_backend="memory")
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown * 1024 < 8 * MIB
