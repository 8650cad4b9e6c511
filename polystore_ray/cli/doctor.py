"""The command ``doctor``: check that a cluster is fit for a store, and name the cure if not.

Each check is a function from facts to a `Finding`. The facts about the cluster come from Ray, which
is imported only when they are asked for, so that other commands start without it.
"""

from __future__ import annotations

import os
import platform
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import click
import numpy as np

import polystore
from polystore import MissingDependencyError, StorageError
from polystore.exceptions import brought_by
from polystore_ray import other_project
from polystore_ray.cli.failure import Failed, one_line
from polystore_ray.cli.output import aligned, human_bytes, print_json
from polystore_ray.cli.session import Session, with_session
from polystore_ray.rayapi.head_loss import LASTING

if TYPE_CHECKING:  # it imports Ray
    from polystore_ray.cli.cluster import KnownStore

__all__ = ["Finding", "doctor"]

_TIMEOUT = 30.0  # seconds for all nodes together
_SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - Ray keeps its object store there
_SMALL_STORE = 256 * 2**20  # bytes
_CLOCK_DIFFERENCE = 1.0  # seconds
_ID_DIGITS = 8  # of a node's id in a message


class Finding(NamedTuple):
    """The result of one check: its subject, the verdict, what was seen, and the cure."""

    what: str
    verdict: Literal["ok", "warning", "failure"]
    seen: str
    cure: str = ""


class _Machine(NamedTuple):
    """Facts about one machine."""

    versions: tuple[str, str, str]  # of Python, Ray and polystore
    shared_memory: int | None  # bytes
    time: float  # seconds since the epoch
    frees_soon: bool  # whether Ray gives freed memory back at once


@click.command(short_help="Check this machine and the cluster.")
@with_session
def doctor(session: Session) -> None:
    """Check this machine and the cluster, and name a cure for each problem.

    Checks versions, the size of each object store and of the shared memory that it lies in, actors
    that cannot be scheduled, values that are lost, clocks, authentication and encryption. Exits
    with 1 if a check fails.
    """
    findings = [*_check_here()]
    if not session.local:
        findings += _check_cluster(session)
    if session.as_json:
        print_json([finding._asdict() for finding in findings])
    else:
        aligned(
            (found.verdict, found.what, "; ".join(filter(None, (found.seen, found.cure))))
            for found in findings
        )
    failures = [finding.what for finding in findings if finding.verdict == "failure"]
    if failures:
        raise Failed(f"checks that failed: {', '.join(failures)}")


def _check_here() -> Iterator[Finding]:
    try:
        import ray
    except ModuleNotFoundError:
        found = "no Ray"
    else:
        found = f"Ray {ray.__version__}"
    versions = f"polystore {polystore.__version__}, {found}, NumPy {np.__version__}"
    yield Finding("versions here", "ok", f"Python {platform.python_version()}, {versions}")
    yield _check_zarr()
    other = other_project.found()
    if other:
        yield Finding("packages", "failure", other, other_project.CURE)
    if platform.system() != "Linux":
        cure = "clusters need Linux; use --local on this machine"
        yield Finding("system", "failure", platform.system(), cure)


def _check_zarr() -> Finding:
    import zarr

    from polystore.zarr.array.pipelines import pipeline_in_use

    pipeline = f"pipeline {pipeline_in_use()!r} for arrays in directories"
    return Finding("zarr here", "ok", f"zarr {zarr.__version__}, {pipeline}")


def _check_cluster(session: Session) -> Iterator[Finding]:
    try:
        session.connect()
    except MissingDependencyError:
        yield Finding("ray", "failure", "not installed", brought_by("ray"))
        return
    except (Failed, StorageError) as error:
        yield Finding("cluster", "failure", one_line(error))
        return
    from polystore_ray.cli.cluster import known_stores
    from polystore_ray.rayapi.private import authentication_mode, control_store, waiting_actors

    yield from _check_nodes(_TIMEOUT)
    yield _check_actors(waiting_actors())
    yield _check_control_store(control_store())
    for known in known_stores():
        yield from _check_store(known)
    yield _check_authentication(authentication_mode())
    yield _check_encryption(os.environ.get("RAY_USE_TLS", "0") == "1")


