"""Values of many keys, saved where nobody has saved in between."""

from __future__ import annotations

import uuid
from collections.abc import Callable

import pytest

from polystore.exceptions import VersionConflictError
from polystore_ray import RayBackendRegistry
from polystore_ray.client.memory import ClusterMemoryBackend

PATHS = ["/z/a", "/z/b", "/z/c"]


@pytest.fixture
def memory() -> ClusterMemoryBackend:
    memory = RayBackendRegistry(f"versions-{uuid.uuid4()}", local=True)["memory"]
    assert isinstance(memory, ClusterMemoryBackend)
    return memory


def test_values_are_saved_over_the_versions_that_were_loaded(memory: ClusterMemoryBackend) -> None:
    memory.save_batch([1, 2], PATHS[:2], parents=True)
    values, versions = memory.load_versions(PATHS)
    assert (values, versions[2]) == ([1, 2, None], 0)
    memory.save_versions([10, 20, 30], PATHS, versions)
    assert memory.load_batch(PATHS) == [10, 20, 30]


@pytest.mark.parametrize(
    ("changed", "how"),
    [
        *((path, lambda memory, path: memory.save(9, path, overwrite=True)) for path in PATHS),
        *((path, lambda memory, path: memory.delete(path)) for path in PATHS[:2]),
    ],
)
def test_nothing_is_saved_if_one_value_has_changed(
    memory: ClusterMemoryBackend, changed: str, how: Callable[[ClusterMemoryBackend, str], None]
) -> None:
    memory.save_batch([1, 2], PATHS[:2], parents=True)
    _, versions = memory.load_versions(PATHS)
    how(memory, changed)
    before = memory.load_existing(PATHS)
    with pytest.raises(VersionConflictError, match="another save") as error:
        memory.save_versions([0] * 3, PATHS, versions)
    assert error.value.path == changed
    assert memory.load_existing(PATHS) == before


def test_none_overwrites_any_version(memory: ClusterMemoryBackend) -> None:
    memory.save_batch([1, 2], PATHS[:2], parents=True)
    memory.save_versions([10, 20, 30], PATHS, [None] * 3)
    assert memory.load_batch(PATHS) == [10, 20, 30]
