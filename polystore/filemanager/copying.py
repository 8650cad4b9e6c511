"""Copies and moves of the file manager, within a backend and from one to another."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any, Literal, Protocol

from polystore.arguments import check_collection
from polystore.base import StorageBackend
from polystore.capabilities import Deletable, HasDirectories
from polystore.error_translation import naming_written
from polystore.exceptions import UnsupportedOperationError
from polystore.filemanager.across import CopyAcross, as_pairs, check_exists, check_free
from polystore.filemanager.dispatch import OptionRules, Registry, reading, writing
from polystore.paths import P, as_text
from polystore.progress import Progress, reporting
from polystore.registration import BackendKey, backend_key
from polystore.transfer.many import Errors, Results, check_errors, collected, copied_apart
from polystore.transfer.proxies import Pairs, class_of
from polystore.transfer.stacking import stack as stack_values

__all__ = ["Manager", "copy", "move", "stack"]

Transfer = Literal["copy", "move"]


class Manager(Protocol):
    """The file manager, as functions use it that are methods of it."""

    registry: Mapping[str, Any]
    _rules: OptionRules


def copy(
    self: Manager,
    source: P | Sequence[P],
    destination: P | Sequence[P],
    backend: BackendKey,
    *,
    to_backend: BackendKey | None = None,
    progress: Progress = None,
    lossy: bool = False,
    errors: Errors = "raise",
) -> Results | None:
    """Copy a file, a tree, a link, or a list of files; create parents; never overwrite.

    Parameters
    ----------
    source, destination : str or os.PathLike, or a list of these
        The existing path and the new path, or a list of each. A list from one backend into
        another may hold files and links to files only.
    backend, to_backend : str or enum.Enum
        The backend of the source, and that of the destination if it is another one. Between
        backends, files of one format are copied as they are, and other values are loaded and
        saved, a part of them at a time. A link to a file arrives as a file, since its target
        has no meaning there. In a store of polystore_ray, values go from host to host and not
        through the caller. An error names the paths that were written.
    progress : callable or bool, optional
        Called with the number of values copied so far and the number of all; `True` shows a
        bar. Within one backend it counts the given paths.
    lossy : bool, default False
        Whether the copy may lose what the other backend cannot keep next to the values, such
        as the scale and the metadata of a TIFF file, or the attributes of zarr.
    errors : {"raise", "skip", "return"}, default "raise"
        Whether the first error ends the copy, or the other files are copied, and a file that
        fails is left out of the result, or its error is in its place. Within one backend, a tree
        is copied as a whole.

    Returns
    -------
    Results or None
        None if `errors` is "raise". Otherwise a list of the paths of the copies, whose attribute
        ``failures`` is a table of all failures.

    Raises
    ------
    PathNotFoundError
        If the source is missing; of a list, only if `errors` is "raise".
    PathExistsError
        If the destination exists; of a list, only if `errors` is "raise".
    BatchLengthError
        If the numbers of sources and destinations differ.
    UnsupportedOperationError
        Before anything is written, if a link to a directory or a dangling link would go into
        another backend, or if a file would lose metadata and `lossy` is not given.

    Examples
    --------
    >>> import tempfile
    >>> from polystore import BackendRegistry, FileManager
    >>> fm = FileManager(BackendRegistry.isolated({"disk": {"root": tempfile.mkdtemp()}}))
    >>> fm.save_batch([1, {2}], ["/in/a.json", "/in/b.json"], backend="memory")
    >>> done = fm.copy("/in", "/out", "memory", to_backend="disk", errors="skip")
    >>> done
    ['/out/a.json']
    >>> [(row["path"], row["error"]) for row in done.failures]
    [('/in/b.json', 'UnsupportedFormatError')]
    """
    check_errors(errors)
    if to_backend is not None and _is_other(to_backend, backend):
        paths = source, destination, backend, to_backend
        across = CopyAcross.of(self.registry, *paths, lossy=lossy)
        if errors != "raise":
            return across.each(errors, progress)
        across.all(progress)
        return None
    pairs = as_pairs(source, destination, backend)
    if errors == "raise":
        _transfer_within(self.registry, "copy", pairs, backend, progress)
        return None
    within = partial(_transfer_within, self.registry, "copy", backend=backend, progress=None)
    if isinstance(source, str | os.PathLike):
        within(pairs)
        return Results(new for _, new in pairs)
    outcomes = (each for pair in pairs for each in copied_apart(within, [pair]))
    return collected(outcomes, [old for old, _ in pairs], errors, progress, "copying")


def move(
    self: Manager,
    source: P | Sequence[P],
    destination: P | Sequence[P],
    backend: BackendKey,
    *,
    to_backend: BackendKey | None = None,
    progress: Progress = None,
    lossy: bool = False,
) -> None:
    """Move as `copy` copies; between backends, delete the sources once all are copied."""
    pairs = as_pairs(source, destination, backend)
    if to_backend is None or not _is_other(to_backend, backend):
        _transfer_within(self.registry, "move", pairs, backend, progress)
        return
    with writing(self.registry, backend, "delete_all", pairs[0][0] if pairs else None) as origin:
        if not issubclass(class_of(origin), Deletable):
            raise UnsupportedOperationError(
                f"{class_of(origin).__name__} does not support delete, which a move needs",
                path=pairs[0][0] if pairs else None,
                backend=backend_key(backend),
            )
    paths = source, destination, backend, to_backend
    CopyAcross.of(self.registry, *paths, lossy=lossy).all(progress)
    for path, _ in pairs:
        with writing(self.registry, backend, "delete_all", path) as origin:
            origin.delete_all(path)


def stack(
    self: Manager,
    paths: Sequence[P],
    path: P,
    backend: BackendKey,
    *,
    to_backend: BackendKey | None = None,
    progress: Progress = None,
    **options: Any,
) -> None:
    """Stack arrays along a new first axis into one array, and create its parent.

    The new array exists only once it is complete. Only some rows are in memory at a time.
    From the memory of polystore_ray into zarr, tasks write the rows on the nodes that hold
    them.

    Parameters
    ----------
    paths, backend
        Arrays of one shape and dtype, and their backend.
    path, to_backend
        The path of the new array, and its backend if it is another one; that must be able to
        resize arrays. On a cluster, `path` must mean the same on every node.
    progress : callable or bool, optional
        Called with the number of arrays stacked so far and the number of all; `True` shows a
        bar.
    **options
        Passed to the ``save`` of the new array, such as ``chunks=`` and ``shards=``. By
        default a chunk has about 1 MiB: several rows, one, or a part of one.

    Raises
    ------
    PathExistsError
        If the path of the new array exists.
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
    with (
        writing(self.registry, key, "save", path) as target,
        reading(self.registry, backend) as source,
    ):
        options = self._rules.applied(target, "save", options)
        check_free(target, path, key)
        _make_parent(target, path)
        stack_values(source, target, paths, path, progress, **options)


def _is_other(to_backend: BackendKey | None, backend: BackendKey) -> bool:
    """Return whether a copy goes into another backend."""
    return to_backend is not None and backend_key(to_backend) != backend_key(backend)


def _transfer_within(
    registry: Registry, operation: Transfer, pairs: Pairs, backend: BackendKey, progress: Progress
) -> None:
    """Copy or move within one backend, path by path; create the parents of the new paths."""
    written: list[str] = []
    with (
        naming_written(written, len(pairs)) if len(pairs) > 1 else nullcontext(),
        reporting(progress, len(pairs), operation) as step,
    ):
        for source, destination in pairs:
            with writing(registry, backend, operation, source) as target:
                if not target.is_symlink(source):
                    check_exists(target, source, backend)
                _make_parent(target, destination)
                (target.copy if operation == "copy" else target.move)(source, destination)
            written.append(destination)
            step()


def _make_parent(target: StorageBackend, path: P) -> None:
    """Create the parent of a path, in a backend that has directories."""
    parent = as_text(path).rstrip("/").rpartition("/")[0]
    if parent and issubclass(class_of(target), HasDirectories) and not target.exists(parent):
        target.ensure_directory(parent)
