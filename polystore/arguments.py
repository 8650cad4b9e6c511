"""Checks of arguments that several backends make, and the errors they raise."""

from __future__ import annotations

import operator
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from polystore.exceptions import BatchLengthError, PathExistsError, VFSTypeError
from polystore.paths import P, as_text, check_distinct

__all__ = ["check_batch", "check_collection", "path_exists", "seconds", "whole_number"]

_NO_BATCH = (str, bytes, bytearray, Mapping, set, frozenset)


def check_collection(items: object, what: str, *, backend: str | None) -> None:
    """Refuse what has no length or no order, or is one value and not many."""
    if not isinstance(items, Collection) or isinstance(items, _NO_BATCH):
        raise VFSTypeError(
            f"the {what} of a batch are a list or another sequence, not a {type(items).__name__}",
            backend=backend,
        )


def check_batch(values: Sequence[Any], paths: Sequence[P], *, backend: str | None) -> list[str]:
    """Return the paths of a batch as text, refusing another number of values and repeats."""
    check_collection(values, "values", backend=backend)
    check_collection(paths, "paths", backend=backend)
    if len(values) != len(paths):
        raise BatchLengthError(
            f"a batch has one value for each path, not {len(values)} values for {len(paths)} paths",
            backend=backend,
        )
    texts = [as_text(path, backend=backend) for path in paths]
    check_distinct(texts, texts, backend=backend)
    return texts


def path_exists(path: str, backend: str | None) -> PathExistsError:
    """Return the error for a path that a save or a copy would have overwritten."""
    return PathExistsError(
        "the path exists already; overwrite=True lets a save replace a file",
        path=path,
        backend=backend,
    )


def whole_number(value: Any, name: str, least: int, *, backend: str | None = None) -> int:
    """Return an argument that is a number of things as an `int`, refusing all else."""
    try:
        number = -1 if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = -1
    if number < least:
        raise VFSTypeError(
            f"{name} is a whole number of at least {least}, not {value!r}", backend=backend
        )
    return number


def seconds(value: Any, name: str) -> float:
    """Return an argument that is a number of seconds as a `float`, refusing all else."""
    try:
        number = -1.0 if isinstance(value, bool | str | bytes) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = -1.0
    if not number >= 0:  # NaN is not
        raise VFSTypeError(f"{name} is a number of seconds of at least 0, not {value!r}")
    return number
