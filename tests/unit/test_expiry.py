"""Values with a time to live: they go when it has passed, wherever they are."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from polystore.exceptions import VFSTypeError
from polystore_ray import RayBackendRegistry
from polystore_ray.client.memory import ClusterMemoryBackend
from polystore_ray.controller.state import StoreController
from polystore_ray.transport.in_process import LocalTransport
from polystore_ray.wire.messages import Request

LONG = 60.0


@pytest.fixture
def memory() -> Iterator[ClusterMemoryBackend]:
    registry = RayBackendRegistry("expiry", local=True)
    yield registry["memory"]
    registry.shutdown()


def controller_of(memory: ClusterMemoryBackend) -> StoreController:
    transport = memory._connect()
    assert isinstance(transport, LocalTransport)
    return transport._controller


def test_a_value_expires_wherever_it_is(memory: ClusterMemoryBackend) -> None:
    start = time.time()
    memory.save(1, "/a", ttl=0.3)
    memory.save_batch([2, 3], ["/d/b", "/d/c"], parents=True, ttl=0.3)
    memory.save(4, "/stays")
    assert memory.stat("/a")["expires"] == pytest.approx(start + 0.3, abs=0.2)
    memory.copy("/a", "/copy")
    memory.move("/d", "/moved")
    events = memory.watch("/", timeout=LONG)
    gone = {"/a", "/copy", "/moved/b", "/moved/c"}
    assert {next(events).path for _ in gone} == gone
    assert memory.list_files("/", recursive=True) == ["/stays"]


def test_a_value_that_was_replaced_does_not_expire(memory: ClusterMemoryBackend) -> None:
    memory.save(1, "/a", ttl=0.1)
    memory.save(2, "/a", overwrite=True)
    memory.save(np.zeros(4), "/part", ttl=0.3)
    memory.save(1, "/part", region=0)
    assert "expires" not in memory.stat("/a")
    assert "expires" in memory.stat("/part")  # a part of it was replaced
    assert next(memory.watch("/part", timeout=LONG)).kind == "deleted"
    assert memory.load("/a") == 2


@pytest.mark.parametrize("ttl", [-1, "1", float("nan")])
def test_a_wrong_time_to_live_is_refused(memory: ClusterMemoryBackend, ttl: Any) -> None:
    with pytest.raises(VFSTypeError, match="ttl"):
        memory.save(1, "/a", ttl=ttl)
    assert not memory.exists("/a")


def test_another_controller_lets_values_expire(memory: ClusterMemoryBackend) -> None:
    memory.save(1, "/a", ttl=0.2)
    _, parts = controller_of(memory).parts()
    another = StoreController.from_parts(parts)
    another.expire()
    assert another.handle(Request("exists", ("/a",)))
    time.sleep(0.2)
    another.expire()
    assert not another.handle(Request("exists", ("/a",)))
