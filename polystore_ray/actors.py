"""The one place where controller, volume and host become Ray actors."""

from __future__ import annotations

import logging
import pickle
import threading
import time
from collections.abc import Callable
from typing import Any

import ray
from ray import exceptions as ray_exceptions

from polystore.exceptions import portable
from polystore_ray.controller import StoreController
from polystore_ray.envelope import Message, keep_closed, pack, unpack
from polystore_ray.host import BackendHost
from polystore_ray.messages import Item, Pin, PutOptions, Request
from polystore_ray.placement import actor_options, host_name, job_is_dead
from polystore_ray.volume import MemoryVolume

__all__ = ["ControllerActor", "HostActor", "VolumeActor"]

logger = logging.getLogger(__name__)

MEMORY = "memory"
_JOB_CHECKED_EVERY = 1.0  # seconds
# A volume waits for the controller, which never waits for it; so this only bounds a lost cluster.
_ANSWER_WITHIN = 60.0


class _Controller:
    """The controller of one store: its tree, its hosts, and its end."""

    def __init__(self, namespace: str, job: str | None) -> None:
        self._namespace = namespace
        self._controller = StoreController(self._release)
        self._hosts: dict[tuple[str, str], Any] = {}
        self._classes: dict[str, bytes] = {}
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._self = ray.get_runtime_context().current_actor
        if job is not None:
            _in_background(lambda: self._end_with(job))

    def call(self, request: bytes) -> Any:
        """Carry out a small request, which is one bytes object."""
        return self._controller.handle(pickle.loads(request))

    def handle(self, request: Request) -> Any:
        """Carry out a request that holds object references."""
        return self._controller.handle(request)

    def host(self, key: str, node: str, shipped: bytes, lost: str | None) -> Any:
        """Return the host of a backend on a node, made on first use and anew when it was lost.

        Parameters
        ----------
        key, node : str
            The backend's key and the node's id.
        shipped : bytes
            The backend's class.
        lost : str, optional
            The id of the actor that a caller found dead.
        """
        with self._lock:
            host = self._hosts.get((key, node))
            if host is None or host._actor_id.hex() == lost:  # noqa: SLF001 - Ray documents no other
                options = actor_options(self._namespace, host_name(key, node), node, movable=False)
                if key == MEMORY:
                    host = VolumeActor.options(**options).remote(self._self)
                else:
                    host = HostActor.options(**options).remote(self._self, key, shipped)
                    self._classes[key] = shipped
                self._hosts[key, node] = host
            return host

    def shipped_classes(self) -> dict[str, bytes]:
        """Return the classes of the hosted backends, by key."""
        with self._lock:
            return dict(self._classes)

    @ray.method(concurrency_group="watch")
    def watch(self) -> None:
        """Wait for the end of the store; the caller also learns of a violent one."""
        self._ended.wait()

    def shutdown(self) -> None:
        """End every host, then this actor."""
        with self._lock:
            hosts, self._hosts = self._hosts, {}
        for host in hosts.values():
            ray.kill(host)
        _in_background(self._leave)

    def _leave(self) -> None:
        time.sleep(0.1)  # lets the answer to `shutdown` out
        ray.kill(self._self)

    def _end_with(self, job: str) -> None:
        while not job_is_dead(job):
            time.sleep(_JOB_CHECKED_EVERY)
        self.shutdown()

    def _release(self, node: str, pins: list[str]) -> None:
        with self._lock:
            volume = self._hosts.get((MEMORY, node))
        if volume is not None:
            volume.release.remote(pins)


class _Volume:
    """The memory host of one node."""

    def __init__(self, controller: Any) -> None:
        keep_closed()
        self._volume = MemoryVolume(
            get=lambda refs: ray.get(refs, timeout=_ANSWER_WITHIN),
            put=ray.put,
            ask=lambda request: ray.get(controller.handle.remote(request), timeout=_ANSWER_WITHIN),
        )
        _end_with(controller)

    def publish(self, items: list[Item], options: PutOptions, operation_id: str) -> None:
        """Pin and publish; see `MemoryVolume.publish`."""
        self._volume.publish(items, options, operation_id)

    @ray.method(concurrency_group="release")
    def release(self, pins: list[str]) -> None:
        """Let go of pins; see `MemoryVolume.release`."""
        self._volume.release(pins)

    @ray.method(concurrency_group="adopt")
    def adopt(self, pin: Pin, operation_id: str) -> Pin:
        """Put an object again; see `MemoryVolume.adopt`."""
        return self._volume.adopt(pin, operation_id)


class _Host:
    """The host of one backend on one node."""

    def __init__(self, controller: Any, key: str, shipped: bytes) -> None:
        self._host = BackendHost(key, shipped)
        _end_with(controller)

    def call(self, message: Message) -> Message:
        """Run a method of the backend; see `BackendHost.call`."""
        try:
            return pack(self._host.call(*unpack(message)))
        except Exception as error:  # noqa: BLE001 - see below
            # A backend's own error may be one that no other process could read.
            raise portable(error) from error.__cause__


def _end_with(controller: Any) -> None:
    """End this actor when its controller is gone for good."""
    this = ray.get_runtime_context().current_actor

    def watch() -> None:
        while True:
            try:
                ray.get(controller.watch.remote())
            except ray_exceptions.ActorUnavailableError:
                time.sleep(1)
            except ray_exceptions.RayActorError:
                logger.info("the controller is gone; this host ends")
                ray.kill(this)
                return

    _in_background(watch)


def _in_background(work: Callable[[], None]) -> None:
    threading.Thread(target=work, daemon=True).start()


# Threads: measured, an empty asyncio call costs 1.3 of a threaded one.
_remote: Any = ray.remote  # whose types know neither concurrency groups nor options of actors
ControllerActor = _remote(concurrency_groups={"watch": 1}, max_concurrency=16)(_Controller)
VolumeActor = _remote(concurrency_groups={"adopt": 2, "release": 1}, max_concurrency=16)(_Volume)
HostActor = _remote(max_concurrency=8)(_Host)
