"""Moto's S3 on the loopback, for the tests of a process and of those that it starts."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Iterable
from functools import cache
from typing import Any

import fsspec
from moto.moto_server.werkzeug_app import create_backend_app
from werkzeug.serving import WSGIRequestHandler, make_server

OPTIONS: dict[str, Any] = {"key": "test", "secret": "test"}


_NAMING = ("PATH_INFO", "QUERY_STRING", "RAW_URI", "REQUEST_URI", "HTTP_X_AMZ_COPY_SOURCE")


class Quiet(WSGIRequestHandler):
    def log_request(self, *arguments: Any) -> None:
        """Say nothing of each request."""


class Mended:
    """Moto as S3 is: a conditional put is one step, and a key may hold a line feed.

    Moto's routes match none, so that it keeps "^" in its place.
    """

    def __init__(self, application: Any) -> None:
        self.application = application
        self.turn = threading.Lock()

    def __call__(self, environ: Any, start_response: Any) -> Iterable[bytes]:
        for name in {*_NAMING} & {*environ}:
            environ[name] = environ[name].replace("\n", "^").replace("%0A", "%5E")
        with self.turn:
            return [_restored(part) for part in self.application(environ, start_response)]


def _restored(part: bytes) -> bytes:
    if not part.startswith(b"<?xml"):
        return part
    return part.replace(b"%5E", b"%0A").replace(b"^", b"\n")


class S3Server:
    """A server of this process; it ends with it."""

    def __init__(self) -> None:
        application = Mended(create_backend_app("s3"))
        server = make_server("127.0.0.1", 0, application, threaded=True, request_handler=Quiet)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{server.server_port}"
        self.options: dict[str, Any] = {
            **OPTIONS,
            "client_kwargs": {"endpoint_url": self.url, "region_name": "eu-west-1"},
        }
        # Not through what is tested, nor through its caches.
        self.files = fsspec.filesystem("s3", use_listings_cache=False, **self.options)
        self.files.mkdir("bucket")

    def place(self) -> str:
        """Return a URL at which nothing is yet."""
        return f"s3://bucket/{uuid.uuid4().hex}"

    def keys(self, place: str) -> list[str]:
        """Return the keys of all objects below a URL."""
        top = f"{place.removeprefix('s3://')}/"
        return sorted(path.removeprefix(top) for path in self.files.find(place))


@cache
def s3_server() -> S3Server:
    """Return the server of this process."""
    return S3Server()
