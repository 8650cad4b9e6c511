"""The seam between what clients see and where a store lives: a cluster, or this process."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from polystore.seal import Sealed
from polystore_ray.messages import Item, Pin, PutOptions

__all__ = ["Transport"]


class Transport(ABC):
    """Reach one store. Every wait has a deadline; every error is a `StorageError`."""

    @abstractmethod
    def ask(self, operation: str, *arguments: Any, path: str | None = None) -> Any:
        """Return the controller's answer to a question about the tree."""

    @abstractmethod
    def change(self, operation: str, *arguments: Any, path: str | None = None) -> Any:
        """Let the controller change the tree, once, and return its answer."""

    @abstractmethod
    def put(self, sealed: Sealed) -> Pin:
        """Store the bytes of a sealed value on this node; they are pinned by `publish`."""

    @abstractmethod
    def publish(self, items: list[Item], options: PutOptions) -> None:
        """Pin what was `put`, then make all items visible at once, or none."""

    @abstractmethod
    def get(self, pins: Sequence[Pin], paths: Sequence[str]) -> list[Any]:
        """Return the values of pinned objects, their arrays as read-only views."""

    @abstractmethod
    def call_host(
        self, key: str, method: str, arguments: tuple[Any, ...], options: dict[str, Any]
    ) -> Any:
        """Run a method of the backend `key` in its host on this node and return its result."""

    @abstractmethod
    def shipped_classes(self) -> dict[str, bytes]:
        """Return the classes of custom backends that the store has hosts of."""

    @abstractmethod
    def shutdown(self) -> None:
        """End the store and everything in it."""
