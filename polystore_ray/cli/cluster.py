"""The cluster as the command line meets it: the connection, and the stores that are there."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import ray

from polystore_ray.cli.failure import Failed, one_line
from polystore_ray.rayapi.addresses import require_listener
from polystore_ray.rayapi.placement import CONTROLLER, store_namespace
from polystore_ray.rayapi.private import recorded_address
from polystore_ray.registry import RayBackendRegistry
from polystore_ray.replication.epochs import has_ended
from polystore_ray.transport.connect import home_of

__all__ = ["KnownStore", "connect", "known_stores", "store"]

_PREFIX = "polystore/"


def connect(address: str | None) -> None:
    """Connect this process to a cluster, quietly; by default to one of this machine.

    Raises
    ------
    Failed
        If that fails.
    StoreUnavailableError
        If nothing listens there.
    """
    if ray.is_initialized():
        return
    if not address or address == "auto":
        try:
            address = str(recorded_address())
        except ConnectionError as error:
            raise Failed(
                "no Ray cluster was found on this machine; name one with --address, or work "
                "without one with --local"
            ) from error
    require_listener(address)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    try:
        with _silence():
            ray.init(address, **quiet)
    except (ConnectionError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        raise Failed(
            f"the Ray cluster at {address!r} does not take us: {_first_sentence(error)}; if it "
            f"asks for a token, set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH"
        ) from error


@contextmanager
def _silence() -> Iterator[None]:
    """Keep from standard error what Ray's compiled part writes there: what is wrong, we say."""
    kept = os.dup(2)
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


class KnownStore(NamedTuple):
    """A store that lives in the cluster; of a job, or of none."""

    name: str
    job: str | None

    def __str__(self) -> str:
        return self.name if self.job is None else f"{self.name} (--job {self.job})"


def known_stores() -> list[KnownStore]:
    """Return the stores of the cluster, by name."""
    found = []
    for actor in ray.util.list_named_actors(all_namespaces=True):
        if actor["name"] == CONTROLLER and actor["namespace"].startswith(_PREFIX):
            name, _, job = actor["namespace"].removeprefix(_PREFIX).partition("/")
            found.append(KnownStore(name, job or None))
    return sorted(found, key=lambda store: (store.name, store.job or ""))


def store(name: str, job: str | None, *, create: bool) -> RayBackendRegistry:
    """Return the registry of a store that is there.

    Parameters
    ----------
    name : str
        The store's name.
    job : str or None
        The job whose store it is; None for a detached store.
    create : bool
        Whether a detached store is made where there is none.

    Raises
    ------
    Failed
        If there is none.
    """
    registry = RayBackendRegistry(name, local=False, lifetime="job" if job else "detached")
    if job is not None:
        registry._home = home_of(name, "job", registry._home, job=job)  # noqa: SLF001 - not public
    if has_ended(store_namespace(name, job)) and not (create and job is None):
        kind = "detached store" if job is None else f"store of the job {job}"
        others = ", ".join(map(str, known_stores())) or "none"
        raise Failed(f"there is no {kind} {name!r} in the cluster; there is: {others}")
    return registry


def _first_sentence(error: Exception) -> str:
    """Return what is wrong, without the advice that Ray adds."""
    return one_line(error).partition(". ")[0]
