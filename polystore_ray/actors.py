"""The one place where controller, volume and host become Ray actors."""

from __future__ import annotations

import gc
import logging
import pickle
import threading
import time
from collections.abc import Callable
from typing import Any

import ray
from ray import exceptions as ray_exceptions

from polystore.exceptions import StorageError, portable
from polystore.seal import Sealed
from polystore_ray.calls import answer_of, wait_for
from polystore_ray.controller import StoreController
from polystore_ray.envelope import Message, as_message, keep_closed, open_message
from polystore_ray.host import BackendHost
from polystore_ray.hosts import HostTable
from polystore_ray.ledger import Ledger
from polystore_ray.messages import Found, Pin, Request, StaleVolumeError, new_operation_id
from polystore_ray.options import StoreOptions
from polystore_ray.placement import MEMORY, actor_options, host_name, object_store_bytes
from polystore_ray.ray_errors import translated
from polystore_ray.ray_internals import job_is_dead
from polystore_ray.upkeep import carry_out
from polystore_ray.volume import BUDGET, MemoryVolume

__all__ = ["ControllerActor", "HostActor", "VolumeActor"]

logger = logging.getLogger(__name__)

_LOOKED_AFTER_EVERY = 1.0  # seconds
# A tree of a million entries has no cycles, and takes long to search for some.
_RARELY = (100_000, 50, 100)
# A volume waits for the controller, which never waits for it; so this only bounds a lost cluster.
_ANSWER_WITHIN = 60.0
# What is pinned is published at once, or never.
_PUBLISHED_AFTER = 300.0


class _Controller:
    """The controller of one store: its tree, its hosts, and its end."""

    def __init__(self, namespace: str, job: str | None, options: StoreOptions) -> None:
        gc.set_threshold(*_RARELY)
        self._namespace = namespace
        self._options = options
        self._controller = StoreController(self._release, Ledger(options.max_bytes))
        self._hosts = HostTable(self._make, self._joined, self._lost)
        self._ended = threading.Event()
        self._self = ray.get_runtime_context().current_actor
        _in_background(self._hosts.watch)
        _in_background(self._look_after)
        if job is not None:
            _in_background(lambda: self._end_with(job))

    def call(self, request: bytes) -> bytes | Found:
        """Carry out a small request, which is one bytes object, as is an answer without pins."""
        answer = self._controller.handle(pickle.loads(request))
        if isinstance(answer, Found) and answer.pins:
            return answer
        return pickle.dumps(answer, protocol=5)

    def handle(self, request: Request) -> Any:
        """Carry out a request that holds object references."""
        return self._controller.handle(request)

    def publish(self, pins: list[Pin], items: bytes, operation_id: str, volume: str) -> None:
        """Publish values whose objects are pinned; see `StoreController`.

        The references come from whoever owns them, not through the volume: measured in Ray 2.60,
        one in fifty that came through another borrower was lost when that one died.
        """
        arguments = (pins, pickle.loads(items), volume)
        self._controller.handle(Request("publish", arguments, operation_id))

    def options(self) -> StoreOptions:
        """Return what the store was made with."""
        return self._options

    def host(self, key: str, node: str, shipped: bytes, lost: str | None) -> Any:
        """Return the host of a backend on a node; see `HostTable.host`."""
        return self._hosts.host(key, node, shipped, lost)

    def hosts(self) -> dict[tuple[str, str], Any]:
        """Return all hosts, by backend and node."""
        return self._hosts.everywhere()

    def shipped_classes(self) -> dict[str, bytes]:
        """Return the classes of the hosted backends, by key."""
        return self._hosts.classes()

    @ray.method(concurrency_group="watch")
    def watch(self) -> None:
        """Wait for the end of the store; the caller also learns of a violent one."""
        self._ended.wait()

    def shutdown(self) -> None:
        """End every host, then this actor."""
        self._hosts.kill_all()
        _in_background(self._leave)

    def _leave(self) -> None:
        time.sleep(0.1)  # lets the answer to `shutdown` out
        ray.kill(self._self)

    def _end_with(self, job: str) -> None:
        while not job_is_dead(job):
            time.sleep(_LOOKED_AFTER_EVERY)
        self.shutdown()

    def _make(self, key: str, node: str, shipped: bytes) -> Any:
        options = actor_options(self._namespace, host_name(key, node), node)
        if key == MEMORY:
            return VolumeActor.options(**options).remote(self._self, self._options)
        return HostActor.options(**options).remote(self._self, key, shipped)

    def _joined(self, node: str, incarnation: str) -> None:
        self._change("volume_joined", node, incarnation)

    def _lost(self, node: str) -> None:
        self._change("volume_lost", node)

    def _change(self, operation: str, *arguments: Any) -> None:
        self._controller.handle(Request(operation, arguments, new_operation_id()))

    def _release(self, node: str, pins: list[str]) -> None:
        volume = self._hosts.found(MEMORY, node)
        if volume is not None:
            volume.release.remote(pins)

    def _look_after(self) -> None:
        while True:
            chore = self._controller.chore(_LOOKED_AFTER_EVERY)
            if chore is None:
                continue
            try:
                carry_out(chore, self._controller, self._hosts)
            except Exception:
                # Whatever it is, nobody waits for it, and it is tried again.
                logger.warning("%s failed; trying again", type(chore).__name__, exc_info=True)
                time.sleep(_LOOKED_AFTER_EVERY)


