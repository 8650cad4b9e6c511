"""A store on a Ray cluster, as one process reaches it: objects put and got, hosts called."""

from __future__ import annotations

import itertools
import time
import warnings
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, suppress
from functools import lru_cache, partial
from typing import Any

import ray
from ray import exceptions as ray_exceptions

from polystore.base import DataSource
from polystore.exceptions import StorageError
from polystore.serialization import Sealed, plain_bytes
from polystore_ray.config.backends import BackendOptions, options_on
from polystore_ray.config.nodes import Node, node_called
from polystore_ray.config.store import StoreOptions
from polystore_ray.deadline import Deadline
from polystore_ray.errors import (
    CallTimeoutError,
    DataLostError,
    HostLostError,
    StoreUnavailableError,
    TooFewNodesError,
)
from polystore_ray.hosting.backend_host import TRANSFERS
from polystore_ray.hosting.read_cache import Shared
from polystore_ray.hosting.volume import never_fits
from polystore_ray.rayapi.calls import wait_for
from polystore_ray.rayapi.errors import DIED, is_known_dead, of_user_code, translated
from polystore_ray.rayapi.metrics import measured, moved
from polystore_ray.rayapi.placement import MEMORY, known_nodes, near_node, nodes, object_store_bytes
from polystore_ray.rayapi.private import is_client, spilled_bytes
from polystore_ray.status import NodeStatus, StoreStatus
from polystore_ray.transport.base import BATCHES, Task, Transport, when_free
from polystore_ray.transport.failover import Handles
from polystore_ray.wire.decoding import decode, encode
from polystore_ray.wire.envelope import Envelope, Message, as_message, open_message
from polystore_ray.wire.messages import (
    WITHDRAWN,
    ChangeId,
    Items,
    NotPinnedError,
    Pin,
    Request,
    StaleVolumeError,
    new_operation_id,
)
from polystore_ray.wire.sessions import Session

__all__ = ["RayTransport"]

_STATUS_WITHIN = 5.0  # seconds, for what all nodes have to say
_COMES_WITHIN = 0.1  # seconds, for an answer that is ready
_NODES_KNOWN_FOR = 5.0  # seconds
_SMALLEST_STORE = 64 * 2**20  # bytes; Ray has none below 75 MiB
_READING = frozenset(name for name in vars(DataSource) if not name.startswith("_")) - TRANSFERS
_NO_VOLUME = {
    "capacity": None,
    "pinned": 0,
    "pinned_bytes": 0,
    "adopted": 0,
    "adopted_bytes": 0,
}


