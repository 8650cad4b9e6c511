"""Directories: made, listed, deleted."""

from __future__ import annotations

from typing import Any

import pytest

from polystore.exceptions import (
    DirectoryNotEmptyError,
    PathExistsError,
    PathNotFoundError,
)
from polystore.testing.kit import BackendKit

__all__ = ["Directories"]


class Directories(BackendKit):
    """`ensure_directory`, `delete`, `delete_all`."""

    def test_ensure_directory_makes_ancestors_and_is_idempotent(
        self, backend: Any, root: str
    ) -> None:
        for _ in range(2):
            assert backend.ensure_directory(f"{root}/d/e") == f"{root}/d/e"
        assert backend.is_dir(f"{root}/d/e")
        assert backend.list_dir(f"{root}/d") == ["e"]
        assert backend.list_dir(f"{root}/d/e") == []

    def test_ensure_directory_never_covers_a_file(self, backend: Any, root: str) -> None:
        path = self.path(root, "a")
        backend.save(self.value(), path)
        for covering in (path, f"{path}/below"):
            with pytest.raises(PathExistsError):
                backend.ensure_directory(covering)
        self.same(backend.load(path), self.value())

    def test_delete_takes_a_file(self, backend: Any, root: str) -> None:
        path = self.path(root, "a")
        backend.save(self.value(), path)
        backend.delete(path)
        assert not backend.exists(path)
        with pytest.raises(PathNotFoundError):
            backend.delete(path)

    def test_delete_takes_an_empty_directory_only(self, backend: Any, root: str) -> None:
        backend.save(self.value(), self.path(root, "d/a"), parents=True)
        with pytest.raises(DirectoryNotEmptyError) as caught:
            backend.delete(f"{root}/d")
        assert isinstance(caught.value, IsADirectoryError)
        backend.delete(self.path(root, "d/a"))
        backend.delete(f"{root}/d")
        assert not backend.exists(f"{root}/d")

    def test_delete_all_takes_a_tree(self, backend: Any, root: str) -> None:
        for name in ("d/a", "d/e/b", "kept"):
            backend.save(self.value(), self.path(root, name), parents=True)
        backend.delete_all(f"{root}/d")
        assert backend.list_dir(root or "/") == [f"kept{self.suffix}"]
        with pytest.raises(PathNotFoundError):
            backend.delete_all(f"{root}/d")
