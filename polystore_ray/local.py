"""Local mode: a store in this process that behaves as one on a cluster, without Ray."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Sequence
from typing import Any

from polystore.backend_registry import backend_class
from polystore.seal import Sealed
from polystore_ray.controller import StoreController
from polystore_ray.envelope import Envelope, pack, pack_sealed, unpack
from polystore_ray.host import BackendHost, class_to_bytes
from polystore_ray.messages import Item, Pin, PutOptions, Request, new_operation_id
from polystore_ray.transport import Transport
from polystore_ray.volume import MemoryVolume

__all__ = ["LocalTransport"]


class LocalTransport(Transport):
    """The same controller, volume and hosts as on a cluster, called directly.

    Arguments and results pass through the same serialisation, so that what is saved is a
    snapshot, what is loaded is read-only, and what does not pickle fails here too.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._ids = itertools.count()
        self.shutdown()

    def ask(self, operation: str, *arguments: Any, path: str | None = None) -> Any:
        return self._controller.handle(Request(operation, arguments))

    def change(self, operation: str, *arguments: Any, path: str | None = None) -> Any:
        return self._controller.handle(Request(operation, arguments, new_operation_id()))

    def put(self, sealed: Sealed) -> Pin:
        return Pin(f"{next(self._ids)}", "local", Envelope(sealed.copied()))

    def publish(self, items: list[Item], options: PutOptions) -> None:
        self._volume.publish(items, options, new_operation_id())

    def get(self, pins: Sequence[Pin], paths: Sequence[str]) -> list[Any]:
        return [pin.ref.sealed.open() for pin in pins]

    def call_host(
        self, key: str, method: str, arguments: tuple[Any, ...], options: dict[str, Any]
    ) -> Any:
        cls = backend_class(key)
        with self._lock:
            cached = self._hosts.get(key)
            if cached is None or cached[0] is not cls:
                cached = self._hosts[key] = (cls, BackendHost(key, class_to_bytes(cls)))
        return _as_sent(cached[1].call(method, *_as_sent((arguments, options))))

    def shipped_classes(self) -> dict[str, bytes]:
        return {}

    def shutdown(self) -> None:
        with self._lock:
            hosts = getattr(self, "_hosts", {})
            self._hosts: dict[str, tuple[type, BackendHost]] = {}
            self._controller = StoreController(
                release=lambda _node, pins: self._volume.release(pins)
            )
            self._volume = MemoryVolume(
                get=lambda refs: refs, put=lambda envelope: envelope, ask=self._controller.handle
            )
        for _, host in hosts.values():
            host.close()


def _as_sent(value: Any) -> Any:
    """Return `value` as it arrives at the other side of a call on a cluster."""
    message = pack(value)
    return unpack(message if isinstance(message, bytes) else pack_sealed(message[0].sealed))
