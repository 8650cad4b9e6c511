"""The addresses of the page: its files, what its script asks, and zarr for other viewers.

Every address begins with a token: that of the page, or that of one place for viewers.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, Route, Router
from starlette.staticfiles import StaticFiles

from polystore import FileManager, StorageError
from polystore.exceptions import BackendNotFoundError, PathNotFoundError
from polystore_ray.interop.json_text import json_pieces
from polystore_ray.ui.access import Keys, SafeHeaders, TokenGate
from polystore_ray.ui.listing import Listings, Wanted
from polystore_ray.ui.overview import Overview
from polystore_ray.ui.pictures import HIGH, LOW, Look, picture
from polystore_ray.ui.reading import Place, PlainRegistry, start_of
from polystore_ray.ui.values import described
from polystore_ray.ui.web_zarr import Content, WebZarr

__all__ = ["application"]

_ASSETS = Path(__file__).parent / "assets"
_RANGE = re.compile(r"bytes=([0-9]*)-([0-9]*)")


def application(registry: Mapping[str, Any], keys: Keys, host_names: Sequence[str]) -> Starlette:
    """Return the page of a registry as an ASGI application.

    - `host_names`: the names of this machine that a browser may use. A site whose name leads here
      by a trick of its own is refused
    """
    page = _Page(registry, keys)
    page_routes = [
        Route("/api/overview", page.overview),
        Route("/api/list", page.list),
        Route("/api/value", page.value),
        Route("/api/picture", page.picture),
        Mount("/", StaticFiles(directory=_ASSETS, html=True)),
    ]
    viewers = CORSMiddleware(
        Router([Route("/{key:path}", page.zarr)]),
        allow_origins=["*"],
        allow_headers=["Range"],
        expose_headers=["Accept-Ranges", "Content-Range"],
    )
    gate = TokenGate(keys, page=Router(page_routes), viewers=viewers)
    return Starlette(
        routes=[Mount("/{token}", gate)],
        middleware=[
            Middleware(SafeHeaders),
            Middleware(TrustedHostMiddleware, allowed_hosts=host_names, www_redirect=False),
        ],
        exception_handlers={StorageError: _reported, ValueError: _reported},
    )


class _Page:
    """What the page answers. Starlette runs these functions in threads."""

    def __init__(self, registry: Mapping[str, Any], keys: Keys) -> None:
        self._fm = FileManager(PlainRegistry(registry))
        self._keys = keys
        self._overview = Overview(registry)
        self._listings = Listings(self._fm)
        self._zarr = WebZarr(self._fm)

    def overview(self, _request: Request) -> Response:
        return _json(self._overview.now())

    def list(self, request: Request) -> Response:
        given = request.query_params
        place = _place(request)
        if not place.path:
            place = place._replace(path=start_of(self._fm, place.backend))
        wanted = Wanted(
            place,
            given.get("sort", "name"),
            given.get("reverse") == "1",
            given.get("search", ""),
            given.get("below") == "1",
        )
        start, count = int(given.get("start", 0)), int(given.get("count", 100))
        window = self._listings.window(wanted, start, count)
        return _json({"path": place.path, **window})

    def value(self, request: Request) -> Response:
        place = _place(request)
        found = described(self._fm, place)
        return _json({**found, "viewers": self._keys.signed(json.dumps(place))})

    def picture(self, request: Request) -> Response:
        given = request.query_params
        backend, path = _place(request)
        facts = self._fm.stat(path, backend)
        if "shape" not in facts or "dtype" not in facts:
            raise PathNotFoundError("no array is there", path=path, backend=backend)
        look = Look(
            tuple(int(number) for number in given.get("index", "").split(",") if number),
            int(given.get("top", 0)),
            int(given.get("left", 0)),
            given.get("full") == "1",
            float(given.get("low", LOW)),
            float(given.get("high", HIGH)),
            given.get("labels") == "1",
        )
        load = lambda region: self._fm.load(path, backend, region=region)  # noqa: E731
        return _json(picture(load, facts["shape"], facts["dtype"], look))

    def zarr(self, request: Request) -> Response:
        place = Place.parse(request.path_params["place"])
        content = self._zarr.content(place, request.path_params["key"])
        return _part(content, request.headers.get("range", ""))


def _place(request: Request) -> Place:
    return Place.parse(request.query_params.get("place", ""))


def _json(value: Any) -> Response:
    return Response("".join(json_pieces(value)), media_type="application/json")


def _reported(_request: Request, error: Exception) -> Response:
    code = 503 if isinstance(error, ConnectionError | TimeoutError) else 400
    if isinstance(error, PathNotFoundError | BackendNotFoundError):
        code = 404
    answer = _json({"error": str(error)})
    answer.status_code = code
    return answer


def _part(content: Content, wanted: str) -> Response:
    """Return what a range header asks for, all of the content without one."""
    headers = {"Accept-Ranges": "bytes", "Cross-Origin-Resource-Policy": "cross-origin"}
    kind = "application/octet-stream"
    match = _RANGE.fullmatch(wanted)
    if match is None or match.groups() == ("", ""):
        return Response(content.read(0, content.size), headers=headers, media_type=kind)
    size = content.size
    first, last = match.groups()
    start = int(first) if first else max(0, size - int(last))
    stop = min(size, int(last) + 1) if first and last else size
    if start >= stop:
        return Response(status_code=416, headers=headers | {"Content-Range": f"bytes */{size}"})
    headers["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
    return Response(content.read(start, stop), 206, headers, kind)
