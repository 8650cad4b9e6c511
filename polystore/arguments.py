"""Checks of arguments that several backends share, and the errors they raise."""

from __future__ import annotations

import operator
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from polystore.exceptions import (
    BatchLengthError,
    PathExistsError,
    PathNotDirectoryError,
    UnsupportedOperationError,
    VFSTypeError,
)
from polystore.paths import P, as_text, check_distinct, display

__all__ = [
    "check_apart",
    "check_batch",
    "check_collection",
    "did_you_mean",
    "path_exists",
    "refuse_loss",
    "seconds",
    "whole_number",
]

Location = TypeVar("Location", bound=Hashable)

_NO_BATCH = (str, bytes, bytearray, Mapping, set, frozenset)


def check_collection(items: object, what: str, *, backend: str | None) -> None:
    """Refuse an argument that is a single value, or has no length or no order."""
    if not isinstance(items, Collection) or isinstance(items, _NO_BATCH):
        raise VFSTypeError(
            f"the {what} of a batch must be a list or another sequence, not {type(items).__name__}",
            backend=backend,
        )


def check_batch(values: Sequence[Any], paths: Sequence[P], *, backend: str | None) -> list[str]:
    """Return the paths of a batch as text; refuse repeated paths and numbers that differ."""
    check_collection(values, "values", backend=backend)
    check_collection(paths, "paths", backend=backend)
    if len(values) != len(paths):
        raise BatchLengthError(
            f"a batch needs one value for each path; there are {len(values)} values for "
            f"{len(paths)} paths",
            backend=backend,
        )
    texts = [as_text(path, backend=backend) for path in paths]
    check_distinct(texts, texts, backend=backend)
    return texts


def check_apart(
    locations: Sequence[Location],
    parent: Callable[[Location], Location],
    paths: Sequence[P],
    *,
    backend: str | None,
) -> None:
    """Refuse a batch in which two paths lead to one location, or one lies inside another.

    - `locations`: the normal form of each path
    - `parent`: returns the parent of a location; that of the root is the root
    - `paths`: the paths, as the error shows them
    - `backend`: the backend, as the error shows it
    """
    check_distinct(locations, paths, backend=backend)
    taken = set(locations)
    above = {parent(location) for location in taken}
    while above:
        for location in above & taken:
            raise PathNotDirectoryError(
                "another path of the batch lies inside this one",
                path=display(paths[locations.index(location)]),
                backend=backend,
            )
        above = {parent(location) for location in above} - above


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return a parenthesis that suggests the known name nearest to `name`, or an empty text."""
    from difflib import get_close_matches  # late: only errors need it

    near = get_close_matches(name, list(known), n=1, cutoff=0.7)
    return f" (did you mean {near[0]!r}?)" if near and near[0] != name else ""


def path_exists(path: str | None = None, backend: str | None = None) -> PathExistsError:
    """Return the error for a path that a save or a copy would overwrite."""
    return PathExistsError(
        "the path exists already; to replace a file, save it with overwrite=True",
        path=path,
        backend=backend,
    )


def refuse_loss(lost: Sequence[str], path: P, *, backend: str | None) -> None:
    """Refuse a copy to another backend that would lose what is named, unless it is nothing."""
    if lost:
        raise UnsupportedOperationError(
            f"the other backend would not keep what is there besides the values: "
            f"{', '.join(lost)}. lossy=True leaves it behind",
            path=display(path),
            backend=backend,
        )


def whole_number(value: Any, name: str, least: int, *, backend: str | None = None) -> int:
    """Return an argument as an `int`; refuse anything but a whole number of at least `least`."""
    try:
        number = -1 if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = -1
    if number < least:
        raise VFSTypeError(
            f"{name} must be a whole number of at least {least}, not {value!r}", backend=backend
        )
    return number


def seconds(value: Any, name: str) -> float:
    """Return an argument as a `float`; refuse anything but a number of seconds."""
    try:
        number = -1.0 if isinstance(value, bool | str | bytes) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = -1.0
    if not number >= 0:  # also true of NaN
        raise VFSTypeError(f"{name} must be a number of seconds of at least 0, not {value!r}")
    return number
