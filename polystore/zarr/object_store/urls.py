"""URLs as paths: which texts are one, and which store and which path in it they name."""

from __future__ import annotations

import re
from dataclasses import dataclass

from polystore.exceptions import PathMismatchError
from polystore.paths import P, as_text

__all__ = ["Url", "as_url"]

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://([^/]*)(.*)", re.DOTALL)
_CHAINED = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+(://.*)?::[A-Za-z][A-Za-z0-9+.-]+://", re.DOTALL)
_SCHEMES = "abfss?|adl|az|file|ftp|gcs|gs|hdfs|https?|memory|s3a?|sftp|ssh"
# What `Path("s3://bucket/a")` makes of it.
_COLLAPSED = re.compile(rf"({_SCHEMES}):/([^/].*)?", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Url:
    """A URL, taken apart.

    - `site`: the store: scheme and authority, such as ``"s3://bucket"``; all of a chained URL
    - `path`: the path in it, such as ``"/plate/0"``; ``""`` for none
    - `chained`: whether it names one store inside of another, as fsspec's ``zip://::s3://...`` does
    """

    site: str
    path: str
    chained: bool = False

    @property
    def local(self) -> str | None:
        """The path of the operating system that a ``file://`` URL names, None of another."""
        scheme, _, authority = self.site.partition("://")
        return authority + self.path or "/" if scheme in ("file", "local") else None


def as_url(path: P, *, backend: str | None = None) -> Url | None:
    """Return a URL taken apart, None for any other path.

    Raises `PathMismatchError` if the path was a URL before it became a `pathlib.Path`, which takes
    a slash away.

    Examples
    --------
    >>> as_url("s3://bucket/plate/0")
    Url(site='s3://bucket', path='/plate/0', chained=False)
    >>> as_url("/data/plate/0") is None
    True
    """
    text = as_text(path, backend=backend)
    if _CHAINED.match(text):
        return Url(text, "", chained=True)
    found = _URL.fullmatch(text)
    if found is not None:
        scheme, authority, rest = found.groups()
        if scheme == "memory" and not authority:  # where "memory:///a" is "memory://a"
            authority, slash, rest = rest.lstrip("/").partition("/")
            rest = slash + rest
        return Url(f"{scheme}://{authority}", rest)
    collapsed = _COLLAPSED.fullmatch(text)
    if collapsed is not None and not collapsed[2]:
        return Url(
            f"{collapsed[1]}://", ""
        )  # the parent of "memory://x", for callers that cut texts
    if collapsed is not None:
        raise PathMismatchError(
            f"a pathlib.Path turned '://' into ':/'; give the URL as a str, "
            f"'{collapsed[1]}://{collapsed[2]}'",
            path=text,
            backend=backend,
        )
    return None
