"""Batches."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from polystore.exceptions import BatchLengthError, PathExistsError, PathNotFoundError, StorageError
from polystore.testing.kit import BackendKit

__all__ = ["AtomicBatches", "Batches"]


class Batches(BackendKit):
    """`save_batch` and `load_batch`: in order, and checked before anything is written."""

    def paths(self, root: str, *names: str) -> list[str]:
        """Return the paths of these names."""
        return [self.path(root, name) for name in names]

    def test_a_batch_keeps_its_order(self, backend: Any, root: str) -> None:
        paths = self.paths(root, "b", "a", "c")
        backend.save_batch([self.value(seed) for seed in range(3)], paths)
        loaded = backend.load_batch(paths[::-1])
        for value, seed in zip(loaded, (2, 1, 0), strict=True):
            self.same(value, self.value(seed))

    def test_an_empty_batch_is_nothing(self, backend: Any, root: str) -> None:
        backend.save_batch([], [])
        assert backend.load_batch([]) == []
        assert backend.list_dir(root or "/") == []

    def test_other_numbers_of_values_and_paths_write_nothing(self, backend: Any, root: str) -> None:
        with pytest.raises(BatchLengthError):
            backend.save_batch([self.value()], self.paths(root, "a", "b"))
        assert backend.list_dir(root or "/") == []

    def test_a_path_that_occurs_twice_is_found_first(self, backend: Any, root: str) -> None:
        a, b = self.paths(root, "a", "b")
        for twice in ([a, b, a], [a, b, a.replace("/a", "//a")]):
            with pytest.raises(PathExistsError):
                backend.save_batch([self.value()] * 3, twice)
        assert backend.list_dir(root or "/") == []

    def test_a_path_that_exists_is_found_first(self, backend: Any, root: str) -> None:
        a, b = self.paths(root, "a", "b")
        backend.save(self.value(), b)
        with pytest.raises(PathExistsError):
            backend.save_batch([self.value(1)] * 2, [a, b])
        assert not backend.exists(a)
        backend.save_batch([self.value(1)] * 2, [a, b], overwrite=True)
        self.same(backend.load(b), self.value(1))

    def test_a_missing_parent_is_found_first(self, backend: Any, root: str) -> None:
        a, b = self.paths(root, "a", "new/b")
        with pytest.raises(PathNotFoundError):
            backend.save_batch([self.value()] * 2, [a, b])
        assert not backend.exists(a)
        backend.save_batch([self.value()] * 2, [a, b], parents=True)
        self.same(backend.load(b), self.value())

    def test_load_batch_names_what_is_missing(self, backend: Any, root: str) -> None:
        a, b = self.paths(root, "a", "b")
        backend.save(self.value(), a)
        with pytest.raises(PathNotFoundError):
            backend.load_batch([a, b])


class AtomicBatches(BackendKit):
    """A batch that is published all at once."""

    def test_a_value_that_cannot_be_stored_keeps_all_out(self, backend: Any, root: str) -> None:
        paths = [self.path(root, name) for name in ("a", "b")]
        with pytest.raises(StorageError):
            backend.save_batch([self.value(), threading.Lock()], paths)
        assert backend.list_dir(root or "/") == []
