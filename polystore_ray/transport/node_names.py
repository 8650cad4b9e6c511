"""The nodes that names mean, as a process remembers them for a moment."""

from __future__ import annotations

import time

from polystore_ray.config.nodes import node_called
from polystore_ray.rayapi.placement import known_nodes

__all__ = ["NODES_KNOWN_FOR", "NodeNames"]

NODES_KNOWN_FOR = 5.0
"""Seconds until a process asks again which nodes there are."""


class NodeNames:
    """Find nodes by their names, asking again every few seconds: nodes come and go."""

    def __init__(self, this: str) -> None:
        self._this = this
        self._found: dict[str, tuple[str, float]] = {}

    def node(self, name: str | None) -> str:
        """Return the id of the node with a name, or of this one.

        Raises `NodeNotFoundError` if the name fits no node or several nodes.
        """
        if name is None:
            return self._this
        node, until = self._found.get(name, ("", 0.0))
        if time.monotonic() > until:
            node = node_called(name, known_nodes()).id
            self._found[name] = node, time.monotonic() + NODES_KNOWN_FOR
        return node

    def forget(self, name: str | None) -> None:
        """Ask again which node has a name."""
        self._found.pop(name or "", None)