class RayTransport(Transport):
    """One process's connection to one store."""

    def __init__(
        self,
        store: str,
        node: str,
        controller: Any,
        options: StoreOptions,
        next_controller: Callable[[Deadline], Any],
        birth: str,
    ) -> None:
        super().__init__(options)
        self.handles = Handles(controller, next_controller)
        self.birth = birth
        self._store = store
        self._node = node
        self._made_with: dict[tuple[str, str], BackendOptions] = {}
        self._called: dict[str, tuple[str, float]] = {}
        self._others = _OtherNodes(node)
        self._session = Session()
        # Over a Ray client connection there is no object store here, only in the cluster.
        self._is_remote = is_client()
        self.opens_here = not self._is_remote

    def measured(self, backend: str, operation: str) -> AbstractContextManager[None]:
        return measured(self._store, backend, operation)

    def moved(self, backend: str, operation: str, nbytes: int) -> None:
        moved(self._store, backend, operation, nbytes)

    # The controller

    def ask(self, operation: str, *arguments: Any, path: str | None = None) -> Any:
        return self._request(Request(operation, arguments), path)

    def change(self, operation: str, *arguments: Any, path: str | None = None) -> Any:
        with self._session.change() as id_:
            return self._request(Request(operation, arguments, id_), path)

    def _request(self, request: Request, path: str | None) -> Any:
        message = encode(request._replace(within=self.deadline.left))
        answer = self._of_store(lambda controller: controller.call.remote(message), path=path)
        return decode(answer) if isinstance(answer, bytes) else answer

    def _of_store(self, call: Callable[[Any], Any], *, path: str | None = None) -> Any:
        return self.handles.of_store(call, self.deadline, path=path)

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
        try:
            return ray.put(Envelope(sealed))
        except ray_exceptions.RayError as error:
            raise translated(error, backend=MEMORY) from error

    def publish(self, pins: list[Pin], items: Items) -> None:
        path = items.paths[0] if items.paths else None
        if not pins:
            self._nodes_for(items.replicas)  # raises if there are too few
            self.change("publish", [], items, path=path)
            return
        with self._session.change() as id_:
            self._pin_and_publish(pins, items, id_, path)

    def _pin_and_publish(
        self, pins: list[Pin], items: Items, id_: ChangeId, path: str | None
    ) -> None:
        packed = encode(items)
        while True:
            volumes = self._volumes(items.replicas)
            # Ray makes the last call as soon as those before it are answered.
            patience = 0.9 * self.deadline.left
            pinned = [volume.pin.remote(pins, patience) for volume in volumes.values()]
            try:
                published = partial(_publish, pins, packed, id_, self.deadline, pinned)
                self._of_store(published, path=path)
            except (HostLostError, StaleVolumeError) as error:
                # Others have taken their place, or they can be reached again in a moment.
                for node in volumes:
                    self.handles.forget_host(MEMORY, node)
                lost = HostLostError("the memory's hosts are lost", path=path, backend=MEMORY)
                lost.__cause__ = error
                self._look_around_again(error if isinstance(error, StorageError) else lost)
            except (CallTimeoutError, StoreUnavailableError):
                raise  # it may have been published
            except StorageError:
                # Of the two that have this id, only the first to arrive takes effect.
                ids = [pin.id for pin in pins]
                withdraw = Request("withdraw", (ids, [*volumes]), id_)
                if self._request(withdraw, path) is WITHDRAWN:
                    raise
                return
            else:
                return

    def _volumes(self, replicas: int) -> dict[str, Any]:
        """Return the volumes that are to hold a value, by node, ours first."""
        while True:
            ours, *others = self._nodes_for(replicas)
            volume = partial(self.handles.host, MEMORY, deadline=self.deadline)
            volumes = {ours: volume(ours)}
            try:
                return volumes | {node: volume(node) for node in others}
            except StoreUnavailableError as error:  # a node is gone, and another will do
                self._look_around_again(error)

    def _look_around_again(self, error: Exception) -> None:
        """Ask anew, in a moment, which nodes there are; raise the error if it is too late."""
        self._others.forget()
        self.deadline.pause_or_raise(error)

    def _nodes_for(self, replicas: int) -> list[str]:
        """Return the nodes that are to hold a value: ours first, others in turn.

        Raises
        ------
        TooFewNodesError
            If there are not so many.
        """
        if replicas == 1:
            return [self._node]
        others = self._others.in_turn()
        if len(others) < replicas - 1:
            self._too_few_nodes(replicas, 1 + len(others))
        return [self._node, *others[: replicas - 1]]

    def _too_few_nodes(self, replicas: int, there_are: int) -> None:
        self._others.forget()
        few = f"{replicas} replicas need as many nodes, and the cluster has {there_are}"
        if self.options.too_few_nodes != "warn":
            raise TooFewNodesError(f"{few}; add nodes, or save with fewer replicas", backend=MEMORY)
        warnings.warn(f"{few}; others get copies when they join", stacklevel=2)

    def get(self, pins: Sequence[Pin], path: str | None = None) -> list[Any]:
        if not pins:
            return []
        references = [pin.ref for pin in pins]
        if None in references:  # of an object that turned up at a volume
            return [self._get_one(pin, path) for pin in pins]
        try:
            values: list[Any] = ray.get(references, timeout=self.deadline.left)
        except ray_exceptions.ObjectLostError:
            return [self._get_one(pin, path) for pin in pins]
        except ray_exceptions.RayError as error:
            raise self._translated(error, path) from error
        return values

    def _get_one(self, pin: Pin, path: str | None) -> Any:
        """Return a value whose object may have lost its owner: its volume then puts it again."""
        try:
            if pin.ref is not None:
                return ray.get(pin.ref, timeout=self.deadline.left)
        except ray_exceptions.ObjectLostError:
            pass  # its volumes have the bytes
        except ray_exceptions.RayError as error:
            raise self._translated(error, path) from error
        reference = self.owned(pin).ref
        try:
            return wait_for(reference, backend=MEMORY, timeout=self.deadline, path=path)
        except DataLostError as error:
            raise NotPinnedError(f"{pin.id} was lost on its way; others may hold it") from error

    def _translated(self, error: Exception, path: str | None) -> Exception:
        return translated(error, backend=MEMORY, path=path, timeout=self.deadline.timeout)

    def owned(self, pin: Pin) -> Pin:
        for node in pin.nodes:
            with suppress(HostLostError, StoreUnavailableError, NotPinnedError):
                owned: Pin = self.handles.of_host(MEMORY, node, partial(_adopt, pin), self.deadline)
                return owned
        raise NotPinnedError(f"no volume that was known to hold {pin.id} has it")

    def save_ref(self, reference: Any, save: Callable[[Any], None], path: str) -> None:
        # Ray runs a task where most of the bytes of its arguments are.
        task = _Apply.options(num_cpus=0, max_retries=0).remote(save, reference)
        wait_for(task, backend=MEMORY, timeout=self.deadline, path=path)

    def run(self, tasks: Iterable[Task], options: dict[str, Any]) -> Iterator[Any]:
        window = 2 * max(1, int(ray.cluster_resources().get("CPU", 1)))
        started: deque[Any] = deque()
        try:
            for where, function, arguments in tasks:
                placed = {"scheduling_strategy": near_node(where[0])} if where else {}
                started.append(_Apply.options(**(placed | options)).remote(function, *arguments))
                if len(started) >= window:
                    yield _result(started.popleft())
            while started:
                yield _result(started.popleft())
        finally:
            for task in started:
                ray.cancel(task)

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
        where = self._node_called(node)

        def call() -> Any:
            try:
                return self.handles.of_host(
                    key,
                    where,
                    partial(_transfer if method in TRANSFERS else _call, message),
                    self.deadline,
                    path=_path_of(method, arguments),
                    repeatable=method in _READING,
                )
            except (HostLostError, StoreUnavailableError):
                self._called.pop(node or "", None)  # another node may have the name by now
                raise

        while True:
            answer = when_free(call, self.deadline) if method in BATCHES else call()
            if not isinstance(answer, Shared):
                return open_message(answer)
            try:
                return wait_for(answer.reference, backend=key, timeout=self.deadline)
            except DataLostError as error:
                # The host died with what it kept; the next one reads the file again.
                self.deadline.pause_or_raise(error, 0)

    def options_of(self, key: str, node: str | None) -> dict[str, Any]:
        if not self.options.backends:
            return {}
        where = self._node_called(node)
        found = self._made_with.get((key, where))
        if found is None:
            this = next((known for known in known_nodes() if known.id == where), Node(where))
            found = options_on(self.options.backends, key, this)
            self._made_with[key, where] = found
        return found.open()

    def _node_called(self, name: str | None) -> str:
        """Return the id of a node, asking again every few seconds: nodes come and go."""
        if name is None:
            return self._node
        found, until = self._called.get(name, ("", 0.0))
        if time.monotonic() > until:
            found = node_called(name, known_nodes()).id
            self._called[name] = found, time.monotonic() + _NODES_KNOWN_FOR
        return found

    def shipped_classes(self) -> dict[str, bytes]:
        shipped: dict[str, bytes] = self._of_store(
            lambda controller: controller.shipped_classes.remote()
        )
        return shipped

    # The store as a whole

    def status(self) -> StoreStatus:
        start = time.monotonic()
        facts = self.ask("status")
        answered_in = time.monotonic() - start
        hosts, lost = self._of_store(lambda leader: leader.hosts.remote())
        return StoreStatus(
            store=self._store,
            max_bytes=self.options.max_bytes,
            answered_in=answered_in,
            hosts_lost=lost,
            nodes=tuple(_parts_of(hosts)),
            lost_with_head=self._of_store(lambda leader: leader.lost_with_head.remote()),
            **facts,
        )

    def drain(self, node: str, timeout: float) -> int:
        until = Deadline(timeout)
        if node not in {known["NodeID"] for known in nodes()}:
            raise StoreUnavailableError(f"node {node} is not in the cluster", backend=MEMORY)
        while True:
            asked = Deadline(min(self.deadline.timeout, max(until.left, 1.0)))
            remaining: int = self.handles.of_store(lambda at: at.drain.remote(node), asked)
            if not remaining or not until.left:
                return remaining
            until.pause()

    def shutdown(self) -> None:
        try:
            self._of_store(lambda controller: controller.shutdown.remote())
        except StoreUnavailableError:
            return  # it had ended already
        # Only when the controller is gone can the name be used for a new store.
        while self.deadline.left:
            try:
                ray.get(self.handles.controller.about.remote(), timeout=self.deadline.left)
            except DIED:
                return
            self.deadline.pause()


