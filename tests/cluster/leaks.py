"""Resources that a test may leak: threads, open files, actors of stores, references of Ray."""

from __future__ import annotations

import gc
import os
import threading
import time
import warnings
from collections import Counter
from dataclasses import dataclass, fields
from typing import Any, Self

import ray

from polystore_ray.rayapi.placement import store_namespace

WITHIN = 60.0  # seconds until what has ended must be gone

# Threads that a library starts once for the whole process.
_SHARED_THREADS = ("asyncio_", "fsspecIO", "ray_", "ThreadPoolExecutor", "zarr_io", "MainThread")
_OF_RAY = ("/dev/", "/proc/", "/sys/", "/tmp/ray/")


@dataclass(frozen=True)
class Resources:
    """The resources that this process holds, and the actors of stores in its cluster."""

    threads: Counter[str]
    files: Counter[str]
    actors: Counter[str]
    objects: Counter[str]

    @classmethod
    def now(cls) -> Self:
        """Return the resources at this moment."""
        return cls(_threads(), _files(), *_of_cluster())

    def leaked(self, within: float = WITHIN) -> list[str]:
        """Return the resources that are new; wait up to `within` seconds until there are none."""
        deadline = time.monotonic() + within
        while found := self._new():
            if time.monotonic() > deadline:
                break
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ResourceWarning)  # of Ray's own processes
                gc.collect()
            time.sleep(0.1)
        return found

    def _new(self) -> list[str]:
        now = type(self).now()
        return [
            f"{field.name}: {name} ({count})"
            for field in fields(self)
            for name, count in (getattr(now, field.name) - getattr(self, field.name)).items()
        ]


def _threads() -> Counter[str]:
    return Counter(
        thread.name
        for thread in threading.enumerate()
        # A dummy stands for a thread that Ray's compiled code started.
        if not isinstance(thread, threading._DummyThread)
        and not thread.name.startswith(_SHARED_THREADS)
    )


def _files() -> Counter[str]:
    """Return the open files and directories. Most sockets and pipes belong to Ray."""
    found: Counter[str] = Counter()
    for number in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{number}")
        except FileNotFoundError:  # the descriptor of this listing
            continue
        if target.startswith("/") and not target.startswith(_OF_RAY):
            found[target] += 1
    return found


def _of_cluster() -> tuple[Counter[str], Counter[str]]:
    if not ray.is_initialized():
        return Counter(), Counter()
    # The default store ends with the job; tests share it.
    shared = store_namespace("default", ray.get_runtime_context().get_job_id())
    named = ray.util.list_named_actors(all_namespaces=True)
    actors = (
        actor
        for actor in named
        if actor["namespace"].startswith("polystore/") and actor["namespace"] != shared
    )
    worker: Any = ray._private.worker.global_worker
    references = worker.core_worker.get_all_reference_counts()
    held = Counter("references" for counts in references.values() if counts["local"])
    return Counter(f"{actor['namespace']} {actor['name']}" for actor in actors), held
