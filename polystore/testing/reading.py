"""The reading half of the contract."""

from __future__ import annotations

import time
from collections.abc import Callable
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

__all__ = ["Described", "Readable"]


class Readable(BackendKit):
    """`load`, `load_batch`, the questions, listings and `stat`; one directory is enough."""

    @pytest.fixture
    def filled(self, plant: Callable[[Any, str], None], root: str) -> str:
        """Return a directory with ``b`` and ``a`` in it."""
        for seed, name in enumerate(("b", "a")):
            plant(self.value(seed), self.path(root, name))
        return root

    def test_load_returns_what_is_stored(self, backend: Any, filled: str) -> None:
        self.same(backend.load(self.path(filled, "b")), self.value(0))
        self.same(backend.load(self.path(filled, "a")), self.value(1))

    def test_paths_may_be_path_objects(self, backend: Any, filled: str) -> None:
        path = PurePosixPath(self.path(filled, "a"))
        self.same(backend.load(path), self.value(1))
        self.same(backend.load_batch([path])[0], self.value(1))
        assert backend.is_file(path) is True
        assert backend.list_dir(PurePosixPath(filled or "/")) == self.entries("a", "b")

    def test_load_batch_keeps_the_order(self, backend: Any, filled: str) -> None:
        loaded = backend.load_batch(self.paths(filled, "a", "b", "a"))
        for value, seed in zip(loaded, (1, 0, 1), strict=True):
            self.same(value, self.value(seed))
        assert backend.load_batch([]) == []

    def test_load_batch_names_what_is_missing(self, backend: Any, filled: str) -> None:
        paths = self.paths(filled, "a", "none")
        with pytest.raises(PathNotFoundError) as caught:
            backend.load_batch(paths)
        self.names(caught.value, paths[1])

    def test_load_of_a_missing_path_names_it_and_the_backend(
        self, backend: Any, filled: str
    ) -> None:
        path = self.path(filled, "none")
        with pytest.raises(PathNotFoundError) as caught:
            backend.load(path)
        self.names(caught.value, path)

    def test_load_of_a_directory_is_refused(self, backend: Any, filled: str) -> None:
        with pytest.raises(PathTypeError):
            backend.load(filled or "/")

    def test_questions_tell_files_directories_and_nothing(self, backend: Any, filled: str) -> None:
        paths = [self.path(filled, "a"), filled or "/", self.path(filled, "none")]
        for question, answers in {
            backend.exists: [True, True, False],
            backend.is_file: [True, False, False],
            backend.is_dir: [False, True, False],
            backend.is_symlink: [False, False, False],
        }.items():
            answered = [question(path) for path in paths]
            assert answered == answers, question
            assert all(type(answer) is bool for answer in answered), question

    def test_a_path_through_a_file_does_not_exist(self, backend: Any, filled: str) -> None:
        below = self.path(self.path(filled, "a"), "below")
        for question in (backend.exists, backend.is_file, backend.is_dir, backend.is_symlink):
            assert question(below) is False
        with pytest.raises(PathNotFoundError):
            backend.load(below)

    @pytest.mark.parametrize("path", ["", "a\0b"])
    def test_what_can_be_no_path_is_refused(self, backend: Any, path: str) -> None:
        for operation in (backend.load, backend.exists, backend.list_dir, backend.stat):
            with pytest.raises(InvalidPathError):
                operation(path)

    def test_a_path_of_another_type_is_refused(self, backend: Any) -> None:
        for operation in (backend.load, backend.exists, backend.list_dir, backend.stat):
            with pytest.raises(VFSTypeError):
                operation(17)

    def test_list_dir_gives_names_in_plain_order(self, backend: Any, filled: str) -> None:
        assert backend.list_dir(filled or "/") == self.entries("a", "b")

    def test_list_files_gives_paths_in_plain_order(self, backend: Any, filled: str) -> None:
        for recursive in (False, True):
            listed = backend.list_files(filled or "/", recursive=recursive)
            assert listed == self.paths(filled, "a", "b")

    def test_list_files_filters_by_pattern_and_extension(
        self, backend: Any, filled: str, plant: Callable[[Any, str], None]
    ) -> None:
        plant(self.value(), f"{filled}/ab.X{self.suffix}")
        a, ab, b = f"{filled}/a{self.suffix}", f"{filled}/ab.X{self.suffix}", self.path(filled, "b")
        top, ending = filled or "/", f".x{self.suffix}"
        assert backend.list_files(top, "a*") == [a, ab]
        assert backend.list_files(top, "A*") == []
        assert backend.list_files(top, "[b-c]*") == [b]
        assert backend.list_files(top, "*.X*", recursive=True) == [ab]
        assert backend.list_files(top, extensions={ending.upper(), ".other"}) == [ab]
        assert backend.list_files(top, "b*", {ending}) == []
        assert backend.list_files(top, extensions={".other"}) == []

    def test_listings_tell_missing_from_file(self, backend: Any, filled: str) -> None:
        for listing in (backend.list_dir, backend.list_files):
            with pytest.raises(PathNotFoundError) as caught:
                listing(f"{filled}/none")
            self.names(caught.value, f"{filled}/none")
            with pytest.raises(PathNotDirectoryError):
                listing(self.path(filled, "a"))

    def test_stat_describes_every_kind_of_path(self, backend: Any, filled: str) -> None:
        for path, kind in {
            self.path(filled, "a"): "file",
            filled or "/": "directory",
            self.path(filled, "none"): "missing",
            self.path(self.path(filled, "a"), "below"): "missing",
        }.items():
            facts = backend.stat(path)
            assert (facts["type"], facts["path"]) == (kind, path)
            assert facts["exists"] is (kind != "missing")

    def test_a_backend_ends_with_its_block(self, backend: Any) -> None:
        with backend as entered:
            assert entered is backend

    def entries(self, *names: str) -> list[str]:
        """Return the names that a listing of a directory gives these values."""
        return [f"{name}{self.suffix}" for name in names]


class Described(BackendKit):
    """`stat` describes an array without loading it."""

    def test_stat_tells_size_time_shape_and_dtype(
        self, backend: Any, root: str, plant: Callable[[Any, str], None]
    ) -> None:
        value = self.value()
        plant(value, self.path(root, "a"))
        facts = backend.stat(self.path(root, "a"))
        assert (facts["shape"], facts["dtype"]) == (value.shape, str(value.dtype))
        assert facts["size"] > 0
        # Files keep the time of a clock that may be coarser than ours.
        assert abs(facts["modified"] - time.time()) < 60
