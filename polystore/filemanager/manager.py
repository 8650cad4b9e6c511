"""The file manager: one call for each operation, routed to the backend it names."""

from __future__ import annotations

import glob
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from polystore.async_methods import AsyncLoads, AsyncSaves
from polystore.base import accepts
from polystore.filemanager.copying import Moves, listed_order, rebasing
from polystore.filemanager.dispatch import offered, parents_option
from polystore.paths import P, as_text, natural_key
from polystore.progress import Progress, reporting
from polystore.writable import private

__all__ = ["IMAGE_EXTENSIONS", "FileManager"]

IMAGE_EXTENSIONS = frozenset({".tif", ".tiff", ".png", ".jpg", ".jpeg"})


class FileManager(Moves, AsyncLoads, AsyncSaves):
    """Route each operation to the backend it names.

    There is no default backend and no fallback to another one. Beside the routing there is
    convenience only: saves make missing parents, and lists come in natural order (``img2``
    before ``img10``). A backend's own errors pass through untouched; any other exception, as
    a custom backend may raise, arrives as a `StorageResolutionError` with its cause.

    Parameters
    ----------
    registry : Mapping
        From key to backend: a `BackendRegistry`, a ``polystore_ray.RayBackendRegistry``, or a
        plain `dict`. A file manager pickles wherever its registry does.

    Raises
    ------
    BackendNotFoundError
        By every operation, if the registry has no such backend.

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

    def __repr__(self) -> str:
        return f"FileManager({self.registry!r})"

    # Reading

    def load(self, path: P, backend: object, *, writable: bool = False, **options: Any) -> Any:
        """Return the value at `path`.

        Parameters
        ----------
        path : str or os.PathLike
            A file.
        backend : str or enum.Enum
            The backend's key.
        writable : bool, default False
            Whether to return a private copy of an array that is a read-only view, so that it can
            be changed in place.
        **options
            For the backend's ``load``, such as ``region=``.

        Raises
        ------
        PathNotFoundError
            If nothing is there.
        PathTypeError
            If it is a directory.
        """
        with self._backend(backend, path) as target:
            value = target.load(path, **options)
        return private(value) if writable else value

    def load_batch(
        self,
        paths: Sequence[P],
        backend: object,
        *,
        writable: bool = False,
        progress: Progress = None,
        **options: Any,
    ) -> list[Any]:
        """Return the values at `paths`, in their order.

        Parameters
        ----------
        paths : sequence of str or os.PathLike
            Files.
        backend : str or enum.Enum
            The backend's key.
        writable : bool, default False
            Whether to return private copies, as for `load`.
        progress : callable or bool, optional
            Called with the numbers of values that are done and of all; `True` shows a bar.
        **options
            For the backend's ``load_batch``, such as ``region=``.
        """
        with self._backend(backend) as target:
            with _progress(target, "load_batch", progress, paths) as told:
                values: list[Any] = target.load_batch(paths, **told, **options)
            return [private(value) for value in values] if writable else values

    def exists(self, path: P, backend: object) -> bool:
        """Tell whether `path` leads to anything; a dangling link does not."""
        with self._backend(backend, path) as target:
            return bool(target.exists(path))

    def is_file(self, path: P, backend: object) -> bool:
        """Tell whether `path` leads, also through links, to a value."""
        with self._backend(backend, path) as target:
            return bool(target.is_file(path))

    def is_dir(self, path: P, backend: object) -> bool:
        """Tell whether `path` leads, also through links, to a directory."""
        with self._backend(backend, path) as target:
            return bool(target.is_dir(path))

    def is_symlink(self, path: P, backend: object) -> bool:
        """Tell whether `path` itself is a link."""
        with self._backend(backend, path) as target:
            return bool(target.is_symlink(path))

    def stat(self, path: P, backend: object) -> dict[str, Any]:
        """Describe `path`, also where nothing is: see `DataSource.stat` for the fields."""
        with self._backend(backend, path) as target:
            facts: dict[str, Any] = target.stat(path)
            return facts

    def list_dir(self, path: P, backend: object) -> list[str]:
        """Return the names in a directory, in natural order."""
        with self._backend(backend, path) as target:
            return sorted(target.list_dir(path), key=natural_key)

    def list_files(
        self,
        path: P,
        backend: object,
        pattern: str | None = None,
        extensions: Iterable[str] | None = None,
        recursive: bool = False,
    ) -> list[str]:
        """Return the paths of the files in a directory, shallow first, in natural order.

        Parameters
        ----------
        path : str or os.PathLike
            A directory.
        backend : str or enum.Enum
            The backend's key.
        pattern : str, optional
            A glob on the base name; case matters.
        extensions : iterable of str, optional
            Endings with their dot, such as ``{".tif", ".png"}``; case does not matter.
        recursive : bool, default False
            Whether to descend into directories; links to directories are not descended.
        """
        with self._backend(backend, path) as target:
            # Only what is asked for, since a custom backend need not know every option.
            wanted = {"pattern": pattern, "extensions": extensions, "recursive": recursive}
            options = {name: option for name, option in wanted.items() if _is_asked(option)}
            return sorted(target.list_files(path, **options), key=listed_order)

    def list_image_files(
        self,
        path: P,
        backend: object,
        pattern: str | None = None,
        extensions: Iterable[str] = IMAGE_EXTENSIONS,
        recursive: bool = False,
    ) -> list[str]:
        """Return the paths of the images in a directory, as `list_files` returns them.

        Parameters
        ----------
        path : str or os.PathLike
            A directory.
        backend : str or enum.Enum
            The backend's key.
        pattern : str, optional
            A glob on the base name; case matters.
        extensions : iterable of str, optional
            What an image's name ends with; by default the suffixes of the formats that hold one.
        recursive : bool, default False
            Whether to descend into directories.
        """
        return self.list_files(path, backend, pattern, extensions, recursive)

    def find_file_recursive(self, path: P, filename: str, backend: object) -> str | None:
        """Return the path of the file of this name at or below a directory, or None.

        Of several, the shallowest is returned, and of these the first in natural order.

        Examples
        --------
        >>> from polystore import BackendRegistry
        >>> fm = FileManager(BackendRegistry.isolated())
        >>> fm.save_batch([1, 2], ["/plate/well/a.json", "/plate/b.json"], backend="memory")
        >>> fm.find_file_recursive("/plate", "a.json", backend="memory")
        '/plate/well/a.json'
        """
        found = self.list_files(path, backend, glob.escape(filename), recursive=True)
        return found[0] if found else None

    def collect_dirs_and_files(
        self, path: P, backend: object, recursive: bool = True
    ) -> tuple[list[str], list[str]]:
        """Return the directories and the files at and below a directory, each once.

        Parameters
        ----------
        path : str or os.PathLike
            A directory; it comes first of the directories.
        backend : str or enum.Enum
            The backend's key.
        recursive : bool, default True
            Whether to descend into directories. Links to directories are listed with the
            directories, and not descended.

        Returns
        -------
        directories, files : list of str
            Shallow first, in natural order.
        """
        directories, files, _ = self._walked(path, backend, recursive)
        return directories, files

    # Writing

    def save(
        self, data: Any, path: P, backend: object, *, parents: bool = True, **options: Any
    ) -> None:
        """Store `data` at `path`, whole or not at all, making missing parents.

        Parameters
        ----------
        data : object
            What to store.
        path : str or os.PathLike
            Where.
        backend : str or enum.Enum
            The backend's key.
        parents : bool, default True
            Whether to make missing directories; not given to a backend without directories.
        **options
            For the backend's ``save``, such as ``overwrite=True``.

        Raises
        ------
        PathExistsError
            If the path exists and ``overwrite=True`` was not given.
        """
        with self._backend(backend, path) as target:
            offered(target, "save", backend, path)(
                data, path, **parents_option(target, parents), **options
            )

    def save_batch(
        self,
        values: Sequence[Any],
        paths: Sequence[P],
        backend: object,
        *,
        parents: bool = True,
        progress: Progress = None,
        **options: Any,
    ) -> None:
        """Store `values` at `paths`, making missing parents.

        What can be checked is checked before anything is written. Memory backends publish
        the batch all at once; on others a failure midway names what was written.

        Parameters
        ----------
        values : sequence of object
            What to store.
        paths : sequence of str or os.PathLike
            Where, one for each value.
        backend : str or enum.Enum
            The backend's key.
        parents : bool, default True
            Whether to make missing directories; not given to a backend without directories.
        progress : callable or bool, optional
            Called with the numbers of values that are done and of all; `True` shows a bar.
        **options
            For the backend's ``save_batch``, such as ``overwrite=True``.

        Raises
        ------
        BatchLengthError
            If there are not as many values as paths.
        PathExistsError
            If a path occurs twice, or exists and ``overwrite=True`` was not given.
        """
        with self._backend(backend) as target:
            save_batch = offered(target, "save_batch", backend)
            options |= parents_option(target, parents)
            with _progress(target, "save_batch", progress, paths) as told:
                save_batch(values, paths, **told, **options)

    def append(
        self, values: Any, path: P, backend: object, *, axis: int = 0, **options: Any
    ) -> int:
        """Put values at the end of a stored array's axis; return where along it they begin.

        Of several that append at once, each gets a place of its own; a reader sees all of the
        values or none.

        Parameters
        ----------
        values : array_like
            Of the array's shape, but for the axis.
        path : str or os.PathLike
            An array.
        backend : str or enum.Enum
            The backend's key.
        axis : int, default 0
            The axis that grows.
        **options
            For the backend's ``append``.

        Raises
        ------
        UnsupportedOperationError
            If the backend's arrays do not grow, as those of zarr do.
        """
        with self._backend(backend, path) as target:
            append = offered(target, "append", backend, path)
            return int(append(values, path, axis=axis, **options))

    def resize(self, path: P, shape: Sequence[int], backend: object, **options: Any) -> None:
        """Give a stored array another shape: cut it off, or fill it up with its fill value.

        Raises
        ------
        UnsupportedOperationError
            If the backend's arrays keep their shape, as all but those of zarr do.
        """
        with self._backend(backend, path) as target:
            offered(target, "resize", backend, path)(path, shape, **options)

    def ensure_directory(self, path: P, backend: object) -> str:
        """Make a directory and its ancestors where they are missing; return its path."""
        with self._backend(backend, path) as target:
            return str(offered(target, "ensure_directory", backend, path)(path))

    def delete(self, path: P, backend: object) -> None:
        """Delete a file, a link or an empty directory."""
        with self._backend(backend, path) as target:
            offered(target, "delete", backend, path)(path)

    def delete_all(self, path: P, backend: object) -> None:
        """Delete a file, a link or a whole tree; links are deleted, never followed."""
        with self._backend(backend, path) as target:
            offered(target, "delete_all", backend, path)(path)

    def create_symlink(
        self, source: P, link: P, backend: object, *, overwrite: bool = False
    ) -> None:
        """Make `link` a link to `source`, which has to exist; only a link is overwritten."""
        with self._backend(backend, link) as target:
            offered(target, "create_symlink", backend, link)(source, link, overwrite=overwrite)

    def mirror_directory_with_symlinks(
        self,
        source: P,
        target: P,
        backend: object,
        recursive: bool = True,
        *,
        overwrite: bool = False,
    ) -> int:
        """Make `target` a copy of the directories of `source`, with a link for each file.

        Parameters
        ----------
        source : str or os.PathLike
            A directory.
        target : str or os.PathLike
            The directory to fill, made where it is missing.
        backend : str or enum.Enum
            The backend's key.
        recursive : bool, default True
            Whether to descend into directories. A link to a directory is mirrored as a link.
        overwrite : bool, default False
            Whether links that are there already are replaced. A file never is.

        Returns
        -------
        int
            How many links were made.

        Raises
        ------
        PathExistsError
            If something is where a link has to go.
        """
        directories, files = self.collect_dirs_and_files(source, backend, recursive)
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


@contextmanager
def _progress(
    backend: Any, method: str, progress: Progress, paths: Sequence[P]
) -> Iterator[dict[str, Progress]]:
    """Give the option `progress`, or report the end of a call to a backend that has none."""
    cls: Any = type(backend)
    if not progress:
        yield {}
    elif accepts(cls, method, "progress"):
        yield {"progress": progress}
    else:
        with reporting(progress, len(paths), method) as step:
            yield {}
            step(len(paths))


def _is_asked(option: object) -> bool:
    return option is not None and option is not False
