"""The host of a backend: runs the contract's methods on the one instance of its process."""

from __future__ import annotations

import threading
from typing import Any

import cloudpickle

from polystore.backend_registry import BackendRegistry
from polystore.base import DataSink, DataSource, register_backend
from polystore.exceptions import UnsupportedOperationError
from polystore_ray.backend_options import BackendOptions, check_arguments

__all__ = ["TRANSFERS", "BackendHost", "class_from_bytes", "class_to_bytes"]

TRANSFERS = frozenset({"copy_to", "copy_from", "save_rows_to"})
"""Methods that call other hosts, which none of the others do."""

_METHODS = frozenset(
    name
    for contract in (DataSource, DataSink)
    for name in vars(contract)
    if not name.startswith("_")
) | {"save_batch", "delete_all", "copy", "move", "copy_from"}


def class_to_bytes(cls: type) -> bytes:
    """Return a backend's class for another process: by reference where importable, else whole."""
    shipped: bytes = cloudpickle.dumps(cls)
    return shipped


def class_from_bytes(shipped: bytes) -> Any:
    """Return the class that `class_to_bytes` shipped, registered in this process."""
    cls = cloudpickle.loads(shipped)
    register_backend(cls)
    return cls


class BackendHost:
    """Own one backend in this process and run its public methods, several at a time.

    The instance is made on the first call, so that a constructor that fails says so to its caller
    and is tried again by the next.
    """

    def __init__(self, key: str, shipped: bytes, options: BackendOptions) -> None:
        self._key = key
        self._shipped = shipped
        self._options = options
        self._made: BackendRegistry | None = None
        self._making = threading.Lock()

    def call(self, method: str, arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
        """Run one method of the contract.

        Raises
        ------
        UnsupportedOperationError
            If the contract, or the backend, has no such method.
        Exception
            Whatever the backend raises.
        """
        backend = self._registry()[self._key]
        if method not in _METHODS or not hasattr(backend, method):
            raise UnsupportedOperationError(
                f"{type(backend).__name__} has no operation {method!r}", backend=self._key
            )
        return getattr(backend, method)(*arguments, **options)

    def _registry(self) -> BackendRegistry:
        if self._made is None:
            with self._making:
                if self._made is None:
                    cls = class_from_bytes(self._shipped)
                    options = self._options.open()
                    check_arguments(cls, self._key, options)
                    self._made = BackendRegistry.isolated({self._key: options})
        return self._made

    def close(self) -> None:
        """Close the backend."""
        if self._made is not None:
            self._made.close()
