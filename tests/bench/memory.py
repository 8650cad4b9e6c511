"""Compare the cluster memory with plain Ray: medians of one run, in turn, as ratios."""

from __future__ import annotations

import logging
import os
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"

import numpy as np
import ray

from polystore_ray import RayBackendRegistry

ROUNDS = 9
CALLS = 50  # small calls in one round
LARGE = 256 * 2**20  # bytes


@ray.remote(num_cpus=0)
class Noop:
    def call(self, message: bytes) -> None:
        return None


def medians(work: dict[str, Callable[[int], Any]], repeat: int) -> dict[str, float]:
    """Return the median seconds of one call of each, measured in turn."""
    times: dict[str, list[float]] = {name: [] for name in work}
    for round_ in range(ROUNDS):
        for name, call in work.items():
            start = time.perf_counter()
            for i in range(repeat):
                call(round_ * repeat + i)
            times[name].append((time.perf_counter() - start) / repeat)
    return {name: statistics.median(found) for name, found in times.items()}


def row(name: str, seconds: float, unit: str, of: float) -> None:
    sys.stdout.write(f"{name:<34}{seconds * 1e3:>12.3f} ms{seconds / of:>10.2f} x {unit}\n")


def small(memory: Any, noop: Any) -> None:
    value = np.zeros(1024, np.uint8)
    memory.save(value, "/small/value", parents=True)
    found = medians(
        {
            "noop": lambda _: ray.get(noop.call.remote(b"x")),
            "save 1 KiB": lambda i: memory.save(value, f"/small/{i}"),
            "load 1 KiB": lambda _: memory.load("/small/value"),
            "exists": lambda _: memory.exists("/small/value"),
            "stat": lambda _: memory.stat("/small/value"),
        },
        CALLS,
    )
    for name, seconds in found.items():
        row(name, seconds, "noop", found["noop"])


def large(memory: Any, noop: Any) -> None:
    image = np.random.default_rng(0).integers(0, 255, LARGE, dtype=np.uint8)
    memory.save(image, "/large")
    memory.load("/large")
    found = medians(
        {
            "noop": lambda _: ray.get(noop.call.remote(b"x")),
            "load 256 MiB": lambda _: memory.load("/large"),
            "ray.put 256 MiB": lambda _: ray.put(image),
            "save 256 MiB": lambda _: memory.save(image, "/large", overwrite=True),
        },
        1,
    )
    row("load 256 MiB", found["load 256 MiB"], "noop", found["noop"])
    row("ray.put 256 MiB", found["ray.put 256 MiB"], "ray.put", found["ray.put 256 MiB"])
    row("save 256 MiB", found["save 256 MiB"], "ray.put", found["ray.put 256 MiB"])


def main() -> None:
    ray.init(
        address="local",
        num_cpus=2,
        object_store_memory=8 * LARGE,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
    )
    registry = RayBackendRegistry("bench")
    noop = Noop.remote()  # type: ignore[attr-defined]
    ray.get(noop.call.remote(b"x"))
    small(registry["memory"], noop)
    large(registry["memory"], noop)
    registry.shutdown()
    ray.shutdown()


if __name__ == "__main__":
    main()
