"""The method of a registry that serves a page on its store, without an import of the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pkgutil import resolve_name
from typing import Any

from polystore.exceptions import StorageResolutionError
from polystore.late_imports import imported

__all__ = ["ui"]


def ui(
    self: Mapping[str, Any],
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    host_names: Sequence[str] = (),
) -> Any:
    """Serve a read-only page on the store and its backends; return at once.

    Parameters
    ----------
    host : str, default "127.0.0.1"
        The address of this machine at which browsers reach the page; by default only those of
        this machine do.
    port : int, default 0
        The port; 0 takes any free one.
    host_names : sequence of str, optional
        Other names of this machine that browsers use. Requests with any other are refused.

    Returns
    -------
    polystore_ray.ui.server.PageServer
        Its attribute ``url`` is the address to open, and ``stop()`` ends it. A notebook shows
        it as a link.

    Raises
    ------
    MissingDependencyError
        If the extra ``ui`` is not installed.
    StorageResolutionError
        If the address or the port cannot be used.
    """
    serve = imported(
        partial(resolve_name, "polystore_ray.ui.server:serve"),
        "the page",
        source="the import of polystore_ray.ui",
        extra="ui",
        error=StorageResolutionError,
    )
    return serve(self, host=host, port=port, host_names=host_names)
