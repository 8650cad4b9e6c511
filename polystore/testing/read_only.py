"""Backends that can only be read: what is there can be read, and writing is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from polystore.exceptions import UnsupportedOperationError
from polystore.filemanager import FileManager
from polystore.testing.kit import BackendKit

__all__ = ["ReadOnly"]


class ReadOnly(BackendKit):
    """A `ReadOnlyBackend`, through a `FileManager`. It needs the fixture `raw` or `plant`."""

    @pytest.fixture
    def manager(self, backend: Any) -> FileManager:
        """Return a file manager that knows the backend as ``archive``."""
        return FileManager({"archive": backend})

    @pytest.fixture
    def kept(self, plant: Callable[[Any, str], None], root: str) -> str:
        """Return the path of a value that has to stay as it is."""
        plant(self.value(), self.path(root, "a"))
        return self.path(root, "a")

    def test_the_file_manager_reads(self, manager: FileManager, root: str, kept: str) -> None:
        self.same(manager.load(kept, "archive"), self.value())
        self.same(manager.load_batch([kept], "archive")[0], self.value())
        assert manager.list_files(root or "/", "archive") == [kept]
        assert manager.exists(kept, "archive")

    @pytest.mark.parametrize(
        "operation",
        [
            "save",
            "save_batch",
            "delete",
            "delete_all",
            "ensure_directory",
            "create_symlink",
            "copy",
            "move",
        ],
    )
    def test_writing_is_refused_and_changes_nothing(
        self, manager: FileManager, root: str, kept: str, operation: str
    ) -> None:
        new = self.path(root, "b")
        arguments: tuple[Any, ...] = {
            "save": (self.value(1), new),
            "save_batch": ([self.value(1)], [new]),
            "create_symlink": (kept, new),
            "copy": (kept, new),
            "move": (kept, new),
            "ensure_directory": (f"{root}/d",),
        }.get(operation, (kept,))
        with pytest.raises(UnsupportedOperationError, match=operation) as caught:
            getattr(manager, operation)(*arguments, "archive")
        assert caught.value.backend
        self.same(manager.load(kept, "archive"), self.value())
        assert manager.list_files(root or "/", "archive") == [kept]