class _OtherNodes:
    """The nodes beside this one, asked for again every few seconds."""

    def __init__(self, this: str) -> None:
        self._this = this
        self._known: list[str] = []
        self._until = 0.0
        self._turns = itertools.count()

    def forget(self) -> None:
        self._until = 0.0

    def in_turn(self) -> list[str]:
        """Return them, beginning with another one each time."""
        if time.monotonic() > self._until:
            self._known = [node["NodeID"] for node in nodes() if node["NodeID"] != self._this]
            self._until = time.monotonic() + _NODES_KNOWN_FOR
        known = self._known
        start = next(self._turns) % max(1, len(known))
        return known[start:] + known[:start]


def _parts_of(hosts: dict[tuple[str, str], Any]) -> Iterator[NodeStatus]:
    """Ask hosts, given by backend and node, and say what each node has of their store."""
    asked = {where: host.status.remote() for where, host in hosts.items()}
    ray.wait([*asked.values()], num_returns=len(asked), timeout=_STATUS_WITHIN, fetch_local=False)
    until = time.monotonic() + _STATUS_WITHIN
    known = {node["NodeID"]: node for node in nodes()}
    for node in sorted({node for _, node in hosts} & set(known)):
        volume: dict[str, Any] = dict(_NO_VOLUME)
        hosted: Counter[str] = Counter()
        keys: list[str] = []
        silent: list[str] = []
        for key in sorted(key for key, where in hosts if where == node):
            try:
                facts = wait_for(asked[key, node], backend=key, timeout=_COMES_WITHIN)
            except HostLostError as error:
                if not is_known_dead(error):
                    silent.append(key)
            except StorageError:
                silent.append(key)
            else:
                keys.append(key)
                if key == MEMORY:
                    volume |= facts
                else:
                    hosted.update(facts)
        yield NodeStatus(
            node=node,
            host=known[node]["NodeManagerHostname"],
            backends=tuple(sorted(keys + silent)),
            spilled_bytes=spilled_bytes(known[node], max(0.1, until - time.monotonic())),
            silent=tuple(silent),
            **volume,
            **hosted,
        )


