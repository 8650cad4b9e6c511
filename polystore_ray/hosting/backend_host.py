"""The host of a backend: runs the contract's methods on the one instance of its process."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from polystore.backend_registry import BackendRegistry
from polystore.base import DataSink, DataSource, StorageBackend
from polystore.exceptions import StorageResolutionError, UnsupportedOperationError
from polystore.hostable import hostable
from polystore.serialization import seal
from polystore.transfer.copying import ChecksLosses, load_and_save
from polystore.transfer.stacking import save_rows
from polystore_ray.config.backends import BackendOptions, check_arguments
from polystore_ray.errors import HostBusyError
from polystore_ray.hosting.path_locks import PathLocks, claims_of
from polystore_ray.hosting.watches import Watches
from polystore_ray.wire.classes import class_from_bytes
from polystore_ray.wire.messages import HostEndedError

__all__ = ["MOST_CALLS", "READING", "TRANSFERS", "BackendHost"]

# Threads that wait cost little: 40 KB each, measured.
MOST_CALLS = 256
TRANSFERS: Mapping[str, Callable[..., None]] = {
    "copy_to": load_and_save,
    "copy_from": lambda backend, source, pairs, **options: load_and_save(
        source, backend, pairs, **options
    ),
    "save_rows_to": save_rows,
}
"""Work between a host's backend and another backend, which may call other hosts."""

_PIECE = 64 * 2**20  # bytes
_CALLS_END_WITHIN = 5.0  # seconds

READING = frozenset(
    name for contract in (DataSource, ChecksLosses) for name in vars(contract) if name[0] != "_"
) - {"watch"}
"""Methods that change nothing, but `watch`, of which a call would have no end."""

_METHODS = READING | {
    name for contract in (DataSink, StorageBackend) for name in vars(contract) if name[0] != "_"
}


class BackendHost:
    """Own one backend in this process and run its public methods, several at a time.

    A path is never written by two calls at once; calls that concern other paths do not wait for
    each other. The instance is made on the first call, so that a constructor that fails says so
    to its caller and is tried again by the next.

    - `key`: the backend's key
    - `shipped`: its class
    - `options`: what its constructor gets
    - `most_calls`: how many calls may run, or wait for a path, at a time
    """

    def __init__(
        self, key: str, shipped: bytes, options: BackendOptions, most_calls: int = MOST_CALLS
    ) -> None:
        self._key = key
        self._shipped = shipped
        self._options = options
        self._most_calls = most_calls
        self._made: BackendRegistry | None = None
        self._making = threading.Lock()
        self._locks = PathLocks()
        self._watches = Watches()
        self._calls = 0
        self._has_ended = False
        self._counted = threading.Condition()

    @contextmanager
    def admitted(self) -> Iterator[None]:
        """Let one call in for the time of a block.

        A call that ends its program (`sys.exit`, as command line parsers do) ends itself only: the
        host is shared by others.

        Raises `StorageResolutionError` if the block raises `SystemExit`; `HostBusyError` if the
        host is at its limit of calls; `HostEndedError` if the host has been closed.
        """
        with self._counted:
            if self._has_ended:
                raise HostEndedError
            if self._calls >= self._most_calls:
                raise HostBusyError(
                    f"the host is at its limit of {self._most_calls} calls; call again later, use "
                    f"load_batch and save_batch, which wait, or make the store with a larger "
                    f"RayBackendRegistry(host_calls=...)",
                    backend=self._key,
                )
            self._calls += 1
        try:
            yield
        except SystemExit as error:
            raise StorageResolutionError(
                f"the backend called sys.exit({error.code!r}); it must raise an exception instead",
                backend=self._key,
            ) from error
        finally:
            with self._counted:
                self._calls -= 1
                self._counted.notify_all()

    @property
    def calls(self) -> int:
        """How many calls run or wait."""
        return self._calls

    def call(self, method: str, arguments: Sequence[Any], options: dict[str, Any]) -> Any:
        """Run one method of the contract, in a call that has been admitted.

        ``load_batch`` returns the first values, at least one and as many as fill a piece; the
        caller asks again for the others.

        Raises `UnsupportedOperationError` if the contract, or the backend, has no such method;
        and what the backend raises.
        """
        backend = self._backend()
        match method:
            case "begin_watch":
                return self._watches.begin(backend, *arguments, **options)
            case "next_events":
                return self._watches.next_events(*arguments)
            case "end_watch":
                return self._watches.end(*arguments)
        run = partial(TRANSFERS[method], backend) if method in TRANSFERS else None
        if run is None and method in _METHODS:
            run = getattr(backend, method, None)
        if run is None:
            raise UnsupportedOperationError(
                f"{type(backend).__name__} has no operation {method!r} that a host runs",
                backend=self._key,
            )
        if method == "load_batch":
            return _first_values(backend, *arguments, **options)
        together = hostable(backend.__class__)._saves_regions_together  # noqa: SLF001 - the contract's
        claims = claims_of(method, arguments, options, regions_together=together)
        with self._locks.claimed(claims):
            return run(*arguments, **options)

    def content_identity(self, path: str) -> Hashable | None:
        """Return a key that changes whenever the value at a path does, None if there is none."""
        backend = self._backend()
        for cls in type(backend).__mro__:
            if "content_identity" in vars(cls):
                return backend.content_identity(path)  # type: ignore[no-any-return]
            if "load" in vars(cls):
                break  # its result may depend on more
        return None

    def _backend(self) -> Any:
        if self._made is None:
            with self._making:
                if self._made is None:
                    cls = class_from_bytes(self._shipped)
                    options = self._options.open()
                    check_arguments(cls, self._key, options)
                    self._made = BackendRegistry.isolated({self._key: options})
        return self._made[self._key]

    def close(self) -> None:
        """Refuse new calls, wait a moment for those that run, and close the backend."""
        deadline = time.monotonic() + _CALLS_END_WITHIN
        with self._counted:
            self._has_ended = True
            self._counted.wait_for(lambda: not self._calls, deadline - time.monotonic())
        self._watches.close()
        made, self._made = self._made, None
        if made is not None:
            made.close()


def _first_values(backend: Any, paths: Sequence[str], **options: Any) -> list[Any]:
    values: list[Any] = list(backend.load_batch(paths[:1], **options))
    size = seal(values).nbytes
    while 0 < len(values) < len(paths) and size < _PIECE:
        room = (_PIECE - size) * len(values) // size
        more = paths[len(values) : len(values) + max(1, min(len(values), room))]
        part = list(backend.load_batch(more, **options))
        if not part:
            break
        values += part
        size += seal(part).nbytes
    return values
