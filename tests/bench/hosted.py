"""What a hosted call costs beside the backend itself, and what the read cache of a node saves."""

from __future__ import annotations

import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import ray
from measuring import Table, medians, start_ray

from polystore import DiskBackend, StorageBackend
from polystore_ray import RayBackendRegistry

MIB = 2**20
TASKS = 4
TRIALS = 5
TABLE = Table("hosted")


class Idle(StorageBackend):
    """A backend that takes no time of its own."""

    _backend_type = "bench_idle"

    def load(self, path: Any) -> Any:
        return None

    def save(self, data: Any, path: Any) -> None:
        return None

    def is_file(self, path: Any) -> bool:
        return True

    def is_dir(self, path: Any) -> bool:
        return False

    def list_dir(self, path: Any) -> list[str]:
        return []


class Noop:
    """What a call of an actor takes at least."""

    def call(self, _: bytes) -> bytes:
        return b""


class Reader:
    """A process that loads a file, from its node's host or by itself."""

    def __init__(self, registry: RayBackendRegistry) -> None:
        self.hosted, self.own = registry["disk"], DiskBackend()
        self.hosted.exists("/")
        import tifffile  # noqa: F401 - that no load has to wait for it

    def private(self) -> int:
        lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
        return sum(int(line.split()[1]) for line in lines if line.startswith("Private_")) * 1024

    def load(self, path: str, hosted: bool) -> tuple[float, int]:
        """Return how long the load took, and how much memory of its own the value takes."""
        before, start = self.private(), time.perf_counter()
        array = (self.hosted if hosted else self.own).load(path)
        took = time.perf_counter() - start
        assert array[-1, -1] == array[0, 0]
        return took, self.private() - before


def calls(registry: RayBackendRegistry, _: Path) -> None:
    noop: Any = ray.remote(Noop).options(num_cpus=0, max_concurrency=64)
    actor, idle, own = noop.remote(), registry["bench_idle"], Idle()
    ray.get(actor.call.remote(b""))
    found = medians(
        {
            "noop": lambda _: ray.get(actor.call.remote(b"")),
            "hosted": lambda _: idle.is_file("/a"),
            "own": lambda _: own.is_file("/a"),
        },
        300,
    )
    TABLE.add(
        "a hosted call beyond the backend's own time",
        found["hosted"] - found["own"],
        "noop",
        found["noop"],
        "<= 1.3",
    )


def large(registry: RayBackendRegistry, top: Path) -> None:
    """Load 256 MiB that no cache holds: each load is of a file that was just replaced."""
    hosted, own, array = registry["disk"], DiskBackend(), np.ones((16 * 1024, 16 * 1024), np.uint8)
    path = top / "large.tif"
    times: dict[str, list[float]] = {"own": [], "hosted": [], "copy": []}
    for _ in range(TRIALS):
        for name, work in (
            ("own", lambda: own.load(path)),
            ("hosted", lambda: hosted.load(path)),
            ("copy", lambda: np.copy(array)),
        ):
            own.save(array, path, overwrite=True)
            start = time.perf_counter()
            value = work()
            times[name].append(time.perf_counter() - start)
            del value
    median = {name: statistics.median(found) for name, found in times.items()}
    TABLE.add(
        "a hosted load of 256 MiB of .tif",
        median["hosted"],
        "own load and np.copy",
        median["own"] + median["copy"],
        "<= 1.2",
    )


def together(registry: RayBackendRegistry, top: Path) -> None:
    """Let four tasks load one file at once: through the host of their node, and each by itself."""
    path = top / "shared.tif"
    DiskBackend().save(np.ones((16 * 1024, 16 * 1024), np.uint8), path)
    kind: Any = ray.remote(num_cpus=0)(Reader)
    readers = [kind.remote(registry) for _ in range(TASKS)]
    ray.get([reader.private.remote() for reader in readers])
    times: dict[bool, list[float]] = {True: [], False: []}
    memory: list[float] = []
    for trial in range(TRIALS):
        for hosted in (True, False):
            if hosted:
                path = path.rename(top / f"shared-{trial}.tif")
                time.sleep(2.1)  # a file that was touched a moment ago is not shared
            start = time.perf_counter()
            found = ray.get([reader.load.remote(str(path), hosted) for reader in readers])
            times[hosted].append(time.perf_counter() - start)
            if hosted:
                memory.append(sum(grown for _, grown in found) / (256 * MIB))
    [node] = registry.status().nodes
    TABLE.add_amount(
        f"times that {TASKS} tasks read a 256 MiB .tif from disk",
        f"{node.cache_misses / TRIALS:g}",
        "1",
    )
    TABLE.add_amount(
        "copies of it in their private memory", f"{statistics.median(memory):.2f}", "< 1.2"
    )
    TABLE.add(
        "all four have it",
        statistics.median(times[True]),
        "each reading it",
        statistics.median(times[False]),
        "<= 0.5",
    )
    again = medians({"hosted": lambda _: registry["disk"].load(path)}, rounds=TRIALS)
    own = medians({"own": lambda _: DiskBackend().load(path)}, rounds=TRIALS)
    TABLE.add("a load of 256 MiB that is kept", again["hosted"], "own load", own["own"])


def main() -> None:
    start_ray(2048 * MIB)
    top = Path(tempfile.mkdtemp(prefix="polystore-bench-"))
    try:
        for number, work in enumerate((calls, large, together)):
            registry = RayBackendRegistry(f"hosted-{number}", read_cache=512 * MIB)
            work(registry, top)
            registry.shutdown()
    finally:
        shutil.rmtree(top)
        ray.shutdown()
    TABLE.write()


if __name__ == "__main__":
    main()