def _path_of(method: str, arguments: tuple[Any, ...]) -> str | None:
    """Return the path that a call is about; of a batch, the first."""
    places = arguments[1:] if method in ("save", "save_batch", "append") else arguments
    for place in places:
        first = place[0] if isinstance(place, list) and place else place
        if isinstance(first, str):
            return first
    return None


_object_store_bytes = lru_cache(object_store_bytes)  # as it stays as it is


def _call(message: Message, host: Any) -> Any:
    return host.call.remote(message)


def _transfer(message: Message, host: Any) -> Any:
    return host.transfer.remote(message)


def _publish(
    pins: list[Pin],
    items: bytes,
    id_: ChangeId,
    deadline: Deadline,
    pinned: list[Any],
    controller: Any,
) -> Any:
    return controller.publish.remote(pins, items, id_, deadline.left, *pinned)


def _adopt(pin: Pin, volume: Any) -> Any:
    return volume.adopt.remote(pin, [])


def _apply(function: Callable[..., Any], *arguments: Any) -> Any:
    try:
        return function(*arguments)
    except ray_exceptions.RayError as error:
        raise of_user_code(error) from error.__cause__


_Apply: Any = ray.remote(_apply)


def _result(task: Any) -> Any:
    """Return what a user's function returned, however long it takes."""
    try:
        return ray.get(task)
    except ray_exceptions.RayError as error:
        raise translated(error, backend=MEMORY) from error
