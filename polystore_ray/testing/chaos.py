"""Chaos: clients use a store with replicas while it is broken on purpose; then all is checked.

Run it with ``python -m polystore_ray.testing.chaos --seconds 60 --seed 1``; it ends with status 1
if anything was lost, undone, torn, out of order, late or left over.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import ray
from ray.cluster_utils import Cluster
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from polystore.exceptions import PathExistsError, PathNotFoundError, StorageError
from polystore_ray import DataLostError, RayBackendRegistry
from polystore_ray.placement import store_namespace
from polystore_ray.testing import faults
from polystore_ray.testing.history import Recorder, directory, histories
from polystore_ray.testing.linearizability import UNKNOWN, explain

__all__ = ["Chaos", "Report", "main"]

MIB = 2**20
_NAMES = ["a", "b", "c", "d", "e"]
_TURNED_EVERY = 4.0  # seconds after which all clients go to a new directory
_DEADLINE = 20.0  # of each operation
_SLACK = 15.0  # for a machine that does everything at once
_HEALED_WITHIN = 90.0
_LARGE = 20_000  # values, which are beyond what travels inside a call


@dataclass
class Report:
    """What a run did, and what was wrong.

    Attributes
    ----------
    operations, unknown : int
        Operations of clients, and those of which nobody knows whether they happened.
    faults : Counter
        How often each fault was made.
    directories : int
        Histories that were checked.
    violations : list of str
        What must not be.
    """

    operations: int = 0
    unknown: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    directories: int = 0
    violations: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        made = ", ".join(f"{name} {count}" for name, count in sorted(self.faults.items()))
        found = "\n".join(self.violations) or "nothing lost, undone, torn, late or left over"
        return (
            f"{self.operations} operations, {self.unknown} of unknown outcome\n"
            f"faults: {made}\n"
            f"{self.directories} histories of directories checked for linearizability\n{found}"
        )


class Client:
    """A client of the store, in a process of its own."""

    def __init__(
        self, registry: RayBackendRegistry, folder: str, name: str, seed: int, begin: float
    ) -> None:
        self._memory = registry["memory"]
        self._folder = Path(folder)
        self._recorder = Recorder(self._folder / f"{name}.history", name)
        self._violations = (self._folder / f"{name}.violations").open("a", encoding="utf-8")
        self._random = random.Random(seed)  # noqa: S311 - nothing secret depends on it
        self._begin = begin
        self._number = seed * 1_000_000

    def pid(self) -> int:
        """Return the id of this process."""
        return os.getpid()

    def run(self, until: float) -> None:
        """Use the store until a moment of the machine's clock."""
        while time.monotonic() < until:
            where = f"/{int((time.monotonic() - self._begin) / _TURNED_EVERY)}"
            name, argument, call = self._choice(where)
            self._do(where, name, argument, call)

    def look_at(self, directories: list[str]) -> None:
        """Read everything once more, when all is over."""
        for where in directories:
            self._do(where, "list", None, partial(self._list, where))
            for name in _NAMES:
                self._do(where, "load", name, partial(self._load, where, name))

    def _choice(self, where: str) -> tuple[str, Any, Callable[[], Any]]:
        """Return an operation, its argument, and what carries it out."""
        memory, name, other = self._memory, *self._random.sample(_NAMES, 2)
        self._number += 1
        number = self._number
        path = f"{where}/{name}"
        kind = self._random.choice(
            ["save"] * 3
            + ["replace"] * 3
            + ["load"] * 5
            + ["delete", "list", "move"]
            + ["replace_all"]
        )
        if kind == "save":
            call = partial(memory.save, _value(number), path, parents=True)
            return kind, [name, number], call
        if kind == "replace":
            call = partial(memory.save, _value(number), path, overwrite=True, parents=True)
            return kind, [name, number], call
        if kind == "replace_all":
            values = [_value(number), _value(number)]
            paths = [path, f"{where}/{other}"]
            call = partial(memory.save_batch, values, paths, overwrite=True, parents=True)
            return kind, [[name, number], [other, number]], call
        if kind == "delete":
            return kind, name, partial(memory.delete, path)
        if kind == "move":
            return kind, [name, other], partial(memory.move, path, f"{where}/{other}")
        if kind == "list":
            return kind, None, partial(self._list, where)
        return kind, name, partial(self._load, where, name)

    def _list(self, where: str) -> Any:
        try:
            return self._memory.list_dir(where)
        except PathNotFoundError:
            return []

    def _load(self, where: str, name: str) -> int:
        value = np.ravel(self._memory.load(f"{where}/{name}"))
        if not (value == value[0]).all():
            self._violate(f"a torn value at {where}/{name}")
        return int(value[0])

    def _do(self, where: str, name: str, argument: Any, call: Callable[[], Any]) -> None:
        start = time.monotonic()
        with self._recorder.operation(where, name, argument) as outcome:
            try:
                found = call()
                outcome.append("done" if found is None else found)
            except PathExistsError:
                outcome.append("exists")
            except PathNotFoundError:
                outcome.append("missing")
            except DataLostError as error:
                self._violate(f"lost: {error}")
            except StorageError:
                pass  # it may have happened, or not
        if time.monotonic() - start > _DEADLINE + _SLACK:
            self._violate(f"{name} in {where} took {time.monotonic() - start:.0f} s")

    def _violate(self, what: str) -> None:
        self._violations.write(f"{what}\n")
        self._violations.flush()


