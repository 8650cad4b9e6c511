"""What the first view of the page shows: the status of the store, and its counters."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from polystore_ray.registry import RayBackendRegistry
from polystore_ray.ui.counters import Counters

__all__ = ["Overview"]

_MOST_LOST = 200  # rows


class Overview:
    """The state of a registry's store. The browser derives rates from two answers."""

    def __init__(self, registry: Mapping[str, Any]) -> None:
        self._registry = registry
        self._counters = Counters()

    def now(self) -> dict[str, Any]:
        """Return the status, the lost values, the head and the counters; None for what is not."""
        registry = self._registry
        found: dict[str, Any] = {"backends": list(registry), "time": time.time(), "status": None}
        if not isinstance(registry, RayBackendRegistry):
            return found
        status = registry.status()
        found |= {"status": status, "lost": [], "head": None, "counters": None}
        if status.lost:
            found["lost"] = registry["memory"].lost()[:_MOST_LOST]
        if registry._local:  # noqa: SLF001 - not public
            reads = {"kept": status.lease_hits, "asked": status.lease_misses}
            found["counters"] = {"operations": None, "errors": None, "reads": reads}
        else:
            from polystore_ray.rayapi.placement import head_node, nodes

            found["head"] = head_node()
            found["counters"] = self._counters.of(status.store, nodes())
        return found
