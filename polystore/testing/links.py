"""Symbolic links."""

from __future__ import annotations

from typing import Any

import pytest

from polystore.exceptions import PathExistsError, PathNotFoundError, StorageResolutionError
from polystore.testing.kit import BackendKit

__all__ = ["Links"]


class Links(BackendKit):
    """`create_symlink`, and what other operations do with links."""

    @pytest.fixture
    def linked(self, backend: Any, root: str) -> str:
        """Return a link to the file ``a``."""
        backend.save(self.value(), self.path(root, "a"))
        backend.create_symlink(self.path(root, "a"), self.path(root, "link"))
        return self.path(root, "link")

    def test_load_and_save_act_on_the_target(self, backend: Any, root: str, linked: str) -> None:
        self.same(backend.load(linked), self.value())
        backend.save(self.value(1), linked, overwrite=True)
        self.same(backend.load(self.path(root, "a")), self.value(1))
        assert backend.is_symlink(linked)

    def test_directories_are_reached_through_links(self, backend: Any, root: str) -> None:
        backend.ensure_directory(f"{root}/d")
        backend.create_symlink(f"{root}/d", f"{root}/link")
        backend.save(self.value(), self.path(root, "link/a"))
        self.same(backend.load(self.path(root, "d/a")), self.value())
        assert backend.is_dir(f"{root}/link")
        assert backend.is_symlink(f"{root}/link")
        assert not backend.is_symlink(self.path(root, "link/a"))
        assert backend.list_files(f"{root}/link") == [self.path(root, "link/a")]

    def test_questions_follow_a_link(self, backend: Any, root: str, linked: str) -> None:
        assert backend.exists(linked)
        assert backend.is_file(linked)
        assert backend.is_symlink(linked)
        facts = backend.stat(linked)
        assert (facts["type"], facts["exists"]) == ("symlink", True)
        self.same(backend.load(facts["target"]), self.value())

    def test_a_dangling_link_does_not_exist(self, backend: Any, root: str, linked: str) -> None:
        backend.delete(self.path(root, "a"))
        assert not backend.exists(linked)
        assert backend.is_symlink(linked)
        facts = backend.stat(linked)
        assert (facts["type"], facts["exists"]) == ("symlink", False)
        with pytest.raises(PathNotFoundError):
            backend.load(linked)
        backend.delete(linked)
        assert not backend.is_symlink(linked)

    def test_delete_takes_the_link_itself(self, backend: Any, root: str, linked: str) -> None:
        backend.delete(linked)
        self.same(backend.load(self.path(root, "a")), self.value())

    def test_delete_all_never_follows(self, backend: Any, root: str) -> None:
        backend.save(self.value(), self.path(root, "kept/a"), parents=True)
        backend.ensure_directory(f"{root}/d")
        for link in ("d/link", "link"):
            backend.create_symlink(f"{root}/kept", f"{root}/{link}")
        backend.delete_all(f"{root}/d")
        backend.delete_all(f"{root}/link")
        assert backend.list_dir(root or "/") == ["kept"]
        self.same(backend.load(self.path(root, "kept/a")), self.value())

    def test_listings_show_links_but_do_not_descend(self, backend: Any, root: str) -> None:
        backend.save(self.value(), self.path(root, "d/a"), parents=True)
        backend.create_symlink(f"{root}/d", f"{root}/link")
        assert backend.list_dir(f"{root}/link") == [f"a{self.suffix}"]
        assert backend.list_files(root or "/", recursive=True) == [self.path(root, "d/a")]

    def test_a_link_is_overwritten_when_told(self, backend: Any, root: str, linked: str) -> None:
        backend.save(self.value(1), self.path(root, "b"))
        with pytest.raises(PathExistsError):
            backend.create_symlink(self.path(root, "b"), linked)
        backend.create_symlink(self.path(root, "b"), linked, overwrite=True)
        self.same(backend.load(linked), self.value(1))

    def test_a_file_is_overwritten_when_told(self, backend: Any, root: str, linked: str) -> None:
        other = self.path(root, "b")
        backend.save(self.value(1), other)
        with pytest.raises(PathExistsError):
            backend.create_symlink(self.path(root, "a"), other)
        self.same(backend.load(other), self.value(1))
        backend.create_symlink(self.path(root, "a"), other, overwrite=True)
        assert backend.is_symlink(other)
        self.same(backend.load(other), self.value())

    def test_no_link_takes_the_place_of_a_directory(
        self, backend: Any, root: str, linked: str
    ) -> None:
        backend.save(self.value(1), self.path(root, "d/b"), parents=True)
        with pytest.raises(PathExistsError):
            backend.create_symlink(self.path(root, "a"), f"{root}/d", overwrite=True)
        self.same(backend.load(self.path(root, "d/b")), self.value(1))

    def test_the_source_has_to_exist(self, backend: Any, root: str) -> None:
        with pytest.raises(PathNotFoundError):
            backend.create_symlink(self.path(root, "none"), self.path(root, "link"))
        assert not backend.is_symlink(self.path(root, "link"))

    def test_a_link_to_itself_is_refused(self, backend: Any, root: str, linked: str) -> None:
        for source in (linked, self.path(root, "a")):
            for link in (linked, self.path(root, "a")):
                if (source, link) != (self.path(root, "a"), linked):
                    with pytest.raises(StorageResolutionError):
                        backend.create_symlink(source, link, overwrite=True)
        self.same(backend.load(linked), self.value())

    def test_a_circle_raises_and_does_not_hang(self, backend: Any, root: str, linked: str) -> None:
        second = self.path(root, "second")
        backend.create_symlink(linked, second)
        backend.delete(self.path(root, "a"))
        backend.move(second, self.path(root, "a"))
        assert not backend.exists(linked)
        facts = backend.stat(linked)
        assert (facts["type"], facts["exists"]) == ("symlink", False)
        with pytest.raises(StorageResolutionError):
            backend.load(linked)