class _Volume:
    """The memory host of one node."""

    def __init__(self, controller: Any, options: StoreOptions) -> None:
        keep_closed()
        context = ray.get_runtime_context()
        self._self = context.current_actor
        self._controller = controller
        self._volume = MemoryVolume(
            node=context.get_node_id(),
            incarnation=context.get_actor_id() or "",
            get=_get,
            put=_put,
            ask=self._ask,
            capacity=object_store_bytes(context.get_node_id()),
            budget=options.pin_budget or BUDGET,
        )
        _in_background(self._volume.make_room)
        _in_background(self._look_after)
        _end_with(controller)

    def _ask(self, request: Request) -> Any:
        return answer_of(
            lambda: self._controller.handle.remote(request),
            backend=MEMORY,
            timeout=_ANSWER_WITHIN,
            repeatable=True,
        )

    def _look_after(self) -> None:
        while True:
            time.sleep(_ANSWER_WITHIN)
            try:
                self._volume.reconcile(_PUBLISHED_AFTER)
            except StaleVolumeError:
                logger.warning("the store has another volume for this node; this one ends")
                ray.kill(self._self)
            except StorageError:
                logger.warning("the controller does not answer; asking again", exc_info=True)

    def pin(self, pins: list[Pin], timeout: float) -> str:
        """Pin objects; see `MemoryVolume.pin`."""
        return self._volume.pin(pins, timeout)

    def put(self, head: bytes, buffers: list[Any]) -> Pin:
        """Put a value for a client that cannot; see `MemoryVolume.put`."""
        return self._volume.put(Sealed(head, tuple(buffers)))

    @ray.method(concurrency_group="release")
    def release(self, pins: list[str]) -> None:
        """Let go of pins; see `MemoryVolume.release`."""
        self._volume.release(pins)

    @ray.method(concurrency_group="adopt")
    def adopt(self, pin: Pin, dropped: list[int]) -> Pin:
        """Put an object again; see `MemoryVolume.adopt`."""
        return self._volume.adopt(pin, dropped)

    @ray.method(concurrency_group="adopt")
    def pack(self, messages: list[bytes]) -> Pin:
        """Put small values as one pack; see `MemoryVolume.pack`."""
        return self._volume.pack(messages)

    @ray.method(concurrency_group="adopt")
    def pin_again(self, pins: list[Pin]) -> tuple[list[str], str]:
        """Pin what another volume pinned; see `MemoryVolume.pin_again`."""
        return self._volume.pin_again(pins)

    @ray.method(concurrency_group="release")
    def status(self) -> dict[str, int | None]:
        """Return what is held here; see `MemoryVolume.status`."""
        return self._volume.status()

    @ray.method(concurrency_group="watch")
    def watch(self) -> None:
        """Wait for ever: whoever calls learns of this actor's death."""
        threading.Event().wait()


class _Host:
    """The host of one backend on one node."""

    def __init__(self, controller: Any, key: str, shipped: bytes) -> None:
        self._host = BackendHost(key, shipped)
        _end_with(controller)

    def call(self, message: Message) -> Message:
        """Run a method of the backend; see `BackendHost.call`."""
        try:
            return as_message(self._host.call(*open_message(message)))
        except Exception as error:  # noqa: BLE001 - see below
            # A backend's own error may be one that no other process could read.
            raise portable(error) from error.__cause__

    @ray.method(concurrency_group="watch")
    def watch(self) -> None:
        """Wait for ever: whoever calls learns of this actor's death."""
        threading.Event().wait()


def _get(references: list[Any]) -> list[Any]:
    envelopes: list[Any] = wait_for(references, backend=MEMORY, timeout=_ANSWER_WITHIN)
    return envelopes


def _put(envelope: Any) -> Any:
    try:
        return ray.put(envelope)
    except ray_exceptions.RayError as error:
        raise translated(error, backend=MEMORY) from error


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
VolumeActor = _remote(
    concurrency_groups={"adopt": 2, "release": 1, "watch": 1}, max_concurrency=16
)(_Volume)
HostActor = _remote(concurrency_groups={"watch": 1}, max_concurrency=8)(_Host)
