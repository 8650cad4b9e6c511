"""The one place where controller, volume and host become Ray actors."""

from __future__ import annotations

import gc
import logging
import pickle
import threading
import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import ray
from ray import exceptions as ray_exceptions

from polystore.exceptions import StorageError
from polystore.seal import Sealed
from polystore_ray.allocator import give_back_at_once
from polystore_ray.backend_options import options_on
from polystore_ray.calls import answer_of, wait_for
from polystore_ray.envelope import Message, as_message, keep_closed, open_message
from polystore_ray.errors import CallTimeoutError, StoreUnavailableError
from polystore_ray.follower import Follower
from polystore_ray.host import MOST_CALLS, BackendHost
from polystore_ray.hosts import HostTable
from polystore_ray.journal import Record
from polystore_ray.leadership import Leadership, Rallied
from polystore_ray.messages import (
    Found,
    Pin,
    Request,
    StaleVolumeError,
    new_operation_id,
)
from polystore_ray.options import StoreOptions
from polystore_ray.placement import (
    CONTROLLER,
    MEMORY,
    actor_options,
    head_node,
    host_name,
    known_nodes,
    needs_of,
    nodes,
    object_store_bytes,
)
from polystore_ray.ray_errors import DIED, translated
from polystore_ray.ray_internals import draining_nodes, job_is_dead
from polystore_ray.read_cache import ReadCache, Shared
from polystore_ray.shipping import carried, opened
from polystore_ray.succession import has_ended
from polystore_ray.upkeep import carry_out
from polystore_ray.volume import BUDGET, MemoryVolume

__all__ = ["StoreOf", "controller_of"]

logger = logging.getLogger(__name__)

_LOOKED_AFTER_EVERY = 1.0  # seconds
# A tree of a million entries has no cycles, and takes long to search for some.
_RARELY = (100_000, 50, 100)
# A volume waits for the controller, which never waits for it; so this only bounds a lost cluster.
_ANSWER_WITHIN = 60.0
# What is pinned is published at once, or never.
_PUBLISHED_AFTER = 300.0
_CACHED = 8  # a host keeps that part of its node's object store
_REFUSING = 8  # calls that a host can refuse while it has as many as it may
_HAD_WITHIN = 40.0  # seconds for objects to come; whoever asked waits longer


class StoreOf:
    """Which store an actor belongs to: its Ray namespace, its job if it has one, its options."""

    def __init__(self, namespace: str, job: str | None, options: StoreOptions) -> None:
        self.namespace = namespace
        self.job = job
        self.options = options


def controller_of(store: StoreOf, *, start: bool = True) -> Any:
    """Return the handle of a store's controller, which is started where there is none.

    Worker nodes come and go, so that it is bound to the head node. Without `start`, one that is
    started ends again if the store has been shut down.
    """
    node = head_node() or ray.get_runtime_context().get_node_id()
    wanted = actor_options(store.namespace, CONTROLLER, node)
    return ControllerActor.options(get_if_exists=True, **wanted).remote(store, start)


