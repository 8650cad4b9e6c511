"""The file manager: one method for each operation, on the backend that the call names."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from polystore.async_methods import in_a_thread
from polystore.events import Event
from polystore.exceptions import PathNotFoundError
from polystore.filemanager import batches, copying, mapping, trees
from polystore.filemanager.across import listed_order
from polystore.filemanager.dispatch import (
    OptionRules,
    Registry,
    check_registry,
    parents_option,
    reading,
    suggest_near,
    writing,
)
from polystore.filemanager.notebook import manager_html
from polystore.paths import P, PathT, as_given, natural_key
from polystore.registration import BackendKey
from polystore.stat import Stat
from polystore.writable import private

__all__ = ["IMAGE_EXTENSIONS", "FileManager"]

IMAGE_EXTENSIONS = frozenset({".tif", ".tiff", ".png", ".jpg", ".jpeg"})


class FileManager:
    """Send each operation to the backend that the call names.

    There is no default backend and no fallback to another one. The file manager adds convenience
    only: saves create missing parents, and lists come in natural order (``img2`` before
    ``img10``). The errors of polystore pass through unchanged; any other exception, as a custom
    backend may raise, arrives as a `StorageResolutionError` with its cause.

    In every method, `path` is a `str` or `os.PathLike`, and `backend` is the key of a backend: a
    `str` in any case, or an enum member whose value is one.

    Parameters
    ----------
    registry : Mapping
        From key to backend: a `BackendRegistry`, a ``polystore_ray.RayBackendRegistry``, or a
        plain `dict`. A file manager pickles if its registry does.
    strict : bool, default True
        Whether an option that the backend does not take raises. With False it is dropped, with
        one warning for each backend.
    overwrite : bool, default False
        The default of the option ``overwrite`` of `save` and `save_batch`.

    Raises
    ------
    BackendNotFoundError
        By every operation, if the registry has no such backend.
    UnsupportedOperationError
        By every operation that the backend does not support.
    VFSTypeError
        If `registry` is not a mapping; it is a `StorageResolutionError`, and thus a `ValueError`,
        for None. By an operation, before it starts, if the backend does not take an option.

    Examples
    --------
    >>> import numpy as np
    >>> from polystore import BackendRegistry, FileManager
    >>> fm = FileManager(BackendRegistry.isolated())
    >>> fm.save(np.arange(3), "/plate1/A01.npy", backend="memory")
    >>> fm.load("/plate1/A01.npy", backend="memory")
    array([0, 1, 2])
    >>> fm.list_files("/plate1", backend="memory")
    ['/plate1/A01.npy']
    """

    def __init__(
        self,
        registry: Registry = ...,  # type: ignore[assignment] # so that the error says what it is
        *,
        strict: bool = True,
        overwrite: bool = False,
    ) -> None:
        self.registry: Mapping[str, Any] = check_registry(registry)
        self._rules = OptionRules(strict=strict, overwrite=overwrite)

    def __repr__(self) -> str:
        return f"FileManager({self.registry!r})"

    def _repr_html_(self) -> str:
        return manager_html(self.registry)

    # Reading

    def load(self, path: P, backend: BackendKey, *, writable: bool = False, **options: Any) -> Any:
        """Return the value at `path`.

        Parameters
        ----------
        path, backend
            A file, and its backend.
        writable : bool, default False
            Whether to return private copies of arrays that are read-only views, so that they can
            be changed in place.
        **options
            Passed to the backend's ``load``, such as ``region=``.

        Raises
        ------
        PathNotFoundError
            If nothing is there.
        PathTypeError
            If it is a directory.
        """
        with reading(self.registry, backend, path) as target:
            options = self._rules.applied(target, "load", options)
            try:
                value = target.load(path, **options)
            except PathNotFoundError as error:
                suggest_near(error, target, path)
                raise
        return private(value) if writable else value

    def exists(self, path: P, backend: BackendKey) -> bool:
        """Return whether `path` leads to anything; a dangling link does not."""
        with reading(self.registry, backend, path) as target:
            return bool(target.exists(path))

    def is_file(self, path: P, backend: BackendKey) -> bool:
        """Return whether `path` leads, also through links, to a value."""
        with reading(self.registry, backend, path) as target:
            return bool(target.is_file(path))

    def is_dir(self, path: P, backend: BackendKey) -> bool:
        """Return whether `path` leads, also through links, to a directory."""
        with reading(self.registry, backend, path) as target:
            return bool(target.is_dir(path))

    def is_symlink(self, path: P, backend: BackendKey) -> bool:
        """Return whether `path` itself is a link."""
        with reading(self.registry, backend, path) as target:
            return bool(target.is_symlink(path))

    def stat(self, path: P, backend: BackendKey) -> Stat:
        """Describe `path`, also a missing one; see `Stat` for the keys."""
        with reading(self.registry, backend, path) as target:
            return target.stat(path)

    def list_dir(self, path: P, backend: BackendKey) -> list[str]:
        """Return the names in a directory, in natural order."""
        with reading(self.registry, backend, path) as target:
            return sorted(target.list_dir(path), key=natural_key)

    def list_files(
        self,
        path: P,
        backend: BackendKey,
        pattern: str | None = None,
        extensions: Iterable[str] | None = None,
        recursive: bool = False,
    ) -> list[str]:
        """Return the paths of the files in a directory, shallow first, in natural order.

        Parameters
        ----------
        path, backend
            A directory, and its backend.
        pattern : str, optional
            A glob on the base name; case matters.
        extensions : iterable of str, optional
            Suffixes with their dot, such as ``{".tif", ".png"}``; case does not matter.
        recursive : bool, default False
            Whether to descend into directories; links to directories are never descended.
        """
        wanted = {"pattern": pattern, "extensions": extensions, "recursive": recursive}
        # Without the defaults, since a custom backend need not take every option.
        options: Any = {name: value for name, value in wanted.items() if value not in (None, False)}
        with reading(self.registry, backend, path) as target:
            return sorted(target.list_files(path, **options), key=listed_order)

    def list_image_files(
        self,
        path: P,
        backend: BackendKey,
        pattern: str | None = None,
        extensions: Iterable[str] = IMAGE_EXTENSIONS,
        recursive: bool = False,
    ) -> list[str]:
        """Return the paths of the images in a directory, as `list_files` does.

        By default, `extensions` are the suffixes of the formats that hold one image.
        """
        return self.list_files(path, backend, pattern, extensions, recursive)

    def watch(
        self,
        path: P,
        backend: BackendKey,
        *,
        recursive: bool = True,
        timeout: float | None = None,
        **options: Any,
    ) -> Iterator[Event]:
        """Yield an event for each change at `path` and below it, from this call on.

        The disk and zarr backends and the memory of a store have watches. What an event is, and
        what the iterator raises, is said there.

        Parameters
        ----------
        path, backend
            A directory, and its backend.
        recursive : bool, default True
            Whether to watch all levels below it.
        timeout : float, optional
            End after so many seconds without an event. Without it the iterator has no end.
        **options
            Passed to the backend's ``watch``, such as ``since=`` of the memory of a store.
        """
        # Without the defaults, since a custom backend need not take every option.
        options |= {} if recursive else {"recursive": False}
        options |= {} if timeout is None else {"timeout": timeout}
        with reading(self.registry, backend, path) as target:
            options = self._rules.applied(target, "watch", options)
            return target.watch(path, **options)

    find_file_recursive = trees.find_file_recursive
    collect_dirs_and_files = trees.collect_dirs_and_files

    # Writing

    def save(
        self, data: Any, path: P, backend: BackendKey, *, parents: bool = True, **options: Any
    ) -> None:
        """Store `data` at `path`, whole or not at all, and create missing parents.

        Parameters
        ----------
        data : object
            The value to store.
        path, backend
            The path of the value, and its backend.
        parents : bool, default True
            Whether to create missing directories; not passed to a backend whose ``save`` does not
            take it.
        **options
            Passed to the backend's ``save``, such as ``overwrite=True``.

        Raises
        ------
        PathExistsError
            If the path exists, without ``overwrite=True``.
        """
        with writing(self.registry, backend, "save", path) as target:
            options = self._rules.applied(target, "save", options)
            target.save(data, path, **parents_option(target, parents=parents), **options)

    def append(
        self, values: Any, path: P, backend: BackendKey, *, axis: int = 0, **options: Any
    ) -> int:
        """Append values to a stored array along an axis; return the index of the first.

        Concurrent appends get separate places. A reader sees all of the values or none.

        Parameters
        ----------
        values : array_like
            Of the array's shape, except along `axis`.
        path, backend
            An array, and its backend.
        axis : int, default 0
            The axis along which the array grows.
        **options
            Passed to the backend's ``append``.
        """
        with writing(self.registry, backend, "append", path) as target:
            options = self._rules.applied(target, "append", options)
            return int(target.append(values, path, axis=axis, **options))

    def resize(self, path: P, shape: Sequence[int], backend: BackendKey, **options: Any) -> None:
        """Change the shape of a stored array: cut it off, or extend it with its fill value."""
        with writing(self.registry, backend, "resize", path) as target:
            target.resize(path, shape, **self._rules.applied(target, "resize", options))

    def ensure_directory(self, path: PathT, backend: BackendKey) -> PathT:
        """Create a directory and its missing ancestors; return its path, or the path object."""
        with writing(self.registry, backend, "ensure_directory", path) as target:
            return as_given(path, str(target.ensure_directory(path)))

    def delete(self, path: P, backend: BackendKey) -> None:
        """Delete a file, a link or an empty directory."""
        with writing(self.registry, backend, "delete", path) as target:
            target.delete(path)

    def delete_all(self, path: P, backend: BackendKey) -> None:
        """Delete a file, a link or a whole tree; links are deleted, never followed."""
        with writing(self.registry, backend, "delete_all", path) as target:
            target.delete_all(path)

    def create_symlink(
        self, source: P, link: P, backend: BackendKey, *, overwrite: bool = False
    ) -> None:
        """Make `link` a link to `source`, which must exist.

        With `overwrite`, the link replaces a file or another link, but never a directory.
        """
        with writing(self.registry, backend, "create_symlink", link) as target:
            target.create_symlink(source, link, overwrite=overwrite)

    keep_last = trees.keep_last
    mirror_directory_with_symlinks = trees.mirror_directory_with_symlinks

    # Many values

    load_batch, save_batch = batches.load_batch, batches.save_batch
    copy, move, stack = copying.copy, copying.move, copying.stack
    map = mapping.map_values

    aload, aload_batch = in_a_thread(load), in_a_thread(load_batch)
    asave, asave_batch = in_a_thread(save), in_a_thread(save_batch)
