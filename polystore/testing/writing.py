"""The writing half of the contract: saves, deletions and moves of files."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest

from polystore.exceptions import PathExistsError, PathNotFoundError, StorageError
from polystore.testing.kit import BackendKit, needs

__all__ = ["Deletable", "Deleting", "Saving", "Writable", "WriteOnce"]


class Saving(BackendKit):
    """The promises of every backend that can be written; the base of two suites."""

    def test_save_returns_nothing(self, backend: Any, root: str) -> None:
        assert backend.save(self.value(), self.path(root, "a")) is None
        self.same(backend.load(self.path(root, "a")), self.value())

    def test_an_existing_path_is_kept(self, backend: Any, root: str) -> None:
        path = self.path(root, "a")
        backend.save(self.value(), path)
        with pytest.raises(PathExistsError) as caught:
            backend.save(self.value(1), path)
        self.names(caught.value, path)
        self.same(backend.load(path), self.value())

    def test_a_value_that_cannot_be_stored_leaves_nothing(self, backend: Any, root: str) -> None:
        path = self.path(root, "a")
        with pytest.raises(StorageError):
            backend.save(self.unstorable(), path)
        assert not backend.exists(path)
        assert backend.list_dir(root or "/") == []
        backend.save(self.value(), path)

    def test_what_is_saved_is_a_snapshot(self, backend: Any, root: str) -> None:
        value = self.value()
        backend.save(value, self.path(root, "a"))
        self.change(value)
        self.same(backend.load(self.path(root, "a")), self.value())

    def test_what_is_loaded_changes_nothing_stored(self, backend: Any, root: str) -> None:
        backend.save(self.value(), self.path(root, "a"))
        loaded = backend.load(self.path(root, "a"))
        with suppress(ValueError):  # as a read-only array refuses it
            self.change(loaded)
        self.same(backend.load(self.path(root, "a")), self.value())

    def test_copy_makes_a_second_value(self, backend: Any, root: str) -> None:
        one, other = self.paths(root, "a", "b")
        backend.save(self.value(), one)
        backend.copy(one, other)
        for path in (one, other):
            self.same(backend.load(path), self.value())

    def test_copy_keeps_what_is_there(self, backend: Any, root: str) -> None:
        one, other, none = self.paths(root, "a", "b", "none")
        backend.save(self.value(1), one)
        backend.save(self.value(2), other)
        for destination in (one, other):
            with pytest.raises(PathExistsError):
                backend.copy(one, destination)
        with pytest.raises(PathNotFoundError):
            backend.copy(none, self.path(root, "new"))
        self.same(backend.load(one), self.value(1))
        self.same(backend.load(other), self.value(2))

    def change(self, value: Any) -> None:
        """Change a value in place."""
        value[...] = 0


class WriteOnce(Saving):
    """`save` and `copy` alone, for a backend whose `save` takes no ``overwrite``."""


class Writable(Saving):
    """`save`: overwrites only when asked to, and stores a value whole or not at all."""

    def test_an_overwrite_replaces(self, backend: Any, root: str) -> None:
        path = self.path(root, "a")
        for seed in range(3):
            backend.save(self.value(seed), path, overwrite=True)
            self.same(backend.load(path), self.value(seed))
        assert backend.list_dir(root or "/") == [f"a{self.suffix}"]

    def test_an_overwrite_that_fails_keeps_the_old_value(self, backend: Any, root: str) -> None:
        path = self.path(root, "a")
        backend.save(self.value(), path)
        with pytest.raises(StorageError):
            backend.save(self.unstorable(), path, overwrite=True)
        self.same(backend.load(path), self.value())
        assert backend.list_dir(root or "/") == [f"a{self.suffix}"]


class Deleting(BackendKit):
    """The promises of every backend that can delete a file; the base of two suites."""

    @needs(Saving)
    def test_delete_takes_a_file(self, backend: Any, root: str) -> None:
        one, other = self.paths(root, "a", "b")
        backend.save(self.value(), one)
        backend.save(self.value(), other)
        backend.delete(one)
        assert not backend.exists(one)
        assert backend.list_dir(root or "/") == [f"b{self.suffix}"]
        with pytest.raises(PathNotFoundError) as caught:
            backend.delete(one)
        self.names(caught.value, one)

    @needs(Saving)
    def test_delete_all_takes_a_file(self, backend: Any, root: str) -> None:
        path = self.path(root, "a")
        backend.save(self.value(), path)
        backend.delete_all(path)
        assert not backend.exists(path)
        with pytest.raises(PathNotFoundError):
            backend.delete_all(path)

    @needs(Saving)
    def test_a_deleted_path_is_free(self, backend: Any, root: str) -> None:
        path = self.path(root, "a")
        backend.save(self.value(), path)
        backend.delete(path)
        backend.save(self.value(1), path)
        self.same(backend.load(path), self.value(1))

    @needs(Saving)
    def test_move_gives_a_file_another_name(self, backend: Any, root: str) -> None:
        one, other = self.paths(root, "a", "b")
        backend.save(self.value(), one)
        backend.move(one, other)
        self.same(backend.load(other), self.value())
        assert backend.list_dir(root or "/") == [f"b{self.suffix}"]

    @needs(Saving)
    def test_move_keeps_what_is_there(self, backend: Any, root: str) -> None:
        one, other, none = self.paths(root, "a", "b", "none")
        backend.save(self.value(1), one)
        backend.save(self.value(2), other)
        for destination in (one, other):
            with pytest.raises(PathExistsError):
                backend.move(one, destination)
        with pytest.raises(PathNotFoundError):
            backend.move(none, self.path(root, "new"))
        self.same(backend.load(one), self.value(1))
        self.same(backend.load(other), self.value(2))


class Deletable(Deleting):
    """`delete` and `move` of files, for a backend without directories."""
