"""Paths: the normal form of virtual paths, the natural order of names, and filters of listings."""

from __future__ import annotations

import os
import re
from collections.abc import Hashable, Iterable, Sequence
from fnmatch import fnmatchcase
from typing import TypeVar

from polystore.exceptions import (
    InvalidPathError,
    PathExistsError,
    PathMismatchError,
    VFSTypeError,
)

__all__ = [
    "MOST_LINKS",
    "NameFilter",
    "P",
    "PathT",
    "as_file_path",
    "as_given",
    "as_text",
    "check_distinct",
    "display",
    "file_order",
    "join",
    "natural_key",
    "normalize",
    "split",
]

P = str | os.PathLike[str]
PathT = TypeVar("PathT", bound=P)

MOST_LINKS = 40
"""The limit of links that one path may follow, the same as in Linux; more are taken for a loop."""

_DIGITS = re.compile(r"(\d+)")
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")  # no drive of Windows


def as_text(path: P, *, backend: str | None = None) -> str:
    """Return `path` as `str`.

    Raises `VFSTypeError` if `path` is neither `str` nor an `os.PathLike` of `str`;
    `InvalidPathError` if `path` is empty or contains a NUL character.
    """
    text = path if type(path) is str else _plain(path, backend)
    if not text:
        raise InvalidPathError(
            "a path cannot be empty; the root is '/'", path=text, backend=backend
        )
    if "\0" in text:
        raise InvalidPathError("a path cannot contain a NUL character", path=text, backend=backend)
    return text


def as_given(path: PathT, text: str) -> PathT:
    """Return the `text` that a backend made of `path`; for a path object, that object."""
    return text if isinstance(path, str) else path  # type: ignore[return-value]


def as_system_text(path: P) -> str:
    """Return `path` as text that can be the name of a file.

    Raises `VFSTypeError` or `InvalidPathError` as `as_text`; also if it cannot be encoded for the
    file system.
    """
    text = as_text(path)
    try:
        os.fsencode(text)
    except UnicodeEncodeError as error:
        raise InvalidPathError(
            f"the path cannot be encoded for the file system ({error.reason})", path=text
        ) from error
    return text


def as_file_path(path: P) -> str:
    """Return `path` as text that names a file of the operating system.

    Raises same as `as_system_text`; `InvalidPathError` for what a shell would expand, and
    `PathMismatchError` for a URL, since each would create a directory of a strange name.
    """
    text = as_system_text(path)
    if text[0] == "~" and text[1:2] in ("", "/"):
        raise InvalidPathError(
            "~ is not expanded; use os.path.expanduser(path), or ./~ for a file of this name",
            path=text,
        )
    if "://" in text and _URL.match(text):
        raise PathMismatchError(
            "a URL is not a path of the file system; only the zarr backend takes URLs", path=text
        )
    return text


def _plain(path: object, backend: str | None) -> str:
    """Return a path object, or an instance of a subclass of `str`, as a plain `str`."""
    cause: TypeError | None = None
    try:
        text = os.fspath(path)  # type: ignore[call-overload]
    except TypeError as error:
        text, cause = None, error
    if not isinstance(text, str):
        raise VFSTypeError(
            f"a path must be a str or an os.PathLike of str, not {type(path).__name__}",
            backend=backend,
        ) from cause
    return str.__str__(text)  # a subclass, such as an enum member, may have another __str__


def display(path: object) -> str:
    """Return the text for a path in an error message, also for a path that `as_text` refuses."""
    try:
        return _plain(path, None)
    except VFSTypeError:
        return repr(path)


def split(path: P, *, backend: str | None = None) -> list[str]:
    """Return the names that lead from the root of a virtual tree to `path`.

    Raises `InvalidPathError` same as for `as_text`, and if the path leads above the root.
    """
    text = as_text(path, backend=backend)
    names: list[str] = []
    for name in text.split("/"):
        if name in ("", "."):
            continue
        if name != "..":
            names.append(name)
        elif names:
            names.pop()
        else:
            raise InvalidPathError("the path leads above the root", path=text, backend=backend)
    return names


def join(names: Iterable[str]) -> str:
    """Return the virtual path with these names: the inverse of `split`."""
    return "/" + "/".join(names)


def normalize(path: P, *, backend: str | None = None) -> str:
    """Return the normal form of a path in a virtual tree.

    Examples
    --------
    >>> {normalize(path) for path in ("a/b", "/a/b", "/a//b/", "/a/./c/../b")}
    {'/a/b'}
    """
    return join(split(path, backend=backend))


def check_distinct(places: Sequence[Hashable], paths: Sequence[P], *, backend: str | None) -> None:
    """Raise `PathExistsError` if two paths of a batch lead to the same place."""
    if len(set(places)) == len(places):
        return
    seen: set[Hashable] = set()
    for place, path in zip(places, paths, strict=True):
        if place in seen:
            raise PathExistsError(
                "the path occurs twice in the batch", path=display(path), backend=backend
            )
        seen.add(place)


def file_order(path: str) -> tuple[int, str]:
    """Return a sort key for listed files: shallow first, then in plain order."""
    return path.count("/") + path.count(os.sep) * (os.sep != "/"), path


def natural_key(path: str) -> tuple[list[str | int], str]:
    """Return a sort key that compares numbers in names by their value.

    Examples
    --------
    >>> sorted(["img10", "img2", "img1"], key=natural_key)
    ['img1', 'img2', 'img10']
    """
    # re.split alternates text and digits, so equal positions have equal types.
    parts = [int(part) if i % 2 else part for i, part in enumerate(_DIGITS.split(path))]
    return parts, path


class NameFilter:
    """A filter of base names, which is called with a name and returns whether it is selected.

    A name must satisfy both conditions.

    - `pattern`: a glob on the base name; case matters
    - `extensions`: endings with their dot, such as ``{".tif", ".ome.tif"}``; case does not matter

    Raises `VFSTypeError` if the pattern or an ending is not a `str`.
    """

    __slots__ = ("_endings", "_pattern")

    def __init__(self, pattern: str | None = None, extensions: Iterable[str] | None = None) -> None:
        if isinstance(extensions, str):
            raise VFSTypeError(f"extensions must be a set of endings: write {{{extensions!r}}}")
        if not isinstance(extensions, Iterable | None):
            raise VFSTypeError(f"extensions must be a set of endings, not {extensions!r}")
        endings = None if extensions is None else tuple(extensions)
        for part in (*(() if pattern is None else (pattern,)), *(endings or ())):
            if not isinstance(part, str):
                raise VFSTypeError(
                    f"pattern and extensions must be str, not {type(part).__name__}: {part!r}"
                )
        self._pattern = pattern
        self._endings = None if endings is None else tuple(e.lower() for e in endings)

    @property
    def plain(self) -> tuple[str | None, list[str] | None]:
        """The pattern and the endings as plain `str`, to send to another process."""
        pattern = self._pattern if self._pattern is None else str.__str__(self._pattern)
        return pattern, self._endings if self._endings is None else [
            *map(str.__str__, self._endings)
        ]

    def __call__(self, name: str) -> bool:
        if self._pattern is not None and not fnmatchcase(name, self._pattern):
            return False
        return self._endings is None or name.lower().endswith(self._endings)
