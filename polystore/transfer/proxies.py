"""Backends whose values are in other processes, and how they send them by themselves."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from polystore.base import DataSource, StorageBackend
from polystore.capabilities import Capability
from polystore.paths import P, as_text
from polystore.progress import Progress

__all__ = ["Like", "Pairs", "Proxy", "Receiver", "Rows", "Sender", "class_of", "portable"]

Pairs = Sequence[tuple[str, str]]
"""Paths of values, each with the path of its copy in the other backend."""

Like = tuple[tuple[int, ...], str]
"""A shape and a dtype."""


@dataclass(frozen=True, slots=True)
class Rows:
    """Adjacent rows of an array that is being filled; no other call writes into their chunks.

    - `paths`: the paths of the arrays that become these rows
    - `like`: the shape and the dtype of each of these arrays
    - `place`: the path of the array that is filled
    - `start`: the index of the first row
    """

    paths: tuple[str, ...]
    like: Like
    place: str
    start: int


class Proxy(Capability, methods=("portable", "placed")):
    """A backend whose operations an instance of another class does, in another process.

    - `hosted_class`: the class of that instance
    """

    hosted_class: type[Any]

    @abstractmethod
    def portable(self, path: P, /) -> str:
        """Return the path that other processes use to reach this instance."""

    @abstractmethod
    def placed(self, paths: Sequence[P] = ()) -> tuple[Any, list[str]]:
        """Return this backend and paths in it as what they are here but on another node."""


class Sender(Capability, methods=("send", "send_rows")):
    """A backend that sends its values to another backend itself, not through the caller."""

    @abstractmethod
    def send(
        self, target: StorageBackend, pairs: Pairs, progress: Progress = None, **options: Any
    ) -> None:
        """Copy values into another backend; see `polystore.transfer.copying.copy_values`."""

    @abstractmethod
    def send_rows(self, target: StorageBackend, parts: Sequence[Rows]) -> Iterator[Rows]:
        """Save arrays as rows of an array of another backend; yield each part that is done."""


class Receiver(Capability, methods=("receive",)):
    """A backend whose process can load values of the cluster memory by itself."""

    @abstractmethod
    def receive(
        self, source: DataSource, pairs: Pairs, progress: Progress = None, **options: Any
    ) -> None:
        """Copy values from another backend into this one."""


def class_of(backend: DataSource) -> type[Any]:
    """Return the class that reads and writes a backend's values, in whichever process."""
    return backend.hosted_class if isinstance(backend, Proxy) else type(backend)


def portable(backend: DataSource, path: P) -> str:
    """Return a path of a backend so that it means the same in other processes."""
    return backend.portable(path) if isinstance(backend, Proxy) else as_text(path)
