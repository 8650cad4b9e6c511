"""The cluster memory read as plain data: nothing that a value's pickle names is run.

Previews use it. A value is saved as a pickle, and opening a pickle runs what its author chose. Here
it is opened by an unpickler that knows no names but those below, which make numbers, dates and
NumPy arrays; a value that needs another is refused, and its name said.
"""

from __future__ import annotations

import io
import pickle
from typing import Any

from polystore.base import DataSource, StorageBackend
from polystore.exceptions import CorruptDataError, UnsupportedOperationError
from polystore.progress import Progress
from polystore.transfers import Pairs
from polystore_ray.envelope import Envelope, closed, open_message
from polystore_ray.lookup import look_up
from polystore_ray.memory import ClusterMemoryBackend
from polystore_ray.messages import WHOLE, Found, Stored
from polystore_ray.registry import RayBackendRegistry
from polystore_ray.transport import Transport

__all__ = ["PlainMemory", "plain_loads"]

_PLAIN = frozenset(
    {
        ("builtins", "complex"),
        ("builtins", "frozenset"),
        ("builtins", "range"),
        ("builtins", "set"),
        ("builtins", "slice"),
        ("collections", "OrderedDict"),
        ("datetime", "date"),
        ("datetime", "datetime"),
        ("datetime", "timedelta"),
        ("datetime", "timezone"),
        ("numpy", "dtype"),
        ("numpy._core.multiarray", "scalar"),
        ("numpy.core.multiarray", "scalar"),  # as NumPy 1 calls it
        ("polystore.seal", "_array"),
        ("polystore_ray.pack", "Pack"),
    }
)


class _PlainUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _PLAIN:
            return super().find_class(module, name)
        raise UnsupportedOperationError(
            f"the value is no plain data: opening it would run {module}.{name}; load it in Python "
            f"if you trust who saved it"
        )


def plain_loads(data: Any, buffers: Any = None) -> Any:
    """Do as `pickle.loads` does for plain data, and refuse everything else.

    Raises
    ------
    UnsupportedOperationError
        If the pickle names anything that is not plain data; nothing of it has been run.
    CorruptDataError
        If it is damaged.

    Examples
    --------
    >>> plain_loads(pickle.dumps({"cells": [1, 2.5]}))
    {'cells': [1, 2.5]}
    """
    try:
        return _PlainUnpickler(io.BytesIO(data), buffers=buffers).load()
    except (UnsupportedOperationError, MemoryError):
        raise
    except Exception as error:  # pickles can be damaged in as many ways as there are errors
        raise CorruptDataError(f"the saved value cannot be opened: {error}") from error


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

    def _load(self, transport: Transport, paths: list[str]) -> tuple[list[Any], list[int]]:
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
            values = []
            for path, stored in zip(paths, found.stored, strict=True):
                try:
                    values.append(_opened(stored, envelopes))
                except (CorruptDataError, UnsupportedOperationError) as error:
                    error.located(path=path, backend="memory")
                    raise
            return values, found.versions

        return look_up(transport, paths, taken)

    def copy_to(
        self, other: StorageBackend, pairs: Pairs, /, *, progress: Progress = None, **options: Any
    ) -> None:
        # Here, where envelopes may stay closed; not in a host, whose other threads open them.
        DataSource.copy_to(self, other, pairs, progress=progress, **options)


def _opened(stored: Stored, envelopes: list[Envelope]) -> Any:
    if isinstance(stored, bytes):
        return open_message(stored, plain_loads)
    which, number = stored
    value = envelopes[which].sealed.open(plain_loads)
    return value if number == WHOLE else value.values([number], plain_loads)[0]