def _check_nodes(timeout: float) -> Iterator[Finding]:
    """Run one task on each node, and check what the tasks report within `timeout` seconds."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    from polystore_ray.rayapi.placement import nodes

    here, known = _this_machine(), nodes()
    yield Finding("nodes", "ok", f"{len(known)} alive")
    task: Any = ray.remote(num_cpus=0, max_retries=0)(_this_machine)
    answers = [
        task.options(
            scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        ).remote()
        for node in known
    ]
    ray.wait(answers, num_returns=len(answers), timeout=timeout)
    answered = time.time()
    for node, answer in zip(known, answers, strict=True):
        name = f"{node['NodeManagerHostname']} {node['NodeID'][:_ID_DIGITS]}"
        try:
            there: _Machine = ray.get(answer, timeout=0)
        except ray.exceptions.RayError as error:
            yield Finding(
                f"node {name}",
                "failure",
                f"it ran no task ({type(error).__name__})",
                "look into its raylet's log; is this version of polystore-ray installed there?",
            )
            continue
        object_store = int(node["Resources"].get("object_store_memory", 0))
        yield _check_versions(name, there, here)
        yield _check_memory(name, object_store, there.shared_memory)
        yield _check_freeing(name, there.frees_soon)
        yield _check_clock(name, here.time - there.time, there.time - answered)


def _this_machine() -> _Machine:
    import ray

    from polystore_ray.rayapi.private import FREES_SOON

    shared = shutil.disk_usage(_SHARED_MEMORY).total if _SHARED_MEMORY.is_dir() else None
    versions = (platform.python_version(), ray.__version__, polystore.__version__)
    frees_soon = os.environ.keys() >= FREES_SOON.keys()
    return _Machine(versions, shared, time.time(), frees_soon)


def _check_versions(name: str, there: _Machine, here: _Machine) -> Finding:
    seen = "Python {}, Ray {}, polystore {}".format(*there.versions)
    if there.versions == here.versions:
        return Finding(f"versions on {name}", "ok", seen)
    cure = "install the same versions on every node and client"
    return Finding(f"versions on {name}", "failure", seen, cure)


def _check_memory(name: str, object_store: int, shared: int | None) -> Finding:
    what, seen = f"memory of {name}", f"object store {human_bytes(object_store)}"
    if shared is not None:
        seen += f", {_SHARED_MEMORY} {human_bytes(shared)}"
        if object_store > shared:
            cure = (
                "the object store does not fit into shared memory, so Ray keeps it on a disk: "
                "enlarge the shared memory (in a container, its shm size), or lower "
                "--object-store-memory"
            )
            return Finding(what, "failure", seen, cure)
    if object_store < _SMALL_STORE:
        return Finding(what, "warning", seen, "raise --object-store-memory")
    return Finding(what, "ok", seen)


def _check_freeing(name: str, frees_soon: bool) -> Finding:
    what = f"freed memory of {name}"
    if frees_soon:
        return Finding(what, "ok", "it comes back soon")
    from polystore_ray.rayapi.private import FREES_SOON

    [(variable, value)] = FREES_SOON.items()
    cure = f"start Ray with {variable}={value}: saves in a loop are several times faster"
    return Finding(what, "warning", "it comes back once a second", cure)


def _check_clock(name: str, before: float, after: float) -> Finding:
    """Check by how much a node's clock is before our question, or after its answer."""
    apart = max(before, after, 0.0)
    if apart > _CLOCK_DIFFERENCE:
        cure = "synchronize both clocks (NTP), or the times that stat returns are misleading"
        return Finding(f"clock of {name}", "warning", f"{apart:.1f} s from ours", cure)
    return Finding(f"clock of {name}", "ok", f"within {_CLOCK_DIFFERENCE:g} s of ours")


def _check_actors(waiting: list[str]) -> Finding:
    if not waiting:
        return Finding("actors", "ok", "all are scheduled")
    some = ", ".join(waiting[:3]) + (" and others" if len(waiting) > 3 else "")
    cure = "`ray status` shows the resources they ask for; a store's actors need only their node"
    return Finding("actors", "warning", f"{len(waiting)} cannot be scheduled: {some}", cure)


def _check_control_store(kept_in: str | None) -> Finding:
    if kept_in in LASTING:
        return Finding("control store", "ok", f"in {kept_in}: a new head reads it again")
    seen = (
        "in the head's memory: every store ends with the head"
        if kept_in
        else "Ray does not say where it keeps it"
    )
    cure = "to let stores outlive the head, start the head with RAY_REDIS_ADDRESS"
    return Finding("control store", "warning", seen, cure)


def _check_store(known: KnownStore) -> Iterator[Finding]:
    """Check whether a store has all its values, and a detached one whether it outlives the head."""
    what = f"store {known.name}" if known.job is None else f"store {known.name} of job {known.job}"
    command = f"polystore --store {known.name}" + (f" --job {known.job}" if known.job else "")
    from polystore_ray.cli.cluster import store

    try:
        status = store(known.name, known.job, create=False).status()
    except (Failed, StorageError) as error:
        seen = f"it does not answer ({type(error).__name__})"
        yield Finding(what, "failure", seen, f"`{command} status`")
        return
    yield _check_values(what, status.lost, status.too_few_replicas, command)
    if known.job is None:
        yield _check_head(what, status.lost_with_head)


def _check_values(what: str, lost: int, too_few: int, command: str) -> Finding:
    what = f"values of {what}"
    if lost:
        cure = f"`{command} lost` lists them; save them again, and keep a second copy (replicas=2)"
        return Finding(what, "failure", f"{lost} are lost", cure)
    if too_few:
        cure = "wait until they are copied; if the number stays, add nodes"
        seen = f"{too_few} objects have fewer replicas than requested"
        return Finding(what, "warning", seen, cure)
    return Finding(what, "ok", "none is lost, and all have their replicas")


def _check_head(what: str, reasons: Sequence[str]) -> Finding:
    if not reasons:
        return Finding(what, "ok", "it outlives the loss of the head")
    seen, _, cures = zip(*(reason.partition(": ") for reason in reasons), strict=True)
    lost = "losing the head loses the store or a part of it: " + "; ".join(seen)
    return Finding(what, "warning", lost, "; ".join(filter(None, cures)))


def _check_authentication(mode: str) -> Finding:
    if mode == "token":
        return Finding("authentication", "ok", "by token")
    seen = f"{mode}: any host that reaches the ports can run code and read everything"
    cure = "set RAY_AUTH_MODE=token on every node and client"
    return Finding("authentication", "warning", seen, cure)


def _check_encryption(is_on: bool) -> Finding:
    if is_on:
        return Finding("encryption", "ok", "TLS")
    seen = "none: values and the token cross the network unencrypted"
    cure = "set RAY_USE_TLS=1 with certificates, or use a trusted network"
    return Finding("encryption", "warning", seen, cure)
