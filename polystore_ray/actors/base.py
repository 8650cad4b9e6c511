"""What the actors of a store share: the store's identity, and how they follow its controllers."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import ray
from ray import exceptions as ray_exceptions

from polystore_ray.config.store import StoreOptions
from polystore_ray.deadline import Deadline
from polystore_ray.errors import StoreUnavailableError
from polystore_ray.rayapi.errors import DIED, translated
from polystore_ray.rayapi.placement import MEMORY
from polystore_ray.replication.epochs import has_ended

__all__ = [
    "ANSWER_WITHIN",
    "LOOKED_AFTER_EVERY",
    "FindController",
    "Hosting",
    "Reached",
    "StoreOf",
    "as_actor",
    "in_background",
    "put",
    "reach_controller",
]

logger = logging.getLogger(__name__)

LOOKED_AFTER_EVERY = 1.0
"""Seconds between looks at what goes on in the background."""

ANSWER_WITHIN = 60.0
"""Seconds. Only hosts wait for a controller, never it for them: this bounds a lost cluster."""


class StoreOf:
    """Which store an actor belongs to: its Ray namespace, its job if it has one, its options."""

    def __init__(self, namespace: str, job: str | None, options: StoreOptions) -> None:
        self.namespace = namespace
        self.job = job
        self.options = options

    @property
    def name(self) -> str:
        """The store's name."""
        return self.namespace.split("/")[1]

    @property
    def lifetime(self) -> str:
        """The store's lifetime: ``"job"`` or ``"detached"``."""
        return "detached" if self.job is None else "job"

    @property
    def named(self) -> str:
        """The store's name and lifetime, for the end of an error."""
        return f"{self.name!r}, lifetime {self.lifetime!r}"

    def __str__(self) -> str:
        """Return the store's name and lifetime, for errors."""
        return f"{self.name!r} (lifetime={self.lifetime!r})"


FindController = Callable[..., Any]
"""`controller_of`, which a host cannot import, as the controller makes the hosts."""


class Reached(NamedTuple):
    """A controller that answers, and what it says of its store."""

    controller: Any
    options: StoreOptions
    store_id: str
    """What tells the store from others of its name."""


def reach_controller(
    store: StoreOf, find: FindController, deadline: Deadline, *, start: bool
) -> Reached | None:
    """Return the controller of a store once it answers, also where another one has just died.

    Without `start`, which starts a new store where there is none, None is returned there. Raise
    StoreUnavailableError if no controller answers by the deadline.
    """

    def attempt() -> Reached | None:
        if not start and has_ended(store.namespace):
            return None
        controller = find(store, start=start)
        return Reached(controller, *ray.get(controller.about.remote(), timeout=deadline.left))

    def prepare(error: Exception) -> Exception:
        ours = StoreUnavailableError(
            f"the controller of the store {store} did not start within {deadline.timeout:g} s "
            f"({type(error).__name__}: {str(error).strip()})",
            backend=MEMORY,
        )
        # One that died while it was asked may still have its name; another takes its place.
        is_dying = isinstance(error, (ValueError, *DIED))
        if start and (not is_dying or getattr(error, "actor_init_failed", False)):
            raise ours from error
        return ours

    return deadline.retry(attempt, (ray_exceptions.RayError, ValueError), prepare)


class Hosting:
    """What volumes and other hosts share: they stay with their store's controller."""

    def __init__(self, controller: Any, store: StoreOf, find_controller: FindController) -> None:
        self._controller = controller
        self._store = store
        self._find_controller = find_controller
        self._self = ray.get_runtime_context().current_actor
        in_background(self._stay_with_the_controller)

    @ray.method(concurrency_group="watch")
    def watch(self) -> None:
        """Wait for ever: whoever calls learns of this actor's death."""
        threading.Event().wait()

    def _stay_with_the_controller(self) -> None:
        """Follow from one controller to the next, and end this actor when the store has ended."""
        while True:
            try:
                ray.get(self._controller.watch.remote())
            except ray_exceptions.ActorUnavailableError:
                time.sleep(LOOKED_AFTER_EVERY)
            except DIED:
                # If it fails, it is tried again: what is held here may be all that is left.
                found = reach_controller(
                    self._store, self._find_controller, Deadline(ANSWER_WITHIN), start=False
                )
                if found is None:
                    logger.info("the store has ended; this host ends")
                    self._end()
                    ray.kill(self._self)
                    return
                self._controller = found.controller

    def _end(self) -> None:
        """Do what is due before the end."""


def put(envelope: Any) -> Any:
    """Put an object; errors are ours."""
    try:
        return ray.put(envelope)
    except ray_exceptions.RayError as error:
        raise translated(error, backend=MEMORY) from error


def in_background(work: Callable[[], None]) -> None:
    """Do this in a thread that ends with the process, again if it fails."""

    def until_done() -> None:
        while True:
            try:
                work()
            except Exception:
                # Whatever it is, the store needs what is done in the background.
                logger.warning("%s failed; trying again", work, exc_info=True)
                time.sleep(LOOKED_AFTER_EVERY)
            else:
                return

    threading.Thread(target=until_done, daemon=True).start()


# Threads: measured, an empty asyncio call costs 1.3 of a threaded one.
as_actor: Any = ray.remote
"""The decorator, whose types know neither concurrency groups nor options of actors."""