class _Controller:
    """The controller of one store: its tree, its hosts, and its end."""

    def __init__(self, store: StoreOf, start: bool) -> None:
        gc.set_threshold(*_RARELY)
        if not start and has_ended(store.namespace):
            ray.actor.exit_actor()
        self._self = ray.get_runtime_context().current_actor
        self._hosts = HostTable(self._make, self._joined, self._lost)
        self._leadership = Leadership(store.namespace, store.options, self._hosts, self._release)
        self._store = StoreOf(store.namespace, store.job, self._leadership.options)
        self._controller = self._leadership.controller
        self._ended = threading.Event()
        self._drained: set[str] = set()
        for work in (self._hosts.watch, self._keep_up, self._lead, self._watch_cluster):
            _in_background(work)

    def call(self, request: bytes) -> bytes | Found:
        """Carry out a small request, which is one bytes object, as is an answer without pins."""
        answer = self.handle(pickle.loads(request))
        if isinstance(answer, Found) and answer.pins:
            return answer
        return pickle.dumps(answer, protocol=5)

    def handle(self, request: Request) -> Any:
        """Carry out a request that holds object references."""
        if not self._leadership.is_used:
            self._leadership.use()
        if self._leadership.lost:
            raise StoreUnavailableError(self._leadership.lost, backend=MEMORY)
        return self._controller.handle(request)

    def publish(
        self, pins: list[Pin], items: bytes, operation_id: str, *volumes: tuple[str, str]
    ) -> None:
        """Publish values whose objects these volumes have pinned; see `StoreController`.

        The references come from whoever owns them, not through a volume: measured in Ray 2.60,
        one in fifty that came through another borrower was lost when that one died.
        """
        self.handle(Request("publish", (pins, pickle.loads(items), volumes), operation_id))

    def about(self) -> tuple[StoreOptions, str]:
        """Return what the store was made with, and what tells it from others of its name."""
        return self._store.options, self._leadership.birth

    def host(self, key: str, node: str, shipped: bytes) -> Any:
        """Return the host of a backend on a node; see `HostTable.host`."""
        return self._hosts.host(key, node, shipped)

    def hosts(self) -> tuple[dict[tuple[str, str], Any], int]:
        """Return all hosts, by backend and node, and how many were lost under this controller."""
        return self._hosts.everywhere(), self._hosts.deaths

    def drain(self, node: str) -> int:
        """Have others hold what a node holds; return how many objects it holds alone still."""
        self._drained.add(node)
        self._tell_of_nodes()
        return self._controller.held_alone_by(node)

    def shipped_classes(self) -> dict[str, bytes]:
        """Return the classes of the hosted backends, by key."""
        return self._hosts.classes()

    @ray.method(concurrency_group="watch")
    def watch(self) -> None:
        """Wait for the end of the store; the caller also learns of a violent one."""
        self._ended.wait()

    def shutdown(self) -> None:
        """End every host, then this actor."""
        self._leadership.end()
        self._hosts.kill_all()
        _in_background(self._leave)

    def _leave(self) -> None:
        time.sleep(0.1)  # lets the answer to `shutdown` out
        ray.kill(self._self)

    # In the background

    def _watch_cluster(self) -> None:
        while True:
            try:
                if self._store.job is not None and job_is_dead(self._store.job):
                    break
                self._tell_of_nodes()
            except Exception:
                # Whatever it is, the store must not outlive its job because nobody looks any more.
                logger.warning("the cluster could not be asked; asking again", exc_info=True)
            time.sleep(_LOOKED_AFTER_EVERY)
        self.shutdown()

    def _tell_of_nodes(self) -> None:
        leaving = self._drained | draining_nodes()
        self._hosts.leaving = leaving
        self._controller.nodes_changed({node["NodeID"] for node in nodes()}, leaving)

    def _lead(self) -> None:
        self._leadership.keep_follower()
        logger.warning("another controller has taken over; this one ends")
        ray.kill(self._self)

    def _keep_up(self) -> None:
        replicas = self._store.options.replicas or 1
        while True:
            chore = None
            try:
                chore = self._controller.chore(_LOOKED_AFTER_EVERY)
                if chore is not None:
                    carry_out(chore, self._controller, self._hosts, replicas)
            except Exception:
                # Whatever it is, nobody waits for it, and it is tried again.
                logger.warning("%s failed; trying again", type(chore).__name__, exc_info=True)
                time.sleep(_LOOKED_AFTER_EVERY)

    # For the table of hosts and the tree

    def _make(self, key: str, node: str, shipped: bytes, *, another: bool = False) -> Any:
        name = host_name(key, node, new_operation_id() if another else "")
        options = actor_options(self._store.namespace, name, node)
        if key == MEMORY:
            return VolumeActor.options(**options).remote(self._self, self._store)
        calls = _REFUSING + (self._store.options.host_calls or MOST_CALLS)
        options |= {"max_concurrency": calls} | needs_of(key, node, opened(shipped).needs)
        return HostActor.options(**options).remote(self._self, self._store, key, shipped)

    def _joined(self, node: str, incarnation: str) -> None:
        self._change("volume_joined", node, incarnation)

    def _lost(self, node: str) -> None:
        self._leadership.journal.lose(node)
        self._change("volume_lost", node)

    def _change(self, operation: str, *arguments: Any) -> None:
        self._controller.note(Request(operation, arguments, new_operation_id()))

    def _release(self, node: str, pins: list[str]) -> None:
        volume = self._hosts.found(MEMORY, node)
        if volume is not None:
            volume.release.remote(pins)


