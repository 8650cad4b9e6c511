"""The file manager: one call for each operation, routed to the backend it names."""

from __future__ import annotations

import glob
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from polystore.asynchronous import AsyncLoads, AsyncSaves
from polystore.base import accepts, backend_key, path_exists
from polystore.exceptions import (
    BackendNotFoundError,
    PathNotFoundError,
    StorageError,
    StorageResolutionError,
    UnsupportedOperationError,
)
from polystore.paths import P, as_text, display, natural_key
from polystore.progress import Progress, reporting

__all__ = ["IMAGE_EXTENSIONS", "FileManager"]

IMAGE_EXTENSIONS = frozenset({".tif", ".tiff", ".png", ".jpg", ".jpeg"})


class FileManager(AsyncLoads, AsyncSaves):
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

    def __init__(self, registry: Mapping[str, Any]) -> None:
        self.registry = registry

    def __repr__(self) -> str:
        return f"FileManager({self.registry!r})"

    # Reading

    def load(self, path: P, backend: object, **options: Any) -> Any:
        """Return the value at `path`; options go to the backend's ``load``.

        Raises
        ------
        PathNotFoundError
            If nothing is there.
        PathTypeError
            If it is a directory.
        """
        with self._backend(backend, path) as target:
            return target.load(path, **options)

    def load_batch(
        self, paths: Sequence[P], backend: object, *, progress: Progress = None, **options: Any
    ) -> list[Any]:
        """Return the values at `paths`, in their order.

        Parameters
        ----------
        paths : sequence of str or os.PathLike
            Files.
        backend : str or enum.Enum
            The backend's key.
        progress : callable or bool, optional
            Called with the numbers of values that are done and of all; `True` shows a bar.
        **options
            For the backend's ``load_batch``, such as ``region=``.
        """
        with self._backend(backend) as target:
            with _progress(target, "load_batch", progress, paths) as told:
                values: list[Any] = target.load_batch(paths, **told, **options)
            return values

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
            return sorted(target.list_files(path, **options), key=_listed_order)

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

    def _walked(
        self, path: P, backend: object, recursive: bool = True
    ) -> tuple[list[str], list[str], list[str]]:
        """Return directories, files, and what is neither, such as links that lead nowhere."""
        top = as_text(path).rstrip("/") or "/"
        directories, waiting = [top], [top]
        files: list[str] = []
        others: list[str] = []
        with self._backend(backend, path) as target:
            while waiting:
                directory = waiting.pop()
                for name in target.list_dir(directory):
                    child = f"{directory.rstrip('/')}/{name}"
                    if target.is_dir(child):
                        directories.append(child)
                        if recursive and not target.is_symlink(child):
                            waiting.append(child)
                    else:
                        (files if target.is_file(child) else others).append(child)
        for found in (directories, files, others):
            found.sort(key=_listed_order)
        return directories, files, others

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
            _offered(target, "save", backend, path)(
                data, path, **_parents(target, parents), **options
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
            save_batch = _offered(target, "save_batch", backend)
            options |= _parents(target, parents)
            with _progress(target, "save_batch", progress, paths) as told:
                save_batch(values, paths, **told, **options)

    def ensure_directory(self, path: P, backend: object) -> str:
        """Make a directory and its ancestors where they are missing; return its path."""
        with self._backend(backend, path) as target:
            return str(_offered(target, "ensure_directory", backend, path)(path))

    def delete(self, path: P, backend: object) -> None:
        """Delete a file, a link or an empty directory."""
        with self._backend(backend, path) as target:
            _offered(target, "delete", backend, path)(path)

    def delete_all(self, path: P, backend: object) -> None:
        """Delete a file, a link or a whole tree; links are deleted, never followed."""
        with self._backend(backend, path) as target:
            _offered(target, "delete_all", backend, path)(path)

    def create_symlink(
        self, source: P, link: P, backend: object, *, overwrite: bool = False
    ) -> None:
        """Make `link` a link to `source`, which has to exist; only a link is overwritten."""
        with self._backend(backend, link) as target:
            _offered(target, "create_symlink", backend, link)(source, link, overwrite=overwrite)

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
        rebased = _rebasing(directories[0], as_text(target))
        linked = [path for path in directories[1:] if self.is_symlink(path, backend)]
        if not recursive:
            directories, linked = directories[:1], []
        for directory in directories:
            if directory not in linked:
                self.ensure_directory(rebased(directory), backend)
        for path in (*linked, *files):
            self.create_symlink(path, rebased(path), backend, overwrite=overwrite)
        return len(linked) + len(files)

    def copy(
        self,
        source: P,
        destination: P,
        backend: object,
        *,
        to_backend: object = None,
        progress: Progress = None,
    ) -> None:
        """Copy a file, a tree or a link, making the destination's parent; never overwrite.

        Parameters
        ----------
        source, destination : str or os.PathLike
            From where, and the new path.
        backend : str or enum.Enum
            The source's backend.
        to_backend : str or enum.Enum, optional
            The destination's backend, if it is another one. Then one value after another is
            loaded and saved, and a link to a file arrives as the file, since where it leads
            means nothing there. A failure midway names what was written.
        progress : callable or bool, optional
            Called with the numbers of files that have gone into the other backend and of all;
            `True` shows a bar. A copy within one backend is a single step, and reports nothing.

        Raises
        ------
        PathNotFoundError
            If the source is missing.
        PathExistsError
            If the destination exists.
        UnsupportedOperationError
            Before anything is written, if a link to a directory, or one that leads nowhere, would
            go into another backend.
        """
        if _is_other(to_backend, backend):
            self._copy_across(source, destination, backend, to_backend, progress)
        else:
            self._transfer("copy", source, destination, backend)

    def move(
        self,
        source: P,
        destination: P,
        backend: object,
        *,
        to_backend: object = None,
        progress: Progress = None,
    ) -> None:
        """Move as `copy` copies; between backends the source goes once all has been copied."""
        if not _is_other(to_backend, backend):
            self._transfer("move", source, destination, backend)
            return
        with self._backend(backend) as origin:
            delete_all = _offered(origin, "delete_all", backend, source)  # or nothing is copied
        self._copy_across(source, destination, backend, to_backend, progress)
        with self._backend(backend):
            delete_all(source)

    def _transfer(self, operation: str, source: P, destination: P, backend: object) -> None:
        with self._backend(backend, source) as target:
            transfer = _offered(target, operation, backend, source)
            if not target.exists(source) and not target.is_symlink(source):
                raise _missing(source, backend)
            parent = as_text(destination).rstrip("/").rpartition("/")[0]
            if parent and not target.exists(parent):
                with suppress(UnsupportedOperationError):  # a backend without directories
                    target.ensure_directory(parent)
            transfer(source, destination)

    def _copy_across(
        self,
        source: P,
        destination: P,
        backend: object,
        to_backend: object,
        progress: Progress,
    ) -> None:
        if not self.exists(source, backend):
            raise _missing(source, backend)
        with self._backend(to_backend) as target:
            if target.exists(destination) or target.is_symlink(destination):
                raise path_exists(display(destination), backend_key(to_backend))
        if not self.is_dir(source, backend):
            with reporting(progress, 1, "copying") as step:
                self.save(self.load(source, backend), destination, to_backend)
                step()
            return
        directories, files, others = self._walked(source, backend)
        linked = [place for place in directories[1:] if self.is_symlink(place, backend)]
        for stuck in (*linked, *others):
            raise UnsupportedOperationError(
                "only files, links to files and directories can go into another backend",
                path=stuck,
                backend=backend_key(backend),
            )
        rebased = _rebasing(directories[0], as_text(destination))
        written: list[str] = []
        try:
            for directory in directories:
                self.ensure_directory(rebased(directory), to_backend)
            with reporting(progress, len(files), "copying") as step:
                for file in files:
                    self.save(self.load(file, backend), rebased(file), to_backend)
                    written.append(rebased(file))
                    step()
        except StorageError as error:
            error.add_note(f"{len(written)} of {len(files)} files were written: {written}")
            error.written = tuple(written)
            raise

    # Routing

    @contextmanager
    def _backend(self, key: object, path: P | None = None) -> Iterator[Any]:
        """Give the backend of `key`, and let nothing but a `StorageError` out."""
        try:
            yield self._resolve(key)
        except (StorageError, MemoryError):
            raise
        except Exception as error:
            raise StorageResolutionError(
                f"the backend raised {type(error).__name__}: {error}",
                path=None if path is None else display(path),
                backend=backend_key(key),
            ) from error

    def _resolve(self, key: object) -> Any:
        name = backend_key(key)
        try:
            return self.registry[name]
        except BackendNotFoundError:
            raise
        except KeyError:
            # A plain dict compares its keys to the letter; the contract does not.
            for known in self.registry:
                if backend_key(known) == name:
                    return self.registry[known]
            raise BackendNotFoundError(
                f"no backend is called {name!r}; the known ones are "
                f"{', '.join(map(str, self.registry))}"
            ) from None


def _offered(target: Any, operation: str, key: object, path: P | None = None) -> Callable[..., Any]:
    method: Callable[..., Any] | None = getattr(target, operation, None)
    if method is None:
        raise UnsupportedOperationError(
            f"{type(target).__name__} can only be read: it has no {operation}",
            path=None if path is None else display(path),
            backend=backend_key(key),
        )
    return method


def _parents(backend: Any, parents: bool) -> dict[str, bool]:
    """Return the option `parents` for backends whose ``save`` knows it."""
    cls: Any = type(backend)
    return {"parents": parents} if accepts(cls, "save", "parents") else {}


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


def _is_other(to_backend: object, backend: object) -> bool:
    return to_backend is not None and backend_key(to_backend) != backend_key(backend)


def _missing(path: P, backend: object) -> PathNotFoundError:
    return PathNotFoundError(
        "no such file or directory", path=display(path), backend=backend_key(backend)
    )


def _rebasing(top: str, new: str) -> Callable[[str], str]:
    """Return what turns paths at and below `top` into the same below `new`."""
    kept = len(top.rstrip("/"))
    return lambda path: new.rstrip("/") + path[kept:].rstrip("/")


def _is_asked(option: object) -> bool:
    return option is not None and option is not False


def _listed_order(path: str) -> tuple[int, Any]:
    return path.count("/"), natural_key(path)
