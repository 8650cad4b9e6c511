"""Reads without a call: the answers that a process keeps under the read lease of its node.

An answer is kept from the second read of a path on, and used again while the node's board shows
that nothing has changed. Small values are kept as bytes, of large ones the reference, which is
given up soon after the value has changed, or is not used any more; and that no file is at a path.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import Any, Protocol

from polystore_ray.wire.lease_board import LeaseBoard, Mark
from polystore_ray.wire.messages import NOTHING, Found, Leased, Uncounted, Wish

__all__ = ["NOT_KEPT", "Asking", "LeasedReads"]

logger = logging.getLogger(__name__)

NOT_KEPT: Any = object()
"""In place of an answer that is not kept."""

_SEEN = 50_000  # paths whose first read is remembered
_ENTRY_COST = 500  # bytes that a kept answer takes besides its value
_TENDED_EVERY = 1.0  # seconds
_IDLE_AFTER = 5.0  # seconds without use: references are given up, the lease is not asked for
_ASKED_EVERY = 20.0  # seconds, so that the volume renews the lease
_EVICTABLE_FOR = 10.0  # seconds, after which the controller hears that a value is still used


class Asking(Protocol):
    """What asks the controller, as a transport does."""

    def ask(
        self, operation: str, *arguments: Any, path: str | None = None, wish: Wish | None = None
    ) -> Any: ...


class _Kept:
    """What is kept of one path, all of it from under one mark."""

    __slots__ = ("answers", "mark", "nbytes", "until", "used")

    def __init__(self, mark: Mark, until: float | None) -> None:
        self.mark = mark
        self.until = until  # None for as long as it holds
        self.answers: dict[str, Any] = {}
        self.nbytes = _ENTRY_COST
        self.used = time.monotonic()

    @property
    def has_references(self) -> bool:
        found = self.answers.get("read")
        return found is not None and bool(found.pins)


class LeasedReads:
    """Keep answers while the node's lease lasts, and the board shows that they still hold.

    - `node`: the node of this process
    - `find_board`: ask the node's volume to keep the lease, and return its board; called in a
      thread, unless `is_local`. None if it cannot be had now
    - `is_here`: return whether this process is still connected to the store that was asked
    - `most_bytes`: what is kept at most
    - `is_local`: whether the board is one of this process, which is live whenever it is found
    """

    def __init__(
        self,
        node: str,
        find_board: Callable[[], LeaseBoard | None],
        is_here: Callable[[], bool],
        most_bytes: int,
        count: Callable[[int, int], None] = lambda _kept, _asked: None,
        *,
        is_local: bool = False,
    ) -> None:
        self._node, self._find_board, self._is_here = node, find_board, is_here
        self._most_bytes, self._count = most_bytes, count
        self._is_local = is_local
        self._process = os.getpid()
        self._lock = threading.Lock()
        self._board: LeaseBoard | None = None
        self._kept: OrderedDict[str, _Kept] = OrderedDict()  # the one used longest ago first
        self._nbytes = 0
        self._seen: OrderedDict[int, None] = OrderedDict()  # their hashes
        self._tending = False
        self._closed = threading.Event()
        self._asked_at = 0.0
        self._used_at = 0.0
        self.hits = 0
        self.misses = 0
        self._counted = 0, 0

    # Kept answers

    def answer(self, operation: str, path: str) -> Any:
        """Return the answer to a question about a path, `NOT_KEPT` if it has to be asked."""
        kept = self._valid(path)
        if kept is None:
            return NOT_KEPT
        answer = kept.answers.get(operation, NOT_KEPT)
        if answer is not NOT_KEPT:
            self._use([path])
        return answer

    def inline(self, paths: Sequence[str], *, existing: bool = False) -> Found | None:
        """Return small values at paths, all of one moment, None if there is anything else.

        - `existing`: whether a path without a file may be `NOTHING` among them
        """
        founds = self._founds(paths, existing)
        if len(founds) < len(paths) or any(found.pins for found in founds.values()):
            return None
        if len(paths) > 1 and not self._still_hold(founds):
            return None
        self._use(paths)
        return _joined([founds[path] for path in paths])

    def _founds(self, paths: Iterable[str], existing: bool) -> dict[str, Found]:
        founds: dict[str, Found] = {}
        for path in paths if self._kept else ():
            kept = self._valid(path)
            found = None if kept is None else kept.answers.get("read")
            if found is not None and (existing or found.stored[0] != NOTHING):
                founds[path] = found
        return founds

    def _still_hold(self, founds: dict[str, Found]) -> bool:
        """Return whether kept answers hold now, so that all of them held at one moment before."""
        return all(
            (kept := self._valid(path)) is not None and kept.answers.get("read") is found
            for path, found in founds.items()
        )

    def _valid(self, path: str) -> _Kept | None:
        kept, board = self._kept.get(path), self._board
        if kept is None or board is None or os.getpid() != self._process or not self._is_here():
            return None
        if kept.until is not None and kept.until < time.monotonic():
            self.forget([path])
            return None
        if board.allows(kept.mark):
            return kept
        if board.is_live:
            self.forget([path])
        elif self._is_local and self._find_board() is not None and board.allows(kept.mark):
            return kept
        return None

    def _use(self, paths: Sequence[str]) -> None:
        self.hits += len(paths)
        self._used_at = time.monotonic()
        for path in paths:
            with suppress(KeyError):  # another thread has dropped it
                self._kept[path].used = self._used_at
                self._kept.move_to_end(path)
        if not self._tending:
            self._tend()

    def forget(self, paths: Iterable[str]) -> None:
        """Have these paths asked again."""
        with self._lock:
            for path in paths:
                kept = self._kept.pop(path, None)
                self._nbytes -= kept.nbytes if kept is not None else 0

    def close(self) -> None:
        """Keep nothing any more."""
        with self._lock:
            self._kept.clear()
            self._nbytes, self._board = 0, None
            self._used_at = 0.0
        self._closed.set()

    # Questions

    def ask(self, asking: Asking, operation: str, path: str) -> Any:
        """Return the answer to a question about one path, kept or asked."""
        answer = self.answer(operation, path)
        if answer is NOT_KEPT:
            answer = self._asked(asking, operation, [path], path)
        return answer

    def look_up(self, asking: Asking, paths: list[str], *, existing: bool) -> Found:
        """Return what is stored at paths, all of one moment: what is kept, and the rest asked."""
        founds = self._founds(paths, existing)
        rest = [path for path in paths if path not in founds]
        asked: Found = Found([], [], [])
        if rest or not paths:
            asked = self._asked(asking, "read", rest, rest, self._node, existing)
            if not founds:
                return asked
        if len(paths) > 1 and not self._still_hold(founds):
            again: Found = asking.ask("read", paths, self._node, existing, path=paths[0])
            return again
        self._use(list(founds))
        founds |= zip(rest, _split(asked), strict=True)
        return _joined([founds[path] for path in paths])

    def _asked(self, asking: Asking, operation: str, paths: list[str], *arguments: Any) -> Any:
        self.misses += 1
        path = paths[0] if paths else None
        board = self._board_for(paths)
        marks = [] if board is None else list(map(board.mark, paths))
        terms = {mark.term for mark in marks}
        if board is None or len(terms) != 1 or 0 in terms:
            return asking.ask(operation, *arguments, path=path)
        wish = Wish(self._node, terms.pop())
        answer = asking.ask(operation, *arguments, path=path, wish=wish)
        if not isinstance(answer, Leased):
            return answer
        answers = _split(answer.answer) if operation == "read" else [answer.answer]
        until = time.monotonic() + _EVICTABLE_FOR if answer.is_evictable else None
        self._keep(board, operation, zip(paths, marks, answers, strict=True), until)
        return answer.answer

    # Changes

    def changed(self, change: Callable[[Wish | None], Any]) -> Any:
        """Return the answer to a change, once nobody of this node reads what was before it.

        That spares the controller a call to the volume of whoever keeps what it changes.
        """
        board = self._board if os.getpid() == self._process else None
        term = board.term if board is not None and board.is_live else 0
        answer = change(Wish(self._node, term) if term else None)
        if board is not None and isinstance(answer, Uncounted):
            board.spoil(answer.paths)
            return answer.answer
        return answer

    # Which board

    def _board_for(self, paths: list[str]) -> LeaseBoard | None:
        """Return the board if these paths were read before, and the lease lasts."""
        with self._lock:
            are_new = [seen for path in paths if (seen := hash(path)) not in self._seen]
            self._seen |= dict.fromkeys(are_new)
            while len(self._seen) > _SEEN:
                self._seen.popitem(last=False)
        if are_new or not self._most_bytes or self._closed.is_set() or os.getpid() != self._process:
            return None
        self._used_at = time.monotonic()
        board = self._board
        if board is not None and board.is_live:
            return board
        if self._is_local:
            self._board = self._find_board()
        elif not self._tending:
            self._tend()
        return self._board

    def _keep(
        self,
        board: LeaseBoard,
        operation: str,
        answers: Iterable[tuple[str, Mark, Any]],
        until: float | None,
    ) -> None:
        with self._lock:
            if board is not self._board:
                return  # another volume has taken the place of its own
            for path, mark, answer in answers:
                kept = self._kept.get(path)
                if kept is None or kept.mark != mark:
                    self._nbytes -= kept.nbytes if kept is not None else 0
                    kept = self._kept[path] = _Kept(mark, until)
                    self._nbytes += kept.nbytes
                if operation == "read" and answer.stored[0] == NOTHING:
                    kept.answers["is_file"] = False  # and a directory may be there
                else:
                    kept.answers |= {"exists": True, "is_file": True}
                kept.answers[operation] = answer
                size = _size(answer) if operation == "read" else 0
                kept.nbytes += size
                self._nbytes += size
            while self._nbytes > self._most_bytes and self._kept:
                _, dropped = self._kept.popitem(last=False)
                self._nbytes -= dropped.nbytes
        if not self._tending:
            self._tend()

    # In the background

    def _tend(self) -> None:
        """Have a thread look after the lease and the references, until nothing is used."""
        with self._lock:
            if self._tending or self._is_local:
                return
            self._tending = True
        threading.Thread(target=self._keep_tending, name="polystore-leases", daemon=True).start()

    def _keep_tending(self) -> None:
        try:
            while self._is_used():
                self._ask_for_lease()
                self._give_up_references()
                self._report()
                self._closed.wait(_TENDED_EVERY)
            self._give_up_references(all_of_them=True)
            self._report()
        except Exception:
            # Ray may be shut down at any moment. Whatever it is, reads go on with calls.
            logger.debug("the read lease is not looked after any more", exc_info=True)
        finally:
            self._tending = False

    def _is_used(self) -> bool:
        is_idle = time.monotonic() - self._used_at > _IDLE_AFTER
        return not (is_idle or self._closed.is_set()) and self._is_here()

    def _report(self) -> None:
        hits, misses = self._counted
        self._counted = self.hits, self.misses
        if self._is_here():
            self._count(self.hits - hits, self.misses - misses)

    def _ask_for_lease(self) -> None:
        board = self._board
        is_live = board is not None and board.is_live
        if is_live and time.monotonic() - self._asked_at < _ASKED_EVERY:
            return
        found = self._find_board()
        self._asked_at = time.monotonic()
        if found is not None and found is not board:
            self.forget(list(self._kept))
            self._board = found

    def _give_up_references(self, *, all_of_them: bool = False) -> None:
        """Let go of objects that have changed, or were not used for a while."""
        before, board = time.monotonic() - _IDLE_AFTER, self._board
        self.forget(
            path
            for path, kept in list(self._kept.items())  # in one step, as readers reorder it
            if kept.has_references
            and (all_of_them or kept.used < before or not board or not board.allows(kept.mark))
        )


def _size(found: Found) -> int:
    stored = found.stored[0]
    return len(stored) if isinstance(stored, bytes) else 0


def _split(found: Found) -> list[Found]:
    """Return what is stored at each of some paths by itself."""
    single: list[Found] = []
    for stored, version in zip(found.stored, found.versions, strict=True):
        if isinstance(stored, bytes) or stored == NOTHING:
            single.append(Found([], [stored], [version]))
        else:
            single.append(Found([found.pins[stored[0]]], [(0, stored[1])], [version]))
    return single


def _joined(single: list[Found]) -> Found:
    """Return what is stored at some paths together; an object is among the pins once."""
    if len(single) == 1:
        return single[0]
    places: dict[str, int] = {}
    joined = Found([], [], [])
    for found in single:
        stored = found.stored[0]
        if found.pins:
            [pin] = found.pins
            place = places.setdefault(pin.id, len(joined.pins))
            if place == len(joined.pins):
                joined.pins.append(pin)
            stored = place, stored[1]
        joined.stored.append(stored)
        joined.versions.extend(found.versions)
    return joined
