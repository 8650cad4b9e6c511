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
    self: Memory,
    data: Any,
    path: str,
    region: Region,
    *,
    replicas: int | None,
    fallback: tuple[str, str] | None,
) -> None:
    """Write into a part of a stored array, which keeps its settings unless others are given."""
    transport = self._connect()

    def save() -> None:
        kept: Kept = transport.ask("kept", path, path=path)
        [array], [version] = self._load(transport, [path])
        take_region(array, region, path=path, backend="memory")
        changed = array.copy(order="K")
        put_region(changed, region, data, path=path, backend="memory")
        items = Items([path], [], [], if_version=version, fallback=fallback or kept.fallback)
        wanted = kept.replicas if replicas is None else replicas
        publish(transport, Sealing([changed], [path]), items, wanted)

    save_in_turn(save, path, transport.deadline)