class _Hosting:
    """What volumes and other hosts share: they stay with their store's controller."""

    def __init__(self, controller: Any, store: StoreOf) -> None:
        self._controller = controller
        self._store = store
        self._self = ray.get_runtime_context().current_actor
        _in_background(self._stay_with_the_controller)

    @ray.method(concurrency_group="watch")
    def watch(self) -> None:
        """Wait for ever: whoever calls learns of this actor's death."""
        threading.Event().wait()

    def _stay_with_the_controller(self) -> None:
        """Follow from one controller to the next, and end this actor when the store has ended."""
        while True:
            try:
                ray.get(self._controller.watch.remote())
            except ray_exceptions.ActorUnavailableError:
                time.sleep(_LOOKED_AFTER_EVERY)
            except DIED:
                successor = self._next_controller()
                if successor is None:
                    logger.info("the store has ended; this host ends")
                    self._end()
                    ray.kill(self._self)
                    return
                self._controller = successor

    def _end(self) -> None:
        """Do what is due before the end."""

    def _next_controller(self) -> Any:
        """Return the controller that comes after one that died, None if the store has ended.

        However long that takes: what is held here may be all that is left.
        """
        while True:
            try:
                if has_ended(self._store.namespace):
                    return None
                successor = controller_of(self._store, start=False)
                ray.get(successor.about.remote(), timeout=_ANSWER_WITHIN)
            except (ValueError, ray_exceptions.RayError):
                time.sleep(0.1)  # the dead one still has the name
            else:
                return successor


class _Volume(_Hosting):
    """The memory host of one node."""

    def __init__(self, controller: Any, store: StoreOf) -> None:
        keep_closed()
        context = ray.get_runtime_context()
        self._incarnation = context.get_actor_id() or ""
        self._follower = Follower()
        self._volume = MemoryVolume(
            node=context.get_node_id(),
            incarnation=self._incarnation,
            get=_get,
            put=_put,
            ask=self._ask,
            capacity=object_store_bytes(context.get_node_id()),
            budget=store.options.pin_budget or BUDGET,
        )
        super().__init__(controller, store)
        _in_background(self._volume.make_room)
        _in_background(self._look_after)

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

    def pin(self, pins: list[Pin], timeout: float) -> tuple[str, str]:
        """Pin objects; see `MemoryVolume.pin`."""
        return self._volume.pin(pins, timeout)

    def put(self, head: bytes, buffers: list[Any]) -> Pin:
        """Put a value for a client that cannot; see `MemoryVolume.put`."""
        return self._volume.put(Sealed(head, tuple(buffers)))

    @ray.method(concurrency_group="release")
    def release(self, pins: Iterable[str]) -> None:
        """Let go of pins; see `MemoryVolume.release`."""
        self._volume.release(pins)

    @ray.method(concurrency_group="adopt")
    def adopt(self, pin: Pin, dropped: list[int]) -> Pin:
        """Put an object again; see `MemoryVolume.adopt`."""
        return self._volume.adopt(pin, dropped)

    @ray.method(concurrency_group="adopt")
    def pack(self, messages: list[bytes]) -> tuple[Pin, str]:
        """Put small values as one pack; see `MemoryVolume.pack`."""
        return self._volume.pack(messages)

    @ray.method(concurrency_group="adopt")
    def pin_again(self, pins: list[Pin]) -> tuple[str, list[str], str]:
        """Pin what another volume pins or pinned; see `MemoryVolume.pin_again`."""
        return self._volume.pin_again(pins)

    @ray.method(concurrency_group="release")
    def status(self) -> dict[str, int | None]:
        """Return what is held here; see `MemoryVolume.status`."""
        return self._volume.status()

    # As a follower; one thread, so that changes come in order

    @ray.method(concurrency_group="follow")
    def rally(self, epoch: int, controller: Any) -> Rallied:
        """Turn to a new controller, and tell it what is here."""
        number = self._follower.promise(epoch)
        self._controller = controller
        self._volume.doubt()
        return self._incarnation, number, self._volume.holdings()

    @ray.method(concurrency_group="follow")
    def install(self, epoch: int, number: int, state: bytes) -> None:
        """Take over a state; see `Follower.install`."""
        self._follower.install(epoch, number, state)

    @ray.method(concurrency_group="follow")
    def append(self, epoch: int, first: int, records: list[Record]) -> None:
        """Make changes; see `Follower.append`."""
        self._follower.append(epoch, first, records)

    @ray.method(concurrency_group="follow")
    def state(self, epoch: int) -> tuple[int, bytes]:
        """Return the state; see `Follower.state`."""
        return self._follower.state(epoch)

    @ray.method(concurrency_group="follow")
    def forget(self, epoch: int) -> None:
        """Let go of the state; see `Follower.forget`."""
        self._follower.forget(epoch)


