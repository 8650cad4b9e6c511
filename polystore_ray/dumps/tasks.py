"""The tasks of a dump: each writes or reads one part, on the node where it belongs."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from polystore.exceptions import StorageError
from polystore_ray.dumps.files import DumpFile, DumpFiles
from polystore_ray.transport.base import Task, Transport
from polystore_ray.transport.in_process import LocalTransport

__all__ = ["OWN_NAMES", "THREADS", "Connect", "is_own", "run_part_tasks"]

OWN_NAMES = ("/.polystore-dump-", "/.polystore-restore-")
"""How paths of the memory begin that hold a snapshot, or what is being restored."""

Connect = Callable[[], Transport]
"""Return the transport to a store, for one call."""

THREADS = min(8, os.cpu_count() or 1)
"""Of one process that reads or writes many files."""


def is_own(path: str) -> bool:
    """Return whether a path belongs to a dump or to a restore itself."""
    return path.startswith(OWN_NAMES)


def run_part_tasks(
    connect: Connect, files: DumpFiles, proof: DumpFile, tasks: Iterable[Task]
) -> Iterator[Any]:
    """Run tasks in Ray near their data, in threads in local mode; yield results in order.

    Where a task does not find the dump, since nodes do not share its directory, the caller runs its
    function.

    - `proof`: a file of the dump; who can read it has the same directory
    """
    transport = connect()
    if isinstance(transport, LocalTransport):
        with ThreadPoolExecutor(THREADS) as pool:
            yield from pool.map(lambda task: task[1](*task[2]), tasks)
        return
    sent: list[Task] = []

    def guarded() -> Iterator[Task]:
        for nodes, function, arguments in tasks:
            sent.append((nodes, function, arguments))
            yield nodes, _if_shared, (files, proof, function, arguments)

    # A task that waits for a CPU would wait for the jobs that the dump is to rescue.
    options = {"num_cpus": 0, "scheduling_strategy": "SPREAD"}
    for done in transport.run(guarded(), options):
        _, function, arguments = sent.pop(0)
        yield done[0] if done is not None else function(*arguments)


def _if_shared(
    files: DumpFiles, proof: DumpFile, function: Callable[..., Any], arguments: tuple[Any, ...]
) -> tuple[Any] | None:
    """Return the result of a function; None if this process does not find the dump."""
    try:
        files.read_checked(proof)
    except StorageError:
        return None
    return (function(*arguments),)
