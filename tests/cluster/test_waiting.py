"""Waits and watches across processes, and over the loss of what they wait at."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray

from polystore_ray import RayBackendRegistry
from polystore_ray.rayapi import calls
from polystore_ray.rayapi.placement import EVENTS, named_hosts
from polystore_ray.testing import faults
from tests.cluster.nodes import Nodes, eventually

LONG = 120.0


@pytest.fixture
def registry(nodes: Nodes) -> Iterator[RayBackendRegistry]:
    registry = RayBackendRegistry("waiting", lifetime="detached")
    registry["memory"].save(0, "/there")
    yield registry
    registry.shutdown()


def feed_of(registry: RayBackendRegistry) -> Any:
    registry["memory"].wait(["/missing"], timeout=0)  # starts what has to be started
    registry["memory"].wait(["/missing"], timeout=0.5)
    hosts = named_hosts(registry._connect().store.namespace)
    [feed] = [host for (key, _), host in hosts.items() if key == EVENTS]
    return feed


def load(registry: RayBackendRegistry, path: str) -> Any:
    return registry["memory"].load(path, wait=LONG)


def test_more_tasks_wait_for_values_than_the_controller_has_threads_for(
    nodes: Nodes, registry: RayBackendRegistry
) -> None:
    paths = [f"/result/{number}" for number in range(12)]
    tasks = [nodes.start(nodes.two, load, registry, path) for path in paths]
    memory = registry["memory"]
    ready, _ = ray.wait(tasks, timeout=1.0)
    assert not ready
    for number, path in enumerate(paths):
        memory.save(number, path, parents=True)
    assert ray.get(tasks, timeout=LONG) == [*range(12)]


def test_many_coroutines_wait_without_threads(registry: RayBackendRegistry) -> None:
    memory = registry["memory"]
    paths = [f"/many/{number}" for number in range(200)]

    async def wait() -> list[Any]:
        waiting = [asyncio.create_task(memory.async_wait([path], timeout=LONG)) for path in paths]
        await asyncio.sleep(0.5)
        assert threading.active_count() < 100
        await memory.asave_batch([*range(200)], paths, parents=True)
        return await asyncio.gather(*waiting)

    assert asyncio.run(wait()) == [([path], []) for path in paths]


def test_an_asynchronous_watch_yields_the_same(registry: RayBackendRegistry) -> None:
    memory = registry["memory"]

    async def watched() -> list[str]:
        return [event.path async for event in memory.awatch("/", since=0, timeout=0.5)]

    assert asyncio.run(watched()) == ["/there"]


@pytest.mark.parametrize("lost", ["controller", "event feed", "both"])
def test_waits_and_watches_go_on_over_a_loss(
    nodes: Nodes, registry: RayBackendRegistry, lost: str
) -> None:
    memory = registry["memory"]
    watched = memory.watch("/", timeout=LONG)
    feed = feed_of(registry)
    task = nodes.start(nodes.one, load, registry, "/late")
    assert eventually(lambda: registry.status().follower is not None)
    memory.save(1, "/before")
    assert next(watched).path == "/before"
    if lost != "controller":
        faults.kill(faults.process_of(feed))
    if lost != "event feed":
        victims = faults.Victims(registry._connect().store.namespace)
        faults.kill(faults.process_of(victims.controller()))
    for number in range(20):
        memory.save(number, f"/after{number}")
    memory.save("came", "/late")
    assert ray.get(task, timeout=LONG) == "came"
    paths = [next(watched).path for _ in range(21)]
    assert paths == [*(f"/after{number}" for number in range(20)), "/late"]


def test_waits_bear_a_bad_network(
    registry: RayBackendRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = registry["memory"]
    monkeypatch.setattr(calls, "network", faults.BadNetwork(5, 60.0))
    watched = memory.watch("/", timeout=LONG)
    for number in range(20):
        saving = threading.Timer(0.05, memory.save, (number, f"/{number}"))
        saving.start()
        assert memory.wait([f"/{number}"], timeout=LONG) == ([f"/{number}"], [])
        assert next(watched).path == f"/{number}"
        saving.join()


def test_an_event_feed_ends_with_its_store(nodes: Nodes) -> None:
    registry = RayBackendRegistry("short", lifetime="detached")
    pid = faults.process_of(feed_of(registry))
    assert "memory" in registry.status().nodes[0].backends
    assert EVENTS not in registry.status().nodes[0].backends
    registry.shutdown()
    assert eventually(lambda: not faults.is_alive(pid))


def consume(registry: RayBackendRegistry) -> list[str]:
    memory, done = registry["memory"], []
    while True:
        claim = memory.claim("/todo/*", wait=1.0)
        if claim is not None:
            done.append(claim.path)
            claim.done()
        elif memory.exists("/end"):
            return done


def test_each_value_is_claimed_by_one_process_though_a_controller_is_lost(nodes: Nodes) -> None:
    # In a store without replicas, the saves of the last 20 ms may be lost with a controller.
    registry = RayBackendRegistry("claimed", lifetime="detached", replicas=2)
    memory = registry["memory"]
    memory.ensure_directory("/todo")
    consumers = [nodes.start(node, consume, registry) for node in (nodes.one, nodes.two) * 2]
    assert eventually(lambda: registry.status().follower is not None)
    paths = [f"/todo/{number}" for number in range(100)]
    for path in paths[:50]:
        memory.save(path, path)
    victims = faults.Victims(registry._connect().store.namespace)
    faults.kill(faults.process_of(victims.controller()))
    for path in paths[50:]:
        memory.save(path, path)
    memory.save("no more", "/end")
    done = [path for found in ray.get(consumers, timeout=LONG) for path in found]
    assert sorted(done) == sorted(paths)
    registry.shutdown()


def test_values_expire_on_a_cluster(registry: RayBackendRegistry) -> None:
    memory = registry["memory"]
    events = memory.watch("/short", timeout=LONG)
    memory.save(1, "/short", ttl=0.5)
    assert [next(events).kind, next(events).kind] == ["created", "deleted"]
    assert not memory.exists("/short")


def test_files_of_another_node_are_watched(
    nodes: Nodes, registry: RayBackendRegistry, tmp_path: Path
) -> None:
    with registry[f"disk@{nodes.two}"].watch(tmp_path, timeout=LONG) as events:
        (tmp_path / "a.json").write_text("1")
        assert next(events)[:2] == ("created", f"{tmp_path}/a.json")
