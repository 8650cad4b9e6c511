"""A storage backend in a SQLite database, with arrays and bytes as rows."""

from __future__ import annotations

import io
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

import numpy as np

from polystore import (
    CorruptDataError,
    DirectoryNotEmptyError,
    InvalidPathError,
    PathExistsError,
    PathIsDirectoryError,
    PathNotDirectoryError,
    PathNotFoundError,
    StorageBackend,
    StorageError,
    StorageResolutionError,
    StorageWriteError,
    UnsupportedFormatError,
)
from polystore.arguments import check_batch
from polystore.paths import P, normalize

__all__ = ["SqliteBackend"]

DIRECTORY, ARRAY, BYTES = "directory", "array", "bytes"
SCHEMA = (
    "CREATE TABLE IF NOT EXISTS nodes (path TEXT PRIMARY KEY, parent TEXT, kind TEXT, value BLOB)",
    "CREATE INDEX IF NOT EXISTS children ON nodes (parent, path)",
    "INSERT OR IGNORE INTO nodes (path, kind) VALUES ('/', 'directory')",
)


class SqliteBackend(StorageBackend):
    """Store arrays and bytes in a database. A subclass sets the database and the key.

    Every change is one transaction: a save, a batch, and the copy, move or deletion of a tree.
    Several threads and processes may call all methods at the same time.

    Examples
    --------
    >>> from polystore import BackendRegistry, FileManager
    >>> class Scratch(SqliteBackend):
    ...     _backend_type = "scratch"
    ...     database = ":memory:"
    >>> fm = FileManager(BackendRegistry.isolated())
    >>> fm.save(np.arange(3), "/plate1/A01", backend="scratch")
    >>> fm.load("/plate1/A01", backend="scratch")
    array([0, 1, 2])
    >>> fm.registry.close()
    """

    database: ClassVar[str]

    def __init__(self) -> None:
        # One connection, so that ":memory:" is one database; threads share it with the lock.
        self._lock = threading.RLock()
        self._connection = sqlite3.connect(
            self.database, timeout=30, isolation_level=None, check_same_thread=False
        )
        try:
            with self._transaction("/"):
                for statement in SCHEMA:
                    self._connection.execute(statement)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        with self._lock:
            self._connection.close()

    # Reading: four required methods

    def load(self, path: P) -> Any:
        place = self._place(path)
        rows = self._rows("SELECT kind, value FROM nodes WHERE path = ?", place)
        if not rows:
            raise self._error(PathNotFoundError, "no such file or directory", place)
        [(kind, value)] = rows
        if kind == DIRECTORY:
            raise self._error(PathIsDirectoryError, "the path is a directory", place)
        return value if kind == BYTES else self._decoded(value, place)

    def is_file(self, path: P) -> bool:
        return self._kind(self._place(path)) in (ARRAY, BYTES)

    def is_dir(self, path: P) -> bool:
        return self._kind(self._place(path)) == DIRECTORY

    def list_dir(self, path: P) -> list[str]:
        place = self._place(path)
        kind = self._kind(place)
        if kind is None:
            raise self._error(PathNotFoundError, "no such file or directory", place)
        if kind != DIRECTORY:
            raise self._error(PathNotDirectoryError, "the path is a file", place)
        found = self._rows("SELECT path FROM nodes WHERE parent = ? ORDER BY path", place)
        return [child.rpartition("/")[2] for (child,) in found]

    # Writing: one required method; a save is a batch of one

    def save(self, data: Any, path: P, *, overwrite: bool = False, parents: bool = False) -> None:
        self.save_batch([data], [path], overwrite=overwrite, parents=parents)

    def save_batch(
        self,
        values: Sequence[Any],
        paths: Sequence[P],
        *,
        overwrite: bool = False,
        parents: bool = False,
    ) -> None:
        places = check_batch(values, [*map(self._place, paths)], backend=self._backend_type)
        encoded = [self._encoded(value, place) for value, place in zip(values, places, strict=True)]
        with self._transaction(*places[:1]):
            for place, (kind, value) in zip(places, encoded, strict=True):
                self._check_free(place, overwrite=overwrite)
                self._provide_parent(place, make=parents)
                self._connection.execute(
                    "INSERT OR REPLACE INTO nodes VALUES (?, ?, ?, ?)",
                    (place, _parent(place), kind, value),
                )

    # Optional operations

    def ensure_directory(self, path: P) -> str:
        place = self._place(path)
        with self._transaction(place):
            if self._kind(self._nearest(place)) != DIRECTORY:
                raise self._error(PathExistsError, "the path or a part of it is a file", place)
            self._make(place)
        return place

    def delete(self, path: P) -> None:
        place = self._place(path)
        with self._transaction(place):
            if self._kind(place) is None:
                raise self._error(PathNotFoundError, "no such file or directory", place)
            if place == "/":
                raise self._error(InvalidPathError, "the root cannot be deleted", place)
            if self._rows("SELECT path FROM nodes WHERE parent = ? LIMIT 1", place):
                raise self._error(DirectoryNotEmptyError, "the directory is not empty", place)
            self._connection.execute("DELETE FROM nodes WHERE path = ?", (place,))

    # Operations with a default, each made one transaction

    def delete_all(self, path: P) -> None:
        with self._transaction(self._place(path)):
            super().delete_all(self._place(path))

    def copy(self, source: P, destination: P) -> None:
        with self._transaction(self._place(source)):
            super().copy(self._place(source), self._place(destination))

    def move(self, source: P, destination: P) -> None:
        with self._transaction(self._place(source)):
            super().move(self._place(source), self._place(destination))

    # Rows

    def _place(self, path: P) -> str:
        return normalize(path, backend=self._backend_type)

    @contextmanager
    def _transaction(self, path: str = "/") -> Iterator[None]:
        """Run the block as one transaction: other threads and processes see all or nothing."""
        with self._lock, self._errors(StorageWriteError, path):
            if self._connection.in_transaction:  # the block is part of a larger transaction
                yield
                return
            with self._connection:
                self._connection.execute("BEGIN IMMEDIATE")
                yield

    def _rows(self, query: str, path: str) -> list[Any]:
        with self._lock, self._errors(StorageResolutionError, path):
            return self._connection.execute(query, (path,)).fetchall()

    def _kind(self, place: str) -> str | None:
        rows = self._rows("SELECT kind FROM nodes WHERE path = ?", place)
        return rows[0][0] if rows else None

    def _nearest(self, place: str) -> str:
        """Return the place, or its nearest parent that exists; the root always exists."""
        while self._kind(place) is None:
            place = _parent(place)
        return place

    def _check_free(self, place: str, *, overwrite: bool) -> None:
        kind = self._kind(place)
        if kind == DIRECTORY:
            error = PathIsDirectoryError if overwrite else PathExistsError
            raise self._error(error, "the path is a directory", place)
        if kind is not None and not overwrite:
            raise self._error(
                PathExistsError, "the path exists already; overwrite=True replaces it", place
            )

    def _provide_parent(self, place: str, *, make: bool) -> None:
        parent, nearest = _parent(place), self._nearest(_parent(place))
        if self._kind(nearest) != DIRECTORY:
            raise self._error(PathNotDirectoryError, "a part of the path is a file", place)
        if nearest != parent and not make:
            raise self._error(
                PathNotFoundError, "the parent directory is missing; parents=True creates it", place
            )
        self._make(parent)

    def _make(self, directory: str) -> None:
        while directory != "/":
            self._connection.execute(
                "INSERT OR IGNORE INTO nodes VALUES (?, ?, ?, NULL)",
                (directory, _parent(directory), DIRECTORY),
            )
            directory = _parent(directory)

    # Values

    def _encoded(self, value: Any, place: str) -> tuple[str, bytes]:
        if isinstance(value, bytes):
            return BYTES, value
        # Not a subclass, such as a masked array: a load would return another type.
        if type(value) is not np.ndarray or value.dtype.hasobject:
            kind = f"a {type(value).__name__}"
            raise self._error(
                UnsupportedFormatError, f"{kind} is neither bytes nor an array", place
            )
        file = io.BytesIO()
        np.lib.format.write_array(file, value, allow_pickle=False)
        return ARRAY, file.getvalue()

    def _decoded(self, stored: bytes, place: str) -> Any:
        try:
            return np.lib.format.read_array(io.BytesIO(stored), allow_pickle=False)
        except (
            SystemError
        ):  # CPython 3.11, if two threads parse at the same time (its issue 106905)
            return self._decoded(stored, place)
        except Exception as error:
            # For damaged bytes, NumPy raises many types of errors.
            raise self._error(
                CorruptDataError, f"the value is not an array: {error}", place
            ) from error

    # Errors: each names the path and the backend

    @contextmanager
    def _errors(self, refused: type[StorageError], path: str) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            damaged = type(error) is sqlite3.DatabaseError  # subclasses have other causes
            kind = CorruptDataError if damaged else refused
            raise self._error(kind, f"SQLite: {error}", path) from error

    def _error(self, kind: type[StorageError], message: str, path: str) -> StorageError:
        return kind(message, path=path, backend=self._backend_type)


def _parent(place: str) -> str:
    return place.rpartition("/")[0] or "/"
