"""The method `map` of the file manager: a function over many files."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from typing import Any

from polystore.arguments import check_collection, whole_number
from polystore.base import StorageBackend
from polystore.exceptions import BatchLengthError, VFSTypeError
from polystore.filemanager.across import rebasing, walked
from polystore.filemanager.copying import Manager
from polystore.filemanager.dispatch import Registry, parents_option, reading, writing
from polystore.paths import P, as_text
from polystore.progress import Progress
from polystore.registration import BackendKey, backend_key
from polystore.transfer.many import Errors, Failure, Results, check_errors, collected
from polystore.transfer.mapping import Call, outcomes

__all__ = ["map_values"]


def map_values(
    self: Manager,
    function: Callable[[Any], Any],
    paths: P | Sequence[P],
    backend: BackendKey,
    *,
    to: P | Sequence[P] | None = None,
    to_backend: BackendKey | None = None,
    errors: Errors = "raise",
    progress: Progress = None,
    workers: int | None = None,
    processes: bool = False,
    tasks: Mapping[str, Any] | None = None,
    **options: Any,
) -> Results:
    """Call a function with each of many values, in parallel; return or save its results.

    In a store on a Ray cluster the function runs in tasks, near the values of the memory. With any
    other registry it runs in threads, or in processes.

    Parameters
    ----------
    function : callable
        Called with one value, and again if its process or task died. In processes and tasks, it
        gets a copy of what it refers to.
    paths : str, os.PathLike or sequence of them
        A directory, of which all files are taken, also those of its directories; or a list of
        files.
    backend : str or enum.Enum
        The backend of the files.
    to : str, os.PathLike or sequence of them, optional
        Where the results are saved: a directory, in which each gets the name that its file has
        below `paths`, or below the directory that all have in common; or a list of paths.
        Missing directories are created.
    to_backend : str or enum.Enum, optional
        The backend of `to`, if it is another one.
    errors : {"raise", "skip", "return"}, default "raise"
        Whether the first error raises, with its path, or a path that fails is left out, or its
        error is in its place. The attribute ``failures`` of the result is a table of all.
    progress : callable or bool, optional
        Called with the number of values done so far and the number of all; `True` shows a bar.
    workers : int, optional
        The number of threads or processes; by default one for each processor.
    processes : bool, default False
        Whether to use processes. They help where the function holds Python's lock. The script that
        calls needs ``if __name__ == "__main__":``, as with `multiprocessing`, and the memory of
        this process cannot be used.
    tasks : mapping, optional
        Options of the tasks on a cluster, as for `ray.remote`, such as ``{"num_cpus": 2}``.
    **options
        Passed to the ``save`` of `to_backend`, such as ``overwrite=True``.

    Returns
    -------
    Results
        A list of what the function returned, or with `to` of the paths of the results.

    Raises
    ------
    Exception
        What the function raises, with a note that names the path, if `errors` is "raise".

    Examples
    --------
    >>> import numpy as np
    >>> from polystore import FileManager, MemoryBackend
    >>> fm = FileManager({"memory": MemoryBackend()})
    >>> fm.save_batch([np.ones(4), np.zeros(4), "text"], ["/in/a", "/in/b", "/in/c"], "memory")
    >>> fm.map(np.sum, "/in", "memory", errors="skip")
    [np.float64(4.0), np.float64(0.0)]
    >>> done = fm.map(lambda image: image + 1, "/in", "memory", to="/out", errors="skip")
    >>> done
    ['/out/a', '/out/b']
    >>> [(row["path"], row["error"]) for row in done.failures]
    [('/in/c', 'TypeError')]
    """
    if not callable(function):
        raise VFSTypeError(f"map calls a function, not a {type(function).__name__}")
    check_errors(errors)
    if workers is not None:
        workers = whole_number(workers, "workers", 1)
    olds, top = _files(self.registry, paths, backend)
    with reading(self.registry, backend) as source:
        pass  # outside, since errors of the function are not the backend's
    target: StorageBackend | None = None
    news: list[str] | list[None] = [None] * len(olds)
    if to is not None:
        key = backend if to_backend is None else to_backend
        with writing(self.registry, key, "save") as target:
            options = self._rules.applied(target, "save", options)
            options |= parents_option(target, parents=True)
        news = _results(to, olds, top, key)
    elif options or to_backend is not None:
        given = ", ".join(f"{name}=" for name in (*options, "to_backend"))
        raise VFSTypeError(f"the options of a save ({given}) need to=")
    call = Call(source, function, target, options)
    pairs = list(zip(olds, news, strict=True))
    with closing(
        outcomes(call, pairs, workers=workers, processes=processes, tasks=tasks or {})
    ) as found:
        if target is None:
            return collected(found, olds, errors, progress, "map")
        saved = (
            outcome if isinstance(outcome, Failure) else new
            for outcome, new in zip(found, news, strict=True)
        )
        return collected(saved, olds, errors, progress, "map")


def _files(
    registry: Registry, paths: P | Sequence[P], backend: BackendKey
) -> tuple[list[str], str]:
    """Return the files to take, and the directory that all are in."""
    if isinstance(paths, str | os.PathLike):
        directories, files, _ = walked(registry, paths, backend)
        return files, directories[0]
    check_collection(paths, "paths", backend=backend_key(backend))
    texts = [as_text(path) for path in paths]
    return texts, os.path.commonpath([os.path.dirname(text) for text in texts]) if texts else ""


def _results(to: P | Sequence[P], olds: list[str], top: str, key: BackendKey) -> list[str]:
    """Return the path of each result."""
    if isinstance(to, str | os.PathLike):
        rebased = rebasing(top, as_text(to)) if top else (lambda old: f"{as_text(to)}/{old}")
        return [rebased(old) for old in olds]
    check_collection(to, "paths", backend=backend_key(key))
    if len(to) != len(olds):
        raise BatchLengthError(
            f"map needs one path in to= for each value; there are {len(to)} for {len(olds)}",
            backend=backend_key(key),
        )
    return [as_text(path) for path in to]
