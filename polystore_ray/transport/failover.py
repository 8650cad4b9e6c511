"""The actors of one store as one process calls them, and those that come after lost ones."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

from polystore.backend_registry import backend_class
from polystore_ray.deadline import Deadline
from polystore_ray.errors import CallTimeoutError, HostLostError, StoreUnavailableError
from polystore_ray.rayapi.calls import answer_of
from polystore_ray.rayapi.placement import EVENTS, MEMORY
from polystore_ray.rayapi.private import actor_id
from polystore_ray.wire.classes import CarriedError, class_to_bytes
from polystore_ray.wire.messages import HostEndedError, StaleEpochError

__all__ = ["Handles"]

_NOTICED_WITHIN = 3.0  # seconds, for the controller to learn what a caller has learned


class Handles:
    """Call the controller and the hosts of a store, or those that come after them.

    No lock is held while anything remote is waited for, so that a call with little time does not
    wait for one with much. Two threads may both look for a successor; they find the same.

    - `next_controller`: return the one that comes after it, by a deadline
    """

    def __init__(self, controller: Any, next_controller: Callable[[Deadline], Any]) -> None:
        self.controller = controller
        self._next_controller = next_controller
        self._hosts: dict[tuple[str, str], tuple[Any, bytes]] = {}

    def of_store(
        self, call: Callable[[Any], Any], deadline: Deadline, *, path: str | None = None
    ) -> Any:
        """Return the controller's answer, or that of the next one if it dies.

        Every request to a controller may be repeated: changes have ids.
        """
        controller = self.controller

        def attempt() -> Any:
            return answer_of(
                partial(call, controller),
                backend=MEMORY,
                timeout=deadline,
                path=path,
                repeatable=True,
            )

        def turn(error: Exception) -> Exception | None:
            nonlocal controller
            former = actor_id(controller)
            lost = error.actor if isinstance(error, HostLostError) else former
            if lost and lost != former:
                raise error  # something else was lost, for which it waited
            if self.controller is controller:
                self.controller = self._next_controller(deadline)
            controller = self.controller
            if not lost and actor_id(controller) == former:
                raise error  # it lives
            return _superseded(path) if isinstance(error, StaleEpochError) else None

        try:
            return deadline.retry(attempt, (HostLostError, StaleEpochError), turn)
        except StoreUnavailableError as error:
            error.located(path=path, backend=MEMORY)
            raise

    def host(self, key: str, node: str, deadline: Deadline) -> Any:
        """Return the host of a backend on a node, of the class as it is in this process now."""
        shipped = b"" if key in (EVENTS, MEMORY) else class_to_bytes(backend_class(key))
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
        host = self.host(key, node, deadline)

        def attempt() -> Any:
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

        def turn(error: Exception) -> Exception | None:
            nonlocal host
            if isinstance(error, HostLostError) and not repeatable:
                with suppress(CallTimeoutError):
                    self._host_after(key, node, host, deadline)
                raise error
            host = self._host_after(key, node, host, deadline)
            return None if isinstance(error, HostLostError) else _ending(key, path)

        return deadline.retry(attempt, (HostLostError, HostEndedError), turn, pause=0)

    def _host_after(self, key: str, node: str, former: Any, deadline: Deadline) -> Any:
        """Return the host that comes after one that was lost, once the controller knows."""

        def look() -> Any:
            self.forget_host(key, node)
            return self.host(key, node, deadline)

        noticed = Deadline(min(_NOTICED_WITHIN, deadline.left))
        return noticed.poll(look, lambda host: actor_id(host) != actor_id(former))


def _superseded(path: str | None) -> StoreUnavailableError:
    return StoreUnavailableError(
        "another controller took over and cannot be reached; the change may have been made",
        path=path,
        backend=MEMORY,
    )


def _ending(key: str, path: str | None) -> HostLostError:
    return HostLostError(
        "the host of the backend ends, and no other took its place in time; call again",
        path=path,
        backend=key,
    )
