"""Serve the page: from a command, a notebook or an actor."""

from __future__ import annotations

import socket
import threading
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any, Self

import uvicorn

from polystore.exceptions import StorageResolutionError
from polystore_ray.ui.access import Keys
from polystore_ray.ui.app import application

__all__ = ["LOOPBACK", "PageServer", "serve"]

LOOPBACK = "127.0.0.1"
_ENDS_WITHIN = 5.0  # seconds


class PageServer:
    """A page that is being served, by a thread of this process.

    Attributes
    ----------
    url : str
        The address of the page. Its token is the only key to the page: whoever has the address can
        read all that the registry can.
    """

    def __init__(self, server: uvicorn.Server, listener: socket.socket, url: str) -> None:
        self.url = url
        self._server = server
        self._thread = threading.Thread(
            target=server.run, kwargs={"sockets": [listener]}, name="polystore-ui", daemon=True
        )
        self._thread.start()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.url!r})"

    def _repr_html_(self) -> str:
        url = escape(self.url)
        return f'<a href="{url}" target="_blank" rel="noopener noreferrer">{url}</a>'

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def wait(self) -> None:
        """Wait until the page is stopped."""
        self._thread.join()

    def stop(self) -> None:
        """Stop the page. Nothing else of the store ends."""
        self._server.should_exit = True
        self._thread.join(_ENDS_WITHIN)


def serve(
    registry: Mapping[str, Any],
    *,
    host: str = LOOPBACK,
    port: int = 0,
    host_names: Sequence[str] = (),
) -> PageServer:
    """Serve a read-only page on the backends of a registry; return at once.

    Parameters
    ----------
    registry : Mapping
        A `RayBackendRegistry`, a `polystore.BackendRegistry`, or a plain `dict` of backends.
    host : str, default "127.0.0.1"
        The address of this machine at which browsers reach the page; by default only those of this
        machine do.
    port : int, default 0
        The port; 0 takes any free one.
    host_names : sequence of str, optional
        Other names of this machine that browsers use, such as that of a proxy. Requests with any
        other name are refused.

    Returns
    -------
    PageServer
        Its attribute ``url`` is the address to open, and ``stop()`` ends it.

    Raises
    ------
    StorageResolutionError
        If the address or the port cannot be used.

    Examples
    --------
    >>> from polystore_ray import RayBackendRegistry
    >>> with serve(RayBackendRegistry(local=True)) as page:
    ...     page.url.startswith("http://127.0.0.1:")
    True
    """
    try:
        listener = socket.create_server((host, port))
    except (OSError, OverflowError) as error:
        raise StorageResolutionError(
            f"the page cannot be served at {host} port {port}: {error}"
        ) from error
    keys = Keys()
    app = application(registry, keys, [host, LOOPBACK, "localhost", *host_names])
    config = uvicorn.Config(
        app,
        access_log=False,  # it would keep the token
        lifespan="off",
        log_config=None,
        log_level="warning",
        proxy_headers=False,
        server_header=False,
        timeout_graceful_shutdown=1,
        ws="none",
    )
    url = f"http://{host}:{listener.getsockname()[1]}/{keys.page}/"
    return PageServer(uvicorn.Server(config), listener, url)
