"""Copies, moves and stacks of the file manager, within a backend and from one into another."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import nullcontext, suppress
from typing import Any

from polystore.arguments import check_batch, check_collection, path_exists
from polystore.exceptions import PathNotFoundError, UnsupportedOperationError
from polystore.filemanager.dispatch import Routing, offered, parents_option
from polystore.paths import P, as_text, display, natural_key
from polystore.progress import Progress, reporting
from polystore.registration import backend_key
from polystore.transfer.copying import Pairs, naming_written

__all__ = ["Moves", "listed_order", "rebasing"]


class Moves(Routing):
    """The operations that concern two paths, or many."""

    def copy(
        self,
        source: P | Sequence[P],
        destination: P | Sequence[P],
        backend: object,
        *,
        to_backend: object = None,
        progress: Progress = None,
        lossy: bool = False,
    ) -> None:
        """Copy a file, a tree or a link, or a list of files; make parents; never overwrite.

        Parameters
        ----------
        source, destination : str or os.PathLike, or a list of these
            From where, and the new path. In lists, one for each other: between backends of files
            and links to files alone.
        backend : str or enum.Enum
            The source's backend.
        to_backend : str or enum.Enum, optional
            The destination's backend, if it is another one. Then files of one format in both are
            copied as they are, other values are loaded and saved, some at a time, and a link to a
            file arrives as the file, since where it leads means nothing there. In a store of
            polystore_ray they go from host to host, and not through the caller. A failure midway
            names what was written.
        progress : callable or bool, optional
            Called with the numbers of values that are copied and of all; `True` shows a bar.
            Within one backend, of the paths that were given.
        lossy : bool, default False
            Whether what the other backend cannot keep beside the values may stay behind, such as
            the scale and the metadata of a TIFF file.

        Raises
        ------
        PathNotFoundError
            If the source is missing.
        PathExistsError
            If the destination exists.
        BatchLengthError
            If there are not as many destinations as sources.
        UnsupportedOperationError
            Before anything is written, if a link to a directory, or one that leads nowhere, would
            go into another backend, or a file has more than the values that the other backend
            keeps, unless `lossy` is given.
        """
        pairs = _as_pairs(source, destination, backend)
        if not _is_other(to_backend, backend):
            self._transfer_each("copy", pairs, backend, progress)
        elif _is_path(source):
            self._copy_across(*pairs[0], backend, to_backend, progress, lossy)
        else:
            self._check_convertible(pairs, backend, to_backend, lossy)
            self._copy_values(pairs, backend, to_backend, progress)

    def move(
        self,
        source: P | Sequence[P],
        destination: P | Sequence[P],
        backend: object,
        *,
        to_backend: object = None,
        progress: Progress = None,
        lossy: bool = False,
    ) -> None:
        """Move as `copy` copies; between backends the sources go once all has been copied."""
        if not _is_other(to_backend, backend):
            pairs = _as_pairs(source, destination, backend)
            self._transfer_each("move", pairs, backend, progress)
            return
        with self._backend(backend) as origin:
            delete_all = offered(origin, "delete_all", backend)  # or nothing is copied
        self.copy(
            source, destination, backend, to_backend=to_backend, progress=progress, lossy=lossy
        )
        for path, _ in _as_pairs(source, destination, backend):
            with self._backend(backend, path):
                delete_all(path)

    def stack(
        self,
        paths: Sequence[P],
        path: P,
        backend: object,
        *,
        to_backend: object = None,
        progress: Progress = None,
        **options: Any,
    ) -> None:
        """Stack arrays along a new first axis into one array, making its parent.

        The new array exists only once it is whole. No more than some rows are in memory at a time.
        Into zarr from the memory of polystore_ray, tasks write them where their bytes are.

        Parameters
        ----------
        paths : sequence of str or os.PathLike
            Arrays of one shape and dtype.
        path : str or os.PathLike
            Where the new array goes; nothing is there yet.
        backend : str or enum.Enum
            The backend of the arrays.
        to_backend : str or enum.Enum, optional
            That of the new array, if it is another one; it has to be able to resize arrays. On a
            cluster, `path` has to mean the same on every node.
        progress : callable or bool, optional
            Called with the numbers of arrays that are stacked and of all; `True` shows a bar.
        **options
            For the ``save`` of the new array, such as ``chunks=`` and ``shards=``. By default a
            chunk has about 1 MiB, which are several rows, one, or a part of one.

        Raises
        ------
        PathExistsError
            If the path exists.
        UnsupportedFormatError
            If the values are not arrays of one shape and dtype.

        Examples
        --------
        >>> import tempfile
        >>> import numpy as np
        >>> from polystore import FileManager, MemoryBackend, ZarrBackend
        >>> fm = FileManager({"memory": MemoryBackend(), "zarr": ZarrBackend(tempfile.mkdtemp())})
        >>> fm.save_batch([np.zeros((2, 2)), np.ones((2, 2))], ["/a", "/b"], backend="memory")
        >>> fm.stack(["/a", "/b"], "/plate/all", backend="memory", to_backend="zarr")
        >>> fm.load("/plate/all", backend="zarr", region=1)
        array([[1., 1.],
               [1., 1.]])
        """
        key = backend if to_backend is None else to_backend
        check_collection(paths, "paths", backend=backend_key(backend))
        with self._backend(key, path) as target, self._backend(backend) as origin:
            self._check_free(target, path, key)
            _make_parent(target, path)
            origin.stack_to(target, paths, path, progress=progress, **options)

    def _walked(
        self, path: P, backend: object, recursive: bool = True
    ) -> tuple[list[str], list[str], list[str]]:
        """Return directories, files, and what is neither, such as links that lead nowhere."""
        with self._backend(backend, path) as target:
            # Without a slash at the end, which would be twice in what lies below.
            directories, files, others = target.walk(as_text(path).rstrip("/") or "/", recursive)
        for found in (directories, files, others):
            found.sort(key=listed_order)
        return directories, files, others

    def _transfer_each(
        self, operation: str, pairs: Pairs, backend: object, progress: Progress
    ) -> None:
        written: list[str] = []
        with (
            naming_written(written, len(pairs)) if len(pairs) > 1 else nullcontext(),
            reporting(progress, len(pairs), operation) as step,
        ):
            for source, destination in pairs:
                self._transfer(operation, source, destination, backend)
                written.append(destination)
                step()

    def _transfer(self, operation: str, source: P, destination: P, backend: object) -> None:
        with self._backend(backend, source) as target:
            transfer = offered(target, operation, backend, source)
            if not target.exists(source) and not target.is_symlink(source):
                raise _missing(source, backend)
            _make_parent(target, destination)
            transfer(source, destination)

    def _copy_across(
        self,
        source: str,
        destination: str,
        backend: object,
        to_backend: object,
        progress: Progress,
        lossy: bool,
    ) -> None:
        with self._backend(backend, source) as origin:
            if not origin.exists(source):
                raise _missing(source, backend)
            is_tree = origin.is_dir(source)
        with self._backend(to_backend) as target:
            self._check_free(target, destination, to_backend)
        if not is_tree:
            pairs = [(source, destination)]
            self._check_convertible(pairs, backend, to_backend, lossy)
            self._copy_values(pairs, backend, to_backend, progress)
            return
        directories, files, others = self._walked(source, backend)
        with self._backend(backend):
            linked = [place for place in directories[1:] if origin.is_symlink(place)]
        for stuck in (*linked, *others):
            raise UnsupportedOperationError(
                "only files, links to files and directories can go into another backend",
                path=stuck,
                backend=backend_key(backend),
            )
        rebased = rebasing(directories[0], destination)
        pairs = [(file, rebased(file)) for file in files]
        self._check_convertible(pairs, backend, to_backend, lossy)
        with self._backend(to_backend, destination):
            offered(target, "ensure_directory", to_backend, destination)
            made = [(directory, rebased(directory)) for directory in directories]
            origin.copy_directories_to(target, made)
        self._copy_values(pairs, backend, to_backend, progress)

    def _copy_values(
        self, pairs: Pairs, backend: object, to_backend: object, progress: Progress
    ) -> None:
        with self._backend(to_backend) as target:
            offered(target, "save", to_backend)
        with self._backend(backend) as origin:
            origin.copy_to(target, pairs, progress=progress, **parents_option(target, parents=True))

    def _check_convertible(
        self, pairs: Pairs, backend: object, to_backend: object, lossy: bool
    ) -> None:
        with self._backend(to_backend) as target:
            offered(target, "save", to_backend)
        with self._backend(backend) as origin:
            if not lossy:
                origin.check_convertible(origin.converted(target, pairs))

    def _check_free(self, target: Any, path: P, key: object) -> None:
        if target.exists(path) or target.is_symlink(path):
            raise path_exists(display(path), backend_key(key))


def _is_path(path: object) -> bool:
    return isinstance(path, str | os.PathLike)


def _as_pairs(
    source: P | Sequence[P], destination: P | Sequence[P], backend: object
) -> list[tuple[str, str]]:
    if isinstance(source, str | os.PathLike) and isinstance(destination, str | os.PathLike):
        return [(as_text(source), as_text(destination))]
    sources: Any = source
    destinations: Any = destination
    targets = check_batch(sources, destinations, backend=backend_key(backend))
    return list(zip(map(as_text, sources), targets, strict=True))


def _make_parent(target: Any, path: P) -> None:
    parent = as_text(path).rstrip("/").rpartition("/")[0]
    if parent and not target.exists(parent):
        with suppress(UnsupportedOperationError):  # a backend without directories
            target.ensure_directory(parent)


def _is_other(to_backend: object, backend: object) -> bool:
    return to_backend is not None and backend_key(to_backend) != backend_key(backend)


def _missing(path: P, backend: object) -> PathNotFoundError:
    return PathNotFoundError(
        "no such file or directory", path=display(path), backend=backend_key(backend)
    )


def rebasing(top: str, new: str) -> Callable[[str], str]:
    """Return what turns paths at and below `top` into the same below `new`."""
    kept = len(top.rstrip("/"))
    return lambda path: new.rstrip("/") + path[kept:].rstrip("/")


def listed_order(path: str) -> tuple[int, Any]:
    """Return what sorts paths shallow first, and then in natural order."""
    return path.count("/"), natural_key(path)
