"""Local mode: a store in this process that behaves like one on a cluster, without Ray."""

from __future__ import annotations

import itertools
import platform
import threading
import time
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from functools import partial
from typing import Any

from polystore.backend_registry import backend_class
from polystore.exceptions import UnsupportedOperationError
from polystore.serialization import Sealed
from polystore.transfer.many import Failure
from polystore_ray.config.backends import options_on
from polystore_ray.config.home import Home, made_here
from polystore_ray.config.nodes import Node, node_called
from polystore_ray.config.store import StoreOptions
from polystore_ray.controller.event_feed import CALLS
from polystore_ray.controller.leases import Paths
from polystore_ray.controller.ledger import Ledger
from polystore_ray.controller.repair import carry_out
from polystore_ray.controller.state import StoreController
from polystore_ray.hosting.backend_host import MOST_CALLS, BackendHost
from polystore_ray.hosting.lease_keeper import LeaseKeeper
from polystore_ray.hosting.volume import MemoryVolume
from polystore_ray.status import NodeStatus, StoreStatus
from polystore_ray.transport.base import Task, Transport
from polystore_ray.transport.leased_reads import LeasedReads
from polystore_ray.wire.classes import class_to_bytes
from polystore_ray.wire.decoding import encode
from polystore_ray.wire.envelope import (
    Envelope,
    Message,
    arrived,
    as_message,
    open_message,
    sealed_message,
)
from polystore_ray.wire.lease_board import LeaseBoard, WritableLeaseBoard
from polystore_ray.wire.messages import Items, NotPinnedError, Pin, Request, Wish
from polystore_ray.wire.sessions import Session

__all__ = ["LocalTransport"]

_NODE = "local"
_stores: dict[tuple[str, str], tuple[Home, LocalTransport]] = {}


