"""Measure how reads scale: with the number of processes that read at once, and with sizes."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import ray
from measuring import start_ray, write_table
from memory import REDIS, DictActor, actor, call, redis_server

from polystore_ray import RayBackendRegistry

KIB, MIB = 2**10, 2**20
PROCESSES = (1, 2, 4, 8, 16)
SIZES = (KIB, 32 * KIB, MIB, 16 * MIB, 128 * MIB)
ROUNDS = 5
TURN = 0.4  # seconds for which processes count their reads

Read = Callable[[], Any]
Ways = dict[str, Callable[[], Read]]
"""For each way to read, what makes the read, in the process that reads."""


def from_memory(registry: RayBackendRegistry, path: str) -> Read:
    return partial(registry["memory"].load, path)


def from_actor(values: Any, path: str) -> Read:
    return lambda: call(values, "load", path)


def from_redis(path: str) -> Read:
    import redis as client

    connection: Any = client.Redis(unix_socket_path=str(REDIS))
    return lambda: np.frombuffer(connection.get(path), np.uint8)


def from_file(path: Path) -> Read:
    return lambda: np.load(path)


class Reader:
    """A process that reads."""

    def __init__(self, ways: Ways) -> None:
        self._reads = {name: make() for name, make in ways.items()}

    def rate(self, name: str) -> float:
        """Return how many reads a second this process makes."""
        read, count, start = self._reads[name], 0, time.perf_counter()
        while time.perf_counter() < start + TURN:
            for _ in range(20):
                read()
            count += 20
        return count / (time.perf_counter() - start)

    def seconds(self, name: str, count: int) -> float:
        """Return the seconds of one read that looks at each page of the value."""
        read, start = self._reads[name], time.perf_counter()
        for _ in range(count):
            read()[::4096].sum()
        return (time.perf_counter() - start) / count


def stored(
    value: Any, folder: Path, stores: dict[str, RayBackendRegistry], values: Any, *, redis: bool
) -> Ways:
    """Save a value everywhere, and return all ways to read it."""
    path = f"/{value.nbytes}"
    ways: Ways = {}
    for name, registry in stores.items():
        registry["memory"].save(value, path, overwrite=True)
        ways[name] = partial(from_memory, registry, path)
    call(values, "save", path, value)
    ways["a dict in an actor"] = partial(from_actor, values, path)
    if redis:
        import redis as client

        client.Redis(unix_socket_path=str(REDIS)).set(path, value.tobytes())
        ways["Redis"] = partial(from_redis, path)
    file = folder / f"{value.nbytes}.npy"
    np.save(file, value)
    ways["np.load of a file"] = partial(from_file, file)
    return ways


def processes(ways: Ways) -> None:
    """Count the reads of all processes together."""
    readers = [actor(Reader, ways) for _ in range(max(PROCESSES))]
    rows = []
    for count in PROCESSES:
        found: dict[str, list[float]] = {name: [] for name in ways}
        for round_ in range(ROUNDS + 1):
            for name, rates in found.items():
                rate = sum(ray.get([reader.rate.remote(name) for reader in readers[:count]]))
                if round_:  # the first one opens connections
                    rates.append(rate)
        rows.append([count, *(f"{statistics.median(rates):.0f}" for rates in found.values())])
    for reader in readers:
        ray.kill(reader)
    each = f"the median of {ROUNDS}, in turn; reads a second of 1 KiB, of all processes together"
    write_table("processes", ["processes", *ways], rows, each)


def sizes(ways_of: Callable[[int], Ways]) -> None:
    """Measure one read in another process, of values of several sizes."""
    rows: list[list[Any]] = []
    names: list[str] = []
    for size in SIZES:
        ways = ways_of(size)
        names = list(ways)
        reader = actor(Reader, ways)
        count = max(1, min(200, 16 * MIB // size))
        found: dict[str, list[float]] = {name: [] for name in ways}
        for round_ in range(ROUNDS + 1):
            for name, seconds in found.items():
                took = ray.get(reader.seconds.remote(name, count))
                if round_:  # the first one opens connections and maps memory
                    seconds.append(took)
        ray.kill(reader)
        rows.append([size, *(f"{statistics.median(each) * 1e6:.1f}" for each in found.values())])
    each = f"the median of {ROUNDS}, in turn; microseconds for a read that looks at every page"
    write_table("sizes", ["bytes", *names], rows, each)


def main() -> None:
    start_ray(1024 * MIB)
    stores = {
        "this store, read again": RayBackendRegistry("again"),
        "this store, first read": RayBackendRegistry("calls", read_leases=False),
    }
    values = actor(DictActor)
    random = np.random.default_rng(0)
    with redis_server() as redis, tempfile.TemporaryDirectory() as folder:
        files = Path(folder)

        def ways_of(size: int) -> Ways:
            value = random.integers(0, 255, size, np.uint8)
            return stored(value, files, stores, values, redis=redis is not None)

        processes(ways_of(KIB))
        sizes(ways_of)
    for registry in stores.values():
        registry.shutdown()
    ray.shutdown()


if __name__ == "__main__":
    main()
