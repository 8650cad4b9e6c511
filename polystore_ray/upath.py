"""The path class that universal_pathlib takes for ``polystore://``."""

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

# UPath asks how paths are taken apart only those filesystems that fsspec has imported.
get_filesystem_class("polystore")


class PolystorePath(UPath):
    """A path of a store, made by ``UPath("polystore://memory/plate1/a.npy")``.

    It does what a `pathlib.Path` does, through `PolystoreFileSystem`, whose options are keywords.

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
        # With the filesystem, which leads to the same store in every process.
        again: tuple[Any, ...] = super().__reduce__()  # type: ignore[no-untyped-call]
        return _made_again, (self.fs, *again)

    def glob(self, pattern: str, **options: Any) -> Iterator[Self]:
        """Yield what matches a pattern below this path, which itself is no pattern."""
        if options or not has_magic(self.path):
            yield from super().glob(pattern, **options)
            return
        for name in self.fs.glob(f"{escape(self.path)}/{pattern}"):
            yield self.joinpath(name.removeprefix(self.path).removeprefix("/"))

    def rglob(self, pattern: str, **options: Any) -> Iterator[Self]:
        """Yield what matches a pattern anywhere below this path, which itself is no pattern."""
        if options or not has_magic(self.path):
            yield from super().rglob(pattern, **options)
        else:
            yield from self.glob(f"**/{pattern}")


def _made_again(filesystem: Any, again: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    path = again(*arguments)
    path._fs_cached = filesystem  # noqa: SLF001 - where UPath keeps it, and from where it goes on
    return path
