"""Addresses of clusters, checked before Ray is asked to connect."""

from __future__ import annotations

import socket

from polystore_ray.errors import StoreUnavailableError

__all__ = ["require_listener"]

_ANSWER_WITHIN = 5.0  # seconds


def require_listener(address: str) -> None:
    """Raise at once where nothing listens at ``host:port``.

    Ray itself tries for a minute and then ends the process. Addresses of another form (``auto``,
    ``local``, ``ray://...``) are left to it.

    Raises
    ------
    StoreUnavailableError
        If no connection can be made within 5 s.
    """
    if address in ("auto", "local") or "://" in address:
        return
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host, int(port)), timeout=_ANSWER_WITHIN):
            return
    except (OSError, ValueError, OverflowError) as error:
        raise StoreUnavailableError(f"no Ray cluster answers at {address!r} ({error})") from error
