"""The controller's book-keeping: the tree of the cluster memory, its pins, and answered changes."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from polystore.exceptions import PathExistsError, StorageError, UnsupportedOperationError
from polystore.tree import PathTree
from polystore_ray.messages import Item, Pin, PutOptions, Request

__all__ = ["StoreController"]

# Answers are kept this long, in number of changes, for callers that did not get them.
_REMEMBERED = 10_000

_QUESTIONS = frozenset(
    {"exists", "is_dir", "is_file", "is_symlink", "list_dir", "list_files", "read", "stat"}
)
_CHANGES = frozenset(
    {"adopted", "copy", "create_symlink", "delete", "delete_all", "ensure_directory", "move"}
    | {"publish"}
)


@dataclass(frozen=True, slots=True)
class _Entry:
    size: int
    shape: tuple[int, ...] | None
    dtype: str | None
    modified: float
    version: int
    stored: bytes | str  # a small value's bytes, or the id of a pin

    def describe(self) -> dict[str, Any]:
        facts: dict[str, Any] = {
            "size": self.size,
            "modified": self.modified,
            "version": self.version,
        }
        if self.shape is not None:
            facts |= {"shape": self.shape, "dtype": self.dtype}
        return facts


class StoreController:
    """The single writer of a store's tree. It never opens a value and never waits for anyone.

    Parameters
    ----------
    release : callable
        Called with a node and the ids of its pins that no entry needs any more. It must not wait
        for the volume, since volumes wait for the controller.
    """

    def __init__(self, release: Callable[[str, list[str]], None]) -> None:
        self._release = release
        self._tree: PathTree[_Entry] = PathTree("memory")
        self._lock = threading.RLock()
        self._pins: dict[str, Pin] = {}
        self._uses: dict[str, int] = {}
        self._version = 0
        self._answers: OrderedDict[str, Any] = OrderedDict()

    def handle(self, request: Request) -> Any:
        """Carry out a request and return its answer; a repeated change only gets its answer.

        Raises
        ------
        StorageError
            As the operation of `PathTree` that the request names.
        """
        if request.operation in _QUESTIONS:
            with self._lock:
                return self._operation(request.operation)(*request.arguments)
        if request.operation not in _CHANGES or request.id is None:
            raise UnsupportedOperationError(
                f"the controller has no operation {request.operation!r}", backend="memory"
            )
        with self._lock:
            if request.id not in self._answers:
                try:
                    answer = self._operation(request.operation)(*request.arguments)
                except StorageError as error:
                    answer = error
                self._answers[request.id] = answer
                if len(self._answers) > _REMEMBERED:
                    self._answers.popitem(last=False)
            answer = self._answers[request.id]
        if isinstance(answer, StorageError):
            raise answer
        return answer

    def _operation(self, name: str) -> Callable[..., Any]:
        own: Callable[..., Any] | None = getattr(self, f"_{name}", None)
        operation: Callable[..., Any] = own or getattr(self._tree, name)
        return operation

    def _read(self, paths: list[str]) -> list[tuple[bytes | Pin, int]]:
        """Return, for each path, what is stored and its version."""
        answers: list[tuple[bytes | Pin, int]] = []
        for path in paths:
            entry = self._tree.get(path)
            stored = entry.stored
            answers.append(
                (stored if isinstance(stored, bytes) else self._pins[stored], entry.version)
            )
        return answers

    def _publish(self, items: list[Item], options: PutOptions) -> None:
        if options.version is not None:
            for item in items:
                if self._tree.get(item.path).version != options.version:
                    raise PathExistsError(
                        "the value was replaced by another in between",
                        path=item.path,
                        backend="memory",
                    )
        self._version += 1
        now = time.time()
        entries = [
            (
                item.path,
                _Entry(
                    item.size,
                    item.shape,
                    item.dtype,
                    now,
                    self._version,
                    item.stored.id if isinstance(item.stored, Pin) else item.stored,
                ),
            )
            for item in items
        ]
        replaced = self._tree.put(entries, overwrite=options.overwrite, parents=options.parents)
        for item in items:
            if isinstance(item.stored, Pin):
                self._pins[item.stored.id] = item.stored
                self._uses[item.stored.id] = 1
        self._dropped(replaced)

    def _adopted(self, pin: Pin) -> None:
        """Take the new reference of a pin whose object was put again."""
        if pin.id in self._pins:
            self._pins[pin.id] = pin

    def _delete(self, path: str) -> None:
        self._dropped(self._tree.delete(path))

    def _delete_all(self, path: str) -> None:
        self._dropped(self._tree.delete_all(path))

    def _copy(self, source: str, destination: str) -> None:
        for entry in self._tree.copy(source, destination):
            if isinstance(entry.stored, str):
                self._uses[entry.stored] += 1

    def _dropped(self, entries: Iterable[_Entry]) -> None:
        released: dict[str, list[str]] = defaultdict(list)
        for entry in entries:
            if isinstance(entry.stored, bytes):
                continue
            self._uses[entry.stored] -= 1
            if not self._uses[entry.stored]:
                del self._uses[entry.stored]
                released[self._pins.pop(entry.stored).node].append(entry.stored)
        for node, pins in released.items():
            self._release(node, pins)
