"""Connections: how a process comes to the controller of a store, and what it must not keep."""

from __future__ import annotations

import os
import threading
import time
from functools import partial
from typing import Any

import ray
from ray import exceptions as ray_exceptions

from polystore_ray.actors import StoreOf, controller_of
from polystore_ray.addresses import require_listener
from polystore_ray.cluster import RayTransport
from polystore_ray.errors import StoreUnavailableError
from polystore_ray.options import StoreOptions
from polystore_ray.placement import MEMORY, store_namespace, this_process
from polystore_ray.ray_errors import DIED
from polystore_ray.succession import has_ended

__all__ = ["connect", "disconnect", "start_ray"]

_connections: dict[tuple[str, str, str, str], RayTransport] = {}
_connecting = threading.RLock()
_PAUSE = 0.1  # seconds before a dead controller's name is asked for again
_forked = False


def connect(
    store: str,
    lifetime: str,
    timeout: float,
    options: StoreOptions,
    *,
    create: bool = True,
    job: str | None = None,
) -> RayTransport | None:
    """Return this process's connection to a store, starting what is not there yet.

    Parameters
    ----------
    store : str
        The store's name.
    lifetime : {"job", "detached"}
        Whether the store is this job's or outlives it.
    timeout : float
        Seconds that any one wait may take.
    options : StoreOptions
        What the store is made with, or has to have been made with.
    create : bool, default True
        Whether to start Ray and the store. Without it None is returned where either is missing.
    job : str, optional
        The id of the job whose store it is, if that is another one than ours.

    Raises
    ------
    StoreUnavailableError
        If Ray cannot be reached or the controller does not start by the deadline.
    StorageResolutionError
        If the store exists with other options.
    """
    if _forked:
        raise StoreUnavailableError(
            "this process was forked from one that used Ray, whose connections do not survive a "
            "fork; start it with 'spawn', or use a Ray task"
        )
    if not ray.is_initialized():
        if not create:
            return None
        start_ray()
    node, own = this_process()
    job = job or own
    key = (store, lifetime, node, job)
    connection = _connections.get(key)
    if connection is None:
        with _connecting:
            connection = _connections.get(key)
            if connection is None:
                scope = None if lifetime == "detached" else job
                found = _controller(store, scope, timeout, options, create=create)
                if found is None:
                    return None
                controller, made_with, birth = found
                again = partial(_next_controller, store, scope, made_with, birth)
                connection = RayTransport(store, node, controller, made_with, again)
                _connections[key] = connection
    options.check_against(connection.options, store)
    connection.timeout = timeout
    return connection


def disconnect(connection: RayTransport) -> None:
    """Forget a connection whose store ends."""
    with _connecting:
        for key, known in list(_connections.items()):
            if known is connection:
                del _connections[key]


def start_ray(address: str | None = None) -> None:
    """Connect this process to a cluster, or start one, unless it is connected.

    Parameters
    ----------
    address : str, optional
        As of `ray.init`.

    Raises
    ------
    StoreUnavailableError
        If there is no cluster at the address.
    """
    if ray.is_initialized():
        return
    require_listener(address or os.environ.get("RAY_ADDRESS", "auto"))
    try:
        ray.init(address)
    except (ConnectionError, RuntimeError, ray_exceptions.RayError) as error:
        raise StoreUnavailableError(f"Ray could not be started or reached: {error}") from error


def _controller(
    store: str, job: str | None, timeout: float, options: StoreOptions, *, create: bool
) -> tuple[Any, StoreOptions, str] | None:
    """Return the handle of a store's controller, which answers; its options, and its birth."""
    namespace = store_namespace(store, job)
    deadline = time.monotonic() + timeout
    while create or not has_ended(namespace):
        try:
            controller = controller_of(StoreOf(namespace, job, options), start=create)
            left = max(0.0, deadline - time.monotonic())
            made_with, birth = ray.get(controller.about.remote(), timeout=left)
        except ray_exceptions.RayError as error:
            if _may_come_back(error) and time.monotonic() < deadline:
                time.sleep(_PAUSE)
                continue
            raise StoreUnavailableError(
                f"the controller of the store {store!r} did not start within {timeout:g} s "
                f"({type(error).__name__}: {str(error).strip()})"
            ) from error
        return controller, made_with, birth
    return None


def _may_come_back(error: ray_exceptions.RayError) -> bool:
    """Tell whether it died while it was asked, so that another takes its place."""
    if isinstance(error, ray_exceptions.RayActorError):
        return not error.actor_init_failed
    return isinstance(error, DIED)


def _next_controller(
    store: str, job: str | None, options: StoreOptions, birth: str, timeout: float
) -> Any:
    """Return the controller that comes after one that died.

    Raises
    ------
    StoreUnavailableError
        If the store has ended.
    """
    if not has_ended(store_namespace(store, job)):
        found = _controller(store, job, timeout, options, create=True)
        if found is not None and found[2] == birth:
            return found[0]
    raise StoreUnavailableError(
        f"the store {store!r} was shut down; shutdown() here lets this process use a new one",
        backend=MEMORY,
    )


def _mark_forked() -> None:
    global _forked  # noqa: PLW0603 - a fact about the process
    _forked = ray.is_initialized()


os.register_at_fork(after_in_child=_mark_forked)
