"""The volume's book-keeping: one node's share of the cluster memory, pinned and adopted."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from polystore_ray.envelope import Envelope
from polystore_ray.errors import DataLostError
from polystore_ray.messages import Item, Pin, PutOptions, Request

__all__ = ["MemoryVolume"]


class MemoryVolume:
    """Hold the objects saved from one node, so that they outlive the processes that put them.

    A volume calls the controller and nobody calls a volume while the controller waits: calls go
    from client to volume to controller, so that they cannot wait for each other in a circle.

    Parameters
    ----------
    get : callable
        Return the closed envelopes of these references, as views of the node's object store.
    put : callable
        Put an envelope again and return the new reference.
    ask : callable
        Send a request to the controller and wait for its answer.
    """

    def __init__(
        self,
        get: Callable[[list[Any]], list[Envelope]],
        put: Callable[[Envelope], Any],
        ask: Callable[[Request], Any],
    ) -> None:
        self._get, self._put, self._ask = get, put, ask
        self._lock = threading.Lock()
        self._pinned: dict[str, Envelope] = {}
        self._adopted: dict[str, Pin] = {}
        self._adopting: dict[str, threading.Lock] = {}

    def publish(self, items: list[Item], options: PutOptions, operation_id: str) -> None:
        """Pin the objects of `items`, then let the controller publish them, all or none.

        Raises
        ------
        StorageError
            As the controller's operation ``publish``; nothing stays pinned then.
        """
        pins = [item.stored for item in items if isinstance(item.stored, Pin)]
        envelopes = self._get([pin.ref for pin in pins])
        ids = [pin.id for pin in pins]
        with self._lock:
            self._pinned.update(zip(ids, envelopes, strict=True))
        try:
            self._ask(Request("publish", (items, options), operation_id))
        except BaseException:
            self.release(ids)
            raise

    def release(self, pins: list[str]) -> None:
        """Let go of pins that no entry needs any more; readers that have them keep them."""
        with self._lock:
            for pin in pins:
                self._pinned.pop(pin, None)
                self._adopted.pop(pin, None)
                self._adopting.pop(pin, None)

    def adopt(self, pin: Pin, operation_id: str) -> Pin:
        """Put a pinned object again, because its owner is gone, and return it as it is now.

        Readers that ask at the same time get the same new object.

        Raises
        ------
        DataLostError
            If the object is not pinned here.
        """
        with self._lock:
            one_at_a_time = self._adopting.setdefault(pin.id, threading.Lock())
        with one_at_a_time:
            if pin.id in self._adopted:
                return self._adopted[pin.id]
            envelope = self._pinned.get(pin.id)
            if envelope is None:
                raise DataLostError("the value was deleted or replaced while it was read")
            adopted = Pin(pin.id, pin.node, self._put(envelope))
            self._ask(Request("adopted", (adopted,), operation_id))
            with self._lock:
                # Released in between, it has no entry and must not be held.
                if self._pinned.pop(pin.id, None) is not None:
                    self._adopted[pin.id] = adopted
            return adopted
