"""The actor of a volume: the memory host of one node, and the follower of a tree."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable
from typing import Any

import ray

from polystore.exceptions import StorageError
from polystore.serialization import Sealed
from polystore_ray.actors.base import (
    ANSWER_WITHIN,
    FindController,
    Hosting,
    StoreOf,
    as_actor,
    in_background,
    put,
)
from polystore_ray.controller.journal import Record
from polystore_ray.controller.leases import Paths
from polystore_ray.errors import CallTimeoutError
from polystore_ray.hosting.lease_keeper import LeaseKeeper
from polystore_ray.hosting.volume import BUDGET, MemoryVolume
from polystore_ray.rayapi.calls import answer_of, wait_for
from polystore_ray.rayapi.placement import MEMORY, board_path, object_store_bytes
from polystore_ray.replication.follower import Follower
from polystore_ray.wire.envelope import keep_closed
from polystore_ray.wire.lease_board import LEASE, WritableLeaseBoard
from polystore_ray.wire.messages import Joined, Pin, Renewal, Request, StaleVolumeError

__all__ = ["VolumeActor"]

logger = logging.getLogger(__name__)

# What is pinned is published at once, or never.
_PUBLISHED_AFTER = 300.0
_HAD_WITHIN = 40.0  # seconds for objects to come; whoever asked waits longer


class _Volume(Hosting):
    """The memory host of one node."""

    def __init__(self, controller: Any, store: StoreOf, find_controller: FindController) -> None:
        keep_closed()
        context = ray.get_runtime_context()
        self._node, self._incarnation = context.get_node_id(), context.get_actor_id() or ""
        self._follower = Follower()
        self._volume = MemoryVolume(
            node=context.get_node_id(),
            incarnation=self._incarnation,
            get=_get,
            put=put,
            ask=self._ask,
            capacity=object_store_bytes(context.get_node_id()),
            budget=store.options.pin_budget or BUDGET,
        )
        super().__init__(controller, store, find_controller)
        self._board = board_path(store.namespace, context.get_node_id(), self._incarnation)
        self._leases = LeaseKeeper(WritableLeaseBoard(self._board), self._renewal)
        in_background(self._volume.make_room)
        in_background(self._look_after)
        in_background(self._leases.keep)

    def _ask(self, request: Request) -> Any:
        return answer_of(
            lambda: self._controller.handle.remote(request),
            backend=MEMORY,
            timeout=ANSWER_WITHIN,
            repeatable=True,
        )

    def _look_after(self) -> None:
        while True:
            time.sleep(ANSWER_WITHIN)
            try:
                self._volume.reconcile(_PUBLISHED_AFTER)
            except StaleVolumeError:
                logger.warning("the store has another volume for this node; this one ends")
                ray.kill(self._self)
            except StorageError:
                logger.warning("the controller does not answer; asking again", exc_info=True)

    def _renewal(self) -> Renewal | None:
        try:
            renewal: Renewal | None = answer_of(
                lambda: self._controller.renew_lease.remote(self._node, self._incarnation),
                backend=MEMORY,
                timeout=LEASE,
                repeatable=False,
            )
        except StorageError:
            return None  # the lease runs out, and is asked for again
        return renewal

    @ray.method(concurrency_group="leases")
    def lease(self) -> str:
        """Keep the read lease of the node for a while; return the path of its board."""
        self._leases.want()
        return self._board

    @ray.method(concurrency_group="leases")
    def count(self, term: int, paths: Paths) -> bool:
        """Have nobody use what was read of these paths; see `WritableLeaseBoard.count`."""
        return self._leases.count(term, paths)

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
    def pin_again(self, pins: list[Pin]) -> tuple[str, list[str], dict[str, str]]:
        """Pin what another volume pins or pinned; see `MemoryVolume.pin_again`."""
        return self._volume.pin_again(pins)

    @ray.method(concurrency_group="release")
    def status(self) -> dict[str, int | None]:
        """Return what is held here; see `MemoryVolume.status`."""
        return self._volume.status()

    # As a follower; one thread, so that changes come in order

    @ray.method(concurrency_group="follow")
    def join(self, epoch: int, controller: Any) -> Joined:
        """Turn to a new controller, and tell it what is here."""
        self._follower.promise(epoch)
        self._controller = controller
        self._leases.turn_to(epoch)
        self._volume.doubt()
        return Joined(self._incarnation, self._volume.holdings())

    @ray.method(concurrency_group="follow")
    def take(self, epoch: int, first: bool, part: bytes) -> None:
        """Keep a part of a state; see `Follower.take`."""
        self._follower.take(epoch, first, part)

    @ray.method(concurrency_group="follow")
    def install(self, epoch: int, number: int, parts: int) -> None:
        """Take over a state; see `Follower.install`."""
        self._follower.install(epoch, number, parts)

    @ray.method(concurrency_group="follow")
    def append(self, epoch: int, first: int, records: list[Record]) -> None:
        """Make changes; see `Follower.append`."""
        self._follower.append(epoch, first, records)

    @ray.method(concurrency_group="follow")
    def state(self, epoch: int) -> tuple[int, list[bytes]]:
        """Return the state; see `Follower.state`."""
        return self._follower.state(epoch)

    @ray.method(concurrency_group="follow")
    def forget(self, epoch: int) -> None:
        """Let go of the state; see `Follower.forget`."""
        self._follower.forget(epoch)


VolumeActor = as_actor(
    concurrency_groups={"adopt": 2, "leases": 1, "release": 1, "watch": 1, "follow": 1},
    max_concurrency=16,
)(_Volume)


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
