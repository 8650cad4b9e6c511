"""Methods of the file manager that work on a whole tree: find, collect, and mirror with links."""

from __future__ import annotations

import glob
from contextlib import suppress
from typing import Any, Protocol

from polystore.arguments import whole_number
from polystore.exceptions import PathNotFoundError
from polystore.filemanager.across import listed_order, rebasing, walked
from polystore.filemanager.copying import Manager
from polystore.filemanager.dispatch import reading, writing
from polystore.paths import P, as_text, natural_key
from polystore.registration import BackendKey

__all__ = [
    "collect_dirs_and_files",
    "find_file_recursive",
    "keep_last",
    "mirror_directory_with_symlinks",
]


class Links(Manager, Protocol):
    """The file manager, as a mirror uses it."""

    def is_symlink(self, path: P, backend: BackendKey) -> bool: ...

    def ensure_directory(self, path: str, backend: BackendKey) -> str: ...

    def create_symlink(
        self, source: P, link: P, backend: BackendKey, *, overwrite: bool = False
    ) -> None: ...


def find_file_recursive(self: Manager, path: P, filename: str, backend: BackendKey) -> str | None:
    """Return the path of the file with this name at or below a directory, or None.

    Of several, return the shallowest, and of these the first in natural order.

    Examples
    --------
    >>> from polystore import BackendRegistry, FileManager
    >>> fm = FileManager(BackendRegistry.isolated())
    >>> fm.save_batch([1, 2], ["/plate/well/a.json", "/plate/b.json"], backend="memory")
    >>> fm.find_file_recursive("/plate", "a.json", backend="memory")
    '/plate/well/a.json'
    """
    with reading(self.registry, backend, path) as target:
        found = target.list_files(path, glob.escape(filename), recursive=True)
    return min(found, key=listed_order, default=None)


def collect_dirs_and_files(
    self: Manager, path: P, backend: BackendKey, recursive: bool = True
) -> tuple[list[str], list[str]]:
    """Return the directories and the files at and below a directory.

    Each is listed once, shallow first, in natural order; the directory itself comes first.
    Links to directories are listed as directories, and never descended.
    """
    directories, files, _ = walked(self.registry, path, backend, recursive)
    return directories, files


def keep_last(
    self: Manager, path: P, count: int, backend: BackendKey, pattern: str | None = None
) -> list[str]:
    """Delete all values of a directory but the last ones, as of checkpoints.

    The last are those that were saved last, by the time and then the version that `stat` tells;
    of several, natural order decides. Links and directories are left alone.

    Parameters
    ----------
    path, backend
        A directory, and its backend.
    count : int
        How many values to keep, at least 1.
    pattern : str, optional
        A glob on the base name; other values are left alone.

    Returns
    -------
    list of str
        The paths that were deleted, the oldest first.

    Examples
    --------
    >>> from polystore import BackendRegistry, FileManager
    >>> fm = FileManager(BackendRegistry.isolated())
    >>> for step in range(4):
    ...     fm.save({"step": step}, f"/run/{step}.ckpt", backend="memory")
    >>> fm.keep_last("/run", 2, backend="memory")
    ['/run/0.ckpt', '/run/1.ckpt']
    """
    count = whole_number(count, "count", 1)
    options: Any = {} if pattern is None else {"pattern": pattern}
    with writing(self.registry, backend, "keep_last", path) as target:
        files = [file for file in target.list_files(path, **options) if not target.is_symlink(file)]

        def saved(file: str) -> tuple[float, int, Any]:
            stat = target.stat(file)
            return stat.get("modified", 0.0), stat.get("version", 0), natural_key(file)

        others = sorted(files, key=saved)[:-count]
        for file in others:
            with suppress(PathNotFoundError):  # another process has deleted it
                target.delete(file)
    return others


def mirror_directory_with_symlinks(
    self: Links,
    source: P,
    target: P,
    backend: BackendKey,
    recursive: bool = True,
    *,
    overwrite: bool = False,
) -> int:
    """Create the directories of `source` in `target`, with links to its files; count the links.

    Parameters
    ----------
    source, target, backend
        A directory, the directory to fill, which is created if missing, and their backend.
    recursive : bool, default True
        Whether to descend into directories. A link to a directory becomes a link.
    overwrite : bool, default False
        Whether the new links replace existing files and links.

    Raises
    ------
    PathExistsError
        If the path of a new link exists.
    """
    directories, files = collect_dirs_and_files(self, source, backend, recursive)
    rebased = rebasing(directories[0], as_text(target))
    linked = [path for path in directories[1:] if self.is_symlink(path, backend)]
    if not recursive:
        directories, linked = directories[:1], []
    for directory in directories:
        if directory not in linked:
            self.ensure_directory(rebased(directory), backend)
    for path in (*linked, *files):
        self.create_symlink(path, rebased(path), backend, overwrite=overwrite)
    return len(linked) + len(files)
