"""The path class that universal_pathlib uses for ``polystore://`` URLs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from glob import escape, has_magic
from typing import Any, Self

from polystore.exceptions import missing_dependency

try:
    from fsspec import get_filesystem_class
    from upath import UPath
except ImportError as error:
    raise missing_dependency("a UPath", error, "fsspec") from error

__all__ = ["PolystorePath"]

# UPath finds the rules for paths only of filesystems that fsspec has already imported.
get_filesystem_class("polystore")


class PolystorePath(UPath):
    """A path in a store, created by ``UPath("polystore://memory/plate1/a.npy")``.

    It has the methods of `pathlib.Path`. Keyword arguments are those of `PolystoreFileSystem`.

    Examples
    --------
    >>> from upath import UPath
    >>> path = UPath("polystore://memory/plate1/notes.txt", store="paths", local=True)
    >>> path.write_text("three cells")
    11
    >>> [found.name for found in path.parent.iterdir()]
    ['notes.txt']
    """

    __slots__ = ()

    def __reduce__(self) -> tuple[Any, ...]:
        # Pickle the filesystem too: it finds the same store in every process.
        again: tuple[Any, ...] = super().__reduce__()  # type: ignore[no-untyped-call]
        return _made_again, (self.fs, *again)

    def glob(self, pattern: str, **options: Any) -> Iterator[Self]:
        """Yield the paths below this one that match a pattern; this path is taken literally."""
        if options or not has_magic(self.path):
            yield from super().glob(pattern, **options)
            return
        for name in self.fs.glob(f"{escape(self.path)}/{pattern}"):
            yield self.joinpath(name.removeprefix(self.path).removeprefix("/"))

    def rglob(self, pattern: str, **options: Any) -> Iterator[Self]:
        """Yield the paths at any depth below this one that match a pattern."""
        if options or not has_magic(self.path):
            yield from super().rglob(pattern, **options)
        else:
            yield from self.glob(f"**/{pattern}")


def _made_again(filesystem: Any, again: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    path = again(*arguments)
    path._fs_cached = filesystem  # noqa: SLF001 - UPath keeps its filesystem here
    return path
