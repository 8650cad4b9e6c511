"""A store on a Ray cluster, as one process reaches it: connections, handles, deadlines."""

from __future__ import annotations

import os
import pickle
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import ray
from ray import exceptions as ray_exceptions

from polystore.backend_registry import backend_class
from polystore.exceptions import StorageError
from polystore.seal import Sealed
from polystore_ray.actors import MEMORY, ControllerActor
from polystore_ray.addresses import require_listener
from polystore_ray.envelope import Envelope, pack, unpack
from polystore_ray.errors import HostLostError, StoreUnavailableError
from polystore_ray.host import class_to_bytes
from polystore_ray.messages import Item, Pin, PutOptions, Request, new_operation_id
from polystore_ray.placement import (
    CONTROLLER,
    actor_options,
    store_namespace,
    this_process,
)
from polystore_ray.ray_errors import translated
from polystore_ray.transport import Transport

__all__ = ["RayTransport", "connect"]

_connections: dict[tuple[str, str, str, str], RayTransport] = {}
_connecting = threading.RLock()
_forked = False


def connect(
    store: str, lifetime: str, timeout: float, *, create: bool = True
) -> RayTransport | None:
    """Return this process's connection to a store, starting what is not there yet.

    Parameters
    ----------
    store : str
        The store's name.
    lifetime : {"job", "detached"}
        Whether the store is this job's or outlives it.
    timeout : float
        Seconds that any one wait may take.
    create : bool, default True
        Whether to start Ray and the store. Without it None is returned where either is missing.

    Raises
    ------
    StoreUnavailableError
        If Ray cannot be reached or the controller does not start by the deadline.
    """
    if _forked:
        raise StoreUnavailableError(
            "this process was forked from one that used Ray, whose connections do not survive a "
            "fork; start it with 'spawn', or use a Ray task"
        )
    if not ray.is_initialized():
        if not create:
            return None
        _start_ray()
    node, job = this_process()
    key = (store, lifetime, node, job)
    connection = _connections.get(key)
    if connection is None:
        with _connecting:
            connection = _connections.get(key)
            if connection is None:
                namespace = store_namespace(store, None if lifetime == "detached" else job)
                controller = _controller(
                    namespace, node, None if lifetime == "detached" else job, timeout, create=create
                )
                if controller is None:
                    return None
                connection = _connections[key] = RayTransport(store, namespace, node, controller)
    connection.timeout = timeout
    return connection


def _start_ray() -> None:
    require_listener(os.environ.get("RAY_ADDRESS", "auto"))
    try:
        ray.init()
    except (ConnectionError, RuntimeError, ray_exceptions.RayError) as error:
        raise StoreUnavailableError(f"Ray could not be started or reached: {error}") from error


def _controller(namespace: str, node: str, job: str | None, timeout: float, *, create: bool) -> Any:
    """Return the handle of a store's controller, which answers."""
    try:
        if create:
            options = actor_options(namespace, CONTROLLER, node, movable=True)
            controller = ControllerActor.options(get_if_exists=True, **options).remote(
                namespace, job
            )
        else:
            controller = ray.get_actor(CONTROLLER, namespace)
        ray.get(controller.shipped_classes.remote(), timeout=timeout)
    except ValueError:  # what Ray raises for a name that no actor has
        if create:
            raise
        return None
    except ray_exceptions.RayError as error:
        raise StoreUnavailableError(
            f"the controller of the store did not start within {timeout:g} s "
            f"({type(error).__name__}: {str(error).strip()})"
        ) from error
    return controller


def _mark_forked() -> None:
    global _forked  # noqa: PLW0603 - a fact about the process
    _forked = ray.is_initialized()


os.register_at_fork(after_in_child=_mark_forked)


