"""What travels between clients, volumes and the controller: tuples, which pickle fast."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Sequence
from typing import Any, NamedTuple, TypeVar

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
    "Lacking",
    "Leased",
    "Loss",
    "NotPinnedError",
    "OutOfStepError",
    "Pin",
    "Recipe",
    "Record",
    "Renewal",
    "Request",
    "StaleEpochError",
    "StaleVolumeError",
    "Stored",
    "Uncounted",
    "Wish",
    "new_operation_id",
]

T = TypeVar("T")

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


def _called(cls: type[T]) -> type[T]:
    """Have a message pickled as a call of its class, as `polystore_ray.wire.decoding` reads it."""
    cls.__reduce__ = lambda self: (cls, tuple(self))  # type: ignore[method-assign,arg-type]
    return cls


@_called
class Pin(NamedTuple):
    """An object, and the nodes whose volumes hold its bytes.

    The id stays when the object is put again; then the reference and the size are new.
    """

    id: str
    nodes: tuple[str, ...]
    ref: Any
    nbytes: int


@_called
class Recipe(NamedTuple):
    """How to make a value again, after its inputs."""

    code: bytes
    """A function and its arguments, which only the task that calls it opens."""
    inputs: tuple[str, ...]
    """The paths of the arguments that are values of the memory."""


@_called
class Items(NamedTuple):
    """Values to be published all at once, in columns; `Stored` numbers the pins sent with them.

    Where there are `versions`, one for each path, the values that are replaced must have these: 0
    is that of a path where nothing is, and None stands for any.
    """

    paths: list[str]
    facts: list[Facts]
    stored: list[Stored]
    overwrite: bool = False
    parents: bool = False
    if_version: int | None = None
    replicas: int = 1
    fallback: tuple[str, str] | None = None
    versions: Sequence[int | None] = ()
    moments: list[tuple[int, float]] | None = None
    """The versions and times of restored values; None for a new version."""
    ttl: float | None = None
    """Seconds after which the values are deleted."""
    evictable: bool = False
    """Whether they may be evicted."""
    recipes: Sequence[Recipe | None] = ()
    """How to make each again, where there are any."""
    refills: bool = False
    """Whether they are the bytes of values that are lost or evicted, and have these `versions`."""


class Joined(NamedTuple):
    """What a volume says to a new controller: who it is, and what it holds, with its references."""

    incarnation: str
    holdings: list[Pin]


@_called
class Kept(NamedTuple):
    """The settings of a value that stay when another value replaces it."""

    version: int
    """The version of the present value."""
    replicas: int | None
    """On how many nodes it is to be held; None for the default of the store."""
    fallback: tuple[str, str] | None
    ttl: float | None
    """Seconds until it is deleted."""


@_called
class Lacking(NamedTuple):
    """A value whose bytes are lost or evicted, and what may bring them back."""

    path: str
    version: int
    nbytes: int
    replicas: int | None
    """On how many nodes it was held; None for the default of the store."""
    fallback: tuple[str, str] | None
    inputs: tuple[str, ...] | None
    """Paths of others that are lacking too, and that its recipe needs; None for one that no recipe
    is to bring back."""


@_called
class Loss(NamedTuple):
    """How an object was lost: where its last copy was, when that was gone, and what Ray says."""

    node: str
    """The id of the node; empty if it is not known."""
    host: str
    """The host name of the node; empty if it is not known."""
    moment: float
    """Seconds since the epoch."""
    cause: str

    def __str__(self) -> str:
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(self.moment))
        if not self.node:
            return f"the nodes that held the value were lost by {when}"
        node = " ".join(filter(None, (self.host, self.node[:8])))
        return f"the last copy was on node {node}, whose memory host was lost by {when}"


@_called
class Found(NamedTuple):
    """What is stored at some paths, in columns; `Stored` numbers these pins.

    A path without a file is `NOTHING`, where the request allowed it.
    """

    pins: list[Pin]
    stored: list[Stored]
    versions: list[int]


@_called
class Record(NamedTuple):
    """All that the tree knows of a value, with its bytes or the number of its pin."""

    facts: Facts
    moment: tuple[int, float]
    """Its version and the time of its last change."""
    replicas: int | None
    """On how many nodes it is to be held; None for a value that is held with the tree."""
    fallback: tuple[str, str] | None
    number: int
    """What tells it from the others of its object, or from all other small values."""
    stored: bytes | int | None
    """A small value's message, or which pin holds the value; None if it is lost."""


@_called
class ChangeId(NamedTuple):
    """One change of one client; see `polystore_ray.wire.sessions`."""

    session: str
    number: int
    done: int
    """The client waits for no answer to a change with a lower number."""


@_called
class Wish(NamedTuple):
    """The read lease of the asker's node: a reader may keep the answer under it.

    Whoever changes something counts on the board of this node itself.
    """

    node: str
    term: int


@_called
class Request(NamedTuple):
    """A call of one operation of the controller; a change has an id, so that it can be repeated."""

    operation: str
    arguments: tuple[Any, ...]
    id: ChangeId | None = None
    within: float = 60.0
    """Seconds that the caller waits for the answer."""
    wish: Wish | None = None


@_called
class Leased(NamedTuple):
    """An answer that the reader may keep as it wished; without this it may not."""

    answer: Any
    is_evictable: bool = False
    """Whether to ask again after a while, so that the controller knows what is used."""


@_called
class Uncounted(NamedTuple):
    """The answer to a change, to be given when these paths are counted on the asker's own board."""

    answer: Any
    paths: list[str]


class Renewal(NamedTuple):
    """The renewal of a node's read lease."""

    term: int
    """Another one than before ends all that was read under that."""
    changed: list[str] | None
    """Paths that have changed, and of which the node may not know yet; None for any."""


class HostEndedError(Exception):
    """Signal that a host is ending and did not execute the call: ask for the next host."""


class InlineFullError(Exception):
    """Signal that the controller is at its limit of small values: make objects of them."""


class StaleVolumeError(Exception):
    """Signal that the controller believes a volume is dead: its pins do not count any more."""


class StaleEpochError(Exception):
    """Signal that another controller has taken over from this one."""


class OutOfStepError(Exception):
    """Signal that a follower lacks earlier changes: it needs the whole state."""


class NotPinnedError(LookupError):
    """Signal that a volume does not hold an object: ask the controller which one does now."""


_prefix = ""
_prefix_pid = 0
_counter = itertools.count()


def new_operation_id() -> str:
    """Return an id that no other operation of any process has."""
    global _prefix, _prefix_pid
    if _prefix_pid != os.getpid():
        _prefix, _prefix_pid = os.urandom(8).hex(), os.getpid()
    return f"{_prefix}-{next(_counter)}"
