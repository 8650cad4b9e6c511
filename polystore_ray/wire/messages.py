"""What travels between clients, volumes and the controller: tuples, which pickle fast."""

from __future__ import annotations

import itertools
import os
from typing import Any, NamedTuple

__all__ = [
    "NOTHING",
    "WHOLE",
    "WITHDRAWN",
    "ChangeId",
    "Facts",
    "Found",
    "HostEndedError",
    "InlineFullError",
    "Items",
    "Joined",
    "Kept",
    "NotPinnedError",
    "OutOfStepError",
    "Pin",
    "Request",
    "StaleEpochError",
    "StaleVolumeError",
    "Stored",
    "new_operation_id",
]

Facts = tuple[int, tuple[int, ...] | None, str | None]
"""The size of a value in bytes and, of an array, its shape and the name of its dtype."""

WITHDRAWN = True
"""The answer to the withdrawal of a publication that had not been made."""

WHOLE = -1
Stored = bytes | tuple[int, int]
"""A small value's message; or which of some pins holds the value, and its number in the pack that
is pinned there, `WHOLE` where the object is the value itself."""

NOTHING: Stored = (-1, WHOLE)
"""What is stored at a path without a file."""


class Pin(NamedTuple):
    """An object, and the nodes whose volumes hold its bytes.

    The id stays when the object is put again; then the reference and the size are new.
    """

    id: str
    nodes: tuple[str, ...]
    ref: Any
    nbytes: int

    def __reduce__(self) -> tuple[Any, ...]:
        return Pin, tuple(self)  # as `polystore_ray.wire.decoding` reads it


class Items(NamedTuple):
    """Values to be published all at once, in columns; `Stored` numbers the pins sent with them."""

    paths: list[str]
    facts: list[Facts]
    stored: list[Stored]
    overwrite: bool = False
    parents: bool = False
    if_version: int | None = None
    replicas: int = 1
    fallback: tuple[str, str] | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return Items, tuple(self)


class Joined(NamedTuple):
    """What a volume says to a new controller: who it is, and what it holds, with its references."""

    incarnation: str
    holdings: list[Pin]


class Kept(NamedTuple):
    """What stays of a value when another one takes its place."""

    version: int
    """That of the value which is there now."""
    replicas: int | None
    """On how many nodes it is to be held; None as the store was made."""
    fallback: tuple[str, str] | None

    def __reduce__(self) -> tuple[Any, ...]:
        return Kept, tuple(self)


class Found(NamedTuple):
    """What is stored at some paths, in columns; `Stored` numbers these pins.

    A path without a file is `NOTHING`, where the request allowed it.
    """

    pins: list[Pin]
    stored: list[Stored]
    versions: list[int]

    def __reduce__(self) -> tuple[Any, ...]:
        return Found, tuple(self)


class ChangeId(NamedTuple):
    """One change of one client; see `polystore_ray.wire.sessions`."""

    session: str
    number: int
    done: int
    """The client waits for no answer to a change with a lower number."""

    def __reduce__(self) -> tuple[Any, ...]:
        return ChangeId, tuple(self)


class Request(NamedTuple):
    """A call of one operation of the controller; a change has an id, so that it can be repeated."""

    operation: str
    arguments: tuple[Any, ...]
    id: ChangeId | None = None
    within: float = 60.0
    """Seconds that the caller waits for the answer."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Request, tuple(self)


class HostEndedError(Exception):
    """Signal that a host ends in order, and that the call was not executed: ask for the next."""


class InlineFullError(Exception):
    """Signal that the controller holds as many small values as it may: make objects of them."""


class StaleVolumeError(Exception):
    """Signal that the controller has given a volume up for dead: what it pins counts no more."""


class StaleEpochError(Exception):
    """Signal that a controller has been followed by another one, and speaks for nobody."""


class OutOfStepError(Exception):
    """Signal that a follower does not have what comes before: it needs the whole state."""


class NotPinnedError(LookupError):
    """Signal that a volume does not hold an object: ask the controller who does now."""


_prefix = ""
_prefix_pid = 0
_counter = itertools.count()


def new_operation_id() -> str:
    """Return an id that no other operation of any process has."""
    global _prefix, _prefix_pid
    if _prefix_pid != os.getpid():
        _prefix, _prefix_pid = os.urandom(8).hex(), os.getpid()
    return f"{_prefix}-{next(_counter)}"
