"""Batches of the file manager: many values in one call of their backend."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from polystore.arguments import check_collection
from polystore.base import DataSource
from polystore.capabilities import Capability, ReportsLoading, ReportsSaving
from polystore.filemanager.copying import Manager
from polystore.filemanager.dispatch import parents_option, reading, writing
from polystore.paths import P
from polystore.progress import Progress, reporting
from polystore.registration import BackendKey, backend_key
from polystore.transfer.many import Errors, check_errors, collected, loaded_apart
from polystore.writable import private

__all__ = ["load_batch", "save_batch"]


def load_batch(
    self: Manager,
    paths: Sequence[P],
    backend: BackendKey,
    *,
    writable: bool = False,
    errors: Errors = "raise",
    progress: Progress = None,
    **options: Any,
) -> list[Any]:
    """Return the values at `paths`, in their order.

    Parameters
    ----------
    paths, backend
        Files, and their backend.
    writable : bool, default False
        As for `load`.
    errors : {"raise", "skip", "return"}, default "raise"
        Whether the first error raises, or a path that fails is left out, or its error is in
        its place. For the last two the result is a list whose attribute ``failures`` is a
        table of all failures.
    progress : callable or bool, optional
        Called with the number of values loaded so far and the number of all; `True` shows a
        bar.
    **options
        Passed to the backend's ``load_batch``, such as ``region=``.
    """
    check_errors(errors)
    check_collection(paths, "paths", backend=backend_key(backend))
    with reading(self.registry, backend) as target:
        options = self._rules.applied(target, "load_batch", options)
        values: list[Any]
        if errors != "raise":
            found = loaded_apart(lambda some: target.load_batch(some, **options), list(paths))
            values = collected(found, paths, errors, progress, "loading")
            if writable:
                values[:] = [private(value) for value in values]
            return values
        with _progress(target, ReportsLoading, progress, paths) as reported:
            values = target.load_batch(paths, **reported, **options)
        return [private(value) for value in values] if writable else values


def save_batch(
    self: Manager,
    values: Sequence[Any],
    paths: Sequence[P],
    backend: BackendKey,
    *,
    parents: bool = True,
    progress: Progress = None,
    **options: Any,
) -> None:
    """Store `values` at `paths`, and create missing parents.

    Everything that can be checked is checked before anything is written. Memory backends
    publish the batch all at once. On other backends, an error names the paths that were
    written.

    Parameters
    ----------
    values, paths, backend
        The values, the path of each, and their backend.
    parents : bool, default True
        As for `save`.
    progress : callable or bool, optional
        Called with the number of values saved so far and the number of all; `True` shows a
        bar.
    **options
        Passed to the backend's ``save_batch``, such as ``overwrite=True``.

    Raises
    ------
    BatchLengthError
        If the numbers of values and paths differ.
    PathExistsError
        If a path occurs twice, or exists without ``overwrite=True``.
    """
    for items, what in ((values, "values"), (paths, "paths")):
        check_collection(items, what, backend=backend_key(backend))
    with writing(self.registry, backend, "save_batch") as target:
        options = self._rules.applied(target, "save_batch", options)
        options |= parents_option(target, parents=parents)
        with _progress(target, ReportsSaving, progress, paths) as reported:
            target.save_batch(values, paths, **reported, **options)


@contextmanager
def _progress(
    backend: DataSource, reports: type[Capability], progress: Progress, paths: Sequence[P]
) -> Iterator[dict[str, Any]]:
    """Yield the option `progress`; for a backend without it, report the end of its call."""
    if not progress:
        yield {}
    elif isinstance(backend, reports):
        yield {"progress": progress}
    else:
        with reporting(progress, len(paths), "batch") as step:
            yield {}
            step(len(paths))
