"""The paths of virtual trees."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from polystore.exceptions import InvalidPathError
from polystore.testing.directories import Directories
from polystore.testing.kit import BackendKit, needs
from polystore.testing.writing import Saving

__all__ = ["VirtualPaths"]

ABOVE = ("..", "/../a", "a/../..")


class VirtualPaths(BackendKit):
    """One tree rooted at ``/``: one spelling of each path, and nothing above the root."""

    @pytest.mark.parametrize("spelling", ["{0}", "/{0}", "//{0}", "/./{0}", "/c/../{0}"])
    def test_all_spellings_are_one_path(
        self, backend: Any, root: str, plant: Callable[[Any, str], None], spelling: str
    ) -> None:
        path = self.path(root, "a")
        plant(self.value(), path)
        spelt = spelling.format(path.strip("/"))
        self.same(backend.load(spelt), self.value())
        assert backend.is_file(spelt)

    @pytest.mark.parametrize("path", ABOVE)
    def test_above_the_root_is_refused(self, backend: Any, path: str) -> None:
        for operation in (backend.load, backend.exists, backend.list_dir, backend.stat):
            with pytest.raises(InvalidPathError):
                operation(path)

    @pytest.mark.parametrize("path", ABOVE)
    @needs(Saving)
    def test_nothing_is_saved_above_the_root(self, backend: Any, path: str) -> None:
        with pytest.raises(InvalidPathError):
            backend.save(self.value(), f"{path}/b{self.suffix}")

    def test_the_root_always_exists(self, backend: Any) -> None:
        assert backend.is_dir("/")
        assert backend.stat("/")["type"] == "directory"

    @needs(Saving, Directories)
    def test_the_root_stays(self, backend: Any, root: str) -> None:
        backend.save(self.value(), self.path(root, "a"))
        for operation in (backend.delete, backend.delete_all):
            with pytest.raises(InvalidPathError):
                operation("/")
        self.same(backend.load(self.path(root, "a")), self.value())
