"""The transport to a store on a Ray cluster: put and get objects, call the controller and hosts."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager
from functools import lru_cache, partial
from operator import attrgetter
from typing import Any

import ray

from polystore.exceptions import StorageError
from polystore.serialization import Sealed, plain_bytes
from polystore_ray.actors.base import Reached, StoreOf, put
from polystore_ray.config.backends import BackendOptions, options_on
from polystore_ray.config.nodes import Node
from polystore_ray.deadline import Deadline, let_go_of_values
from polystore_ray.errors import (
    CallTimeoutError,
    DataLostError,
    HostLostError,
    StoreUnavailableError,
)
from polystore_ray.hosting.backend_host import READING, TRANSFERS
from polystore_ray.hosting.read_cache import Shared
from polystore_ray.hosting.volume import never_fits
from polystore_ray.rayapi.calls import future_of, wait_for
from polystore_ray.rayapi.errors import DIED
from polystore_ray.rayapi.metrics import leased, measured, moved
from polystore_ray.rayapi.placement import EVENTS, MEMORY, known_nodes, nodes, object_store_bytes
from polystore_ray.rayapi.private import connection, is_client
from polystore_ray.status import StoreStatus
from polystore_ray.transport.base import Task, Transport
from polystore_ray.transport.failover import Handles
from polystore_ray.transport.leased_reads import LeasedReads
from polystore_ray.transport.node_names import NodeNames
from polystore_ray.transport.node_status import node_statuses
from polystore_ray.transport.objects import owned, values_of
from polystore_ray.transport.replicas import ReplicaNodes
from polystore_ray.transport.tasks import apply_to_reference, run_tasks
from polystore_ray.wire.decoding import decode, encode
from polystore_ray.wire.envelope import Envelope, as_message, open_message
from polystore_ray.wire.lease_board import LeaseBoard
from polystore_ray.wire.messages import (
    WITHDRAWN,
    ChangeId,
    Items,
    NotPinnedError,
    Pin,
    Request,
    StaleVolumeError,
    Wish,
    new_operation_id,
)
from polystore_ray.wire.sessions import Session

__all__ = ["RayTransport"]

_BOARD_WITHIN = 30.0  # seconds; nobody waits for it
_SMALLEST_STORE = 64 * 2**20  # bytes; Ray has none below 75 MiB
_object_store_bytes = lru_cache(object_store_bytes)  # as it stays as it is


class RayTransport(Transport):
    """One process's connection to one store."""

    def __init__(
        self,
        store: StoreOf,
        node: str,
        reached: Reached,
        next_controller: Callable[[Deadline], Any],
    ) -> None:
        super().__init__(store.options)
        self.store = store
        self.store_id = reached.store_id
        self.handles = Handles(reached.controller, next_controller)
        self._node = node
        self._made_with: dict[tuple[str, str], BackendOptions] = {}
        self._names = NodeNames(node)
        self._replicas = ReplicaNodes(node, is_lenient=store.options.too_few_nodes == "warn")
        self._session = Session()
        self._board: tuple[str, LeaseBoard | None] = "", None
        # Over a Ray client connection there is no object store here, only in the cluster.
        self._is_remote = is_client()
        self.opens_here = not self._is_remote
        here = connection()
        self.reads = LeasedReads(
            node,
            self._find_board,
            lambda: connection() is here,
            0 if self._is_remote else store.options.bytes_of_leased_reads,
            partial(leased, store.name),
        )

    @property
    def named(self) -> str:
        return self.store.named

    def measured(self, backend: str, operation: str) -> AbstractContextManager[None]:
        naming = super().measured(backend, operation)
        return measured(self.store.name, backend, operation, naming)

    def moved(self, backend: str, operation: str, nbytes: int) -> None:
        moved(self.store.name, backend, operation, nbytes)

    # The controller

    def ask(
        self, operation: str, *arguments: Any, path: str | None = None, wish: Wish | None = None
    ) -> Any:
        return self._request(Request(operation, arguments, wish=wish), path)

    def change(self, operation: str, *arguments: Any, path: str | None = None) -> Any:
        with self._session.change() as id_:
            request = Request(operation, arguments, id_)
            return self.reads.changed(lambda wish: self._request(request._replace(wish=wish), path))

    def _request(self, request: Request, path: str | None) -> Any:
        message = encode(request._replace(within=self.deadline.left))

        def call(controller: Any) -> Any:
            if self.awaited is None:
                return controller.call.remote(message)
            return controller.call_when_there.remote(message, *self.awaited)

        answer = self.handles.of_store(call, self.deadline, path=path)
        return decode(answer) if isinstance(answer, bytes) else answer

    def next_events(self, kind: str, *arguments: Any, within: float) -> Future[Any]:
        feed = self.handles.host(EVENTS, "", self.deadline)
        message = encode((kind, *arguments, within))
        answer = future_of(lambda: feed.wait.remote(message), backend=MEMORY)
        answer.add_done_callback(self._forget_lost_feed)
        return answer

    def _forget_lost_feed(self, answer: Future[Any]) -> None:
        if isinstance(answer.exception(), StorageError):
            self.handles.forget_host(EVENTS, "")

    def _find_board(self) -> LeaseBoard | None:
        """Have the volume of this node keep the read lease, and return its board."""
        deadline = Deadline(_BOARD_WITHIN)
        try:
            path = self.handles.of_host(
                MEMORY, self._node, lambda volume: volume.lease.remote(), deadline, repeatable=True
            )
            if path != self._board[0]:
                self._board = path, LeaseBoard.at(path)
        except (StorageError, OSError):
            return None  # reads go on with calls
        return self._board[1]

    # Objects

    @property
    def node(self) -> str:
        return self._node

    def put(self, sealed: Sealed) -> Pin:
        self._check_fits(sealed.nbytes)
        if self._is_remote:
            head, buffers = plain_bytes(sealed.head), [*map(plain_bytes, sealed.buffers)]
            pin: Pin = self.handles.of_host(
                MEMORY,
                self._node,
                lambda volume: volume.put.remote(head, buffers),
                self.deadline,
            )
            return pin
        return Pin(new_operation_id(), (self._node,), self.reference(sealed), sealed.nbytes)

    def _check_fits(self, nbytes: int) -> None:
        if nbytes > _SMALLEST_STORE:
            capacity = _object_store_bytes(self._node)
            if nbytes > capacity:
                raise never_fits(nbytes, self._node, capacity)

    def reference(self, sealed: Sealed) -> Any:
        return put(Envelope(sealed))

    def publish(self, pins: list[Pin], items: Items) -> None:
        path = items.paths[0] if items.paths else None
        if not pins:
            self._replicas.choose(items.replicas)  # raises if there are too few
            self.change("publish", [], items, path=path)
            return
        with self._session.change() as id_:
            self._pin_and_publish(pins, items, id_, path)

    def _pin_and_publish(
        self, pins: list[Pin], items: Items, id_: ChangeId, path: str | None
    ) -> None:
        packed = encode(items)
        volumes: dict[str, Any] = {}

        def attempt() -> None:
            nonlocal volumes
            volumes = self._volumes(items.replicas)
            # Ray makes the last call as soon as those before it are answered.
            patience = 0.9 * self.deadline.left
            pinned = [volume.pin.remote(pins, patience) for volume in volumes.values()]
            try:
                self.reads.changed(
                    lambda wish: self.handles.of_store(
                        lambda leader: leader.publish.remote(
                            pins, packed, id_, self.deadline.left, wish, *pinned
                        ),
                        self.deadline,
                        path=path,
                    )
                )
            except (CallTimeoutError, HostLostError, StoreUnavailableError):
                raise  # it may have been published
            except StorageError as error:
                # Of the two that have this id, only the first to arrive takes effect.
                ids = [pin.id for pin in pins]
                withdraw = Request("withdraw", (ids, [*volumes]), id_)
                if self._request(withdraw, path) is WITHDRAWN:
                    raise
                let_go_of_values(error)

        def look_around(error: Exception) -> Exception | None:
            # Other volumes take their place, or they can be reached again in a moment.
            for node in volumes:
                self.handles.forget_host(MEMORY, node)
            self._replicas.forget()
            if isinstance(error, StorageError):
                return None
            return HostLostError(
                "the volumes that were to hold the value died; save it again",
                path=path,
                backend=MEMORY,
            )

        self.deadline.retry(attempt, (HostLostError, StaleVolumeError), look_around)

    def _volumes(self, replicas: int) -> dict[str, Any]:
        """Return the volumes that are to hold a value, by node, ours first."""
        volume = partial(self.handles.host, MEMORY, deadline=self.deadline)
        this = {self._node: volume(self._node)}

        def attempt() -> dict[str, Any]:
            return this | {node: volume(node) for node in self._replicas.choose(replicas)[1:]}

        # A node that is gone is not chosen again.
        return self.deadline.retry(
            attempt, StoreUnavailableError, lambda _: self._replicas.forget()
        )

    def get(self, pins: Sequence[Pin], path: str | None = None) -> list[Any]:
        return values_of(pins, self.handles, self.deadline, path) if pins else []

    def owned(self, pin: Pin) -> Pin:
        return owned(pin, self.handles, self.deadline)

    def save_ref(self, reference: Any, save: Callable[[Any], None], path: str) -> None:
        task = apply_to_reference(save, reference)
        wait_for(task, backend=MEMORY, timeout=self.deadline, path=path)

    def attempts(
        self, tasks: Iterable[Task], options: dict[str, Any]
    ) -> Generator[Any, None, None]:
        return run_tasks(tasks, options)

    # Hosts

    def call_host(
        self,
        key: str,
        node: str | None,
        method: str,
        arguments: tuple[Any, ...],
        options: dict[str, Any],
    ) -> Any:
        message = as_message((method, arguments, options))
        transfers = method in TRANSFERS
        where = self._names.node(node)

        def call() -> Any:
            try:
                return self.handles.of_host(
                    key,
                    where,
                    lambda host: (host.transfer if transfers else host.call).remote(message),
                    self.deadline,
                    path=_path_of(method, arguments),
                    repeatable=method in READING,
                )
            except (HostLostError, StoreUnavailableError):
                self._names.forget(node)  # another node may have taken it
                raise

        def value() -> Any:
            answer = self._when_free(method, call)
            if not isinstance(answer, Shared):
                return open_message(answer)
            try:
                return wait_for(answer.reference, backend=key, timeout=self.deadline)
            except DataLostError as error:
                raise NotPinnedError from error  # the host died with what it kept

        # The next host reads the file again.
        return self.deadline.retry(value, NotPinnedError, attrgetter("__cause__"), pause=0)

    def options_of(self, key: str, node: str | None) -> dict[str, Any]:
        if not self.options.backends:
            return {}
        where = self._names.node(node)
        found = self._made_with.get((key, where))
        if found is None:
            this = next((known for known in known_nodes() if known.id == where), Node(where))
            found = options_on(self.options.backends, key, this)
            self._made_with[key, where] = found
        return found.open()

    def shipped_classes(self) -> dict[str, bytes]:
        shipped: dict[str, bytes] = self.handles.of_store(
            lambda controller: controller.shipped_classes.remote(), self.deadline
        )
        return shipped

    # The store as a whole

    def status(self) -> StoreStatus:
        start = time.monotonic()
        facts = self.ask("status")
        answered_in = time.monotonic() - start
        hosts, lost = self.handles.of_store(lambda leader: leader.hosts.remote(), self.deadline)
        return StoreStatus(
            store=self.store.name,
            max_bytes=self.options.max_bytes,
            answered_in=answered_in,
            lease_hits=self.reads.hits,
            lease_misses=self.reads.misses,
            hosts_lost=lost,
            nodes=tuple(node_statuses(hosts)),
            lost_with_head=self.handles.of_store(
                lambda leader: leader.lost_with_head.remote(), self.deadline
            ),
            **facts,
        )

    def drain(self, node: str, timeout: float) -> int:
        until = Deadline(timeout)
        if node not in {known["NodeID"] for known in nodes()}:
            raise StoreUnavailableError(
                f"node {node[:8]} is not in the cluster; status() of the registry lists its nodes",
                backend=MEMORY,
            )

        def remaining() -> int:
            asked = Deadline(min(self.deadline.timeout, max(until.left, 1.0)))
            return int(self.handles.of_store(lambda leader: leader.drain.remote(node), asked))

        return until.poll(remaining, lambda count: not count)

    def shutdown(self) -> None:
        self.reads.close()
        try:
            self.handles.of_store(lambda controller: controller.shutdown.remote(), self.deadline)
        except StoreUnavailableError:
            return  # it has ended already

        def is_gone() -> bool:
            try:
                ray.get(self.handles.controller.about.remote(), timeout=self.deadline.left)
            except DIED:
                return True
            return False

        # Only when the controller is gone can the name be used for a new store.
        self.deadline.poll(is_gone, bool)


def _path_of(method: str, arguments: tuple[Any, ...]) -> str | None:
    """Return the path that a call is about; of a batch, the first."""
    places = arguments[1:] if method in ("save", "save_batch", "append") else arguments
    for place in places:
        first = place[0] if isinstance(place, list) and place else place
        if isinstance(first, str):
            return first
    return None
