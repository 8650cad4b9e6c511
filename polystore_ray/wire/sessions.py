"""Exactly once: how a client numbers its changes, and how the controller remembers its answers.

As in RIFL (Lee et al., "Implementing Linearizability at Large Scale and Low Latency", SOSP 2015):
a client sends with each change its *session*, the change's number in it, and the number below which
it waits for no answer any more. The controller carries a number out once, keeps its answer until
the client says that it needs it no longer, and refuses a number that comes later than that. The
answers are part of the controller's state, so that its successor knows them too.
"""

from __future__ import annotations

import io
import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from polystore.exceptions import StorageError
from polystore_ray.errors import StoreUnavailableError
from polystore_ray.wire.decoding import decode_state, encode_state
from polystore_ray.wire.messages import ChangeId, new_operation_id

__all__ = ["EXPIRY", "LONGEST_WAIT", "Answers", "Refusal", "Session"]

LONGEST_WAIT = 1800.0
"""Seconds. No client repeats a change for longer, whatever its timeout."""

EXPIRY = 2 * LONGEST_WAIT
"""Seconds. So long is kept what a repeated change may need."""


class Session:
    """Number the changes of one process to one store."""

    def __init__(self) -> None:
        self._id = new_operation_id()
        self._lock = threading.Lock()
        self._next = 0
        self._open: set[int] = set()

    @contextmanager
    def change(self) -> Iterator[ChangeId]:
        """Identify one change, which may be sent again until the block ends and never after it."""
        with self._lock:
            number = self._next
            self._next += 1
            self._open.add(number)
            done = min(self._open)
        try:
            yield ChangeId(self._id, number, done)
        finally:
            with self._lock:
                self._open.discard(number)


class Refusal(bytes):
    """The error with which a change was answered, as plain bytes: no traceback, no request."""

    __slots__ = ()

    @classmethod
    def of(cls, error: StorageError) -> Refusal:
        """Return the refusal of an error."""
        error.__cause__ = error.__context__ = None
        file = io.BytesIO()
        encode_state(error.with_traceback(None), file)
        return cls(file.getvalue())

    def error(self) -> StorageError:
        """Return the error, a new one each time."""
        error: StorageError = decode_state(io.BytesIO(self))
        return error


class _Kept:
    """What is known of one session."""

    __slots__ = ("answers", "done", "used")

    def __init__(self) -> None:
        self.done = 0
        self.answers: dict[int, Any] = {}
        self.used = 0.0


class Answers:
    """The answers of a controller to the changes of all sessions.

    It is not thread-safe, and depends on nothing but what it is told, so that a follower that is
    told the same keeps the same.
    """

    def __init__(self) -> None:
        self._sessions: OrderedDict[str, _Kept] = OrderedDict()  # the one used longest ago first

    def __len__(self) -> int:
        return sum(len(kept.answers) for kept in self._sessions.values())

    def has(self, id_: ChangeId) -> bool:
        """Return whether a change has been carried out.

        Raises `StoreUnavailableError` if its client has given it up since: it must not be carried
        out any more.
        """
        kept = self._sessions.get(id_.session)
        if kept is None:
            return False
        if id_.number in kept.answers:
            return True
        if id_.number < kept.done:
            raise StoreUnavailableError(
                "the caller has given this change up, which arrived too late", backend="memory"
            )
        return False

    def get(self, id_: ChangeId) -> Any:
        """Return the answer to a change that has been carried out."""
        return self._sessions[id_.session].answers[id_.number]

    def keep(self, id_: ChangeId, answer: Any, now: float) -> None:
        """Keep an answer as of a moment in seconds, and drop those that nobody will ask for."""
        kept = self._sessions.get(id_.session)
        if kept is None:
            kept = self._sessions[id_.session] = _Kept()
        self._sessions.move_to_end(id_.session)
        kept.answers[id_.number] = answer
        kept.used = now
        if id_.done > kept.done:
            kept.done = id_.done
            for number in [number for number in kept.answers if number < id_.done]:
                del kept.answers[number]
        self._expire(now)

    def _expire(self, now: float) -> None:
        while self._sessions:
            session, oldest = next(iter(self._sessions.items()))
            if oldest.used > now - EXPIRY:
                return
            del self._sessions[session]
