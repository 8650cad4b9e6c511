"""The cluster memory read as plain data, for previews: no code of a saved value is run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from polystore.error_translation import located
from polystore.exceptions import CorruptDataError, StorageError, UnsupportedOperationError
from polystore_ray.client.batch import opened
from polystore_ray.client.lookup import look_up
from polystore_ray.client.memory import ClusterMemoryBackend
from polystore_ray.registry import RayBackendRegistry
from polystore_ray.transport.base import Transport
from polystore_ray.wire.envelope import Envelope, closed
from polystore_ray.wire.messages import Found
from polystore_ray.wire.plain_pickle import plain_loads

__all__ = ["plain_loads", "plain_memory"]


def plain_memory(registry: RayBackendRegistry) -> ClusterMemoryBackend:
    """Return the memory of a registry's store, whose loads open plain data only.

    Every load of a value that is not plain data raises `UnsupportedOperationError`; over a Ray
    client connection (``ray://``), every load of a large value, since there the proxy opens it.
    """
    return ClusterMemoryBackend(registry._connect, registry, _read)  # noqa: SLF001 - what its own memory has


def _read(transport: Transport, paths: list[str], existing: bool) -> tuple[list[Any], list[int]]:
    first = paths[0] if paths else None

    def taken(found: Found) -> tuple[list[Any], list[int]]:
        if found.pins and not transport.opens_here:
            raise UnsupportedOperationError(
                "over ray:// the proxy opens every value; connect from a node of the cluster",
                path=first,
                backend="memory",
            )
        with closed():
            envelopes = transport.get(found.pins, first)
        with located(first, "memory"), _damage_reported():
            objects = [
                _opened(envelope, _path_of(pin, found, paths))
                for pin, envelope in enumerate(envelopes)
            ]
            again = lambda pin: _opened(envelopes[found.pins.index(pin)], None)  # noqa: E731
            return opened(found, paths, objects, again, plain_loads), found.versions

    return look_up(transport, paths, taken, existing=existing)


def _opened(envelope: Envelope, path: str | None) -> Any:
    with located(path, "memory"):
        return envelope.sealed.open(plain_loads)


def _path_of(pin: int, found: Found, paths: list[str]) -> str | None:
    """Return the first path whose value is in an object."""
    values = zip(paths, found.stored, strict=True)
    return next((path for path, stored in values if stored[:1] == (pin,)), None)


@contextmanager
def _damage_reported() -> Iterator[None]:
    """Report what is not a pack, or not a pickle, as damaged."""
    try:
        yield
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        if isinstance(error, StorageError):
            raise
        raise CorruptDataError(f"the saved value cannot be opened ({error})") from error
