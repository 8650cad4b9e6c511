"""Events: what happened to the paths of a backend."""

from __future__ import annotations

from typing import Literal, NamedTuple

__all__ = ["Event"]


class Event(NamedTuple):
    """One change of one path.

    Attributes
    ----------
    kind : {"created", "replaced", "deleted", "moved"}
        What happened to what is at `path`.
    path : str
        Where it is now; of a deleted one, where it was. Links are resolved, except a last one.
    number : int
        The event's place in the order of the store. ``watch(since=number)`` yields what comes
        after it.
    type : {"file", "directory", "symlink"}
        What it is.
    is_tree : bool
        Whether the event is also about all that is below the directory, which has no events of
        its own: a tree is copied, moved and deleted in one step.
    version : int or None
        The version of a saved value, as in `Stat`.
    size : int or None
        The size of a saved value in bytes.
    source : str or None
        Of something that was moved, where it was.

    Examples
    --------
    >>> from polystore import Event
    >>> Event("created", "/plate1/A01", 7, version=3, size=80).path
    '/plate1/A01'
    """

    kind: Literal["created", "replaced", "deleted", "moved"]
    path: str
    number: int
    type: Literal["file", "directory", "symlink"] = "file"
    is_tree: bool = False
    version: int | None = None
    size: int | None = None
    source: str | None = None
