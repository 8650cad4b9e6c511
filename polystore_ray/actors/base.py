"""What the actors of a store share: which store it is, and staying with its controller."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Any

import ray
from ray import exceptions as ray_exceptions

from polystore_ray.config.store import StoreOptions
from polystore_ray.rayapi.errors import DIED, translated
from polystore_ray.rayapi.placement import MEMORY
from polystore_ray.replication.epochs import has_ended

__all__ = [
    "ANSWER_WITHIN",
    "LOOKED_AFTER_EVERY",
    "FindController",
    "Hosting",
    "StoreOf",
    "as_actor",
    "in_background",
    "put",
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


FindController = Callable[..., Any]
"""`controller_of`, which a host cannot import, as the controller makes the hosts."""


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
                successor = self._next_controller()
                if successor is None:
                    logger.info("the store has ended; this host ends")
                    self._end()
                    ray.kill(self._self)
                    return
                self._controller = successor

    def _end(self) -> None:
        """Do what is due before the end."""

    def _next_controller(self) -> Any:
        """Return the controller that comes after one that died, None if the store has ended.

        However long that takes: what is held here may be all that is left.
        """
        while True:
            try:
                if has_ended(self._store.namespace):
                    return None
                successor = self._find_controller(self._store, start=False)
                ray.get(successor.about.remote(), timeout=ANSWER_WITHIN)
            except (ValueError, ray_exceptions.RayError):
                time.sleep(0.1)  # the dead one still has the name
            else:
                return successor


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
