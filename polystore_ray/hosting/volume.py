"""The volume: the objects of the cluster memory that one node holds, pinned or adopted."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from polystore.exceptions import StorageError, StorageFullError
from polystore.serialization import Sealed, seal
from polystore_ray.errors import DataLostError
from polystore_ray.wire.envelope import Envelope
from polystore_ray.wire.messages import NotPinnedError, Pin, Request, new_operation_id
from polystore_ray.wire.pack import Pack
from polystore_ray.wire.plain_pickle import plain_loads
from polystore_ray.wire.sessions import Session

__all__ = ["MemoryVolume", "never_fits"]

logger = logging.getLogger(__name__)

BUDGET = 0.5
"""The part of a node's object store that is pinned at most before the oldest pins are adopted."""

HELD_BACK = 0.8
"""The part beyond which saves wait until adoption has caught up."""

_TRIED_AGAIN_AFTER = 1.0  # seconds


class MemoryVolume:
    """Hold the objects saved from one node, so that they outlive the processes that put them.

    An object is *pinned* by its bytes, which stay in place whatever becomes of its owner; Ray
    cannot spill it. An *adopted* object was put again by the volume and is an ordinary one.

    A volume may wait for the controller, which never waits for a volume.

    - `node`, `incarnation`: the node, and what tells this volume from others that the node had or
      will have
    - `get`: return the closed envelopes of these references, as views of the node's object store,
      and in place of those that cannot be had the reasons
    - `put`: put an envelope again and return the new reference
    - `ask`: send a request to the controller and wait for its answer
    - `capacity`: the size of the node's object store in bytes; without it nothing is adopted for
      room
    - `budget`: the part of it that is pinned at most
    """

    def __init__(
        self,
        node: str,
        incarnation: str,
        get: Callable[[list[Any]], list[Envelope | StorageError]],
        put: Callable[[Envelope], Any],
        ask: Callable[[Request], Any],
        capacity: int | None = None,
        budget: float = BUDGET,
    ) -> None:
        self._node, self._incarnation = node, incarnation
        self._get, self._put, self._ask = get, put, ask
        self._capacity = capacity
        self._budget = budget
        self._session = Session()
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._pinned: dict[str, tuple[Pin, Envelope]] = {}  # the oldest first
        self._pinned_bytes = 0
        self._reserved = 0  # bytes that are about to be pinned
        self._adopted: dict[str, Pin] = {}
        self._adopting: dict[str, threading.Lock] = {}
        self._unconfirmed: dict[str, float] = {}  # when they were pinned

    def pin(self, pins: list[Pin], timeout: float) -> tuple[str, str]:
        """Pin objects, for a client that then has the controller publish what they hold.

        Parameters
        ----------
        pins : list of Pin
            The objects, put by the client or by this volume.
        timeout : float
            Seconds to wait for room.

        Returns
        -------
        node, incarnation : str
            Which volume this is, for the controller to know whose word it is.

        Raises
        ------
        StorageFullError
            If pinned objects leave no room, and adoption does not free any in time.
        """
        new = [pin for pin in pins if pin.id not in self._adopted]
        with self._room(sum(pin.nbytes for pin in new), timeout):
            for error in self._pin(new).values():
                raise error
        with self._lock:
            self._unconfirmed |= dict.fromkeys((pin.id for pin in pins), time.monotonic())
        return self._node, self._incarnation

    def reconcile(self, age: float) -> None:
        """Release pins older than `age` seconds that the controller does not know.

        The controller says which they are, by having them released.

        Raises `StaleVolumeError` if the controller has given this volume up.
        """
        before = time.monotonic() - age
        with self._lock:
            doubtful = [id_ for id_, when in self._unconfirmed.items() if when <= before]
        if doubtful:
            needless = self._change("confirm", doubtful, self._node, self._incarnation)
            with self._lock:
                for id_ in set(doubtful) - set(needless):
                    self._unconfirmed.pop(id_, None)

    def _change(self, operation: str, *arguments: Any) -> Any:
        with self._session.change() as id_:
            return self._ask(Request(operation, arguments, id_))

    def put(self, sealed: Sealed) -> Pin:
        """Put a value for a client that cannot put it here, and hold it."""
        pin = Pin(new_operation_id(), (self._node,), self._put(Envelope(sealed)), sealed.nbytes)
        with self._lock:
            self._adopted[pin.id] = pin
            self._unconfirmed[pin.id] = time.monotonic()
        return pin

    def pack(self, messages: Sequence[bytes]) -> tuple[Pin, str]:
        """Put small values as one pack, and hold it; return our incarnation too."""
        return self.put(seal(Pack.of(messages))), self._incarnation

    def release(self, ids: Iterable[str]) -> None:
        """Release objects that no entry needs any more; readers that have them keep them."""
        with self._lock:
            for id_ in ids:
                self._unpin(id_)
                self._adopted.pop(id_, None)
                self._adopting.pop(id_, None)
                self._unconfirmed.pop(id_, None)

    def adopt(self, pin: Pin, dropped: Sequence[int] = ()) -> Pin:
        """Put an object again, because its owner is gone or some of its values are dropped.

        Readers that ask at the same time get the same new object.

        Parameters
        ----------
        pin : Pin
            The object.
        dropped : sequence of int, optional
            The values of a pack to leave out.

        Returns
        -------
        Pin
            The object as it is now.

        Raises
        ------
        NotPinnedError
            If the object is not held here.
        """
        with self._lock:
            if pin.id not in self._pinned and pin.id not in self._adopted:
                raise NotPinnedError(f"{pin.id} is not held on node {self._node[:8]}")
            one_at_a_time = self._adopting.setdefault(pin.id, threading.Lock())
        with one_at_a_time:
            known = self._adopted.get(pin.id)
            if known is not None and not dropped:
                return known
            envelope = self._envelope(pin.id)
            if dropped:
                envelope = Envelope(seal(envelope.sealed.open(plain_loads).without(dropped)))
            adopted = Pin(pin.id, (self._node,), self._put(envelope), envelope.sealed.nbytes)
            self._change("adopted", adopted)
            with self._lock:
                # Released in between, it has no entry and must not be held.
                if self._unpin(pin.id) or pin.id in self._adopted:
                    self._adopted[pin.id] = adopted
            return adopted

    def _envelope(self, id_: str) -> Envelope:
        with self._lock:
            pinned, adopted = self._pinned.get(id_), self._adopted.get(id_)
        if pinned is not None:
            return pinned[1]
        if adopted is None:
            raise NotPinnedError(f"{id_} is not held on node {self._node[:8]}")
        [envelope] = self._get([adopted.ref])
        if isinstance(envelope, StorageError):
            raise envelope
        return envelope

    def doubt(self) -> None:
        """Let `reconcile` ask about everything: a new controller may not know all that is held.

        It cannot be let go at once, since it may be about to be published.
        """
        with self._lock:
            held = [*self._pinned, *self._adopted]
            self._unconfirmed = dict.fromkeys(held, time.monotonic()) | self._unconfirmed

    def holdings(self) -> list[Pin]:
        """Return what is held here: what is owned with this node, what is pinned without any."""
        with self._lock:
            pinned = [pin._replace(nodes=()) for pin, _ in self._pinned.values()]
            return [*pinned, *self._adopted.values()]

    def pin_again(self, pins: list[Pin]) -> tuple[str, list[str], dict[str, str]]:
        """Pin what other volumes pin or pinned, as far as it can be had.

        Returns
        -------
        incarnation : str
            That of this volume.
        ids : list of str
            What is pinned here now.
        lost : dict of str to str
            Which of the others cannot be read through their references any more, and why. An object
            in neither was only late.
        """
        with self._lock:
            held = self._adopted.keys() | self._pinned.keys()
        new = [pin for pin in pins if pin.id not in held]
        lost = {
            pin.id: "no process has a reference to the object" for pin in new if pin.ref is None
        }
        failed = self._pin([pin for pin in new if pin.ref is not None])
        lost |= {id_: str(why) for id_, why in failed.items() if isinstance(why, DataLostError)}
        missing = lost.keys() | failed.keys()
        return self._incarnation, [pin.id for pin in pins if pin.id not in missing], lost

    def _pin(self, pins: list[Pin]) -> dict[str, StorageError]:
        """Pin all that can be had; return why others cannot, by their ids."""
        failed: dict[str, StorageError] = {}
        envelopes = self._get([pin.ref for pin in pins])
        with self._changed:
            for pin, envelope in zip(pins, envelopes, strict=True):
                if isinstance(envelope, StorageError):
                    failed[pin.id] = envelope
                    continue
                self._unconfirmed[pin.id] = time.monotonic()
                if pin.id in self._adopted:
                    continue  # adopted in between
                self._unpin(pin.id)
                self._pinned[pin.id] = (pin, envelope)
                self._pinned_bytes += pin.nbytes
            self._changed.notify_all()
        return failed

    def _unpin(self, id_: str) -> bool:
        pinned = self._pinned.pop(id_, None)
        if pinned is None:
            return False
        self._pinned_bytes -= pinned[0].nbytes
        self._changed.notify_all()
        return True

    # Room

    @contextmanager
    def _room(self, nbytes: int, timeout: float) -> Iterator[None]:
        """Reserve room for objects until they are pinned, or not to be pinned any more."""
        self._wait_for_room(nbytes, timeout)
        try:
            yield
        finally:
            with self._changed:
                self._reserved -= nbytes
                self._changed.notify_all()

    def _wait_for_room(self, nbytes: int, timeout: float) -> None:
        most = math.inf if self._capacity is None else HELD_BACK * self._capacity
        if self._capacity is not None and nbytes > self._capacity:
            raise never_fits(nbytes, self._node, self._capacity)

        def is_room() -> bool:
            taken = self._pinned_bytes + self._reserved
            # What is beyond the limit by itself goes alone.
            return not taken or taken + nbytes <= most

        with self._changed:
            if not self._changed.wait_for(is_room, timeout):
                raise StorageFullError(
                    f"{self._pinned_bytes} of the {self._capacity} bytes of the object store of "
                    f"node {self._node[:8]} are pinned and were not freed within {timeout:.3g} s; "
                    f"check whether the disk for spilled objects is full",
                    backend="memory",
                )
            self._reserved += nbytes

    def make_room(self) -> None:
        """Adopt the oldest pins whenever there are more than the budget allows; never returns."""
        while True:
            with self._changed:
                self._changed.wait_for(self._is_over_budget)
                oldest = next(iter(self._pinned.values()))[0]
            try:
                self.adopt(oldest)
            except NotPinnedError:
                continue  # released in between
            except Exception:
                # Whatever it is, the value stays pinned, and saves are held back.
                logger.warning("an object could not be adopted; trying again", exc_info=True)
                time.sleep(_TRIED_AGAIN_AFTER)

    def _is_over_budget(self) -> bool:
        if self._capacity is None or not self._pinned:
            return False
        return self._pinned_bytes > self._budget * self._capacity

    def status(self) -> dict[str, int | None]:
        """Return what is held here, in bytes and objects."""
        with self._lock:
            return {
                "capacity": self._capacity,
                "pinned": len(self._pinned),
                "pinned_bytes": self._pinned_bytes,
                "adopted": len(self._adopted),
                "adopted_bytes": sum(pin.nbytes for pin in self._adopted.values()),
            }


def never_fits(nbytes: int, node: str, capacity: int) -> StorageFullError:
    """Return the error for values that are larger than the object store of a node."""
    return StorageFullError(
        f"{nbytes} bytes can never fit into the object store of node {node[:8]}, of "
        f"{capacity} bytes; save them in parts, or start Ray with a larger object_store_memory",
        backend="memory",
    )
