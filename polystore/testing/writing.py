"""The writing half of the contract: what a save promises, alone and against others."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from polystore.exceptions import (
    PathExistsError,
    PathIsDirectoryError,
    PathNotFoundError,
    PathTypeError,
    StorageError,
)
from polystore.testing.kit import BackendKit

__all__ = ["Writable"]


class Writable(BackendKit):
    """`save`: never destroys unless told to, and is whole or nothing."""

    def test_an_existing_path_is_kept_unless_told_otherwise(self, backend: Any, root: str) -> None:
        path = self.path(root, "a")
        backend.save(self.value(), path)
        with pytest.raises(PathExistsError):
            backend.save(self.value(1), path)
        self.same(backend.load(path), self.value())
        backend.save(self.value(1), path, overwrite=True)
        self.same(backend.load(path), self.value(1))

    def test_a_missing_parent_is_made_only_when_asked(self, backend: Any, root: str) -> None:
        path = self.path(root, "new/deep/a")
        with pytest.raises(PathNotFoundError):
            backend.save(self.value(), path)
        assert not backend.exists(f"{root}/new")
        backend.save(self.value(), path, parents=True)
        self.same(backend.load(path), self.value())

    def test_a_parent_that_is_a_file_is_refused(self, backend: Any, root: str) -> None:
        backend.save(self.value(), self.path(root, "a"))
        below = self.path(self.path(root, "a"), "below")
        for options in ({}, {"parents": True}):
            with pytest.raises(PathTypeError):
                backend.save(self.value(), below, **options)
        self.same(backend.load(self.path(root, "a")), self.value())

    def test_a_directory_is_never_overwritten(self, backend: Any, root: str) -> None:
        backend.ensure_directory(self.path(root, "d"))
        with pytest.raises(PathExistsError):
            backend.save(self.value(), self.path(root, "d"))
        with pytest.raises(PathIsDirectoryError):
            backend.save(self.value(), self.path(root, "d"), overwrite=True)

    def test_a_value_that_cannot_be_stored_leaves_nothing(self, backend: Any, root: str) -> None:
        path = self.path(root, "a")
        with pytest.raises(StorageError):
            backend.save(threading.Lock(), path)
        assert not backend.exists(path)
        backend.save(self.value(), path)
        with pytest.raises(StorageError):
            backend.save(threading.Lock(), path, overwrite=True)
        self.same(backend.load(path), self.value())
        assert backend.list_dir(root or "/") == [f"a{self.suffix}"]

    def test_what_is_saved_is_a_snapshot(self, backend: Any, root: str) -> None:
        value = self.value()
        backend.save(value, self.path(root, "a"))
        value[:] = 0
        self.same(backend.load(self.path(root, "a")), self.value())

    def test_of_many_savers_one_wins(self, backend: Any, root: str) -> None:
        path = self.path(root, "a")
        won: list[int] = []
        start = threading.Barrier(6)

        def save(seed: int) -> None:
            start.wait()
            try:
                backend.save(self.value(seed), path)
            except PathExistsError:
                return
            won.append(seed)

        savers = [threading.Thread(target=save, args=(seed,)) for seed in range(6)]
        for saver in savers:
            saver.start()
        for saver in savers:
            saver.join()
        [winner] = won
        self.same(backend.load(path), self.value(winner))
        assert backend.list_dir(root or "/") == [f"a{self.suffix}"]

    def test_a_reader_sees_the_old_value_or_the_new_one(self, backend: Any, root: str) -> None:
        path = self.path(root, "a")
        backend.save(self.value(0), path)
        seen: list[Any] = []
        done = threading.Event()

        def read() -> None:
            while not done.is_set():
                seen.append(backend.load(path))

        reader = threading.Thread(target=read)
        reader.start()
        try:
            for seed in range(1, 15):
                backend.save(self.value(seed), path, overwrite=True)
        finally:
            done.set()
            reader.join()
        assert seen
        for value in seen:
            self.same(value, self.value(int(value.flat[0])))
