"""Directories: read, made, deleted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from polystore.exceptions import (
    DirectoryNotEmptyError,
    PathExistsError,
    PathIsDirectoryError,
    PathNotFoundError,
    PathTypeError,
)
from polystore.testing.kit import needs
from polystore.testing.writing import Deleting, Saving, Writable

__all__ = ["Directories"]


class Directories(Deleting):
    """Directories in directories; of a backend that can be written, also made and deleted."""

    # Read

    @pytest.fixture
    def nested(self, plant: Callable[[Any, str], None], root: str) -> str:
        """Return a directory with ``z``, ``d/b``, ``d/e/a`` in it."""
        for seed, name in enumerate(("z", "d/b", "d/e/a")):
            plant(self.value(seed), self.path(root, name))
        return root

    def test_load_finds_what_is_in_directories(self, backend: Any, nested: str) -> None:
        for seed, name in enumerate(("z", "d/b", "d/e/a")):
            self.same(backend.load(self.path(nested, name)), self.value(seed))

    def test_directories_are_listed_with_files(self, backend: Any, nested: str) -> None:
        assert backend.list_dir(nested or "/") == ["d", f"z{self.suffix}"]
        assert backend.list_dir(f"{nested}/d") == [f"b{self.suffix}", "e"]

    def test_list_files_gives_shallow_paths_first(self, backend: Any, nested: str) -> None:
        z, b, a = self.paths(nested, "z", "d/b", "d/e/a")
        assert backend.list_files(nested or "/") == [z]
        assert backend.list_files(nested or "/", recursive=True) == [z, b, a]
        assert backend.list_files(f"{nested}/d", recursive=True) == [b, a]
        assert backend.list_files(nested or "/", "[ab]*", {self.suffix}, True) == [b, a]

    def test_a_directory_is_no_file(self, backend: Any, nested: str) -> None:
        for path in (f"{nested}/d", f"{nested}/d/e"):
            assert backend.exists(path) is backend.is_dir(path) is True
            assert backend.is_file(path) is False
            facts = backend.stat(path)
            assert (facts["type"], facts["path"], facts["exists"]) == ("directory", path, True)
            with pytest.raises(PathTypeError) as caught:
                backend.load(path)
            self.names(caught.value, path)

    # Made

    @needs(Saving)
    def test_ensure_directory_makes_ancestors_and_is_idempotent(
        self, backend: Any, root: str
    ) -> None:
        for _ in range(2):
            assert backend.ensure_directory(f"{root}/d/e") == f"{root}/d/e"
        assert backend.is_dir(f"{root}/d/e")
        assert backend.list_dir(f"{root}/d") == ["e"]
        assert backend.list_dir(f"{root}/d/e") == []

    @needs(Saving)
    def test_ensure_directory_never_covers_a_file(self, backend: Any, root: str) -> None:
        path = self.path(root, "a")
        backend.save(self.value(), path)
        for covering in (path, f"{path}/below"):
            with pytest.raises(PathExistsError):
                backend.ensure_directory(covering)
        self.same(backend.load(path), self.value())

    @needs(Saving)
    def test_a_missing_parent_is_made_only_when_asked(self, backend: Any, root: str) -> None:
        path = self.path(root, "new/deep/a")
        with pytest.raises(PathNotFoundError) as caught:
            backend.save(self.value(), path)
        self.names(caught.value, path)
        assert not backend.exists(f"{root}/new")
        backend.save(self.value(), path, parents=True)
        self.same(backend.load(path), self.value())

    @needs(Saving)
    def test_a_parent_that_is_a_file_is_refused(self, backend: Any, root: str) -> None:
        backend.save(self.value(), self.path(root, "a"))
        for below in ("below", "deep/below"):
            for options in ({}, {"parents": True}):
                with pytest.raises(PathTypeError):
                    backend.save(self.value(), self.path(self.path(root, "a"), below), **options)
        self.same(backend.load(self.path(root, "a")), self.value())

    @needs(Saving)
    def test_a_file_never_takes_the_place_of_a_directory(self, backend: Any, root: str) -> None:
        path = self.path(root, "d")
        backend.ensure_directory(path)
        with pytest.raises(PathExistsError):
            backend.save(self.value(), path)
        assert backend.is_dir(path)

    @needs(Writable)
    def test_a_directory_is_never_overwritten(self, backend: Any, root: str) -> None:
        path = self.path(root, "d")
        backend.save(self.value(), self.path(path, "a"), parents=True)
        with pytest.raises(PathIsDirectoryError):
            backend.save(self.value(), path, overwrite=True)
        self.same(backend.load(self.path(path, "a")), self.value())

    # Deleted

    @needs(Saving)
    def test_delete_takes_an_empty_directory_only(self, backend: Any, root: str) -> None:
        backend.save(self.value(), self.path(root, "d/a"), parents=True)
        with pytest.raises(DirectoryNotEmptyError) as caught:
            backend.delete(f"{root}/d")
        self.names(caught.value, f"{root}/d")
        backend.delete(self.path(root, "d/a"))
        backend.delete(f"{root}/d")
        assert not backend.exists(f"{root}/d")

    @needs(Saving)
    def test_delete_all_takes_a_tree(self, backend: Any, root: str) -> None:
        for name in ("d/a", "d/e/b", "dkept", "kept"):
            backend.save(self.value(), self.path(root, name), parents=True)
        backend.delete_all(f"{root}/d")
        assert backend.list_dir(root or "/") == [f"dkept{self.suffix}", f"kept{self.suffix}"]
        with pytest.raises(PathNotFoundError):
            backend.delete_all(f"{root}/d")
