"""Handles: the actors of one store as one process reaches them, and what to do when one is lost."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from polystore.backend_registry import backend_class
from polystore_ray.calls import answer_of
from polystore_ray.errors import HostLostError, StoreUnavailableError
from polystore_ray.messages import HostEndedError
from polystore_ray.placement import MEMORY
from polystore_ray.ray_errors import DIED
from polystore_ray.ray_internals import actor_id
from polystore_ray.shipping import CarriedError, class_to_bytes

__all__ = ["Handles", "pause"]

_TRIED_AGAIN_AFTER = 0.1  # seconds
_NOTICED_WITHIN = 3.0  # seconds, for the controller to learn what a caller has learned


def pause() -> None:
    """Wait a moment before something is tried again."""
    time.sleep(_TRIED_AGAIN_AFTER)


class Handles:
    """Call the controller and the hosts of a store, or those that come after them.

    Parameters
    ----------
    controller : actor handle
        The store's.
    next_controller : callable
        Return the one that comes after it, within so many seconds.
    """

    def __init__(self, controller: Any, next_controller: Callable[[float], Any]) -> None:
        self.controller = controller
        self._next_controller = next_controller
        self._turning = threading.Lock()
        self._hosts: dict[tuple[str, str], tuple[Any, type | None]] = {}

    # The controller

    def of_store(
        self, call: Callable[[Any], Any], deadline: float, *, path: str | None = None
    ) -> Any:
        """Return the controller's answer, or that of the next one if it dies.

        All that is asked of a controller may be asked again: changes have ids.
        """
        while True:
            controller = self.controller
            try:
                return answer_of(
                    partial(call, controller),
                    backend=MEMORY,
                    timeout=deadline - time.monotonic(),
                    path=path,
                    repeatable=True,
                )
            except HostLostError as error:
                if error.actor and error.actor != actor_id(controller):
                    raise  # what was lost is something that the controller was to wait for
                self._turn_from_controller(controller, deadline, path)
                if not error.actor and actor_id(self.controller) == actor_id(controller):
                    raise  # it lives

    def _turn_from_controller(self, controller: Any, deadline: float, path: str | None) -> None:
        """Turn to the controller that comes after one that died.

        Raises
        ------
        StoreUnavailableError
            If the store has ended, or no other one takes over by the deadline.
        """
        with self._turning:
            while self.controller is controller:
                try:
                    self.controller = self._next_controller(deadline - time.monotonic())
                except StoreUnavailableError as error:
                    # The dead one may have the name for a moment still.
                    if time.monotonic() > deadline or not isinstance(error.__cause__, DIED):
                        error.located(path=path, backend=MEMORY)
                        raise
                    pause()

    # Hosts

    def host(self, key: str, node: str, deadline: float) -> Any:
        """Return the host of a backend on a node."""
        cls = None if key == MEMORY else backend_class(key)
        host, made_of = self._hosts.get((key, node), (None, None))
        if host is None or made_of is not cls:
            shipped = b"" if cls is None else class_to_bytes(cls)
            host = self.of_store(lambda leader: leader.host.remote(key, node, shipped), deadline)
            self._hosts[key, node] = host, cls
        return host

    def forget_host(self, key: str, node: str) -> None:
        """Ask the controller again which host there is."""
        self._hosts.pop((key, node), None)

    def of_host(
        self,
        key: str,
        node: str,
        call: Callable[[Any], Any],
        deadline: float,
        *,
        path: str | None = None,
        repeatable: bool = False,
    ) -> Any:
        """Return a host's answer; after one that was lost, another is there for the next call."""
        while True:
            host = self.host(key, node, deadline)
            try:
                return answer_of(
                    partial(call, host),
                    backend=key,
                    timeout=deadline - time.monotonic(),
                    path=path,
                    repeatable=repeatable,
                )
            except HostEndedError as error:
                if time.monotonic() > deadline:
                    raise HostLostError("its hosts end", path=path, backend=key) from error
                self._turn_from_host(key, node, host, deadline)
            except CarriedError as error:
                raise error.open() from None
            except HostLostError:
                self._turn_from_host(key, node, host, deadline)
                if not repeatable or time.monotonic() > deadline:
                    raise

    def _turn_from_host(self, key: str, node: str, host: Any, deadline: float) -> None:
        """Wait for the host that comes after one that was lost, until the controller knows."""
        until = time.monotonic() + _NOTICED_WITHIN
        while True:
            self.forget_host(key, node)
            after = self.host(key, node, deadline)
            if actor_id(after) != actor_id(host) or time.monotonic() > until:
                return
            pause()
