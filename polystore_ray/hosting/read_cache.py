"""The read cache of a host: a value is loaded again from memory while its file is unchanged."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from typing import Any, NamedTuple

from polystore.serialization import seal
from polystore_ray.wire.envelope import SMALL, Envelope, Message, message_of, sealed_message

__all__ = ["ReadCache", "Shared"]

Key = tuple[str, Hashable]


class Shared(NamedTuple):
    """A loaded value in the object store, which a host keeps for others too."""

    reference: Any


class _Kept(NamedTuple):
    reference: Any
    nbytes: int


class _ChangedError(Exception):
    """Signal to waiting loads that the file was changed during the load."""


class ReadCache:
    """Keep loaded values, and load a file once for all calls that ask at the same time.

    A value is served while the identity of its file is the same, so that a load after a change
    never returns the former value. Small values are not kept.

    - `put`: put an `Envelope` into the object store; return the reference
    - `capacity`: bytes that are kept at most. The least recently used value is dropped first
    """

    def __init__(self, put: Callable[[Envelope], Any], capacity: int) -> None:
        self._put = put
        self._capacity = capacity
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, tuple[Hashable, _Kept]] = OrderedDict()
        self._loading: dict[Key, Future[Message | Shared]] = {}
        self._bytes = self._hits = self._misses = 0

    def load(
        self, path: str, identify: Callable[[], Hashable | None], load: Callable[[], Any]
    ) -> Message | Shared:
        """Return the message of a value: one that is kept, or one that is loaded now.

        - `path`: where the value is
        - `identify`: return a key that changes whenever the content does; None if there is none
        - `load`: return the value
        """
        identity = identify()
        if identity is None or not self._capacity:
            return self._missed(load)
        with self._lock:
            known, kept = self._kept.get(path, (None, None))
            if kept is not None and known == identity:
                self._kept.move_to_end(path)
                self._hits += 1
                return Shared(kept.reference)
            loading = self._loading.get((path, identity))
            if loading is None:
                mine = self._loading[path, identity] = Future()
        if loading is None:
            return self._load_for_all(path, identity, mine, identify, load)
        if loading.exception() is not None:
            return self._missed(load)  # its own error says what is wrong
        with self._lock:
            self._hits += 1
        return loading.result()

    def _missed(self, load: Callable[[], Any]) -> Message:
        with self._lock:
            self._misses += 1
        return message_of(seal(load()))

    def _load_for_all(
        self,
        path: str,
        identity: Hashable,
        mine: Future[Message | Shared],
        identify: Callable[[], Hashable | None],
        load: Callable[[], Any],
    ) -> Message | Shared:
        try:
            with self._lock:
                self._misses += 1
            sealed = seal(load())
            if identify() != identity:
                mine.set_exception(_ChangedError())
                return message_of(sealed)
            message: Message | Shared
            if sealed.nbytes <= SMALL:
                message = sealed_message(sealed)
            else:
                message = Shared(self._put(Envelope(sealed)))
                self._keep(path, identity, _Kept(message.reference, sealed.nbytes))
            mine.set_result(message)
            return message
        except BaseException as error:
            mine.set_exception(error)
            raise
        finally:
            with self._lock:
                del self._loading[path, identity]

    def _keep(self, path: str, identity: Hashable, kept: _Kept) -> None:
        with self._lock:
            _, former = self._kept.pop(path, (None, None))
            if former is not None:
                self._bytes -= former.nbytes
            if kept.nbytes > self._capacity:
                return
            self._kept[path] = identity, kept
            self._bytes += kept.nbytes
            while self._bytes > self._capacity:
                _, (_, oldest) = self._kept.popitem(last=False)
                self._bytes -= oldest.nbytes

    def status(self) -> dict[str, int]:
        """Return how many values are kept, their bytes, and the counts of hits and misses."""
        with self._lock:
            return {
                "cached": len(self._kept),
                "cached_bytes": self._bytes,
                "cache_hits": self._hits,
                "cache_misses": self._misses,
            }
