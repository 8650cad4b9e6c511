"""The backends of one node, as a registry of their own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from polystore.base import StorageBackend
from polystore.exceptions import VFSTypeError
from polystore.registration import backend_key

__all__ = ["OnNode"]


class OnNode(Mapping[str, StorageBackend]):
    """A registry's backends on one node; the memory is on all.

    - `registry`: that of the store, whose keys may name a node
    - `node`: what names the node
    """

    def __init__(self, registry: Mapping[str, StorageBackend], node: str) -> None:
        self._registry = registry
        self._node = node

    def __getitem__(self, key: object) -> Any:
        return self._registry[f"{backend_key(key)}@{self._node}"]

    def __iter__(self) -> Iterator[str]:
        return (key for key in self._registry if key != "memory")

    def __len__(self) -> int:
        return len(list(iter(self)))

    def __contains__(self, key: object) -> bool:
        try:
            return f"{backend_key(key)}@{self._node}" in self._registry
        except VFSTypeError:
            return False

    def __repr__(self) -> str:
        return f"{self._registry!r}.on({self._node!r})"
