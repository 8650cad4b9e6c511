"""Connections: how a process reaches the controller of a store, and when it must find another."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import ray
from ray import exceptions as ray_exceptions

from polystore_ray.actors import StoreOf, controller_of, reach_controller
from polystore_ray.config.home import Home
from polystore_ray.config.store import StoreOptions
from polystore_ray.deadline import Deadline
from polystore_ray.errors import StoreUnavailableError
from polystore_ray.rayapi.addresses import TokenRefusedError, require_answer
from polystore_ray.rayapi.placement import MEMORY, store_namespace, this_process
from polystore_ray.rayapi.private import (
    FREES_SOON,
    cluster_address,
    cluster_id,
    is_client,
    job_is_dead,
    recorded_address,
)
from polystore_ray.replication.epochs import has_ended
from polystore_ray.transport.on_ray import RayTransport
from polystore_ray.wire.sessions import LONGEST_WAIT

__all__ = ["connect", "disconnect", "home_of", "start_ray"]

logger = logging.getLogger(__name__)

Key = tuple[str, str, str, str, str]
_connections: dict[Key, RayTransport] = {}
_starting = threading.Lock()
_forked = False


def connect(
    store: str,
    lifetime: str,
    timeout: float,
    options: StoreOptions,
    *,
    home: Home,
    create: bool = True,
) -> RayTransport | None:
    """Return this process's connection to a store, for one call; start what does not run yet.

    - `lifetime`: whether the store is a job's or outlives it
    - `timeout`: seconds within which the call has to be answered
    - `options`: the options of a new store, which an existing store must have too
    - `home`: where the store is. A registry that was pickled finds its own store there, or none
    - `create`: whether to start Ray and the store. Without it None is returned where either is
      missing

    Raises `StoreUnavailableError` if Ray cannot be reached, the controller does not start by the
    deadline, or the store of a registry that was pickled has ended; `StorageResolutionError` if the
    store exists with other options.
    """
    _check_process(store, home)
    if not ray.is_initialized():
        if not create and not home.address:
            return None
        start_ray(home.address or None, timeout)
    timeout = min(timeout, LONGEST_WAIT)
    key = _key(store, lifetime, home)
    connection = _connections.get(key)
    if connection is None or home.store_id not in ("", connection.store_id):
        # No lock: two threads that start a store find the same, and neither waits for the other.
        found = _made(store, lifetime, home, options, Deadline(timeout), create=create)
        if found is None:
            return None
        if home.store_id not in ("", found.store_id):
            raise _gone(found.store)
        if connection is not None:  # of an earlier store, which was shut down
            _connections.pop(key, None)
        connection = _connections.setdefault(key, found)
    options.check_against(connection.options, connection.store)
    return connection.by(Deadline(timeout))  # what was started had a deadline of its own


def disconnect(connection: RayTransport) -> None:
    """Forget a connection whose store ends."""
    for key, known in list(_connections.items()):
        if known.handles is connection.handles:
            _connections.pop(key, None)


def home_of(store: str, lifetime: str, home: Home, *, job: str = "") -> Home:
    """Return a registry's home as it is to travel: with the cluster, the job and the store.

    - `home`: the registry's home in this process
    - `job`: the id of the job whose store is meant; this process's by default
    """
    if home.address or not ray.is_initialized():
        return home
    connection = _connections.get(_key(store, lifetime, home._replace(job=job)))
    job = job or this_process()[1]
    store_id = "" if connection is None else connection.store_id
    return Home(home.process, cluster_address(), cluster_id(), job, store_id)


def start_ray(address: str | None = None, timeout: float = 60.0) -> None:
    """Connect this process to a cluster, or start one, unless it is connected.

    - `timeout`: seconds within which an existing cluster has to answer

    Raises `StoreUnavailableError` if there is no cluster at the address.
    """
    deadline = Deadline(timeout)
    if not _starting.acquire(timeout=timeout):
        raise StoreUnavailableError(
            f"another thread did not connect to Ray within {timeout:g} s; call ray.init() first"
        )
    try:
        if ray.is_initialized():
            return
        address = address or os.environ.get("RAY_ADDRESS")
        if address == "auto":
            address = recorded_address()
        if address:
            require_answer(address, deadline)
        else:
            address = _cluster_here(deadline)
        with _environment(FREES_SOON):
            ray.init(address)
    except (OSError, RuntimeError, ValueError, ray_exceptions.RayError) as error:
        if isinstance(error, StoreUnavailableError):
            raise
        raise StoreUnavailableError(f"Ray could not be started or reached: {error}") from error
    finally:
        _starting.release()


@contextmanager
def _environment(wanted: Mapping[str, str]) -> Iterator[None]:
    """Set variables, for the processes that are started meanwhile, that the caller has not set."""
    new = wanted.keys() - os.environ.keys()
    os.environ.update({name: wanted[name] for name in new})
    try:
        yield
    finally:
        for name in new:
            os.environ.pop(name, None)


def _cluster_here(deadline: Deadline) -> str | None:
    """Return the address of the cluster that runs on this machine, or "local" to start one.

    Raises `TokenRefusedError` if a cluster runs here and wants a token that this process lacks.
    """
    address = recorded_address(None)
    if address is None:
        return None
    try:
        require_answer(address, deadline)
    except TokenRefusedError as error:
        error.message += (
            "; no address was given, so the cluster that runs on this machine was meant; with "
            "RAY_ADDRESS=local this process starts a cluster of its own"
        )
        raise
    except StoreUnavailableError:
        # As if it were not recorded: Ray would wait for it for minutes.
        logger.warning("the cluster at %s does not answer; starting another", address)
        return "local"
    logger.info("using the Ray cluster at %s; RAY_ADDRESS=local starts another", address)
    return address


def _check_process(store: str, home: Home) -> None:
    if _forked:
        raise StoreUnavailableError(
            "this process was forked from one that used Ray, whose connections do not survive a "
            "fork; start it with 'spawn' or 'forkserver' and pass it the registry, which leads to "
            "the same store, or use a Ray task"
        )
    if not home.address and not home.is_here:
        raise StoreUnavailableError(
            f"this registry of the store {store!r} was sent to this process before it knew its "
            f"cluster, and would lead to another store here; call ray.init(), or use the registry "
            f"once, before you send it"
        )


def _key(store: str, lifetime: str, home: Home) -> Key:
    node, own = this_process()
    return store, lifetime, node, own, home.job or own


def _made(
    store: str,
    lifetime: str,
    home: Home,
    options: StoreOptions,
    deadline: Deadline,
    *,
    create: bool,
) -> RayTransport | None:
    node, own = this_process()
    job = None if lifetime == "detached" else home.job or own
    of = StoreOf(store_namespace(store, job), job, options)
    if home.address:
        if cluster_id() != home.cluster:
            raise StoreUnavailableError(
                f"the store {of} is on the Ray cluster at {home.address}, and this process is "
                f"connected to another cluster, at {cluster_address()}; call ray.shutdown() and "
                f"then ray.init({home.address!r})"
            )
        if job not in (None, own) and not is_client() and job_is_dead(job):
            raise StoreUnavailableError(
                f"the store {of} has ended with its job {job}; a store with "
                f"lifetime='detached' outlives the job that makes it"
            )
    elif of.job is not None and not has_ended(store_namespace(store, None)):
        logger.warning(
            "there is a detached store %r too; RayBackendRegistry(%r) without lifetime='detached' "
            "is another store, which belongs to this job",
            store,
            store,
        )
    found = reach_controller(of, controller_of, deadline, start=create and not home.store_id)
    if found is None:
        if home.store_id:
            raise _gone(of)
        return None
    this = StoreOf(of.namespace, job, found.options)
    return RayTransport(this, node, found, partial(_next_controller, this, found.store_id))


def _next_controller(store: StoreOf, store_id: str, deadline: Deadline) -> Any:
    """Return the controller that comes after one that died.

    Raises `StoreUnavailableError` if the store has ended, or no controller answers.
    """
    found = reach_controller(store, controller_of, deadline, start=False)
    if found is None or found.store_id != store_id:
        raise _gone(store)
    return found.controller


def _gone(store: StoreOf) -> StoreUnavailableError:
    error = StoreUnavailableError(
        f"the store {store} was shut down; shutdown() here lets this process use a new one",
        backend=MEMORY,
    )
    error.has_ended = True
    return error


def _mark_forked() -> None:
    global _forked, _starting  # noqa: PLW0603 - facts about the process
    _forked = _forked or ray.is_initialized()
    _starting = threading.Lock()


os.register_at_fork(after_in_child=_mark_forked)
