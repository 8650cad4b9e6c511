"""The interface of a transport: how clients reach a store, on a cluster or in this process."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager, closing
from functools import cached_property
from typing import Any, Self, TypeVar

from polystore.exceptions import StorageError
from polystore.serialization import Sealed
from polystore.transfer.many import succeeded
from polystore_ray.config.store import StoreOptions
from polystore_ray.deadline import Deadline, let_go_of_values
from polystore_ray.errors import HostBusyError
from polystore_ray.status import StoreStatus
from polystore_ray.transport.leased_reads import LeasedReads
from polystore_ray.wire.messages import Items, Pin, Wish

__all__ = ["Task", "Transport"]

Task = tuple[Sequence[str], Callable[..., Any], tuple[Any, ...]]
"""A function, its arguments, and the nodes that hold their bytes."""

_BATCHES = frozenset({"load_batch", "save_batch"})
_LONGEST_PAUSE = 0.5  # seconds
_LATE = 5.0  # seconds, for the answer to come

T = TypeVar("T")


class _leaving:  # noqa: N801 - used as a function; a generator takes thrice the time
    """Have errors name a store, if they are of its memory, and hold no values."""

    __slots__ = ("_store",)

    def __init__(self, store: str | None) -> None:
        self._store = store

    def __enter__(self) -> None:
        pass

    def __exit__(self, _kind: object, error: BaseException | None, _: object) -> None:
        if error is not None:
            let_go_of_values(error)
            if self._store is not None and isinstance(error, StorageError):
                error.store = self._store


_LEAVING = _leaving(None)


class Transport(ABC):
    """Reach one store. All waits end by one deadline; every error is a `StorageError`.

    - `options`: what the store was made with
    - `deadline`: when the call that uses this transport must be answered
    - `opens_here`: whether values are opened in this process, not by a proxy
    - `reads`: the answers that this process keeps
    - `awaited`: see `when_there`
    """

    opens_here = True
    awaited: tuple[str, float] | None = None
    reads: LeasedReads

    def __init__(self, options: StoreOptions) -> None:
        self.options = options
        self.deadline = Deadline(0)

    def by(self, deadline: Deadline) -> Self:
        """Return this transport for one call, which must be answered by a deadline.

        Both share everything else, such as the handles.
        """
        view = copy.copy(self)
        view.deadline = deadline
        return view

    def _when_free(self, method: str, call: Callable[[], T]) -> T:
        """Return the result of a call to a host; one of a batch is repeated while it is busy."""
        if method not in _BATCHES:
            return call()
        return self.deadline.retry(call, HostBusyError, pause=0.01, longest=_LONGEST_PAUSE)

    @property
    @abstractmethod
    def named(self) -> str:
        """The store's name and lifetime, as errors show them."""

    def measured(self, backend: str, _operation: str) -> AbstractContextManager[None]:
        """Count an operation in the metrics, where there are any; see to its errors."""
        return self._leaving if backend == "memory" else _LEAVING

    @cached_property
    def _leaving(self) -> _leaving:
        return _leaving(self.named)

    def moved(self, _backend: str, _operation: str, _nbytes: int) -> None:
        """Count the bytes of values in the metrics, where there are any."""
        return

    @abstractmethod
    def ask(
        self, operation: str, *arguments: Any, path: str | None = None, wish: Wish | None = None
    ) -> Any:
        """Return the controller's answer to a question about the tree.

        With a wish to keep it, it is `Leased` where it may be kept.
        """

    @abstractmethod
    def change(self, operation: str, *arguments: Any, path: str | None = None) -> Any:
        """Let the controller change the tree, once, and return its answer."""

    def when_there(self, path: str, timeout: float) -> Self:
        """Return this transport as one whose questions are asked when a path exists.

        They are asked in so many seconds in any case, and raise `HostBusyError` where the store can
        hold no more of them.
        """
        view = self.by(Deadline(max(self.deadline.left, timeout + _LATE)))
        view.awaited = path, timeout
        return view

    @abstractmethod
    def next_events(self, kind: str, *arguments: Any, within: float) -> Future[Any]:
        """Have the event feed answer as soon as there are arrivals, or changes.

        - `kind`: ``"arrivals"`` or ``"changes"``
        - `arguments`: those of `Arrivals` or `Changes`, without the last one
        - `within`: seconds

        The future's result, as a message: whether there is an answer in time, and the answer, or
        the number of the last event that was looked at. Its error is `HostLostError` where the feed
        was lost; the next call finds another one.
        """

    @property
    @abstractmethod
    def node(self) -> str:
        """The node that this process runs on."""

    @abstractmethod
    def put(self, sealed: Sealed) -> Pin:
        """Store the bytes of a sealed value on this node; they are pinned by `publish`."""

    @abstractmethod
    def publish(self, pins: list[Pin], items: Items) -> None:
        """Pin what was `put`, then make all items visible at once, or none.

        Raises `InlineFullError` if there are no pins, and the values must be put too.
        """

    @abstractmethod
    def get(self, pins: Sequence[Pin], path: str | None = None) -> list[Any]:
        """Return the values of pinned objects, their arrays as read-only views.

        Raises `NotPinnedError` if an object is not where it was expected, so that it must be looked
        up again.
        """

    @abstractmethod
    def owned(self, pin: Pin) -> Pin:
        """Return a pin whose reference stays valid after the saver of the value has ended.

        Raises `NotPinnedError` as `get`.
        """

    @abstractmethod
    def reference(self, sealed: Sealed) -> Any:
        """Return a reference to a value, made for the caller."""

    @abstractmethod
    def save_ref(self, reference: Any, save: Callable[[Any], None], path: str) -> None:
        """Call ``save(value)`` where the value of a reference is, and wait for it."""

    @abstractmethod
    def attempts(
        self, tasks: Iterable[Task], options: dict[str, Any]
    ) -> Generator[Any, None, None]:
        """Run functions in tasks near their data, some at a time; yield results in order.

        Instead of the result of a task that fails, or whose process dies, yield a `Failure`.
        """

    def run(self, tasks: Iterable[Task], options: dict[str, Any]) -> Iterator[Any]:
        """Run functions as `attempts` does; raise the error of the first that fails."""
        with closing(self.attempts(tasks, options)) as outcomes:
            yield from succeeded(outcomes)

    @abstractmethod
    def call_host(
        self,
        key: str,
        node: str | None,
        method: str,
        arguments: tuple[Any, ...],
        options: dict[str, Any],
    ) -> Any:
        """Run a method of the backend `key` in its host on a node and return its result.

        The node is this one, unless another is named.

        Raises `NodeNotFoundError` if the name fits no node or several nodes; `HostBusyError` if the
        host is at its limit of calls; a batch waits first.
        """

    @abstractmethod
    def options_of(self, key: str, node: str | None) -> dict[str, Any]:
        """Return what the backend `key` is made with on a node; errors as for `call_host`."""

    def shipped_classes(self) -> dict[str, bytes]:
        """Return the classes of custom backends that the store has hosts of."""
        return {}

    @abstractmethod
    def status(self) -> StoreStatus:
        """Describe the store."""

    @abstractmethod
    def drain(self, node: str, timeout: float) -> int:
        """Copy what a node holds to others; return how many objects it still holds alone."""

    @abstractmethod
    def shutdown(self) -> None:
        """End the store and everything in it."""
