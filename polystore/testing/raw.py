"""Raw access: what is stored, seen, planted and damaged without the backend under test."""

from __future__ import annotations

import io
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from polystore.paths import P

__all__ = ["FileAccess", "RawAccess"]


class RawAccess(ABC):
    """Access to the stored values that bypasses the backend under test.

    Paths are those of the backend. An implementation uses no method of the backend, so that a
    mistake in it cannot hide itself.
    """

    @abstractmethod
    def write(self, value: Any, path: str) -> None:
        """Store a value at a path, with its parents."""

    @abstractmethod
    def read(self, path: str) -> Any:
        """Return the value at a path."""

    @abstractmethod
    def damage(self, path: str) -> Iterator[str]:
        """Damage the value at a path, in one way after another, and tell each in a few words.

        After each step the path still leads to a value, and none can be read from it.
        """

    @abstractmethod
    def contents(self) -> Mapping[str, object]:
        """Return all that is stored, by name, also what the backend hides from its listings.

        Two results are equal if and only if nothing was stored, changed or removed in between.
        """


class FileAccess(RawAccess):
    """Raw access to a backend that stores each value in a file, by default in NumPy's format.

    Override `encode` and `decode` for another one.

    Parameters
    ----------
    top : str or os.PathLike
        The directory that holds all files of the backend.
    shown_as : str, default ""
        How the backend's paths name this directory: ``""`` for a virtual tree, ``str(top)`` for
        paths of the operating system.

    Examples
    --------
    >>> import tempfile
    >>> from polystore import DiskBackend
    >>> top = tempfile.mkdtemp()
    >>> FileAccess(top).write(np.arange(3), "/plate1/A01.npy")
    >>> DiskBackend(top).load("/plate1/A01.npy")
    array([0, 1, 2])
    """

    def __init__(self, top: P, shown_as: str = "") -> None:
        self.top = Path(top)
        self.shown_as = shown_as

    def place(self, path: str) -> Path:
        """Return the file of a path."""
        return self.top / path.removeprefix(self.shown_as).lstrip("/")

    def encode(self, value: Any) -> bytes:
        """Return the bytes of a file that holds a value."""
        file = io.BytesIO()
        np.save(file, value, allow_pickle=False)
        return file.getvalue()

    def decode(self, stored: bytes) -> Any:
        """Return the value in the bytes of a file."""
        return np.load(io.BytesIO(stored), allow_pickle=False)

    def write(self, value: Any, path: str) -> None:
        place = self.place(path)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(self.encode(value))

    def read(self, path: str) -> Any:
        return self.decode(self.place(path).read_bytes())

    def damage(self, path: str) -> Iterator[str]:
        place = self.place(path)
        whole = place.read_bytes()
        place.write_bytes(whole[: len(whole) // 2])
        yield "cut in half"
        place.write_bytes(b"")
        yield "emptied"
        place.write_bytes(b"\x00" * len(whole))
        yield "overwritten with zeros"

    def contents(self) -> Mapping[str, object]:
        found: dict[str, object] = {}
        for place in self.top.rglob("*"):
            name = str(place.relative_to(self.top))
            if place.is_symlink():
                found[name] = place.readlink()
            else:
                found[name] = place.read_bytes() if place.is_file() else None
        return found
