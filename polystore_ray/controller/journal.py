"""The journal: a controller's changes on their way to the process that holds a second copy of them.

The *leader* is the controller; the *follower*, in a volume, on another node where there is one,
applies the same changes in the same order to a controller's book-keeping of its own. In a store
that promises it, and for the first change of any store, nothing is answered before the follower has
what the answer depends on.

Each incarnation of the controller has a higher epoch. Whoever has seen one refuses those below it,
and a leader whose follower has not answered for a while answers nothing, so that one that is cut
off cannot speak for the store while another has taken over.
"""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable
from itertools import islice

from polystore.exceptions import StorageError
from polystore_ray.errors import HostLostError, StoreUnavailableError
from polystore_ray.wire.messages import OutOfStepError, StaleEpochError

__all__ = ["LEASE", "Following", "Journal", "Record"]

LEASE = 2.0
"""Seconds that a leader may speak for its store after its follower answered last."""

_GIVEN_UP_AFTER = 10.0  # seconds without an answer, and another process may follow

_BEAT = 0.5  # seconds between signs of life
_AT_ONCE = 1000  # records in one message
_GATHERED_FOR = 0.02  # seconds, where nobody waits for the follower
_WAITED_FOR_OTHERS = 0.002  # seconds, where somebody waits
_TRIED_AGAIN_AFTER = 0.1  # seconds

Record = bytes
"""A change as the follower applies it, pickled."""


class Following(ABC):
    """A follower, as the journal calls it. Errors are those of remote calls."""

    def __init__(self, node: str) -> None:
        self.node = node
        self.number = 0  # of the changes that it has
        self.waiting: deque[Record] = deque()  # those that come next

    def has(self, number: int) -> None:
        """Note how many changes it has now; those that waited leave `waiting`."""
        for _ in range(number - self.number):
            self.waiting.popleft()
        self.number = number

    @abstractmethod
    def install(self, epoch: int, number: int, state: Iterable[bytes]) -> None:
        """Take over a whole state, in which this many changes are."""

    @abstractmethod
    def append(self, epoch: int, first: int, records: list[Record]) -> None:
        """Apply changes, of which the first has this number; those it has already are left out."""

    @abstractmethod
    def designate(self) -> None:
        """Let the next controller take over from this follower; after an error it may, or not."""


