"""Saves of a part of an array: a changed copy takes the place of the whole."""

from __future__ import annotations

from typing import Any

from polystore.region import Region, put_region, take_region
from polystore_ray.client.batch import Sealing, publish
from polystore_ray.client.lookup import Memory
from polystore_ray.client.turns import save_in_turn
from polystore_ray.wire.messages import Items, Kept

__all__ = ["save_region"]


def save_region(
    self: Memory, data: Any, region: Region, given: Items, replicas: int | None
) -> None:
    """Write into a part of a stored array, which keeps its settings unless others are given.

    What a recipe makes would lack the change. So the array has none any more, and is not evictable.
    """
    transport = self._connect()
    [path] = given.paths

    def save() -> None:
        kept: Kept = transport.ask("kept", path, path=path)
        [array], [version] = self._load(transport, [path])
        take_region(array, region, path=path, backend="memory")
        changed = array.copy(order="K")
        put_region(changed, region, data, path=path, backend="memory")
        items = given._replace(
            overwrite=False,
            parents=False,
            if_version=version,
            fallback=given.fallback or kept.fallback,
            ttl=kept.ttl if given.ttl is None else given.ttl,
        )
        wanted = kept.replicas if replicas is None else replicas
        publish(transport, Sealing([changed], [path]), items, wanted)

    save_in_turn(save, path, transport.deadline)
