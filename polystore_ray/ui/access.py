"""Who may use the page: tokens, and the headers that keep other sites out."""

from __future__ import annotations

import hmac
import secrets
from contextlib import suppress

from starlette.datastructures import MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

__all__ = ["Keys", "SafeHeaders", "TokenGate"]

_TOKEN_BYTES = 24

_POLICY = {
    "default-src": "'none'",
    "script-src": "'self'",
    "style-src": "'self'",
    "connect-src": "'self'",
    "img-src": "'self' data:",
    "base-uri": "'none'",
    "form-action": "'none'",
    "frame-ancestors": "'none'",
}
_HEADERS = {
    "Content-Security-Policy": "; ".join(f"{what} {where}" for what, where in _POLICY.items()),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",  # the address has the token
    "X-Content-Type-Options": "nosniff",
}


class SafeHeaders:
    """Add headers to every response that lacks them."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        await self._app(scope, receive, send_with_headers)


class Keys:
    """The secrets of one page: its token, and the key that signs the addresses for viewers.

    The site of a viewer sees the address that it is given. So each opens one place and what is
    below it, and nothing else.
    """

    def __init__(self) -> None:
        self.page = secrets.token_urlsafe(_TOKEN_BYTES)
        self._signing = secrets.token_bytes(_TOKEN_BYTES)

    def signed(self, place: str) -> str:
        """Return the token for a place."""
        data = place.encode()
        return f"{hmac.new(self._signing, data, 'sha256').hexdigest()}.{data.hex()}"

    def opened(self, token: str) -> str | None:
        """Return the place that a token is for; None for a token that `signed` did not return."""
        with suppress(ValueError):
            place = bytes.fromhex(token.partition(".")[2]).decode()
            if is_same(token, self.signed(place)):
                return place
        return None


def is_same(token: str, other: str) -> bool:
    """Compare in a time that does not depend on what is equal."""
    return secrets.compare_digest(token.encode(), other.encode())


class TokenGate:
    """Pass a request to the page or to what serves viewers, by the token its address begins with.

    - `page`, `viewers`: the applications. That for viewers finds its place in the path parameters
    """

    def __init__(self, keys: Keys, *, page: ASGIApp, viewers: ASGIApp) -> None:
        self._keys = keys
        self._page = page
        self._viewers = viewers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        token = scope["path_params"]["token"]
        place = self._keys.opened(token)
        chosen: ASGIApp = PlainTextResponse("use the whole address that was printed", 404)
        if is_same(token, self._keys.page):
            chosen = self._page
        elif place is not None:
            chosen = self._viewers
            scope["path_params"]["place"] = place
        await chosen(scope, receive, send)