class Journal:
    """Number the changes of a leader and ship them to its follower.

    - `epoch`: the leader's
    - `number`: how many changes its state holds already
    - `synchronous`: whether `wait` waits until the follower has the changes
    """

    def __init__(self, epoch: int, number: int = 0, *, synchronous: bool = False) -> None:
        self.epoch = epoch
        self.last = number
        self.is_synchronous = synchronous
        lock = threading.RLock()
        self._changed = threading.Condition(lock)
        self._enough = threading.Condition(lock)  # of records for a message
        self._wanted = 1  # records that are enough
        self._together = 1  # records in the last message
        self._awaited = 0  # changes for which somebody waits in a store that is not synchronous
        self._shipping = threading.Lock()  # held while a message to the follower is under way
        self.follower: Following | None = None
        self.next: Following | None = None  # replaces `follower` once it has everything
        self._shipped = number
        self._needed = False
        self._was_followed = False
        self._heard = 0.0
        self.is_fenced = False  # whether another controller has taken over
        self._later: deque[tuple[int, Callable[[], None]]] = deque()

    def add(self, record: Record) -> None:
        """Add a change; the controller calls it under its lock, in order."""
        with self._changed:
            self.last += 1
            if not self._needed:
                self._shipped = self.last
            for follower in (self.follower, self.next):
                if follower is not None:
                    follower.waiting.append(record)
            if self._are_waiting(self._wanted):
                self._enough.notify()

    def after(self, action: Callable[[], None]) -> None:
        """Do something once the follower has all changes so far, at once where there is none."""
        with self._changed:
            if self._shipped < self.last:
                self._later.append((self.last, action))
                return
        action()

    def _do_what_waited(self) -> None:
        while True:
            with self._changed:
                if not self._later or self._later[0][0] > self._shipped:
                    return
                _, action = self._later.popleft()
            action()

    def wait(self, number: int, timeout: float, *, copied: bool = False) -> None:
        """Return when an answer may be given that depends on so many changes.

        With `copied`, the follower must have them, also in a store that does not promise it.

        Raises `StoreUnavailableError` if the follower does not answer within `timeout` seconds;
        `StaleEpochError` if another controller has taken over, which is to be asked.
        """

        def may_answer() -> bool:
            if self.is_fenced:
                raise StaleEpochError("another controller has taken over")
            if not self._needed:
                return True
            if time.monotonic() - self._heard > LEASE:
                return False
            may_be_late = self._was_followed and not (copied or self.is_synchronous)
            return may_be_late or self._shipped >= number

        with self._changed:
            if copied and self._shipped < number:
                self._awaited = max(self._awaited, number)
                self._enough.notify()
            if not may_answer() and not self._changed.wait_for(may_answer, timeout):
                raise StoreUnavailableError(
                    f"the second copy of the tree did not follow within {timeout:.3g} s; the "
                    f"change may have been made",
                    backend="memory",
                )

    # The follower

    def need_follower(self) -> None:
        """Answer nothing from now on that a follower should have and has not."""
        with self._changed:
            self._needed = True

    def heard(self, sent: float) -> None:
        """Learn that at this moment, by the monotonic clock, no other controller had begun."""
        with self._changed:
            self._heard = max(self._heard, sent)
            self._changed.notify_all()

    def lose(self, node: str) -> None:
        """Learn that whoever followed on a node has died."""
        with self._changed:
            if self.follower is not None and self.follower.node == node:
                self.follower = None
                self._changed.notify_all()

    def wait_until_lost(self, timeout: float) -> None:
        """Return when there is no follower any more, or some seconds later."""
        with self._changed:
            self._changed.wait_for(lambda: self.follower is None or self.is_fenced, timeout)

    def follow(self, new: Following, parts: Callable[[], tuple[int, Iterable[bytes]]]) -> None:
        """Install a follower, which gets every later change too.

        The present follower, if there is one, continues until the new one has everything. `parts`
        returns how many changes there are, and the state in which they are.
        """
        with self._changed:
            new.number, new.waiting = self.last, deque()
            self.next = new
        try:
            number, state = parts()
            new.install(self.epoch, number, state)
            with self._changed:
                new.has(number)
            while len(new.waiting) > _AT_ONCE:
                self._send(new)
            with self._shipping:  # nothing more goes to the present one
                self._send(new)
                while new.number < self._shipped:
                    self._send(new)
                self._hand_over_to(new)
        except StaleEpochError:
            self.fence()
            raise
        finally:
            self.next = None
        self._do_what_waited()

    def _hand_over_to(self, new: Following) -> None:
        with self._changed:
            self.follower = None  # after an error it is unknown which of them is designated
        sent = time.monotonic()
        new.designate()
        with self._changed:
            self.follower, self.next = new, None
            self._shipped = new.number
            self._was_followed = True
            self._enough.notify()
            self.heard(sent)

    def fence(self) -> None:
        """Answer nothing any more, since another controller has taken over."""
        with self._changed:
            self.is_fenced = True
            self._changed.notify_all()

    def _gather(self) -> None:
        """Wait for a change, then for others: one message for many costs their makers less."""
        with self._changed:
            self._wait_for(1, _BEAT)
            if self.is_synchronous and self._are_waiting(1):
                # Whoever had an answer to the last message may be about to make another change.
                self._wait_for(self._together, _WAITED_FOR_OTHERS)
            if not self.is_synchronous:
                self._enough.wait_for(lambda: self._shipped < self._awaited, _GATHERED_FOR)

    def _wait_for(self, wanted: int, seconds: float) -> None:
        self._wanted = wanted
        self._enough.wait_for(lambda: self._are_waiting(wanted), seconds)

    def _are_waiting(self, wanted: int) -> bool:
        """Return whether so many changes wait for the follower."""
        return self.follower is not None and len(self.follower.waiting) >= wanted

    def ship(self) -> None:
        """Send what there is to send, or a sign of life, and wait for the answer.

        Raises `HostLostError` if the follower is dead, or has not answered for long; then there is
        none any more; `OutOfStepError` if it misses changes; then there is none either.
        """
        self._gather()
        with self._shipping:
            follower = self.follower
            if follower is not None:
                self._ship_to(follower)
        self._do_what_waited()

    def _ship_to(self, follower: Following) -> None:
        sent = time.monotonic()
        try:
            self._together = self._send(follower)
        except StaleEpochError:
            self.fence()
        except (HostLostError, OutOfStepError):
            self.lose(follower.node)
            raise
        except StorageError as error:
            # Cut off, it is tried again, and nothing is answered.
            if time.monotonic() - self._heard > _GIVEN_UP_AFTER:
                self.lose(follower.node)
                raise HostLostError(f"node {follower.node} does not follow any more") from error
            time.sleep(_TRIED_AGAIN_AFTER)
        else:
            with self._changed:
                if self.follower is follower:
                    self._shipped = follower.number
                    self.heard(sent)

    def _send(self, follower: Following) -> int:
        """Send a follower the changes that come next; return how many these were."""
        with self._changed:
            records = list(islice(follower.waiting, _AT_ONCE))
        follower.append(self.epoch, follower.number + 1, records)
        with self._changed:
            follower.has(follower.number + len(records))
        return len(records)
