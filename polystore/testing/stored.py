"""The stored files, without the backend: damage raises, and a save leaves nothing behind."""

from __future__ import annotations

from typing import Any

import pytest

from polystore.exceptions import (
    CorruptDataError,
    PathExistsError,
    PathNotFoundError,
    StorageError,
    StorageResolutionError,
)
from polystore.testing.batches import Batches
from polystore.testing.directories import Directories
from polystore.testing.kit import BackendKit, needs
from polystore.testing.links import Links
from polystore.testing.raw import RawAccess
from polystore.testing.transfers import Transfers
from polystore.testing.writing import Deleting, Saving, Writable

__all__ = ["Damage", "Traces"]


class _Bypassing(BackendKit):
    @pytest.fixture
    def stored(self, raw: RawAccess | None) -> RawAccess:
        """Return raw access, which these suites cannot do without."""
        if raw is None:
            raise NotImplementedError(
                f"{type(self).__name__} needs a fixture 'raw'; leave Damage and Traces out where "
                f"the backend's values can be reached through itself alone"
            )
        return raw


class Damage(_Bypassing):
    """A damaged value raises an error. It needs the fixture `raw`."""

    @pytest.fixture
    def damaged(self, stored: RawAccess, root: str) -> str:
        """Return the path of a damaged value, next to the whole value ``b``."""
        for name in ("a", "b"):
            stored.write(self.value(), self.path(root, name))
        next(iter(stored.damage(self.path(root, "a"))))
        return self.path(root, "a")

    def test_a_damaged_value_is_told(self, backend: Any, root: str, stored: RawAccess) -> None:
        path = self.path(root, "a")
        stored.write(self.value(), path)
        for how in stored.damage(path):
            with pytest.raises(CorruptDataError) as caught:
                pytest.fail(f"a value {how} was loaded: {backend.load(path)!r}")
            self.names(caught.value, path)

    def test_a_batch_names_what_is_damaged(self, backend: Any, root: str, damaged: str) -> None:
        with pytest.raises(CorruptDataError) as caught:
            backend.load_batch([self.path(root, "b"), damaged])
        self.names(caught.value, damaged)

    def test_questions_and_listings_do_not_mind_damage(
        self, backend: Any, root: str, damaged: str
    ) -> None:
        assert backend.exists(damaged) is backend.is_file(damaged) is True
        assert backend.is_dir(damaged) is False
        assert backend.list_files(root or "/") == [damaged, self.path(root, "b")]
        assert backend.stat(damaged)["type"] == "file"

    @needs(Writable)
    def test_a_damaged_value_can_be_replaced(self, backend: Any, damaged: str) -> None:
        with pytest.raises(PathExistsError):
            backend.save(self.value(1), damaged)
        backend.save(self.value(1), damaged, overwrite=True)
        self.same(backend.load(damaged), self.value(1))

    @needs(Saving, Deleting)
    def test_a_damaged_value_can_be_deleted(self, backend: Any, damaged: str) -> None:
        backend.delete(damaged)
        assert not backend.exists(damaged)


class Traces(_Bypassing):
    """A change leaves nothing behind but its result. It needs the fixture `raw`."""

    @pytest.fixture
    def occupied(self, stored: RawAccess, root: str) -> str:
        """Return the path of a value that is stored already."""
        stored.write(self.value(), self.path(root, "a"))
        return self.path(root, "a")

    def test_a_save_is_stored_when_it_returns(
        self, backend: Any, root: str, stored: RawAccess
    ) -> None:
        backend.save(self.value(), self.path(root, "a"))
        self.same(stored.read(self.path(root, "a")), self.value())

    def test_a_save_that_is_refused_leaves_nothing(
        self, backend: Any, stored: RawAccess, occupied: str
    ) -> None:
        before = stored.contents()
        with pytest.raises(PathExistsError):
            backend.save(self.value(1), occupied)
        assert stored.contents() == before

    def test_a_save_that_fails_leaves_nothing(
        self, backend: Any, root: str, stored: RawAccess, occupied: str
    ) -> None:
        before = stored.contents()
        with pytest.raises(StorageError):
            backend.save(self.unstorable(), self.path(root, "b"))
        assert stored.contents() == before

    @needs(Writable)
    def test_an_overwrite_that_fails_leaves_nothing(
        self, backend: Any, stored: RawAccess, occupied: str
    ) -> None:
        before = stored.contents()
        with pytest.raises(StorageError):
            backend.save(self.unstorable(), occupied, overwrite=True)
        assert stored.contents() == before

    @needs(Writable)
    def test_an_overwrite_leaves_one_value(
        self, backend: Any, root: str, stored: RawAccess
    ) -> None:
        path = self.path(root, "a")
        backend.save(self.value(), path)
        before = stored.contents()
        backend.save(self.value(1), path, overwrite=True)
        self.same(stored.read(path), self.value(1))
        assert stored.contents().keys() == before.keys()

    @needs(Directories)
    def test_a_save_without_its_parent_makes_nothing(
        self, backend: Any, root: str, stored: RawAccess, occupied: str
    ) -> None:
        before = stored.contents()
        for path in (self.path(root, "new/b"), self.path(occupied, "b")):
            with pytest.raises(StorageError):
                backend.save(self.value(), path)
        with pytest.raises(StorageError):
            backend.save(self.value(), self.path(occupied, "b"), parents=True)
        assert stored.contents() == before

    @needs(Batches)
    def test_a_batch_that_is_refused_leaves_nothing(
        self, backend: Any, root: str, stored: RawAccess, occupied: str
    ) -> None:
        before = stored.contents()
        with pytest.raises(PathExistsError):
            backend.save_batch([self.value(1)] * 2, [self.path(root, "b"), occupied])
        assert stored.contents() == before

    @needs(Deleting)
    def test_what_is_deleted_is_gone(self, backend: Any, root: str, stored: RawAccess) -> None:
        # The first save may make what the backend keeps for itself.
        backend.save(self.value(), self.path(root, "a"))
        before = stored.contents()
        backend.save(self.value(), self.path(root, "b"))
        backend.move(self.path(root, "b"), self.path(root, "c"))
        backend.delete(self.path(root, "c"))
        assert stored.contents() == before

    @needs(Directories)
    def test_a_tree_that_is_deleted_is_gone(
        self, backend: Any, root: str, stored: RawAccess
    ) -> None:
        backend.save(self.value(), self.path(root, "a"))
        before = stored.contents()
        backend.save(self.value(), self.path(root, "d/e/b"), parents=True)
        backend.delete_all(f"{root}/d")
        assert stored.contents() == before

    @needs(Transfers)
    def test_a_transfer_that_is_refused_leaves_nothing(
        self, backend: Any, root: str, stored: RawAccess, occupied: str
    ) -> None:
        stored.write(self.value(), self.path(root, "d/b"))
        before = stored.contents()
        for transfer in (backend.copy, backend.move):
            with pytest.raises(PathExistsError):
                transfer(f"{root}/d", occupied)
            with pytest.raises(PathNotFoundError):
                transfer(f"{root}/d", f"{root}/none/d")
        assert stored.contents() == before

    @needs(Links)
    def test_a_link_that_is_refused_leaves_nothing(
        self, backend: Any, root: str, stored: RawAccess, occupied: str
    ) -> None:
        before = stored.contents()
        with pytest.raises(PathNotFoundError):
            backend.create_symlink(self.path(root, "none"), self.path(root, "link"))
        with pytest.raises(StorageResolutionError):
            backend.create_symlink(occupied, occupied, overwrite=True)
        assert stored.contents() == before
