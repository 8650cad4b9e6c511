"""Copies and moves of trees."""

from __future__ import annotations

from typing import Any

import pytest

from polystore.exceptions import InvalidPathError, PathExistsError, PathNotFoundError
from polystore.testing.kit import BackendKit, needs
from polystore.testing.links import Links

__all__ = ["Transfers"]


class Transfers(BackendKit):
    """`copy` and `move`: never overwrite, never make parents, never into themselves."""

    @pytest.fixture(params=["copy", "move"])
    def transfer(self, backend: Any, request: pytest.FixtureRequest) -> Any:
        """Return the one operation or the other."""
        return getattr(backend, request.param)

    @pytest.fixture
    def tree(self, backend: Any, root: str) -> str:
        """Return a directory with ``a``, ``e/b`` and the empty ``f`` in it."""
        backend.save(self.value(0), self.path(root, "d/a"), parents=True)
        backend.save(self.value(1), self.path(root, "d/e/b"), parents=True)
        backend.ensure_directory(f"{root}/d/f")
        return f"{root}/d"

    def test_a_file_arrives(self, backend: Any, root: str, tree: str, transfer: Any) -> None:
        transfer(self.path(tree, "a"), self.path(root, "new"))
        self.same(backend.load(self.path(root, "new")), self.value(0))
        assert backend.exists(self.path(tree, "a")) == (transfer.__name__ == "copy")

    def test_a_tree_arrives(self, backend: Any, root: str, tree: str, transfer: Any) -> None:
        transfer(tree, f"{root}/new")
        assert backend.list_files(f"{root}/new", recursive=True) == self.paths(
            root, "new/a", "new/e/b"
        )
        self.same(backend.load(self.path(root, "new/e/b")), self.value(1))
        assert backend.is_dir(f"{root}/new/f")
        assert backend.exists(tree) == (transfer.__name__ == "copy")

    @needs(Links)
    def test_a_link_stays_a_link(self, backend: Any, root: str, tree: str, transfer: Any) -> None:
        backend.create_symlink(self.path(tree, "a"), self.path(root, "link"))
        backend.create_symlink(f"{tree}/e", f"{root}/links")
        for name in (f"link{self.suffix}", "links"):
            transfer(f"{root}/{name}", f"{tree}/f/{name}")
            assert backend.is_symlink(f"{tree}/f/{name}")
        self.same(backend.load(self.path(tree, "f/link")), self.value(0))
        self.same(backend.load(self.path(tree, "f/links/b")), self.value(1))

    def test_nothing_is_overwritten(
        self, backend: Any, root: str, tree: str, transfer: Any
    ) -> None:
        backend.save(self.value(7), self.path(root, "there"))
        for source in (self.path(tree, "a"), tree):
            for destination in (self.path(root, "there"), f"{tree}/e"):
                with pytest.raises(PathExistsError):
                    transfer(source, destination)
        self.same(backend.load(self.path(root, "there")), self.value(7))
        self.same(backend.load(self.path(tree, "a")), self.value(0))

    def test_a_parent_has_to_be_there(
        self, backend: Any, root: str, tree: str, transfer: Any
    ) -> None:
        for source in (self.path(tree, "a"), tree):
            with pytest.raises(PathNotFoundError):
                transfer(source, self.path(root, "none/a"))
        with pytest.raises(PathNotFoundError):
            transfer(self.path(tree, "none"), self.path(root, "new"))
        assert backend.list_dir(root or "/") == ["d"]

    def test_a_tree_never_goes_into_itself(
        self, backend: Any, root: str, tree: str, transfer: Any
    ) -> None:
        with pytest.raises(InvalidPathError):
            transfer(tree, f"{tree}/e/inside")
        assert len(backend.list_files(tree, recursive=True)) == 2
