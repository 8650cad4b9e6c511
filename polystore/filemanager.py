"""The file manager: one call for each operation, routed to the backend it names."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from polystore.base import backend_key, knows_parents
from polystore.exceptions import (
    BackendNotFoundError,
    PathNotFoundError,
    StorageError,
    StorageResolutionError,
    UnsupportedOperationError,
)
from polystore.paths import P, natural_key

__all__ = ["FileManager"]


class FileManager:
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
        with self._backend(backend) as target:
            return target.load(path, **options)

    def load_batch(self, paths: Sequence[P], backend: object, **options: Any) -> list[Any]:
        """Return the values at `paths`, in their order; options go to the backend."""
        with self._backend(backend) as target:
            values: list[Any] = target.load_batch(paths, **options)
            return values

    def exists(self, path: P, backend: object) -> bool:
        """Tell whether `path` leads to anything; a dangling link does not."""
        with self._backend(backend) as target:
            return bool(target.exists(path))

    def is_file(self, path: P, backend: object) -> bool:
        """Tell whether `path` leads, also through links, to a value."""
        with self._backend(backend) as target:
            return bool(target.is_file(path))

    def is_dir(self, path: P, backend: object) -> bool:
        """Tell whether `path` leads, also through links, to a directory."""
        with self._backend(backend) as target:
            return bool(target.is_dir(path))

    def is_symlink(self, path: P, backend: object) -> bool:
        """Tell whether `path` itself is a link."""
        with self._backend(backend) as target:
            return bool(target.is_symlink(path))

    def stat(self, path: P, backend: object) -> dict[str, Any]:
        """Describe `path`, also where nothing is: see `DataSource.stat` for the fields."""
        with self._backend(backend) as target:
            facts: dict[str, Any] = target.stat(path)
            return facts

    def list_dir(self, path: P, backend: object) -> list[str]:
        """Return the names in a directory, in natural order."""
        with self._backend(backend) as target:
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
        with self._backend(backend) as target:
            found = target.list_files(path, pattern, extensions, recursive)
        return sorted(found, key=lambda file: (file.count("/"), natural_key(file)))

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
        with self._backend(backend) as target:
            _offered(target, "save")(data, path, **_parents(target, parents), **options)

    def save_batch(
        self,
        values: Sequence[Any],
        paths: Sequence[P],
        backend: object,
        *,
        parents: bool = True,
        **options: Any,
    ) -> None:
        """Store `values` at `paths`, making missing parents.

        What can be checked is checked before anything is written. Memory backends publish
        the batch all at once; on others a failure midway names what was written.

        Raises
        ------
        BatchLengthError
            If there are not as many values as paths.
        PathExistsError
            If a path occurs twice, or exists and ``overwrite=True`` was not given.
        """
        with self._backend(backend) as target:
            save_batch = _offered(target, "save_batch")
            save_batch(values, paths, **_parents(target, parents), **options)

    def ensure_directory(self, path: P, backend: object) -> str:
        """Make a directory and its ancestors where they are missing; return its path."""
        with self._backend(backend) as target:
            return str(_offered(target, "ensure_directory")(path))

    def delete(self, path: P, backend: object) -> None:
        """Delete a file, a link or an empty directory."""
        with self._backend(backend) as target:
            _offered(target, "delete")(path)

    def delete_all(self, path: P, backend: object) -> None:
        """Delete a file, a link or a whole tree; links are deleted, never followed."""
        with self._backend(backend) as target:
            _offered(target, "delete_all")(path)

    def create_symlink(
        self, source: P, link: P, backend: object, *, overwrite: bool = False
    ) -> None:
        """Make `link` a link to `source`, which has to exist; only a link is overwritten."""
        with self._backend(backend) as target:
            _offered(target, "create_symlink")(source, link, overwrite=overwrite)

    def copy(self, source: P, destination: P, backend: object) -> None:
        """Copy a file, a tree or a link, making the destination's parent; never overwrite."""
        self._transfer("copy", source, destination, backend)

    def move(self, source: P, destination: P, backend: object) -> None:
        """Move a file, a tree or a link, making the destination's parent; never overwrite."""
        self._transfer("move", source, destination, backend)

    def _transfer(self, operation: str, source: P, destination: P, backend: object) -> None:
        with self._backend(backend) as target:
            transfer = _offered(target, operation)
            if not target.exists(source) and not target.is_symlink(source):
                raise PathNotFoundError(
                    "no such file or directory", path=str(source), backend=backend_key(backend)
                )
            parent = str(destination).rstrip("/").rpartition("/")[0]
            if parent and not target.exists(parent):
                target.ensure_directory(parent)
            transfer(source, destination)

    # Routing

    @contextmanager
    def _backend(self, key: object) -> Iterator[Any]:
        """Give the backend of `key`, and let nothing but a `StorageError` out."""
        try:
            yield self._resolve(key)
        except (StorageError, MemoryError):
            raise
        except Exception as error:
            raise StorageResolutionError(
                f"the backend raised {type(error).__name__}: {error}", backend=backend_key(key)
            ) from error

    def _resolve(self, key: object) -> Any:
        name = backend_key(key)
        try:
            return self.registry[name]
        except BackendNotFoundError:
            raise
        except KeyError:
            # A plain dict compares its keys to the letter; the contract does not.
            for known, instance in self.registry.items():
                if backend_key(known) == name:
                    return instance
            raise BackendNotFoundError(
                f"no backend is called {name!r}; the known ones are "
                f"{', '.join(map(str, self.registry))}"
            ) from None


def _offered(backend: Any, operation: str) -> Callable[..., Any]:
    method: Callable[..., Any] | None = getattr(backend, operation, None)
    if method is None:
        raise UnsupportedOperationError(
            f"{type(backend).__name__} can only be read: it has no {operation}",
            backend=getattr(backend, "_backend_type", None),
        )
    return method


def _parents(backend: Any, parents: bool) -> dict[str, bool]:
    """Return the option `parents` for backends whose ``save`` knows it."""
    cls: Any = type(backend)
    return {"parents": parents} if knows_parents(cls) else {}
