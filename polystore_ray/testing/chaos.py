"""Chaos: clients use a replicated store while faults are injected; then all is checked."""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from polystore.exceptions import StorageError
from polystore_ray import RayBackendRegistry
from polystore_ray.controller.leases import HELD
from polystore_ray.rayapi.errors import DIED
from polystore_ray.rayapi.placement import store_namespace
from polystore_ray.testing import faults
from polystore_ray.testing.clients import DEADLINE, TURNED_EVERY, Client
from polystore_ray.testing.network_nodes import NetworkNodes
from polystore_ray.testing.nodes import MIB, Nodes
from polystore_ray.testing.report import Report

__all__ = ["Chaos"]

_STARTS = 5  # attempts to start a client before the run fails
_BETWEEN_STARTS = 3.0  # seconds
_MAX_BYTES = 2_500_000  # about 15 large values, fewer than are there
_HOG = 5 * 2**30  # bytes, more than the memory monitor allows


class _NotMadeError(Exception):
    """A fault could not be injected on this machine; the message is its name in the report."""


class Chaos:
    """A cluster on this machine, a store with two replicas, its clients, and injected faults.

    The store promises that one fault at a time loses nothing. So each fault waits until the store
    has noticed the previous one and has all its replicas again.

    Parameters
    ----------
    folder : pathlib.Path
        The directory for histories.
    seed : int
        The seed of operations and faults.
    nodes : Nodes
        The cluster; `close` ends it.
    clients : int
        The number of clients.
    heal_timeout : float, default 90
        The number of seconds in which the store has to recover from each fault.
    evicts : bool, default True
        Whether the store evicts large values, which their recipes make again. That may hide a
        loss from the clients.
    """

    def __init__(
        self,
        folder: Path,
        seed: int,
        nodes: Nodes | NetworkNodes,
        clients: int = 8,
        heal_timeout: float = 90.0,
        *,
        evicts: bool = True,
    ) -> None:
        self._heal_timeout = heal_timeout
        self.report = Report()
        self._folder = folder
        self._random = random.Random(seed)  # noqa: S311 - nothing secret depends on it
        self._seed = seed
        self._nodes = nodes
        self.registry = RayBackendRegistry(
            "chaos",
            lifetime="detached",
            timeout=DEADLINE,
            replicas=2,
            max_bytes=_MAX_BYTES if evicts else None,
            eviction="lru" if evicts else None,
        )
        self._evicts = evicts
        self.registry["memory"].ensure_directory("/")
        self.victims = faults.Victims(store_namespace("chaos", None))
        self._begin = time.monotonic()
        self._count = clients
        self._clients: dict[int, tuple[str, Any, Any]] = {}  # by slot: node, actor, its run
        self._made = 0
        self._until = 0.0
        self._lost = 0

    def close(self) -> None:
        """End the cluster."""
        self._nodes.close()

    # The run

    def run(self, seconds: float, kinds: Iterable[str] = (), *, peace: float = 0.0) -> Report:
        """Inject faults for some seconds, then check what the clients saw.

        Parameters
        ----------
        seconds : float
            The duration.
        kinds : iterable of str, optional
            The names of the faults to inject; by default all of them.
        peace : float, default 0
            Seconds before the first fault.
        """
        for slot in range(self._count):
            self._start_client(slot)
        for slot in range(self._count):
            self._wait_for_client(slot)
        self._until = time.monotonic() + seconds  # not before: some take long to start
        for slot, (node, actor, _) in self._clients.items():
            self._clients[slot] = node, actor, actor.run.remote(self._until)
        time.sleep(peace)
        known = self.kinds()
        chosen = list(kinds) or list(known)
        # First every fault once, in random order; then random ones.
        order = self._random.sample(chosen, len(chosen))
        while time.monotonic() < self._until:
            time.sleep(self._random.uniform(0.5, 3.0))
            name = order.pop() if order else self._random.choice(chosen)
            sys.stderr.write(f"{time.strftime('%H:%M:%S')} {name}\n")
            try:
                known[name]()
            except _NotMadeError as error:
                name = str(error)
            except DIED:
                name = f"{name}, who was dead already"
            self.report.faults[name] += 1
            self._wait_until_healed()
        for _, _, task in self._clients.values():
            with suppress(ray.exceptions.RayError):
                self.report.kept += ray.get(task, timeout=3 * DEADLINE)
        self._read_everything()
        self.report.check(self._folder)
        self._end_store()
        return self.report

    def kinds(self) -> dict[str, Callable[[], None]]:
        """Return the functions that inject each kind of fault, by name."""
        controller = self.victims.controller
        found = {
            "controller killed": lambda: faults.kill(faults.process_of(controller())),
            "volume killed": self._kill_volume,
            "client killed": self._kill_client,
            "node lost": self._lose_node,
            "controller paused": lambda: self._pause(controller()),
            "volume paused": lambda: self._pause(self._volume()),
            "client paused": lambda: self._pause(self._some_client()),
            "client with a bad network": lambda: self._worsen(self._some_client(), cut=False),
            "controller with a bad network": lambda: self._worsen(controller(), cut=False),
            "controller cut off": lambda: self._worsen(controller(), cut=True),
            "volume cut off": lambda: self._worsen(self._volume(), cut=True),
            "object store filled": self._fill,
            "memory monitor fired": self._use_up_memory,
        }
        nodes = self._nodes
        if isinstance(nodes, Nodes) and nodes.can_lose_head:
            found["head lost"] = partial(self._lose_head, nodes)
        return found

    # Faults

    def _kill_volume(self) -> None:
        before = self._lost_hosts()
        faults.kill(faults.process_of(self._volume()))
        self._wait_until_noticed(before)

    def _lose_node(self) -> None:
        before = self._lost_hosts()
        self._start_clients_of(self._nodes.lose_one(self._random))
        self._wait_until_noticed(before)

    def _lose_head(self, nodes: Nodes) -> None:
        before = self._lost_hosts()
        self._start_clients_of(nodes.lose_head(self._random.uniform(0.0, 5.0)))
        self._wait_until_noticed(before)

    def _wait_for_client(self, slot: int) -> None:
        """Wait until a client runs; on an overloaded machine, Ray may give up starting it."""
        for _ in range(_STARTS - 1):
            with suppress(*DIED):
                ray.get(self._clients[slot][1].pid.remote(), timeout=120)
                return
            time.sleep(_BETWEEN_STARTS)
            self._start_client(slot)
        ray.get(self._clients[slot][1].pid.remote(), timeout=120)

    def _start_clients_of(self, lost: str) -> None:
        for slot, (where, _, _) in list(self._clients.items()):
            if where == lost:
                self._start_client(slot)

    def _kill_client(self) -> None:
        slot = self._random.choice(sorted(self._clients))
        faults.kill(faults.process_of(self._clients[slot][1]))
        self._start_client(slot)

    def _pause(self, actor: Any) -> None:
        seconds = self._random.uniform(0.5, 2 * HELD)  # also longer than any lease
        faults.pause(faults.process_of(actor), seconds)
        time.sleep(seconds)

    def _worsen(self, actor: Any, *, cut: bool) -> None:
        seconds = self._random.uniform(1.0, 4.0)
        faults.worsen(actor, self._random.randrange(2**32), seconds, cut=cut)
        time.sleep(seconds)

    def _fill(self) -> None:
        node = self._random.choice(list(self._nodes))
        with suppress(ray.exceptions.RayError):
            ray.get(_on(node, _take_room).remote(90 * MIB, 3.0), timeout=60)

    def _use_up_memory(self) -> None:
        before = self._lost_hosts()
        volume = self.victims.volume(self._nodes.watched)
        process = None if volume is None else faults.process_of(volume)
        try:
            ray.get(_on(self._nodes.watched, _take_memory).remote(_HOG), timeout=120)
        except ray.exceptions.OutOfMemoryError:
            self._replace_dead_clients()
        else:
            raise _NotMadeError("memory monitor did not fire")
        if process is not None and not faults.is_alive(process):
            self._wait_until_noticed(before)

    def _volume(self) -> Any:
        return self._random.choice(self.victims.volumes())

    def _some_client(self) -> Any:
        return self._random.choice([actor for _, actor, _ in self._clients.values()])

    # The store

    def _lost_hosts(self) -> tuple[int, int]:
        status = self.registry.status()
        return status.epoch, status.hosts_lost

    def _wait_until_noticed(self, before: tuple[int, int]) -> None:
        self._comes_true(lambda: self._lost_hosts() > before)

    def _wait_until_healed(self) -> None:
        if not self._comes_true(lambda: not self._problems()):
            found = "the store does not answer"
            with suppress(StorageError, ray.exceptions.RayError):
                found = self._problems() or "healed a moment later"
            self.report.violations.append(f"not healed within {self._heal_timeout:.0f} s: {found}")

    def _problems(self) -> str:
        """Return what the store and the cluster have not yet repaired."""
        status = self.registry.status()
        if status.lost and not self._lost:  # a recipe would hide it from the clients
            self._lost = status.lost
            self.report.violations.append(f"{status.lost} values were lost")
        found = []
        if status.too_few_replicas:
            found.append(f"{status.too_few_replicas} objects have too few replicas")
        if status.follower is None:
            found.append("the store has no follower")
        elif status.follower == faults.node_of(self.victims.controller()):
            found.append("the store would lose both copies of its tree with one node")
        if not self._nodes.are_alive():
            alive = {node["NodeID"] for node in ray.nodes() if node["Alive"]}
            found.append(f"Ray knows the nodes {sorted(alive)}, not {sorted(self._nodes)}")
        return ", ".join(found)

    def _comes_true(self, condition: Callable[[], bool]) -> bool:
        """Wait for a condition, which may raise `StorageError`; return whether it became true."""
        deadline = time.monotonic() + self._heal_timeout
        while time.monotonic() < deadline:
            with suppress(StorageError, ray.exceptions.RayError):
                if condition():
                    return True
            time.sleep(0.1)
        return False

    def _start_client(self, slot: int) -> None:
        self._made += 1
        node = self._random.choice(list(self._nodes))
        # Detached: Ray ends an owned actor when it wrongly believes that its owner released it.
        actor = _on(
            node,
            Client,
            max_concurrency=2,
            name=f"client{self._made}",
            namespace="chaos-clients",
            lifetime="detached",
        ).remote(
            self.registry,
            str(self._folder),
            f"client{self._made}",
            self._seed * 1000 + self._made,
            self._begin,
            self._evicts,
        )
        task = actor.run.remote(self._until) if self._until else None
        self._clients[slot] = node, actor, task

    def _replace_dead_clients(self) -> None:
        for slot, (_, actor, _) in list(self._clients.items()):
            try:
                ray.get(actor.pid.remote(), timeout=30)
            except DIED:
                self._start_client(slot)

    # Checks

    def _read_everything(self) -> None:
        last = int((time.monotonic() - self._begin) / TURNED_EVERY)
        self._until = 0.0
        self._start_client(-1)
        _, actor, _ = self._clients[-1]
        ray.get(actor.read.remote([f"/{number}" for number in range(last + 1)]), timeout=600)

    def _end_store(self) -> None:
        for _, actor, _ in self._clients.values():
            ray.kill(actor)
        self.registry.shutdown()
        deadline = time.monotonic() + 60
        while True:
            used = ray.cluster_resources()["object_store_memory"]
            used -= ray.available_resources().get("object_store_memory", 0)
            left = [actor["name"] for actor in ray.util.list_named_actors(all_namespaces=True)]
            if not left and not used:
                return
            if time.monotonic() > deadline:
                break
            time.sleep(0.2)
        self.report.violations.append(f"left over: actors {left}, {used:.0f} bytes of objects")


def _on(node: str, what: Any, **options: Any) -> Any:
    """Return a task or an actor class for Ray, bound to a node."""
    made: Any = ray.remote(num_cpus=0)(what)
    where = NodeAffinitySchedulingStrategy(node, soft=False)
    if not isinstance(what, type):
        options["max_retries"] = 0
    return made.options(scheduling_strategy=where, **options)


def _take_room(nbytes: int, seconds: float) -> None:
    kept = [ray.put(np.ones(MIB, np.uint8)) for _ in range(nbytes // MIB)]
    time.sleep(seconds)
    kept.clear()


def _take_memory(nbytes: int) -> None:
    kept = []
    for _ in range(nbytes // (64 * MIB)):
        kept.append(np.ones(64 * MIB, np.uint8))
        time.sleep(0.02)
    time.sleep(5.0)
    kept.clear()
