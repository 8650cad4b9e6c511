"""The examination of a cluster: what each node says of itself, and what Ray says of all."""

from __future__ import annotations

import os
import platform
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

import polystore
from polystore.exceptions import StorageError
from polystore_ray.cli.cluster import KnownStore, known_stores
from polystore_ray.cli.cluster import store as store_of
from polystore_ray.cli.finding import Finding
from polystore_ray.cli.output import human_bytes
from polystore_ray.rayapi.head_loss import LASTING
from polystore_ray.rayapi.placement import nodes
from polystore_ray.rayapi.private import authentication_mode, control_store, waiting_actors

__all__ = ["examine"]

_SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - where Ray's object store lies
_SMALL_STORE = 256 * 2**20  # bytes
_CLOCKS_APART = 1.0  # seconds
_SHORT = 12  # characters of a node's id, as people tell nodes apart


class _Machine(NamedTuple):
    """What a node says of itself."""

    versions: tuple[str, str, str]
    shared: int | None  # bytes
    now: float


def _about_this_machine() -> _Machine:
    shared = shutil.disk_usage(_SHARED_MEMORY).total if _SHARED_MEMORY.is_dir() else None
    versions = (platform.python_version(), ray.__version__, polystore.__version__)
    return _Machine(versions, shared, time.time())


def examine(timeout: float) -> Iterator[Finding]:
    """Examine the cluster that this process is connected to.

    Parameters
    ----------
    timeout : float
        Seconds that all nodes together have to answer.
    """
    mine = _about_this_machine()
    known = nodes()
    yield Finding("nodes", "ok", f"{len(known)} alive")
    tasks = [_asked(node["NodeID"]) for node in known]
    ray.wait(tasks, num_returns=len(tasks), timeout=timeout)
    answered = time.time()
    for node, task in zip(known, tasks, strict=True):
        name = f"{node['NodeManagerHostname']} {node['NodeID'][:_SHORT]}"
        try:
            found: _Machine = ray.get(task, timeout=0)
        except ray.exceptions.RayError as error:
            yield Finding(
                f"node {name}",
                "failure",
                f"it carries out no task ({type(error).__name__})",
                "look into its raylet's log; is this version of polystore-ray installed there?",
            )
            continue
        yield _of_versions(name, found, mine)
        yield _of_memory(name, int(node["Resources"].get("object_store_memory", 0)), found.shared)
        yield _of_clock(name, mine.now - found.now, found.now - answered)
    yield _of_actors()
    yield _of_the_control_store()
    for known_store in known_stores():
        if known_store.job is None:
            yield _of_store(known_store)
    yield from _of_access()


def _asked(node: str) -> Any:
    where = NodeAffinitySchedulingStrategy(node, soft=False)
    task: Any = ray.remote(num_cpus=0, max_retries=0)(_about_this_machine)
    return task.options(scheduling_strategy=where).remote()


def _of_versions(name: str, found: _Machine, mine: _Machine) -> Finding:
    seen = "Python {}, Ray {}, polystore {}".format(*found.versions)
    if found.versions == mine.versions:
        return Finding(f"versions on {name}", "ok", seen)
    return Finding(f"versions on {name}", "failure", seen, "install there what is installed here")


def _of_memory(name: str, store: int, shared: int | None) -> Finding:
    what, seen = f"memory of {name}", f"object store {human_bytes(store)}"
    if shared is not None:
        seen += f", {_SHARED_MEMORY} {human_bytes(shared)}"
        if store > shared:
            return Finding(
                what,
                "failure",
                seen,
                "the store does not fit and lies on a disk: make shared memory larger (in a "
                "container, its shm size), or --object-store-memory smaller",
            )
    if store < _SMALL_STORE:
        return Finding(what, "warning", seen, "give it more with --object-store-memory")
    return Finding(what, "ok", seen)


def _of_clock(name: str, behind: float, ahead: float) -> Finding:
    """Tell by how much a node's clock is before we asked, or after it answered."""
    apart = max(behind, ahead, 0.0)
    if apart > _CLOCKS_APART:
        cure = "have both follow one time server, or the times that stat tells mislead"
        return Finding(f"clock of {name}", "warning", f"{apart:.1f} s from ours", cure)
    return Finding(f"clock of {name}", "ok", f"within {_CLOCKS_APART:g} s of ours")


def _of_actors() -> Finding:
    waiting = waiting_actors()
    if not waiting:
        return Finding("actors", "ok", "none waits for a place")
    some = ", ".join(waiting[:3]) + (" and others" if len(waiting) > 3 else "")
    return Finding(
        "actors",
        "warning",
        f"{len(waiting)} wait for a place: {some}",
        "`ray status` tells what they ask for; a store's own need nothing but their node",
    )


def _of_the_control_store() -> Finding:
    kept = control_store()
    if kept in LASTING:
        return Finding("control store", "ok", f"in {kept}: a new head finds it again")
    return Finding(
        "control store",
        "warning",
        "in the head's memory: every store ends with the head"
        if kept
        else "Ray does not say where it keeps it",
        "start the head with RAY_REDIS_ADDRESS, if stores are to outlive it",
    )


def _of_store(known: KnownStore) -> Finding:
    """Say of a detached store whether it outlives the head, and what is missing if not."""
    what = f"store {known.name}"
    try:
        missing = store_of(known.name, None, create=False).status().lost_with_head
    except StorageError as error:
        return Finding(
            what, "failure", f"it does not answer ({type(error).__name__})", "`polystore status`"
        )
    if not missing:
        return Finding(what, "ok", "it outlives the loss of the head")
    seen, _, cure = zip(*(reason.partition(": ") for reason in missing), strict=True)
    seen_of_it = "it does not outlive the head whole: " + "; ".join(seen)
    return Finding(what, "warning", seen_of_it, "; ".join(filter(None, cure)))


def _of_access() -> Iterator[Finding]:
    mode = authentication_mode()
    if mode == "token":
        yield Finding("authentication", "ok", "by token")
    else:
        yield Finding(
            "authentication",
            "warning",
            f"{mode}: whoever reaches the ports can run code and read everything",
            "set RAY_AUTH_MODE=token on every node and client",
        )
    if os.environ.get("RAY_USE_TLS", "0") == "1":
        yield Finding("encryption", "ok", "TLS")
    else:
        yield Finding(
            "encryption",
            "warning",
            "none: values and the token cross the network in the clear",
            "set RAY_USE_TLS=1 with certificates, or use a network that you trust",
        )
