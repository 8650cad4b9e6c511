"""Upkeep of a store: what is done in the background, so that nobody waits for it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Protocol

from polystore_ray.controller import StoreController
from polystore_ray.ledger import Adopt, Chore, PackInline, PinAgain
from polystore_ray.messages import Pin, Request, new_operation_id

__all__ = ["Volumes", "carry_out"]


class Volumes(Protocol):
    """The volumes of a store, as its upkeep calls them."""

    def pack(self, messages: Sequence[bytes]) -> Pin:
        """Have some volume put these small values as one pack."""

    def adopt(self, pin: Pin, dropped: Sequence[int]) -> Pin:
        """Have the volume of an object put it again without some values."""

    def pin_again(self, node: str, pins: list[Pin]) -> tuple[str, list[str], str]:
        """Have objects pinned on this node, or another if it is gone.

        Return the node, the ids of what is pinned now, and why the others are not.
        """


def carry_out(chore: Chore, controller: StoreController, volumes: Volumes) -> None:
    """Do one chore and tell the controller; if it fails, it is still due.

    Raises
    ------
    NotPinnedError
        If an object was released in between, or its volume lost, which is another chore.
    Exception
        If a volume does not answer.
    """
    if isinstance(chore, PackInline):
        pin = volumes.pack(chore.messages)
        _change(controller, "packed", pin, chore.serials)
    elif isinstance(chore, Adopt):
        volumes.adopt(chore.pin, chore.dropped)
    elif isinstance(chore, PinAgain):
        node, pinned, reason = volumes.pin_again(chore.node, chore.pins)
        _change(controller, "pinned_again", node, pinned)
        lost = [pin.id for pin in chore.pins if pin.id not in pinned]
        _change(
            controller,
            "lost",
            lost,
            f"the saved bytes were on node {chore.node}, whose memory host was lost by "
            f"{time.strftime('%Y-%m-%d %H:%M:%S')}, and the process that saved them had ended "
            f"({reason})",
        )


def _change(controller: StoreController, operation: str, *arguments: object) -> None:
    controller.handle(Request(operation, arguments, new_operation_id()))