class LocalTransport(Transport):
    """The same controller, volume and hosts as on a cluster, called directly.

    Arguments and results pass through the same serialisation, so that what is saved is a
    snapshot, what is loaded is read-only, and what does not pickle fails here too. Upkeep is done
    at once.
    """

    def __init__(self, store: str, options: StoreOptions) -> None:
        super().__init__(options)
        self._store = store
        self._lock = threading.Lock()
        self._ids = itertools.count()
        self._session = Session()
        self._hosts: dict[str, tuple[type, BackendHost]] = {}
        self._this = Node(_NODE, (platform.node(), "localhost"))
        self._controller = StoreController(
            release=lambda _node, pins: self._volume.release(pins),
            ledger=Ledger.of(self.options),
            tell=self._tell,
        )
        self._board = WritableLeaseBoard()
        self._leases = LeaseKeeper(self._board, lambda: self._controller.renew_lease(_NODE, _NODE))
        self.reads = LeasedReads(
            _NODE,
            self._find_board,
            lambda: True,
            self.options.bytes_of_leased_reads,
            is_local=True,
        )
        self._volume = MemoryVolume(
            node=_NODE,
            incarnation=_NODE,
            get=lambda refs: refs,
            put=lambda envelope: Envelope(envelope.sealed.copied()),
            ask=self._controller.handle,
        )
        self.change("volume_joined", _NODE, _NODE)

    @classmethod
    def of(cls, store: str, lifetime: str, options: StoreOptions) -> LocalTransport:
        """Return this process's local store of a name; raise if it has other options."""
        key = store, lifetime
        if key not in _stores:  # of two threads that make one, the first wins
            _stores.setdefault(key, (made_here(), cls(store, options)))
        home, transport = _stores[key]
        home.require_here()  # a forked process has a copy, whose changes nobody else would see
        options.check_against(transport.options, f"{store!r} (lifetime={lifetime!r})")
        return transport

    @staticmethod
    def forget(store: str, lifetime: str) -> None:
        """Have the next use start an empty store."""
        _stores.pop((store, lifetime), None)

    @property
    def named(self) -> str:
        return f"{self._store!r}, local"

    def ask(
        self, operation: str, *arguments: Any, path: str | None = None, wish: Wish | None = None
    ) -> Any:
        if self.awaited is not None:
            self._controller.wait_until_there(*self.awaited)
        return self._controller.handle(Request(operation, arguments, wish=wish))

    def _find_board(self) -> LeaseBoard:
        self._leases.renew()
        return self._board

    def _tell(self, _node: str, term: int, paths: Paths) -> Callable[[float], bool]:
        heard = self._leases.count(term, paths)
        return lambda _: heard

    def change(self, operation: str, *arguments: Any, path: str | None = None) -> Any:
        with self._session.change() as id_:
            answer = self._controller.handle(Request(operation, arguments, id_))
        if operation == "publish" and arguments[1].ttl is not None:
            expiring = threading.Timer(arguments[1].ttl, self._controller.expire)
            expiring.daemon = True
            expiring.start()
        self._look_after()
        return answer

    def next_events(self, kind: str, *arguments: Any, within: float) -> Future[Any]:
        answer: Future[Any] = Future()

        def give(is_answered: bool, found: object) -> None:
            with suppress(InvalidStateError):
                answer.set_result(encode((is_answered, found)))

        call = CALLS[kind](*arguments, partial(give, True))
        self._controller.add_call(call)
        too_late = threading.Timer(within, lambda: give(False, call.since))
        too_late.daemon = True
        too_late.start()

        def forget(_: object) -> None:
            too_late.cancel()
            self._controller.remove_call(call)

        answer.add_done_callback(forget)
        return answer

    @property
    def node(self) -> str:
        return _NODE

    def put(self, sealed: Sealed) -> Pin:
        envelope = Envelope(sealed.copied())
        return Pin(f"{next(self._ids)}", (_NODE,), envelope, sealed.nbytes)

    def publish(self, pins: list[Pin], items: Items) -> None:
        pinned = [self._volume.pin(pins, self.deadline.left)] if pins else []
        self.change("publish", pins, items, pinned)

    def _look_after(self) -> None:
        with suppress(NotPinnedError):  # another thread has released it; a change looks again
            while (repair := self._controller.next_repair(timeout=0)) is not None:
                carry_out(repair, self._controller, self, replicas=1)

    def pack(self, messages: Sequence[bytes]) -> tuple[Pin, str]:
        return self._volume.pack(messages)

    def adopt(self, node: str, pin: Pin, dropped: Sequence[int]) -> Pin:
        return self._volume.adopt(pin, dropped)

    def place(self, pin: Pin, preferred: str) -> str | None:
        return None

    def host_of(self, node: str) -> str:
        return node

    def pin_again(self, node: str, pins: list[Pin]) -> tuple[str, list[str], dict[str, str]]:
        return self._volume.pin_again(pins)

    def get(self, pins: Sequence[Pin], path: str | None = None) -> list[Any]:
        return [arrived(pin.ref.sealed) for pin in pins]

    def owned(self, pin: Pin) -> Pin:
        return pin

    def reference(self, sealed: Sealed) -> Any:
        raise _no_references()

    def save_ref(self, reference: Any, save: Callable[[Any], None], path: str) -> None:
        raise _no_references()

    def attempts(
        self, tasks: Iterable[Task], options: dict[str, Any]
    ) -> Generator[Any, None, None]:
        for _, function, arguments in tasks:
            try:
                outcome = _as_sent(function(*arguments))
            except Exception as error:  # noqa: BLE001 - the function may raise anything
                outcome = Failure(error)
            yield outcome

    def call_host(
        self,
        key: str,
        node: str | None,
        method: str,
        arguments: tuple[Any, ...],
        options: dict[str, Any],
    ) -> Any:
        self._check_name(node)
        cls = backend_class(key)
        with self._lock:
            cached = self._hosts.get(key)
            if cached is None or cached[0] is not cls:
                made_with = options_on(self.options.backends, key, self._this)
                most_calls = self.options.host_calls or MOST_CALLS
                host = BackendHost(key, class_to_bytes(cls), made_with, most_calls)
                former, cached = cached, (cls, host)
                self._hosts[key] = cached
                if former is not None:
                    former[1].close()
        host, message = cached[1], as_message((arguments, options))

        def call() -> Any:
            with host.admitted():
                return _arrived(as_message(host.call(method, *_arrived(message))))

        return self._when_free(method, call)

    def options_of(self, key: str, node: str | None) -> dict[str, Any]:
        self._check_name(node)
        return options_on(self.options.backends, key, self._this).open()

    def _check_name(self, node: str | None) -> None:
        if node is not None:
            node_called(node, [self._this])

    def status(self) -> StoreStatus:
        start = time.monotonic()
        facts = self.ask("status")
        volume: dict[str, Any] = self._volume.status()
        node = NodeStatus(
            node=_NODE,
            host=_NODE,
            backends=("memory", *sorted(self._hosts)),
            spilled_bytes=0,
            **volume,
        )
        return StoreStatus(
            store=self._store,
            max_bytes=self.options.max_bytes,
            answered_in=time.monotonic() - start,
            lease_hits=self.reads.hits,
            lease_misses=self.reads.misses,
            hosts_lost=0,
            nodes=(node,),
            **facts,
        )

    def drain(self, node: str, timeout: float) -> int:
        raise UnsupportedOperationError(
            "a local store (local=True) has one node only, which cannot be drained"
        )

    def shutdown(self) -> None:
        self.reads.close()
        self._controller.end_leases()
        with self._lock:
            hosts = list(self._hosts.values())
            self._hosts.clear()
        for _, host in hosts:
            host.close()


def _as_sent(value: Any) -> Any:
    """Return `value` as it arrives at the other side of a call on a cluster."""
    return _arrived(as_message(value))


def _arrived(message: Message) -> Any:
    return open_message(
        message if isinstance(message, bytes) else sealed_message(message[0].sealed)
    )


def _no_references() -> UnsupportedOperationError:
    return UnsupportedOperationError(
        "a local store (local=True) has no Ray and no object references", backend="memory"
    )
