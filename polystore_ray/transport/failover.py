"""Handles: the actors of one store as one process reaches them, and what to do when one is lost."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

from polystore.backend_registry import backend_class
from polystore_ray.deadline import Deadline
from polystore_ray.errors import CallTimeoutError, HostLostError, StoreUnavailableError
from polystore_ray.rayapi.calls import answer_of
from polystore_ray.rayapi.errors import DIED
from polystore_ray.rayapi.placement import MEMORY
from polystore_ray.rayapi.private import actor_id
from polystore_ray.wire.classes import CarriedError, class_to_bytes
from polystore_ray.wire.messages import HostEndedError, StaleEpochError

__all__ = ["Handles"]

_NOTICED_WITHIN = 3.0  # seconds, for the controller to learn what a caller has learned


class Handles:
    """Call the controller and the hosts of a store, or those that come after them.

    No lock is held while anything remote is waited for, so that a call with little time does not
    wait for one with much. Two threads may both look for a successor; they find the same.

    Parameters
    ----------
    controller : actor handle
        The store's.
    next_controller : callable
        Return the one that comes after it, by a deadline.
    """

    def __init__(self, controller: Any, next_controller: Callable[[Deadline], Any]) -> None:
        self.controller = controller
        self._next_controller = next_controller
        self._hosts: dict[tuple[str, str], tuple[Any, bytes]] = {}

    # The controller

    def of_store(
        self, call: Callable[[Any], Any], deadline: Deadline, *, path: str | None = None
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
                    timeout=deadline,
                    path=path,
                    repeatable=True,
                )
            except StaleEpochError:
                # It is about to end, and has its name for a moment still.
                superseded = "another controller has taken over; the change may have been made"
                unreachable = StoreUnavailableError(superseded, path=path, backend=MEMORY)
                deadline.pause_or_raise(unreachable)
                self._turn_from_controller(controller, deadline, path)
            except HostLostError as error:
                if error.actor and error.actor != actor_id(controller):
                    raise  # what was lost is something that the controller was to wait for
                self._turn_from_controller(controller, deadline, path)
                if not error.actor and actor_id(self.controller) == actor_id(controller):
                    raise  # it lives

    def _turn_from_controller(self, controller: Any, deadline: Deadline, path: str | None) -> None:
        """Turn to the controller that comes after one that died.

        Raises
        ------
        StoreUnavailableError
            If the store has ended, or no other one takes over by the deadline.
        """
        while self.controller is controller:
            try:
                self.controller = self._next_controller(deadline)
            except StoreUnavailableError as error:
                error.located(path=path, backend=MEMORY)
                if not isinstance(error.__cause__, DIED):
                    raise
                deadline.pause_or_raise(error)  # the dead one may have the name still

    # Hosts

    def host(self, key: str, node: str, deadline: Deadline) -> Any:
        """Return the host of a backend on a node, of the class as it is in this process now."""
        shipped = b"" if key == MEMORY else class_to_bytes(backend_class(key))
        host, made_of = self._hosts.get((key, node), (None, b""))
        if host is None or made_of != shipped:
            host = self.of_store(lambda leader: leader.host.remote(key, node, shipped), deadline)
            self._hosts[key, node] = host, shipped
        return host

    def forget_host(self, key: str, node: str) -> None:
        """Ask the controller again which host there is."""
        self._hosts.pop((key, node), None)

    def of_host(
        self,
        key: str,
        node: str,
        call: Callable[[Any], Any],
        deadline: Deadline,
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
                    timeout=deadline,
                    path=path,
                    repeatable=repeatable,
                )
            except CarriedError as error:
                raise error.open() from None
            except HostEndedError:
                lost = HostLostError("its hosts end", path=path, backend=key)
            except HostLostError as error:
                lost = error
                if not repeatable:
                    with suppress(CallTimeoutError):
                        self._turn_from_host(key, node, host, deadline)
                    raise
            deadline.pause_or_raise(lost, 0)
            self._turn_from_host(key, node, host, deadline)

    def _turn_from_host(self, key: str, node: str, host: Any, deadline: Deadline) -> None:
        """Wait for the host that comes after one that was lost, until the controller knows."""
        noticed = Deadline(min(_NOTICED_WITHIN, deadline.left))
        while True:
            self.forget_host(key, node)
            if actor_id(self.host(key, node, deadline)) != actor_id(host) or not noticed.left:
                return
            noticed.pause()
