"""Compare the cluster memory with plain Ray: medians of one run, in turn, as ratios."""

from __future__ import annotations

import logging
import os
from typing import Any

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"

import numpy as np
import ray
from measuring import medians, row

from polystore_ray import RayBackendRegistry

CALLS = 50  # small calls in one round
LARGE = 256 * 2**20  # bytes


@ray.remote(num_cpus=0)
class Noop:
    def call(self, message: bytes) -> None:
        return None


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
        }
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
