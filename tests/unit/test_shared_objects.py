"""Arrays of some size that share an object."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from polystore.serialization import seal
from polystore_ray import RayBackendRegistry
from polystore_ray.wire.pack import Pack

KIB = 1024
SIZE = 100 * KIB


@pytest.fixture
def registry() -> Iterator[RayBackendRegistry]:
    registry = RayBackendRegistry(f"packs-{uuid.uuid4().hex}", local=True)
    yield registry
    registry.shutdown()


def test_arrays_come_out_as_views_of_what_was_stored() -> None:
    arrays: list[Any] = [
        np.arange(SIZE, dtype=np.uint8),
        np.asfortranarray(np.eye(200)),
        np.zeros((2, 0)),
    ]
    sealed = seal(Pack.of(arrays)).copied()
    found = sealed.open().values([2, 0, 1])
    for array, expected in zip(found, [arrays[2], arrays[0], arrays[1]], strict=True):
        np.testing.assert_array_equal(array, expected)
        assert not array.flags.writeable
        assert not array.flags.owndata
    assert found[2].flags.f_contiguous


def test_what_is_dropped_takes_no_room() -> None:
    pack = Pack.of([np.full(SIZE, i, np.uint8) for i in range(4)]).without([0, 2])
    assert seal(pack).nbytes < 2 * SIZE + KIB
    assert len(pack) == 4
    assert pack.values([3, 1])[0][0] == 3
    with pytest.raises(LookupError, match="value 2 was dropped"):
        pack.values([2])
    assert seal(pack.without([1])).nbytes < SIZE + KIB


def test_a_batch_shares_few_objects_and_gives_up_what_is_replaced(
    registry: RayBackendRegistry,
) -> None:
    memory = registry["memory"]
    paths = [f"/{i}" for i in range(10)]
    values = [np.full(SIZE, i, np.uint8) for i in range(10)]
    memory.save_batch(values, paths, bundled=SIZE)
    assert registry.status().objects == 1
    assert [int(value[-1]) for value in memory.load_batch(paths)] == list(range(10))
    memory.save_batch([b"small"] * 8, paths[:8], overwrite=True)
    assert registry.status().nodes[0].pinned_bytes + registry.status().nodes[0].adopted_bytes < (
        3 * SIZE
    )
    assert [int(value[0]) for value in memory.load_batch(paths[8:])] == [8, 9]
    memory.delete_all("/8")
    memory.delete_all("/9")
    assert registry.status().objects == 0


def test_arrays_above_the_bound_and_other_values_are_objects_of_their_own(
    registry: RayBackendRegistry,
) -> None:
    memory = registry["memory"]
    values = [np.ones(SIZE, np.uint8), np.ones(SIZE + 1, np.uint8), bytes(SIZE), np.ones(3)]
    paths = [f"/{i}" for i in range(4)]
    memory.save_batch(values, paths, bundled=SIZE)
    assert registry.status().objects == 3
    assert memory.load("/2") == bytes(SIZE)
    np.testing.assert_array_equal(memory.load("/3"), np.ones(3))


def test_by_default_a_large_array_is_an_object_of_its_own(registry: RayBackendRegistry) -> None:
    registry["memory"].save_batch([np.ones(SIZE, np.uint8)] * 2, ["/a", "/b"])
    assert registry.status().objects == 2
