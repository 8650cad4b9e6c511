"""A store on a Ray cluster, as one process reaches it: handles, deadlines, what to do at a loss."""

from __future__ import annotations

import pickle
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, suppress
from functools import partial
from typing import Any

import ray
from ray import exceptions as ray_exceptions
from ray.util import client as ray_client

from polystore.backend_registry import backend_class
from polystore.exceptions import StorageError
from polystore.seal import Sealed, plain_bytes
from polystore_ray.calls import answer_of, wait_for
from polystore_ray.envelope import Envelope, as_message, open_message
from polystore_ray.errors import CallTimeoutError, HostLostError, StoreUnavailableError
from polystore_ray.host import class_to_bytes
from polystore_ray.messages import (
    Items,
    NotPinnedError,
    Pin,
    Request,
    StaleVolumeError,
    new_operation_id,
)
from polystore_ray.metrics import measured, moved
from polystore_ray.options import StoreOptions
from polystore_ray.placement import MEMORY, near_node, nodes
from polystore_ray.ray_errors import translated
from polystore_ray.ray_internals import actor_id, spilled_bytes
from polystore_ray.status import NodeStatus, StoreStatus
from polystore_ray.transport import Task, Transport

__all__ = ["RayTransport"]

_STATUS_WITHIN = 5.0  # seconds, for what one node has to say
_NO_VOLUME = {
    "capacity": None,
    "pinned": 0,
    "pinned_bytes": 0,
    "adopted": 0,
    "adopted_bytes": 0,
}


