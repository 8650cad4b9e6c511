"""The lease keeper: how a volume keeps the read lease of its node while somebody there reads."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable

from polystore_ray.wire.lease_board import WritableLeaseBoard, first_term, now
from polystore_ray.wire.messages import Renewal

__all__ = ["WANTED_FOR", "LeaseKeeper"]

WANTED_FOR = 60.0
"""Seconds that a lease is renewed after a reader of the node last asked for it."""

_RENEWED_EVERY = 1.0  # seconds


class LeaseKeeper:
    """Renew a node's read lease, and have its board count what changes.

    - `board`: the node's board
    - `ask`: return the controller's answer to a renewal, None if it grants no lease now
    """

    def __init__(self, board: WritableLeaseBoard, ask: Callable[[], Renewal | None]) -> None:
        self._board, self._ask = board, ask
        self._wanted = threading.Event()
        self._wanted_until = 0.0

    def want(self) -> None:
        """Renew the lease from now on, for a while."""
        self._wanted_until = time.monotonic() + WANTED_FOR
        self._wanted.set()

    def renew(self) -> None:
        """Ask for the lease once."""
        asked = now()
        renewal = self._ask()
        if renewal is not None:
            self._board.renew(renewal.term, asked, renewal.changed)

    def keep(self) -> None:
        """Renew the lease while it is wanted; never returns."""
        while True:
            self._wanted.wait()
            self.renew()
            time.sleep(_RENEWED_EVERY)
            if time.monotonic() > self._wanted_until:
                self._wanted.clear()

    def count(self, term: int, changed: Iterable[str] | None) -> bool:
        """See `WritableLeaseBoard.count`."""
        return self._board.count(term, changed)

    def turn_to(self, epoch: int) -> None:
        """End the lease: a controller of this epoch has begun, and knows nothing of it."""
        self._board.end(first_term(epoch))
