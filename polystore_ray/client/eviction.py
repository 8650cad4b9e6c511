"""Methods of the cluster memory that keep values in a full store."""

from __future__ import annotations

from typing import Any

from polystore.paths import P, as_text
from polystore_ray.client.lookup import Memory
from polystore_ray.client.refills import refilling

__all__ = ["pin", "unpin"]


def pin(self: Memory, path: P) -> None:
    """Keep a value that was saved with ``evictable=True`` from being evicted, until `unpin`.

    The pin belongs to the value, wherever it is copied or moved, and not to the process: it stays
    until `unpin`, however often it was set. Another value that is saved at the path is not pinned.
    If the value is lost or evicted, it comes back first, as by a load.

    Parameters
    ----------
    path : str or os.PathLike
        A file.

    Raises
    ------
    PathNotFoundError
        If nothing is there.
    DataEvictedError, DataLostError
        If the value is gone, and nothing brings it back.

    Examples
    --------
    >>> from polystore_ray import RayBackendRegistry
    >>> memory = RayBackendRegistry("pinned", local=True)["memory"]
    >>> memory.save(b"model", "/model", evictable=True)
    >>> memory.pin("/model")
    >>> memory.stat("/model")["pinned"]
    True
    """
    _set_pinned(self, path, True)


def unpin(self: Memory, path: P) -> None:
    """Let a value be evicted again, after `pin`; one that is not pinned stays as it is.

    Raises
    ------
    PathNotFoundError
        If nothing is there.
    """
    _set_pinned(self, path, False)


def _set_pinned(self: Memory, path: P, is_pinned: bool) -> None:
    text = as_text(path, backend="memory")
    transport = self._connect()

    def attempt() -> Any:
        return transport.change("set_pinned", text, is_pinned, path=text)

    with transport.measured("memory", "pin" if is_pinned else "unpin"):
        refilling(self, transport, [text], attempt)
