"""What travels between clients, volumes and the controller."""

from __future__ import annotations

import itertools
import os
from dataclasses import dataclass
from typing import Any

__all__ = ["Item", "Pin", "PutOptions", "Request", "new_operation_id"]


@dataclass(frozen=True, slots=True)
class Pin:
    """An object, and the node whose volume holds its bytes."""

    id: str
    node: str
    ref: Any


@dataclass(frozen=True, slots=True)
class Item:
    """A value to be published: a small one in its bytes, a large one by its pin."""

    path: str
    size: int
    shape: tuple[int, ...] | None
    dtype: str | None
    stored: bytes | Pin


@dataclass(frozen=True, slots=True)
class PutOptions:
    """How a batch of items is to be published.

    With `version`, only over an entry of that version.
    """

    overwrite: bool = False
    parents: bool = False
    version: int | None = None


@dataclass(frozen=True, slots=True)
class Request:
    """A call of one operation of the controller; a change has an id, so that it can be repeated."""

    operation: str
    arguments: tuple[Any, ...]
    id: str | None = None


_prefix = ""
_prefix_pid = 0
_counter = itertools.count()


def new_operation_id() -> str:
    """Return an id that no other operation of any process has."""
    global _prefix, _prefix_pid
    if _prefix_pid != os.getpid():
        _prefix, _prefix_pid = os.urandom(8).hex(), os.getpid()
    return f"{_prefix}-{next(_counter)}"
