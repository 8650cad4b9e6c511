"""The controller's book-keeping: the tree of the cluster memory, its ledger, answered changes."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterable
from typing import Any

from polystore.exceptions import StorageError, UnsupportedOperationError
from polystore.tree import PathTree, replaced
from polystore_ray.errors import DataLostError
from polystore_ray.ledger import Chore, Entry, Held, Ledger
from polystore_ray.messages import Found, Items, Pin, Request, StaleVolumeError, Stored

__all__ = ["StoreController"]

# Answers are kept this long, in number of changes, for callers that did not get them.
_REMEMBERED = 10_000

_QUESTIONS = frozenset(
    {"check", "exists", "is_dir", "is_file", "is_symlink", "list_dir", "list_files", "read"}
    | {"stat", "status", "unknown"}
)
_CHANGES = frozenset(
    {"adopted", "copy", "create_symlink", "delete", "delete_all", "ensure_directory", "lost"}
    | {"move", "packed", "pinned_again", "publish", "volume_joined", "volume_lost"}
)


class StoreController:
    """The single writer of a store's tree. It never opens a value and never waits for anyone.

    Parameters
    ----------
    release : callable
        Called with a node and the ids of its pins that no entry needs any more. It must not wait
        for the volume, since volumes wait for the controller.
    ledger : Ledger, optional
        What counts the values; one without limits by default.
    """

    def __init__(
        self, release: Callable[[str, list[str]], None], ledger: Ledger | None = None
    ) -> None:
        self._release = release
        self._tree: PathTree[Entry] = PathTree("memory")
        self._ledger = ledger or Ledger()
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._volumes: dict[str, str] = {}
        self._version = 0
        self._calls = 0
        self._answers: OrderedDict[str, Any] = OrderedDict()

    def handle(self, request: Request) -> Any:
        """Carry out a request and return its answer; a repeated change only gets its answer.

        Raises
        ------
        StorageError
            As the operation of `PathTree` that the request names.
        InlineFullError
            If small values have to be made objects.
        StaleVolumeError
            If a volume publishes that is believed to be dead.
        """
        self._calls += 1
        try:
            with self._lock:
                if request.operation in _QUESTIONS:
                    return self._operation(request.operation)(*request.arguments)
                if request.operation not in _CHANGES or request.id is None:
                    raise UnsupportedOperationError(
                        f"the controller has no operation {request.operation!r}", backend="memory"
                    )
                return self._change(request, request.id)
        finally:
            self._calls -= 1

    def _change(self, request: Request, id_: str) -> Any:
        if id_ not in self._answers:
            try:
                answer = self._operation(request.operation)(*request.arguments)
            except StorageError as error:
                answer = error
            self._answers[id_] = answer
            if len(self._answers) > _REMEMBERED:
                self._answers.popitem(last=False)
            if self._ledger.due():
                self._changed.notify_all()
        answer = self._answers[id_]
        if isinstance(answer, StorageError):
            # Without the traceback, which would hold on to the request.
            raise answer.with_traceback(None)
        return answer

    def chore(self, timeout: float) -> Chore | None:
        """Return what should be done for the store, as soon as there is anything."""
        with self._changed:
            return self._changed.wait_for(self._ledger.chore, timeout)

    def _operation(self, name: str) -> Callable[..., Any]:
        own: Callable[..., Any] | None = getattr(self, f"_{name}", None)
        operation: Callable[..., Any] = own or getattr(self._tree, name)
        return operation

    # Values

    def _read(self, paths: list[str]) -> Found:
        """Return what is stored at each path."""
        which: dict[str, int] = {}
        pins: list[Pin] = []
        stored: list[Stored] = []
        entries = [self._tree.get(path) for path in paths]
        for path, entry in zip(paths, entries, strict=True):
            held = entry.held
            if isinstance(held, Held):
                pin = held.pin
                if pin.id not in which:
                    self._check_not_lost(held, path)
                    which[pin.id] = len(pins)
                    pins.append(pin)
                stored.append((which[pin.id], entry.number))
            elif held is not None:
                stored.append(held)
        return Found(pins, stored, [entry.moment[0] for entry in entries])

    def _check_not_lost(self, held: Held, path: str) -> None:
        if held.lost:
            raise DataLostError(held.lost, path=path, backend="memory")

    def _check(self, items: Items) -> None:
        """Raise what a publication would raise, before the bytes of its values move."""
        places = self._tree.check_put(
            items.paths,
            overwrite=items.overwrite,
            parents=items.parents,
            if_version=items.if_version,
        )
        self._ledger.admit(items.facts, replaced(places), inline=False)

    def _publish(self, pins: list[Pin], items: Items, volume: str = "") -> None:
        """Make values visible, all at once or not at all.

        Parameters
        ----------
        pins : list of Pin
            The objects that hold them.
        items : Items
            The values.
        volume : str, optional
            Which incarnation of its node's volume has pinned the objects: one that is believed
            to be dead pins nothing.
        """
        for node in {node for pin in pins for node in pin.nodes}:
            self._check_current(node, volume)
        places = self._tree.check_put(
            items.paths,
            overwrite=items.overwrite,
            parents=items.parents,
            if_version=items.if_version,
        )
        old = replaced(places)
        self._ledger.admit(items.facts, old, inline=not pins)
        self._version += 1
        self._tree.set(places, self._ledger.enter(pins, items, (self._version, time.time())))
        self._dropped(old)

    def _delete(self, path: str) -> None:
        self._dropped(self._tree.delete(path))

    def _delete_all(self, path: str) -> None:
        self._dropped(self._tree.delete_all(path))

    def _copy(self, source: str, destination: str) -> None:
        self._ledger.copied(self._tree.copy(source, destination))

    def _dropped(self, entries: Iterable[Entry]) -> None:
        self._let_go(self._ledger.dropped(entries))

    def _let_go(self, pins: Iterable[Pin]) -> None:
        released: dict[str, list[str]] = defaultdict(list)
        for pin in pins:
            for node in pin.nodes:
                released[node].append(pin.id)
        for node, ids in released.items():
            self._release(node, ids)

    # Volumes, and what they do with objects

    def _volume_joined(self, node: str, incarnation: str) -> None:
        self._volumes[node] = incarnation

    def _volume_lost(self, node: str) -> None:
        self._volumes.pop(node, None)
        self._ledger.volume_lost(node)

    def _adopted(self, pin: Pin) -> None:
        self._ledger.adopted(pin)

    def _packed(self, pin: Pin, serials: list[int]) -> None:
        if not self._ledger.packed(pin, serials):
            self._let_go([pin])

    def _pinned_again(self, node: str, ids: list[str]) -> None:
        unknown = self._ledger.pinned_again(node, ids)
        if unknown:
            self._release(node, unknown)

    def _check_current(self, node: str, incarnation: str) -> None:
        if self._volumes.get(node) != incarnation:
            raise StaleVolumeError(f"{incarnation!r} is not the volume of node {node} any more")

    def _unknown(self, ids: list[str], node: str, incarnation: str) -> list[str]:
        """Return which of the objects that a volume holds no entry refers to."""
        self._check_current(node, incarnation)
        return [id_ for id_ in ids if id_ not in self._ledger.held]

    def _lost(self, ids: list[str], reason: str) -> None:
        self._ledger.lost(ids, reason)

    def _status(self) -> dict[str, int]:
        ledger = self._ledger
        return {
            "files": ledger.files,
            "bytes": ledger.nbytes,
            "inline_bytes": ledger.inline_bytes,
            "inline_values": ledger.inline_values,
            "objects": len(ledger.held),
            "lost": sum(bool(held.lost) for held in ledger.held.values()),
            "calls": self._calls,
        }