class RayTransport(Transport):
    """One process's connection to one store: the controller's handle and those of its hosts."""

    def __init__(self, store: str, node: str, controller: Any, options: StoreOptions) -> None:
        self.timeout = 60.0
        self.options = options
        self._store = store
        self._node = node
        self._controller = controller
        self._hosts: dict[tuple[str, str], Any] = {}
        # Over a Ray client connection there is no object store here, only in the cluster.
        self._is_remote = ray_client.ray.is_connected()

    def measured(self, backend: str, operation: str) -> AbstractContextManager[None]:
        return measured(self._store, backend, operation)

    def moved(self, backend: str, operation: str, nbytes: int) -> None:
        moved(self._store, backend, operation, nbytes)

    # The controller

    def ask(self, operation: str, *arguments: Any, path: str | None = None) -> Any:
        return self._request(Request(operation, arguments), path)

    def change(self, operation: str, *arguments: Any, path: str | None = None) -> Any:
        return self._request(Request(operation, arguments, new_operation_id()), path)

    def _request(self, request: Request, path: str | None) -> Any:
        message = pickle.dumps(request, protocol=5)
        answer = self._of_store(lambda: self._controller.call.remote(message), path)
        return pickle.loads(answer) if isinstance(answer, bytes) else answer

    def _of_store(self, call: Callable[[], Any], path: str | None = None) -> Any:
        """Return the controller's answer; without a controller the store is unavailable."""
        try:
            return answer_of(call, backend=MEMORY, timeout=self.timeout, path=path, repeatable=True)
        except HostLostError as error:
            raise StoreUnavailableError(
                f"the store {self._store!r} was shut down, or its controller was lost and with "
                f"it what the memory held; shutdown() lets a new one start",
                path=path,
                backend=MEMORY,
            ) from error

    # Objects

    def put(self, sealed: Sealed) -> Pin:
        if self._is_remote:
            head, buffers = plain_bytes(sealed.head), [*map(plain_bytes, sealed.buffers)]
            pin: Pin = self._of_host(
                MEMORY, self._node, lambda volume: volume.put.remote(head, buffers)
            )
            return pin
        return Pin(new_operation_id(), (self._node,), self.reference(sealed), sealed.nbytes)

    def reference(self, sealed: Sealed) -> Any:
        try:
            return ray.put(Envelope(sealed))
        except ray_exceptions.RayError as error:
            raise translated(error, backend=MEMORY) from error

    def publish(self, pins: list[Pin], items: Items) -> None:
        path = items.paths[0] if items.paths else None
        if not pins:
            self.change("publish", [], items, path=path)
            return
        packed = pickle.dumps(items, protocol=5)
        operation_id = new_operation_id()
        deadline = time.monotonic() + self.timeout
        while True:
            volume = self._host(MEMORY, self._node)
            # Ray makes the second call as soon as the first one is answered.
            pinned = volume.pin.remote(pins, 0.9 * (deadline - time.monotonic()))
            publish = partial(self._controller.publish.remote, pins, packed, operation_id, pinned)
            try:
                self._of_store(publish, path)
            except (StoreUnavailableError, StaleVolumeError):
                if time.monotonic() > deadline or not self._is_lost(volume, pinned):
                    raise
            except CallTimeoutError:
                raise  # it may have been published
            except StorageError:
                volume.release.remote([pin.id for pin in pins])
                raise
            else:
                return

    def _is_lost(self, volume: Any, pinned: Any) -> bool:
        """Tell whether a publication failed because of its volume; then there is a new one."""
        with suppress(HostLostError):
            wait_for(pinned, backend=MEMORY, timeout=self.timeout)
        return self._host(MEMORY, self._node, lost=actor_id(volume)) is not volume

    def get(self, pins: Sequence[Pin], path: str | None = None) -> list[Any]:
        if not pins:
            return []
        references = [pin.ref for pin in pins]
        try:
            values: list[Any] = ray.get(references, timeout=self.timeout)
        except ray_exceptions.ObjectLostError:
            return [self._get_one(pin, path) for pin in pins]
        except ray_exceptions.RayError as error:
            raise translated(error, backend=MEMORY, path=path, timeout=self.timeout) from error
        return values

    def _get_one(self, pin: Pin, path: str | None) -> Any:
        """Return a value whose object may have lost its owner: its volume then puts it again."""
        try:
            return ray.get(pin.ref, timeout=self.timeout)
        except ray_exceptions.ObjectLostError:
            reference = self.owned(pin).ref
        except ray_exceptions.RayError as error:
            raise translated(error, backend=MEMORY, path=path, timeout=self.timeout) from error
        return wait_for(reference, backend=MEMORY, timeout=self.timeout, path=path)

    def owned(self, pin: Pin) -> Pin:
        if not pin.nodes:
            raise NotPinnedError(f"{pin.id} is pinned nowhere for the moment")
        try:
            owned: Pin = self._of_host(
                MEMORY, pin.nodes[0], lambda volume: volume.adopt.remote(pin, [])
            )
        except (HostLostError, StoreUnavailableError) as error:
            raise NotPinnedError(f"the volume that pins {pin.id} is gone") from error
        return owned

    def save_ref(self, reference: Any, save: Callable[[Any], None], path: str) -> None:
        # Ray runs a task where most of the bytes of its arguments are.
        task = _Apply.options(num_cpus=0, max_retries=0).remote(save, reference)
        wait_for(task, backend=MEMORY, timeout=self.timeout, path=path)

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
        self, key: str, method: str, arguments: tuple[Any, ...], options: dict[str, Any]
    ) -> Any:
        message = as_message((method, arguments, options))
        path = next((argument for argument in arguments if isinstance(argument, str)), None)
        return open_message(
            self._of_host(key, self._node, lambda host: host.call.remote(message), path=path)
        )

    def shipped_classes(self) -> dict[str, bytes]:
        shipped: dict[str, bytes] = self._of_store(self._controller.shipped_classes.remote)
        return shipped

    def _of_host(
        self,
        key: str,
        node: str,
        call: Callable[[Any], Any],
        *,
        path: str | None = None,
        repeatable: bool = False,
    ) -> Any:
        """Return a host's answer; a host that was lost is made anew for the next call."""
        deadline = time.monotonic() + self.timeout
        while True:
            host = self._host(key, node)
            try:
                return answer_of(
                    partial(call, host),
                    backend=key,
                    timeout=deadline - time.monotonic(),
                    path=path,
                    repeatable=repeatable,
                )
            except HostLostError:
                self._host(key, node, lost=actor_id(host))
                if not repeatable or time.monotonic() > deadline:
                    raise

    def _host(self, key: str, node: str, lost: str | None = None) -> Any:
        host = self._hosts.get((key, node))
        if host is None or lost is not None:
            shipped = b"" if key == MEMORY else class_to_bytes(backend_class(key))
            host = self._of_store(lambda: self._controller.host.remote(key, node, shipped, lost))
            self._hosts[key, node] = host
        return host

    # The store as a whole

    def status(self) -> StoreStatus:
        start = time.monotonic()
        facts = self.ask("status")
        answered_in = time.monotonic() - start
        hosts: dict[tuple[str, str], Any] = self._of_store(self._controller.hosts.remote)
        asked = {node: host.status.remote() for (key, node), host in hosts.items() if key == MEMORY}
        known = {node["NodeID"]: node for node in nodes()}
        parts = []
        for node in sorted({node for _, node in hosts} & set(known)):
            volume: dict[str, Any] = dict(_NO_VOLUME)
            if node in asked:
                try:
                    volume |= wait_for(asked[node], backend=MEMORY, timeout=_STATUS_WITHIN)
                except HostLostError:
                    continue  # it died since
            parts.append(
                NodeStatus(
                    node=node,
                    host=known[node]["NodeManagerHostname"],
                    backends=tuple(sorted(key for key, where in hosts if where == node)),
                    spilled_bytes=spilled_bytes(known[node], _STATUS_WITHIN),
                    **volume,
                )
            )
        return StoreStatus(
            store=self._store,
            max_bytes=self.options.max_bytes,
            answered_in=answered_in,
            nodes=tuple(parts),
            **facts,
        )

    def shutdown(self) -> None:
        try:
            self._of_store(self._controller.shutdown.remote)
        except StoreUnavailableError:
            return  # it had ended already
        # Only when the controller is gone can the name be used for a new store.
        ended = time.monotonic() + self.timeout
        while time.monotonic() < ended:
            try:
                ray.get(self._controller.options.remote(), timeout=self.timeout)
            except ray_exceptions.RayActorError:
                return
            time.sleep(0.05)


def _apply(function: Callable[..., Any], *arguments: Any) -> Any:
    return function(*arguments)


_Apply: Any = ray.remote(_apply)


def _result(task: Any) -> Any:
    """Return what a user's function returned, however long it takes."""
    try:
        return ray.get(task)
    except ray_exceptions.RayError as error:
        raise translated(error, backend=MEMORY) from error
