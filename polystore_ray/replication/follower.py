"""The follower: the second copy of a store's tree, in the process of a volume."""

from __future__ import annotations

import threading

from polystore_ray.controller.journal import Record
from polystore_ray.controller.requests import apply
from polystore_ray.controller.state import StoreController
from polystore_ray.wire.decoding import decode
from polystore_ray.wire.messages import OutOfStepError, StaleEpochError

__all__ = ["Follower"]


class Follower:
    """Apply the changes of a leader, and give the state to the next one."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._epoch = 0
        self._controller: StoreController | None = None
        self._number = 0
        self._parts: list[bytes] = []  # of a state that is on its way

    def promise(self, epoch: int) -> None:
        """Refuse whoever has a lower epoch from now on.

        Raises `StaleEpochError` if a higher one has been promised.
        """
        with self._lock:
            self._check(epoch)

    def take(self, epoch: int, first: bool, part: bytes) -> None:
        """Keep a part of a state for `install`; `first` begins anew.

        The present state stays until then: its leader may end before the new one is whole.
        """
        with self._lock:
            self._check(epoch)
            if first:
                self._parts = []
            self._parts.append(part)

    def install(self, epoch: int, number: int, parts: int) -> None:
        """Take over a whole state, of so many parts that were taken, with so many changes in it.

        Raises `OutOfStepError` if parts are missing.
        """
        with self._lock:
            self._check(epoch)
            taken, self._parts = self._parts, []
            if len(taken) != parts:
                raise OutOfStepError(f"of {parts} parts of a state there are {len(taken)}")
            self._controller = StoreController.from_parts(taken)
            self._number = number

    def append(self, epoch: int, first: int, records: list[Record]) -> None:
        """Apply changes, of which the first has this number; those it has already are left out.

        Raises `StaleEpochError` if another leader has taken over; `OutOfStepError` if changes
        before them are missing.
        """
        with self._lock:
            self._check(epoch)
            if self._controller is None or first > self._number + 1:
                raise OutOfStepError(f"after {self._number} comes no {first}")
            for record in records[self._number + 1 - first :]:
                request, now = decode(record)
                apply(self._controller.state, request, now)
                self._number += 1

    def state(self, epoch: int) -> tuple[int, list[bytes]]:
        """Return how many changes there are, and the parts of the state in which they are.

        Whoever has a lower epoch is refused from now on.

        Raises `OutOfStepError` if there is no state.
        """
        with self._lock:
            self._check(epoch)
            if self._controller is None:
                raise OutOfStepError("there is no state here")
            _, parts = self._controller.parts()
            return self._number, list(parts)

    def forget(self, epoch: int) -> None:
        """Let go of the state, since another follower has it."""
        with self._lock:
            self._check(epoch)
            self._controller, self._parts = None, []

    def _check(self, epoch: int) -> None:
        if epoch < self._epoch:
            raise StaleEpochError(f"epoch {epoch} is over, {self._epoch} has begun")
        self._epoch = epoch
