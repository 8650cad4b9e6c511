"""What operators see of a store: its status, and metrics as Prometheus scrapes them."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import ray
from ray.util.metrics import Metric

from polystore import FileManager
from polystore_ray import RayBackendRegistry

pytestmark = pytest.mark.usefixtures("ray_cluster")

MIB = 2**20


@pytest.fixture
def registry() -> Iterator[RayBackendRegistry]:
    registry = RayBackendRegistry("insight")
    yield registry
    registry.shutdown()


@pytest.fixture
def fm(registry: RayBackendRegistry) -> FileManager:
    return FileManager(registry)


def test_status_counts_what_there_is(
    registry: RayBackendRegistry, fm: FileManager, tmp_path: Path
) -> None:
    assert registry.status().files == 0
    fm.save(np.zeros(MIB), "/d/large", backend="memory")
    fm.save("small", "/d/small", backend="memory")
    fm.save_batch([np.zeros(1000)] * 100, [f"/b/{i}" for i in range(100)], backend="memory")
    fm.copy("/d/large", "/d/copy", backend="memory")
    fm.list_dir(tmp_path, backend="disk")
    status = registry.status()
    assert (status.store, status.files, status.objects) == ("insight", 103, 2)
    assert (status.inline_values, status.lost) == (1, 0)
    assert status.bytes - 8 * MIB - 800_000 in range(100)
    assert 0 < status.answered_in < 30
    [node] = status.nodes
    assert node.node == ray.get_runtime_context().get_node_id()
    assert node.backends == ("disk", "memory")
    assert (node.pinned, node.adopted) == (2, 0)
    registry["memory"].ref("/d/large")
    [node] = registry.status().nodes
    assert (node.pinned, node.adopted) == (1, 1)


def test_the_controller_reports_what_it_counts(
    registry: RayBackendRegistry, fm: FileManager
) -> None:
    def reported(_: object) -> dict[str, float]:
        found: dict[str, float] = {}

        def record(self: Metric, value: float, tags: dict[str, str]) -> None:
            found[f"{self._name} {tags['store']}"] = value

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Metric, "_record", record)
            deadline = time.monotonic() + 60
            while len(found) < 4 and time.monotonic() < deadline:
                time.sleep(0.1)  # the controller reports once a second
        return found

    fm.save(np.zeros(MIB), "/a", backend="memory")
    controller = registry._connect().handles.controller
    assert ray.get(controller.__ray_call__.remote(reported)) == {
        "polystore_files insight": 1,
        "polystore_held_bytes insight": registry.status().bytes,
        "polystore_lost insight": 0,
        "polystore_too_few_replicas insight": 0,
    }


def test_metrics_count_operations_errors_seconds_and_bytes(
    fm: FileManager, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded: defaultdict[str, float] = defaultdict(float)
    counted: Counter[str] = Counter()

    def record(self: Metric, value: float, tags: dict[str, str]) -> None:
        assert tags["store"] == "insight"
        name = " ".join([self._name, *[*tags.values()][1:]])
        recorded[name] += value
        counted[name] += 1

    monkeypatch.setattr(Metric, "_record", record)
    fm.save(np.zeros(MIB), "/a", backend="memory")
    fm.load("/a", backend="memory")
    with pytest.raises(FileNotFoundError):
        fm.load("/none", backend="memory")
    fm.save(np.zeros(100), tmp_path / "a.npy", backend="disk")
    fm.load(tmp_path / "a.npy", backend="disk")
    assert counted["polystore_operation_seconds memory save"] == 1
    assert counted["polystore_operation_seconds memory load"] == 2
    assert recorded["polystore_errors memory load PathNotFoundError"] == 1
    assert recorded["polystore_bytes memory save"] == 8 * MIB
    assert recorded["polystore_bytes memory load"] == 8 * MIB
    assert recorded["polystore_bytes disk save"] == 800
    assert recorded["polystore_bytes disk load"] == 800
    assert 0 < recorded["polystore_operation_seconds memory load"] < 60
