"""Objects in Ray's object store: their values, also where whoever saved them has ended."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import ray
from ray import exceptions as ray_exceptions

from polystore_ray.deadline import Deadline
from polystore_ray.errors import DataLostError, HostLostError, StoreUnavailableError
from polystore_ray.rayapi.calls import wait_for
from polystore_ray.rayapi.errors import translated
from polystore_ray.rayapi.placement import MEMORY
from polystore_ray.transport.failover import Handles
from polystore_ray.wire.messages import NotPinnedError, Pin

__all__ = ["owned", "values_of"]


def values_of(
    pins: Sequence[Pin], handles: Handles, deadline: Deadline, path: str | None
) -> list[Any]:
    """Return the values of pinned objects; see `Transport.get`."""
    references = [pin.ref for pin in pins]
    if None not in references:  # an object that turned up at a volume has none
        with suppress(ray_exceptions.ObjectLostError):
            values: list[Any] = _got(references, deadline, path)
            return values
    return [_value_of(pin, handles, deadline, path) for pin in pins]


def _value_of(pin: Pin, handles: Handles, deadline: Deadline, path: str | None) -> Any:
    """Return a value whose object may have lost its owner: its volume then puts it again."""
    if pin.ref is not None:
        with suppress(ray_exceptions.ObjectLostError):  # its volumes have the bytes
            return _got(pin.ref, deadline, path)
    reference = owned(pin, handles, deadline).ref
    try:
        return wait_for(reference, backend=MEMORY, timeout=deadline, path=path)
    except DataLostError as error:
        raise NotPinnedError(f"{pin.id} was lost on its way; others may hold it") from error


def _got(references: Any, deadline: Deadline, path: str | None) -> Any:
    try:
        return ray.get(references, timeout=deadline.left)
    except ray_exceptions.ObjectLostError:
        raise
    except ray_exceptions.RayError as error:
        timeout = deadline.timeout
        raise translated(error, backend=MEMORY, path=path, timeout=timeout) from error


def owned(pin: Pin, handles: Handles, deadline: Deadline) -> Pin:
    """Return a pin whose reference a volume owns; see `Transport.owned`."""
    for node in pin.nodes:
        with suppress(HostLostError, StoreUnavailableError, NotPinnedError):
            found: Pin = handles.of_host(
                MEMORY, node, lambda volume: volume.adopt.remote(pin, []), deadline
            )
            return found
    raise NotPinnedError(f"none of the volumes that should hold {pin.id} has it")
