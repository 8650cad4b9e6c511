"""The trees of a zarr backend: its root, the local file system, and the store of each URL."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

from polystore.error_translation import located
from polystore.exceptions import (
    MissingDependencyError,
    PathMismatchError,
    VFSTypeError,
    brought_by,
)
from polystore.paths import P, as_text
from polystore.zarr.array.creation import ZarrFormat
from polystore.zarr.array.pipelines import Pipeline, check_pipeline
from polystore.zarr.local.tree import LocalZarr
from polystore.zarr.object_store.urls import Url, as_url

if TYPE_CHECKING:
    from polystore.zarr.object_store.tree import RemoteZarr

__all__ = ["AnyTree", "Trees", "check_format"]

AnyTree: TypeAlias = "LocalZarr | RemoteZarr"


class Trees:
    """Find the tree that a path lies in. The parameters are those of `ZarrBackend`."""

    def __init__(
        self,
        root: P | None,
        storage_options: Mapping[str, Any] | None,
        zarr_format: ZarrFormat | None,
        pipeline: Pipeline,
    ) -> None:
        check_format(zarr_format, root)
        with located(root, "zarr"):
            check_pipeline(pipeline)
        self._options = dict(storage_options or {})
        self._format = zarr_format
        local = partial(LocalZarr, zarr_format=zarr_format, pipeline=pipeline)
        self._local = local()
        self._sites: dict[str, RemoteZarr] = {}
        self._root: AnyTree | None = None
        if root is None:
            return
        url = as_url(root, backend="zarr")
        if url is not None and url.local is None:
            self._root = self._remote(url, rooted=True)
            return
        if storage_options:
            raise VFSTypeError(
                "storage_options are for a store that a URL names, and the root is a directory",
                path=str(root),
                backend="zarr",
            )
        self._root = local(root if url is None else url.local)

    def of(self, path: P) -> tuple[AnyTree, str]:
        """Return the tree that a path lies in, and the path as the tree takes it."""
        text = as_text(path, backend="zarr")
        url = as_url(text, backend="zarr") if ":" in text else None
        if self._root is not None:
            if url is not None:
                raise PathMismatchError(
                    "the paths of a backend with a root lie below it; ZarrBackend() takes URLs",
                    path=text,
                    backend="zarr",
                )
            return self._root, text
        if url is None:
            return self._local, text
        if url.local is not None:
            return self._local, url.local
        if url.chained:
            raise PathMismatchError(
                f"a chained URL names a store, and no path in it; ZarrBackend({text!r}) takes it",
                path=text,
                backend="zarr",
            )
        if url.site not in self._sites:
            self._sites[url.site] = self._remote(Url(url.site, ""), rooted=False)
        return self._sites[url.site], text

    def grouped(self, paths: Sequence[P]) -> list[tuple[AnyTree, list[str]]]:
        """Return the trees that some paths lie in, each with its paths as it takes them."""
        groups: dict[int, tuple[AnyTree, list[str]]] = {}
        for path in paths:
            tree, text = self.of(path)
            groups.setdefault(id(tree), (tree, []))[1].append(text)
        return list(groups.values())

    def _remote(self, url: Url, *, rooted: bool) -> RemoteZarr:
        try:
            from polystore.zarr.object_store.tree import RemoteZarr
        except ImportError as error:
            raise MissingDependencyError(
                f"URLs need the package {error.name!r}; {brought_by('remote')}",
                path=url.site + url.path,
                backend="zarr",
            ) from error
        return RemoteZarr(url, self._options, rooted=rooted, zarr_format=self._format)


def check_format(zarr_format: object, path: P | None) -> None:
    """Refuse what is no format of zarr."""
    if zarr_format not in (None, 2, 3):
        raise VFSTypeError(
            f"zarr_format is 2 or 3, not {zarr_format!r}",
            path=None if path is None else str(path),
            backend="zarr",
        )
