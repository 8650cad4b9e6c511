"""Upkeep of a store: what is done in the background, so that nobody waits for it."""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress
from typing import Protocol

from polystore.exceptions import StorageError
from polystore_ray.controller.copies import Replicate
from polystore_ray.controller.ledger import Adopt, PackInline, Repair
from polystore_ray.controller.state import StoreController
from polystore_ray.wire.messages import Loss, NotPinnedError, Pin

__all__ = ["Volumes", "carry_out"]

logger = logging.getLogger(__name__)


class Volumes(Protocol):
    """The volumes of a store, as its upkeep calls them."""

    def pack(self, messages: Sequence[bytes]) -> tuple[Pin, str]:
        """Have some volume, of which the incarnation is told, put small values as one pack."""

    def adopt(self, node: str, pin: Pin, dropped: Sequence[int]) -> Pin:
        """Have a volume put an object again, without some values of a pack."""

    def place(self, pin: Pin, preferred: str) -> str | None:
        """Return a node that could have a copy of an object and has none; None if there is none."""

    def host_of(self, node: str) -> str:
        """Return the host name of a node, also of one that is gone; empty if it is not known."""

    def pin_again(self, node: str, pins: list[Pin]) -> tuple[str, list[str], dict[str, str]]:
        """Have objects pinned on a node as well, as far as they can be had.

        Return the incarnation of its volume, the ids of what is pinned there now, and which others
        nobody can get any more through their references, and why.
        """


def carry_out(repair: Repair, controller: StoreController, volumes: Volumes, replicas: int) -> None:
    """Do one repair and tell the controller; if it fails, it is still due.

    Raises `NotPinnedError` if an object was released in between, or its volume lost, which is
    another repair; `Exception` if a volume does not answer.
    """
    if isinstance(repair, PackInline):
        _pack(repair, controller, volumes, replicas)
    elif isinstance(repair, Adopt):
        for node in repair.pin.nodes:
            volumes.adopt(node, repair.pin, repair.dropped)
    else:
        _replicate(repair, controller, volumes)


def _pack(repair: PackInline, controller: StoreController, volumes: Volumes, replicas: int) -> None:
    """Have inline values packed, and held on as many nodes as they should be, before they go."""
    pin, incarnation = volumes.pack(repair.messages)
    held_by = [(pin.nodes[0], incarnation)]
    while len(held_by) < replicas:
        there = pin._replace(nodes=tuple(node for node, _ in held_by))
        node = volumes.place(there, "")
        if node is None:
            break
        incarnation, pinned, _ = volumes.pin_again(node, [pin])
        if not pinned:
            raise NotPinnedError(f"node {node} could not get the pack {pin.id}")
        held_by.append((node, incarnation))
    controller.note("packed", pin, repair.serials, replicas, held_by)


def _replicate(repair: Replicate, controller: StoreController, volumes: Volumes) -> None:
    placed: dict[str, list[Pin]] = defaultdict(list)
    for pin in repair.pins:
        node = volumes.place(pin, repair.lost)
        if node is not None:
            placed[node].append(pin)
    if not placed:
        raise NotPinnedError("there is no node that stays for what lost its node")
    failed: Exception | None = None
    for node, pins in placed.items():
        try:
            _replicate_on(node, pins, repair.lost, controller, volumes)
        except Exception as error:  # noqa: BLE001 - it is raised once all nodes had their turn
            failed = error
    if failed is not None:
        raise failed


def _replicate_on(
    node: str, pins: list[Pin], lost_node: str, controller: StoreController, volumes: Volumes
) -> None:
    missing, why = _pin_again(node, pins, controller, volumes)
    lost = [pin.id for pin in missing if not pin.nodes and pin.id in why]
    if lost:
        host = volumes.host_of(lost_node)
        loss = Loss(lost_node, host, time.time(), why[lost[-1]])
        values, nbytes = controller.note("lost", lost, loss)
        logger.warning("%d values of %d bytes are lost: %s (%s)", values, nbytes, loss, loss.cause)
    # The savers of the others are gone, so that their references lead to nothing.
    again = {pin.id: _put_again(pin, volumes) for pin in missing if pin.nodes}
    owned = [pin for pin in again.values() if pin is not None]
    if owned:
        _pin_again(node, owned, controller, volumes)
    late = len(missing) - len(lost) - len(owned)
    if late:
        raise NotPinnedError(f"{late} objects did not reach node {node} in time")


def _pin_again(
    node: str, pins: list[Pin], controller: StoreController, volumes: Volumes
) -> tuple[list[Pin], dict[str, str]]:
    """Have a node pin objects; return those that it has not, and why some cannot be had."""
    incarnation, pinned, lost = volumes.pin_again(node, pins)
    controller.note("pinned", node, incarnation, pinned)
    found = set(pinned)
    return [pin for pin in pins if pin.id not in found], lost


def _put_again(pin: Pin, volumes: Volumes) -> Pin | None:
    for node in pin.nodes:
        with suppress(NotPinnedError, StorageError):
            return volumes.adopt(node, pin, [])
    return None
