"""Batches."""

from __future__ import annotations

from typing import Any

import pytest

from polystore.exceptions import BatchLengthError, PathExistsError, PathNotFoundError, StorageError
from polystore.testing.directories import Directories
from polystore.testing.kit import BackendKit, needs
from polystore.testing.writing import Writable

__all__ = ["AtomicBatches", "Batches"]


class Batches(BackendKit):
    """`save_batch`: in order, and checked before anything is written."""

    def test_a_batch_keeps_its_order(self, backend: Any, root: str) -> None:
        paths = self.paths(root, "b", "a", "c")
        assert backend.save_batch([self.value(seed) for seed in range(3)], paths) is None
        loaded = backend.load_batch(paths[::-1])
        for value, seed in zip(loaded, (2, 1, 0), strict=True):
            self.same(value, self.value(seed))

    def test_an_empty_batch_is_nothing(self, backend: Any, root: str) -> None:
        backend.save_batch([], [])
        assert backend.load_batch([]) == []
        assert backend.list_dir(root or "/") == []

    def test_other_numbers_of_values_and_paths_write_nothing(self, backend: Any, root: str) -> None:
        for values in ([self.value()], [self.value()] * 3):
            with pytest.raises(BatchLengthError):
                backend.save_batch(values, self.paths(root, "a", "b"))
        assert backend.list_dir(root or "/") == []

    def test_a_path_that_occurs_twice_is_found_first(self, backend: Any, root: str) -> None:
        a, b = self.paths(root, "a", "b")
        with pytest.raises(PathExistsError) as caught:
            backend.save_batch([self.value()] * 3, [a, b, a])
        self.names(caught.value, a)
        assert backend.list_dir(root or "/") == []

    @needs(Directories)
    def test_a_path_in_two_spellings_occurs_twice(self, backend: Any, root: str) -> None:
        a, b = self.paths(root, "a", "b")
        again = self.path(f"{root}/", "a")
        with pytest.raises(PathExistsError):
            backend.save_batch([self.value()] * 3, [a, b, again])
        assert backend.list_dir(root or "/") == []

    def test_a_path_that_exists_is_found_first(self, backend: Any, root: str) -> None:
        a, b = self.paths(root, "a", "b")
        backend.save(self.value(), b)
        with pytest.raises(PathExistsError) as caught:
            backend.save_batch([self.value(1)] * 2, [a, b])
        self.names(caught.value, b)
        assert not backend.exists(a)
        self.same(backend.load(b), self.value())

    @needs(Writable)
    def test_a_batch_replaces_when_told(self, backend: Any, root: str) -> None:
        a, b = self.paths(root, "a", "b")
        backend.save(self.value(), b)
        backend.save_batch([self.value(1), self.value(2)], [a, b], overwrite=True)
        self.same(backend.load(a), self.value(1))
        self.same(backend.load(b), self.value(2))

    @needs(Directories)
    def test_a_missing_parent_is_found_first(self, backend: Any, root: str) -> None:
        a, b = self.paths(root, "a", "new/b")
        with pytest.raises(PathNotFoundError) as caught:
            backend.save_batch([self.value()] * 2, [a, b])
        self.names(caught.value, b)
        assert not backend.exists(a)
        backend.save_batch([self.value()] * 2, [a, b], parents=True)
        self.same(backend.load(b), self.value())

    def test_a_failure_midway_names_what_was_written(self, backend: Any, root: str) -> None:
        paths = self.paths(root, "a", "b", "c")
        with pytest.raises(StorageError) as caught:
            backend.save_batch([self.value(), self.unstorable(), self.value()], paths)
        written = caught.value.written
        assert list(written) == [path for path in paths if backend.exists(path)]
        assert backend.list_dir(root or "/") == [path.rpartition("/")[2] for path in written]


class AtomicBatches(BackendKit):
    """A batch that is published all at once."""

    def test_a_value_that_cannot_be_stored_keeps_all_out(self, backend: Any, root: str) -> None:
        with pytest.raises(StorageError):
            backend.save_batch([self.value(), self.unstorable()], self.paths(root, "a", "b"))
        assert backend.list_dir(root or "/") == []

    @needs(Writable)
    def test_a_batch_that_fails_replaces_nothing(self, backend: Any, root: str) -> None:
        paths = self.paths(root, "a", "b")
        backend.save_batch([self.value(), self.value()], paths)
        with pytest.raises(StorageError):
            backend.save_batch([self.value(1), self.unstorable()], paths, overwrite=True)
        for path in paths:
            self.same(backend.load(path), self.value())
