"""The reading half of the contract, and the paths of virtual trees."""

from __future__ import annotations

import pickle
from pathlib import PurePosixPath
from typing import Any

import pytest

from polystore.exceptions import (
    InvalidPathError,
    PathNotDirectoryError,
    PathNotFoundError,
    PathTypeError,
    VFSTypeError,
)
from polystore.testing.kit import BackendKit

__all__ = ["Readable", "VirtualPaths"]


class Readable(BackendKit):
    """`load`, the questions, and listings."""

    @pytest.fixture
    def filled(self, backend: Any, root: str) -> str:
        """Return a directory with ``b``, ``a``, ``d/c`` in it."""
        for seed, name in enumerate(("b", "a", "d/c")):
            backend.save(self.value(seed), self.path(root, name), parents=True)
        return root

    def test_load_returns_what_was_saved(self, backend: Any, filled: str) -> None:
        self.same(backend.load(self.path(filled, "d/c")), self.value(2))

    def test_paths_may_be_path_objects(self, backend: Any, filled: str) -> None:
        self.same(backend.load(PurePosixPath(self.path(filled, "a"))), self.value(1))

    def test_load_of_a_missing_path_names_it_and_the_backend(
        self, backend: Any, filled: str
    ) -> None:
        path = self.path(filled, "none")
        with pytest.raises(PathNotFoundError) as caught:
            backend.load(path)
        assert path in str(caught.value)
        assert isinstance(caught.value, FileNotFoundError)
        assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)

    def test_load_of_a_directory_is_refused(self, backend: Any, filled: str) -> None:
        with pytest.raises(PathTypeError):
            backend.load(f"{filled}/d")

    def test_questions_tell_files_directories_and_nothing(self, backend: Any, filled: str) -> None:
        paths = [self.path(filled, "a"), f"{filled}/d", self.path(filled, "none")]
        assert [backend.exists(path) for path in paths] == [True, True, False]
        assert [backend.is_file(path) for path in paths] == [True, False, False]
        assert [backend.is_dir(path) for path in paths] == [False, True, False]
        assert [backend.is_symlink(path) for path in paths] == [False, False, False]

    def test_a_path_through_a_file_does_not_exist(self, backend: Any, filled: str) -> None:
        assert not backend.exists(self.path(filled, "a") + "/below")

    @pytest.mark.parametrize("path", ["", "a\0b"])
    def test_what_can_be_no_path_is_refused(self, backend: Any, path: str) -> None:
        for operation in (backend.load, backend.exists, backend.list_dir):
            with pytest.raises(InvalidPathError):
                operation(path)

    def test_a_path_of_another_type_is_refused(self, backend: Any) -> None:
        for operation in (backend.load, backend.exists, backend.list_dir):
            with pytest.raises(VFSTypeError):
                operation(17)

    def test_list_dir_gives_names_in_plain_order(self, backend: Any, filled: str) -> None:
        assert backend.list_dir(filled or "/") == [f"a{self.suffix}", f"b{self.suffix}", "d"]

    def test_list_files_gives_paths_shallow_first(self, backend: Any, filled: str) -> None:
        top = filled or "/"
        names = [self.path(filled, name) for name in ("a", "b", "d/c")]
        assert backend.list_files(top) == names[:2]
        assert backend.list_files(top, recursive=True) == names

    def test_list_files_filters_by_pattern_and_extension(self, backend: Any, filled: str) -> None:
        top = filled or "/"
        assert backend.list_files(top, "[b-c]*", recursive=True) == [
            self.path(filled, "b"),
            self.path(filled, "d/c"),
        ]
        assert backend.list_files(top, "a*", {self.suffix.upper()}) == [self.path(filled, "a")]
        assert backend.list_files(top, extensions={".other"}) == []

    def test_listings_tell_missing_from_file(self, backend: Any, filled: str) -> None:
        for listing in (backend.list_dir, backend.list_files):
            with pytest.raises(PathNotFoundError) as caught:
                listing(f"{filled}/none")
            assert isinstance(caught.value, ValueError)
            with pytest.raises(PathNotDirectoryError):
                listing(self.path(filled, "a"))

    def test_stat_describes_every_kind_of_path(self, backend: Any, filled: str) -> None:
        facts = backend.stat(self.path(filled, "a"))
        assert facts["type"] == "file"
        assert facts["exists"] is True
        assert backend.stat(f"{filled}/d")["type"] == "directory"
        missing = backend.stat(self.path(filled, "none"))
        assert (missing["type"], missing["exists"]) == ("missing", False)


class VirtualPaths(BackendKit):
    """One tree rooted at ``/``: one spelling of each path, and nothing above the root."""

    @pytest.mark.parametrize("spelling", ["{0}/b", "/{0}/b", "/{0}//b", "/{0}/./c/../b"])
    def test_all_spellings_are_one_path(self, backend: Any, root: str, spelling: str) -> None:
        backend.save(self.value(), self.path(f"{root}/a", "b"), parents=True)
        inner = f"{root}/a".strip("/")
        self.same(backend.load(spelling.format(inner) + self.suffix), self.value())

    @pytest.mark.parametrize("path", ["..", "/../a", "a/../.."])
    def test_above_the_root_is_refused(self, backend: Any, path: str) -> None:
        for operation in (backend.load, backend.exists, backend.list_dir):
            with pytest.raises(InvalidPathError):
                operation(path)
        with pytest.raises(InvalidPathError):
            backend.save(self.value(), f"{path}/b{self.suffix}")

    def test_the_root_always_exists(self, backend: Any) -> None:
        assert backend.is_dir("/")
        with pytest.raises(InvalidPathError):
            backend.delete_all("/")
