"""The nodes that are to hold a value: the caller's first, then others in turn."""

from __future__ import annotations

import itertools
import time
import warnings

from polystore_ray.errors import TooFewNodesError
from polystore_ray.rayapi.placement import MEMORY, nodes
from polystore_ray.transport.node_names import NODES_KNOWN_FOR

__all__ = ["ReplicaNodes"]


class ReplicaNodes:
    """Choose nodes for the replicas of values; if lenient, warn where there are too few."""

    def __init__(self, this: str, *, is_lenient: bool) -> None:
        self._this = this
        self._is_lenient = is_lenient
        self._others: list[str] = []
        self._until = 0.0
        self._turns = itertools.count()

    def forget(self) -> None:
        """Ask again which nodes there are."""
        self._until = 0.0

    def choose(self, replicas: int) -> list[str]:
        """Return the nodes that are to hold a value; raise TooFewNodesError if there are fewer."""
        if replicas == 1:
            return [self._this]
        if time.monotonic() > self._until or len(self._others) < replicas - 1:  # some may have come
            self._others = [node["NodeID"] for node in nodes() if node["NodeID"] != self._this]
            self._until = time.monotonic() + NODES_KNOWN_FOR
        others = self._others
        if len(others) < replicas - 1:
            self._too_few(replicas, 1 + len(others))
        start = next(self._turns) % max(1, len(others))
        return [self._this, *(others[start:] + others[:start])[: replicas - 1]]

    def _too_few(self, replicas: int, there_are: int) -> None:
        few = f"replicas={replicas} needs {replicas} nodes; the cluster has {there_are}"
        if not self._is_lenient:
            raise TooFewNodesError(f"{few}; add nodes, or save with fewer replicas", backend=MEMORY)
        warnings.warn(f"{few}; further nodes get copies when they join", stacklevel=2)