class _Host(_Hosting):
    """The host of one backend on one node."""

    def __init__(self, controller: Any, store: StoreOf, key: str, shipped: bytes) -> None:
        give_back_at_once()
        here = ray.get_runtime_context().get_node_id()
        this = next(node for node in known_nodes() if node.id == here)
        options = store.options
        made_with = options_on(options.backends, key, this)
        self._shipped = shipped
        self._host = BackendHost(key, shipped, made_with, options.host_calls or MOST_CALLS)
        kept = options.read_cache
        if kept is None:
            kept = object_store_bytes(here) // _CACHED
        self._cache = ReadCache(_put, kept)
        super().__init__(controller, store)

    def call(self, message: Message) -> Message | Shared:
        """Run a method of the backend; see `BackendHost.call`."""
        return self._answer(message)

    @ray.method(concurrency_group="transfer")
    def transfer(self, message: Message) -> Message | Shared:
        """Run a method that calls other hosts.

        In threads of its own: two hosts all of whose threads waited for each other would do so for
        ever.
        """
        return self._answer(message)

    def _answer(self, message: Message) -> Message | Shared:
        try:
            method, arguments, options = open_message(message)
            with self._host.admitted():
                run = partial(self._host.call, method, arguments, options)
                if method != "load" or len(arguments) != 1 or options:
                    return as_message(run())
                [path] = arguments
                identify = partial(self._host.content_identity, path)
                return self._cache.load(path, identify, run)
        except Exception as error:  # noqa: BLE001 - see below
            # A backend's own error may be one that no other process could read.
            raise carried(error) from error.__cause__

    @ray.method(concurrency_group="manage")
    def status(self) -> dict[str, int]:
        """Return what the host does and keeps."""
        return {**self._cache.status(), "hosted_calls": self._host.calls}

    @ray.method(concurrency_group="manage")
    def shipped(self) -> bytes:
        """Return the backend's class, for another controller."""
        return self._shipped

    @ray.method(concurrency_group="manage")
    def close(self) -> None:
        """End in order; see `BackendHost.close`."""
        self._host.close()

    def _end(self) -> None:
        try:
            self._host.close()
        except Exception:
            # Whatever it is, this process ends.
            logger.warning("the backend did not close", exc_info=True)


def _get(references: list[Any]) -> list[Any]:
    """Return what references lead to, or why one leads to nothing.

    All at once: measured, it takes Ray a second to tell that the owner of an object is dead.
    """
    deadline = time.monotonic() + _HAD_WITHIN
    try:
        found: list[Any] = wait_for(references, backend=MEMORY, timeout=_HAD_WITHIN)
    except StorageError as error:
        if len(references) == 1:
            return [error]
    else:
        return found
    different = list(dict.fromkeys(references))
    left = max(0.0, deadline - time.monotonic())
    ready, _ = ray.wait(different, num_returns=len(different), timeout=left)
    late = CallTimeoutError(f"it did not come within {_HAD_WITHIN:g} s", backend=MEMORY)
    known = {reference: _get([reference])[0] for reference in ready}
    return [known.get(reference, late) for reference in references]


def _put(envelope: Any) -> Any:
    try:
        return ray.put(envelope)
    except ray_exceptions.RayError as error:
        raise translated(error, backend=MEMORY) from error


def _in_background(work: Callable[[], None]) -> None:
    threading.Thread(target=work, daemon=True).start()


# Threads: measured, an empty asyncio call costs 1.3 of a threaded one.
_remote: Any = ray.remote  # whose types know neither concurrency groups nor options of actors
ControllerActor = _remote(concurrency_groups={"watch": 1}, max_concurrency=16)(_Controller)
VolumeActor = _remote(
    concurrency_groups={"adopt": 2, "release": 1, "watch": 1, "follow": 1}, max_concurrency=16
)(_Volume)
HostActor = _remote(concurrency_groups={"watch": 1, "manage": 2, "transfer": 4})(_Host)