class RayTransport(Transport):
    """One process's connection to one store: the controller's handle and those of its hosts."""

    def __init__(self, store: str, namespace: str, node: str, controller: Any) -> None:
        self.timeout = 60.0
        self._store = store
        self._namespace = namespace
        self._node = node
        self._controller = controller
        self._hosts: dict[tuple[str, str], Any] = {}

    def ask(self, operation: str, *arguments: Any, path: str | None = None) -> Any:
        return self._request(Request(operation, arguments), path)

    def change(self, operation: str, *arguments: Any, path: str | None = None) -> Any:
        return self._request(Request(operation, arguments, new_operation_id()), path)

    def _request(self, request: Request, path: str | None) -> Any:
        message = pickle.dumps(request, protocol=5)
        return self._of_store(lambda: self._controller.call.remote(message), path)

    def put(self, sealed: Sealed) -> Pin:
        try:
            ref = ray.put(Envelope(sealed))
        except ray_exceptions.RayError as error:
            raise translated(error, backend=MEMORY) from error
        return Pin(new_operation_id(), self._node, ref)

    def publish(self, items: list[Item], options: PutOptions) -> None:
        operation_id = new_operation_id()
        self._of_host(
            MEMORY,
            self._node,
            lambda volume: volume.publish.remote(items, options, operation_id),
            path=items[0].path,
            repeatable=True,
        )

    def get(self, pins: Sequence[Pin], paths: Sequence[str]) -> list[Any]:
        if not pins:
            return []
        try:
            values: list[Any] = ray.get([pin.ref for pin in pins], timeout=self.timeout)
        except ray_exceptions.ObjectLostError:
            return [self._get_one(pin, path) for pin, path in zip(pins, paths, strict=True)]
        except ray_exceptions.RayError as error:
            raise self._translated(error, MEMORY, paths[0]) from error
        return values

    def _get_one(self, pin: Pin, path: str) -> Any:
        """Return a value whose object may have lost its owner: the volume then puts it again."""
        try:
            return ray.get(pin.ref, timeout=self.timeout)
        except ray_exceptions.ObjectLostError:
            operation_id = new_operation_id()
            adopted = self._of_host(
                MEMORY,
                pin.node,
                lambda volume: volume.adopt.remote(pin, operation_id),
                path=path,
                repeatable=True,
            )
        except ray_exceptions.RayError as error:
            raise self._translated(error, MEMORY, path) from error
        try:
            return ray.get(adopted.ref, timeout=self.timeout)
        except ray_exceptions.RayError as error:
            raise self._translated(error, MEMORY, path) from error

    def call_host(
        self, key: str, method: str, arguments: tuple[Any, ...], options: dict[str, Any]
    ) -> Any:
        message = pack((method, arguments, options))
        path = next((argument for argument in arguments if isinstance(argument, str)), None)
        return unpack(
            self._of_host(key, self._node, lambda host: host.call.remote(message), path=path)
        )

    def shipped_classes(self) -> dict[str, bytes]:
        shipped: dict[str, bytes] = self._of_store(self._controller.shipped_classes.remote)
        return shipped

    def shutdown(self) -> None:
        with _connecting:
            for key, connection in list(_connections.items()):
                if connection is self:
                    del _connections[key]
        try:
            self._of_store(self._controller.shutdown.remote)
        except StoreUnavailableError:
            return  # it had ended already
        # Only when the controller is gone can the name be used for a new store.
        ended = time.monotonic() + self.timeout
        while time.monotonic() < ended:
            try:
                ray.get(self._controller.shipped_classes.remote(), timeout=self.timeout)
            except ray_exceptions.RayActorError:
                return
            time.sleep(0.05)

    def _of_store(self, call: Callable[[], Any], path: str | None = None) -> Any:
        """Return the controller's answer; without a controller the store is unavailable."""
        try:
            return self._answer(call, MEMORY, path, repeatable=True)
        except HostLostError as error:
            raise StoreUnavailableError(
                f"the store {self._store!r} was shut down, or its controller was lost and with "
                f"it what the memory held; shutdown() lets a new one start",
                path=path,
                backend=MEMORY,
            ) from error

    def _of_host(
        self,
        key: str,
        node: str,
        call: Callable[[Any], Any],
        *,
        path: str | None,
        repeatable: bool = False,
    ) -> Any:
        host = self._host(key, node)
        try:
            return self._answer(lambda: call(host), key, path, repeatable=repeatable)
        except HostLostError:
            # The next call gets a new host.
            self._host(key, node, lost=host._actor_id.hex())  # noqa: SLF001 - Ray documents no other
            raise

    def _host(self, key: str, node: str, lost: str | None = None) -> Any:
        host = self._hosts.get((key, node))
        if host is None or lost is not None:
            shipped = b"" if key == MEMORY else class_to_bytes(backend_class(key))
            host = self._of_store(lambda: self._controller.host.remote(key, node, shipped, lost))
            self._hosts[key, node] = host
        return host

    def _answer(
        self, call: Callable[[], Any], key: str, path: str | None, *, repeatable: bool
    ) -> Any:
        """Return the result of a remote call by the deadline, or raise an error of ours.

        A call whose answer was lost on the way is made again where it is harmless to repeat it.
        """
        deadline = time.monotonic() + self.timeout
        while True:
            try:
                return ray.get(call(), timeout=max(0.0, deadline - time.monotonic()))
            except ray_exceptions.ActorUnavailableError as error:
                if not repeatable or time.monotonic() > deadline - 0.5:
                    raise self._translated(error, key, path) from error
                time.sleep(0.5)
            except ray_exceptions.RayTaskError as error:
                raise self._translated(error, key, path) from None
            except ray_exceptions.RayError as error:
                raise self._translated(error, key, path) from error

    def _translated(self, error: Exception, key: str, path: str | None) -> Exception:
        ours = translated(error, backend=key, path=path, timeout=self.timeout)
        return ours.located(path=path, backend=key) if isinstance(ours, StorageError) else ours
