"""The Ray cluster of a command: the connection, and the stores in the cluster."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import ray

from polystore_ray.cli.failure import Failed, one_line
from polystore_ray.deadline import Deadline
from polystore_ray.rayapi.addresses import require_answer
from polystore_ray.rayapi.placement import CONTROLLER, store_namespace
from polystore_ray.rayapi.private import recorded_address
from polystore_ray.registry import RayBackendRegistry
from polystore_ray.replication.epochs import has_ended
from polystore_ray.transport.connect import home_of

__all__ = ["KnownStore", "connect", "known_stores", "store"]

_PREFIX = "polystore/"
_ANSWER_WITHIN = 30.0  # seconds


def connect(address: str | None) -> None:
    """Connect this process to a cluster without output; by default to the one on this machine.

    Raises `Failed` if the connection fails; `StoreUnavailableError` if nothing listens at the
    address.
    """
    if ray.is_initialized():
        return
    if not address or address == "auto":
        try:
            address = str(recorded_address())
        except ConnectionError as error:
            raise Failed(
                "no Ray cluster runs on this machine; name one with --address, or use --local to "
                "work without a cluster"
            ) from error
    with _silence():
        require_answer(address, Deadline(_ANSWER_WITHIN))
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    try:
        with _silence():
            ray.init(address, **quiet)
    except (ConnectionError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        raise Failed(
            f"the Ray cluster at {address!r} refused the connection: {_first_sentence(error)}; if "
            f"it needs a token, set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH"
        ) from error


@contextmanager
def _silence() -> Iterator[None]:
    """Discard what Ray's compiled code writes to standard error; the exception says the same."""
    kept = os.dup(2)
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


class KnownStore(NamedTuple):
    """A store in the cluster. Its job is None for a detached store."""

    name: str
    job: str | None

    def __str__(self) -> str:
        return self.name if self.job is None else f"{self.name} (--job {self.job})"


def known_stores() -> list[KnownStore]:
    """Return the stores in the cluster, sorted by name."""
    found = []
    for actor in ray.util.list_named_actors(all_namespaces=True):
        if actor["name"] == CONTROLLER and actor["namespace"].startswith(_PREFIX):
            name, _, job = actor["namespace"].removeprefix(_PREFIX).partition("/")
            found.append(KnownStore(name, job or None))
    return sorted(found, key=lambda store: (store.name, store.job or ""))


def store(
    name: str, job: str | None, *, create: bool, options: Mapping[str, Any] | None = None
) -> RayBackendRegistry:
    """Return the registry of an existing store.

    - `job`: the job that owns the store; None for a detached store
    - `create`: whether to create a missing detached store
    - `options`: the options of a store that is created

    Raises `Failed` if the store does not exist.
    """
    is_missing = has_ended(store_namespace(name, job))
    made_with: Any = options if is_missing and options else {}
    lifetime: Any = "job" if job else "detached"
    registry = RayBackendRegistry(name, local=False, lifetime=lifetime, **made_with)
    if job is not None:
        registry._home = home_of(name, "job", registry._home, job=job)  # noqa: SLF001 - not public
    if is_missing and not (create and job is None):
        kind = "detached store" if job is None else f"store of job {job}"
        others = ", ".join(map(str, known_stores()))
        there = f"--store chooses one of {others}" if others else "this cluster has no stores"
        raise Failed(f"no {kind} {name!r}; {there}")
    return registry


def _first_sentence(error: Exception) -> str:
    """Return the first sentence of an error of Ray, without the advice that follows."""
    return one_line(error).partition(". ")[0]