def _value(number: int) -> Any:
    return np.full(_LARGE, number) if number % 3 == 0 else np.array([number])


class Chaos:
    """A cluster on this machine, a store with two replicas, its clients, and their misfortunes.

    Parameters
    ----------
    folder : pathlib.Path
        Where histories are written.
    seed : int
        What decides who does what, and what breaks when.
    nodes, clients : int
        How many.
    """

    def __init__(self, folder: Path, seed: int, nodes: int = 3, clients: int = 8) -> None:
        self.report = Report()
        self._folder = folder
        self._random = random.Random(seed)  # noqa: S311 - nothing secret depends on it
        self._seed = seed
        self._options: dict[str, Any] = {"num_cpus": 2, "object_store_memory": 150 * MIB}
        self._cluster = Cluster(
            initialize_head=True, head_node_args={**self._options, "include_dashboard": False}
        )
        ray.init(address=self._cluster.address, log_to_driver=False, logging_level="ERROR")
        self._head: str = ray.get_runtime_context().get_node_id()
        self._nodes: dict[str, Any] = {}
        for _ in range(nodes - 1):
            self._add_node()
        self.registry = RayBackendRegistry("chaos", timeout=_DEADLINE, replicas=2)
        self.registry["memory"].ensure_directory("/")
        job = ray.get_runtime_context().get_job_id()
        self.victims = faults.Victims(store_namespace("chaos", job))
        self._begin = time.monotonic()
        self._count = clients
        self._clients: dict[int, tuple[str, Any, Any]] = {}  # by slot: node, actor, its run
        self._made = 0
        self._until = 0.0

    def close(self) -> None:
        """End the cluster."""
        ray.shutdown()
        self._cluster.shutdown()

    # The run

    def run(self, seconds: float) -> Report:
        """Break the store for a while, then check what its clients saw."""
        self._until = time.monotonic() + seconds
        for slot in range(self._count):
            self._start_client(slot)
        # The first faults come all, in some order; then chance decides.
        kinds = list(self._kinds())
        order = self._random.sample(kinds, len(kinds))
        while time.monotonic() < self._until:
            name = order.pop() if order else self._random.choice(kinds)
            sys.stderr.write(f"{time.strftime('%H:%M:%S')} {name}\n")
            self._kinds()[name]()
            self.report.faults[name] += 1
            self._wait_until_healed()
            time.sleep(self._random.uniform(0.2, 2.0))
        for _, _, task in self._clients.values():
            with suppress(ray.exceptions.RayError):
                ray.get(task, timeout=2 * _DEADLINE + _SLACK)
        self._look_at_the_end()
        self._check()
        self._end_store()
        return self.report

    def _kinds(self) -> dict[str, Callable[[], None]]:
        return {
            "controller killed": lambda: faults.kill(faults.process_of(self.victims.controller())),
            "volume killed": self._kill_volume,
            "client killed": self._kill_client,
            "node lost": self._lose_node,
            "controller paused": lambda: self._pause(self.victims.controller()),
            "volume paused": lambda: self._pause(self._volume()),
            "client with a bad network": lambda: self._worsen(self._some_client(), cut=False),
            "controller with a bad network": lambda: self._worsen(
                self.victims.controller(), cut=False
            ),
            "controller cut off": lambda: self._worsen(self.victims.controller(), cut=True),
            "volume cut off": lambda: self._worsen(self._volume(), cut=True),
            "object store filled": self._fill,
        }

    # Faults

    def _kill_volume(self) -> None:
        before = self._lost_hosts()
        faults.kill(faults.process_of(self._volume()))
        self._wait_until_noticed(before)

    def _lost_hosts(self) -> tuple[int, int]:
        status = self.registry.status()
        return status.epoch, status.hosts_lost

    def _wait_until_noticed(self, before: tuple[int, int]) -> None:
        deadline = time.monotonic() + _HEALED_WITHIN
        while time.monotonic() < deadline:
            with suppress(StorageError):
                if self._lost_hosts() > before:
                    return
            time.sleep(0.1)

    def _volume(self) -> Any:
        return self._random.choice(self.victims.volumes())

    def _some_client(self) -> Any:
        return self._random.choice([actor for _, actor, _ in self._clients.values()])

    def _pause(self, actor: Any) -> None:
        seconds = self._random.uniform(0.5, 4.0)
        faults.pause(faults.process_of(actor), seconds)
        time.sleep(seconds)

    def _worsen(self, actor: Any, *, cut: bool) -> None:
        seconds = self._random.uniform(1.0, 4.0)
        faults.worsen(actor, self._random.randrange(2**32), seconds, cut=cut)
        time.sleep(seconds)

    def _kill_client(self) -> None:
        slot = self._random.choice(sorted(self._clients))
        _, actor, _ = self._clients[slot]
        faults.kill(faults.process_of(actor))
        self._start_client(slot)

    def _lose_node(self) -> None:
        node = self._random.choice(sorted(self._nodes))
        before = self._lost_hosts()
        self._cluster.remove_node(self._nodes.pop(node), allow_graceful=False)
        self._add_node()
        for slot, (where, _, _) in list(self._clients.items()):
            if where == node:
                self._start_client(slot)
        self._wait_until_noticed(before)

    def _fill(self) -> None:
        node = self._random.choice([self._head, *self._nodes])
        task: Any = ray.remote(num_cpus=0, max_retries=0)(_take_room)
        where = NodeAffinitySchedulingStrategy(node, soft=False)
        with suppress(ray.exceptions.RayError):
            ray.get(task.options(scheduling_strategy=where).remote(90 * MIB, 3.0), timeout=60)

    # The cluster

    def _add_node(self) -> None:
        node = self._cluster.add_node(**self._options)
        self._cluster.wait_for_nodes()
        self._nodes[str(node.node_id)] = node

    def _start_client(self, slot: int) -> None:
        self._made += 1
        node = self._random.choice([self._head, *self._nodes])
        made: Any = ray.remote(num_cpus=0, max_concurrency=2)(Client)
        where = NodeAffinitySchedulingStrategy(node, soft=False)
        actor = made.options(scheduling_strategy=where).remote(
            self.registry,
            str(self._folder),
            f"client{self._made}",
            self._seed * 1000 + self._made,
            self._begin,
        )
        self._clients[slot] = (node, actor, actor.run.remote(self._until))

    def _wait_until_healed(self) -> None:
        """Wait until what is to be on two nodes is: one fault at a time is what is promised."""
        deadline = time.monotonic() + _HEALED_WITHIN
        while time.monotonic() < deadline:
            with suppress(StorageError):
                status = self.registry.status()
                alive = {node["NodeID"] for node in ray.nodes() if node["Alive"]}
                known = {self._head, *self._nodes}
                if status.too_few_replicas == 0 and alive == known:
                    return
            time.sleep(0.1)
        self.report.violations.append(f"not healed within {_HEALED_WITHIN:.0f} s")

    # What is checked

    def _look_at_the_end(self) -> None:
        last = int((time.monotonic() - self._begin) / _TURNED_EVERY)
        self._count = 1
        self._until = 0.0
        self._start_client(-1)
        _, actor, _ = self._clients[-1]
        ray.get(actor.look_at.remote([f"/{number}" for number in range(last + 1)]), timeout=600)

    def _check(self) -> None:
        for file in sorted(self._folder.glob("*.violations")):
            self.report.violations += file.read_text(encoding="utf-8").splitlines()
        for where, operations in sorted(histories(self._folder).items()):
            self.report.directories += 1
            self.report.operations += len(operations)
            self.report.unknown += sum(o.outcome == UNKNOWN for o in operations)
            found = explain(operations, directory, frozenset())
            if found:
                self.report.violations.append(f"no order explains {where}:\n{found}")

    def _end_store(self) -> None:
        for _, actor, _ in self._clients.values():
            ray.kill(actor)
        self.registry.shutdown()
        deadline = time.monotonic() + 60
        left: Any = None
        while time.monotonic() < deadline:
            used = ray.cluster_resources()["object_store_memory"]
            used -= ray.available_resources().get("object_store_memory", 0)
            left = [actor["name"] for actor in ray.util.list_named_actors(all_namespaces=True)]
            if not left and not used:
                return
            time.sleep(0.2)
        self.report.violations.append(f"left over: actors {left}, {used:.0f} bytes of objects")


