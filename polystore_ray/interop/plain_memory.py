"""The cluster memory read as plain data, for previews: no code of a saved value is run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from polystore.base import DataSource, StorageBackend
from polystore.error_translation import located
from polystore.exceptions import CorruptDataError, StorageError, UnsupportedOperationError
from polystore.progress import Progress
from polystore.transfer.copying import Pairs
from polystore_ray.client.lookup import look_up
from polystore_ray.client.memory import ClusterMemoryBackend
from polystore_ray.registry import RayBackendRegistry
from polystore_ray.transport.base import Transport
from polystore_ray.wire.envelope import Envelope, closed, open_message
from polystore_ray.wire.messages import NOTHING, WHOLE, Found
from polystore_ray.wire.plain_pickle import plain_loads

__all__ = ["PlainMemory", "plain_loads"]


class PlainMemory(ClusterMemoryBackend):
    """The cluster memory whose loads open plain data only.

    Raises
    ------
    UnsupportedOperationError
        By every load of a value that is no plain data; also of every large value over a Ray
        client connection (``ray://``), since there the proxy opens it.
    """

    @classmethod
    def of(cls, registry: RayBackendRegistry) -> PlainMemory:
        """Return the memory of a registry's store."""
        return cls(registry._connect, registry)  # noqa: SLF001 - what its own memory has

    def _load(
        self, transport: Transport, paths: list[str], *, existing: bool = False
    ) -> tuple[list[Any], list[int]]:
        def taken(found: Found) -> tuple[list[Any], list[int]]:
            if found.pins and not transport.opens_here:
                raise UnsupportedOperationError(
                    "over ray:// the proxy opens values, whatever they are; connect from a node of "
                    "the cluster",
                    path=paths[0],
                    backend="memory",
                )
            with closed():
                envelopes = transport.get(found.pins, paths[0] if paths else None)
            values = _opened(found, paths, envelopes)
            return values, found.versions

        return look_up(transport, paths, taken, existing=existing)

    def copy_to(
        self, other: StorageBackend, pairs: Pairs, /, *, progress: Progress = None, **options: Any
    ) -> None:
        # Here, where envelopes may stay closed; not in a host, whose other threads open them.
        DataSource.copy_to(self, other, pairs, progress=progress, **options)


def _opened(found: Found, paths: list[str], envelopes: list[Envelope]) -> list[Any]:
    values: list[Any] = [None] * len(paths)
    in_packs: dict[int, list[int]] = {}
    for i, stored in enumerate(found.stored):
        if stored == NOTHING:
            continue
        with located(paths[i], "memory"):
            if isinstance(stored, bytes):
                values[i] = _plain(open_message, stored)
            elif stored[1] == WHOLE:
                values[i] = _plain(envelopes[stored[0]].sealed.open)
            else:
                in_packs.setdefault(stored[0], []).append(i)
    for which, places in in_packs.items():
        with located(paths[places[0]], "memory"):
            pack = _plain(envelopes[which].sealed.open)
        numbers = [int(found.stored[i][1]) for i in places]
        try:
            members = _plain(_members, pack, numbers)
        except StorageError:  # of one of them: say which
            for i, number in zip(places, numbers, strict=True):
                with located(paths[i], "memory"):
                    _plain(_members, pack, [number])
            raise
        for i, value in zip(places, members, strict=True):
            values[i] = value
    return values


def _members(pack: Any, numbers: list[int], loads: Callable[..., Any]) -> Any:
    return pack.values(numbers, loads)


def _plain(call: Callable[..., Any], *arguments: Any) -> Any:
    """Call with the loads for plain data; what is no pack, and no pickle, is damaged."""
    try:
        return call(*arguments, plain_loads)
    except (AttributeError, IndexError, TypeError, ValueError) as error:
        if isinstance(error, StorageError):
            raise
        raise CorruptDataError(f"the saved value cannot be opened ({error})") from error