def _take_room(nbytes: int, seconds: float) -> None:
    kept = [ray.put(np.ones(MIB, np.uint8)) for _ in range(nbytes // MIB)]
    time.sleep(seconds)
    kept.clear()


def main(arguments: list[str] | None = None) -> int:
    """Run chaos, print what it did and found, and return 1 if anything was wrong."""
    parser = argparse.ArgumentParser(prog="python -m polystore_ray.testing.chaos")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--nodes", type=int, default=3)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--report", type=Path, help="a JSON file to write the figures to")
    chosen = parser.parse_args(arguments)
    warnings.simplefilter("ignore", ResourceWarning)  # of Ray's own cluster utilities
    with tempfile.TemporaryDirectory(prefix="polystore-chaos-") as folder:
        chaos = Chaos(Path(folder), chosen.seed, chosen.nodes, chosen.clients)
        try:
            report = chaos.run(chosen.seconds)
        finally:
            chaos.close()
    sys.stdout.write(f"seed {chosen.seed}, {chosen.seconds:g} s\n{report}\n")
    if chosen.report is not None:
        figures = {"seed": chosen.seed, "seconds": chosen.seconds, **report.__dict__}
        chosen.report.write_text(json.dumps(figures, indent=2), encoding="utf-8")
    return 1 if report.violations else 0


if __name__ == "__main__":
    sys.exit(main())
