"""Locks of paths: no two calls of a host write to the same path at the same time."""

from __future__ import annotations

import posixpath
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

__all__ = ["Claim", "PathLocks", "claims_of"]

_REGION, _SOURCE = "region", "source"


class Claim(NamedTuple):
    """The path that a call locks.

    - `path`: the path
    - `tree`: whether all paths below it are locked too
    - `shared`: claims with the same word here do not exclude each other, such as the sources of two
      copies; "" excludes every other claim
    """

    path: str
    tree: bool = False
    shared: str = ""

    def conflicts(self, other: Claim) -> bool:
        """Return whether calls with these claims exclude each other."""
        if self.shared and self.shared == other.shared:
            return False
        return (
            self.path == other.path
            or (self.tree and _lies_in(other.path, self.path))
            or (other.tree and _lies_in(self.path, other.path))
        )


def claims_of(
    method: str, arguments: Sequence[Any], options: Mapping[str, Any], *, regions_together: bool
) -> list[Claim]:
    """Return the claims of a call of a method of the contract; a call that reads has none.

    - `method`, `arguments`, `options`: the call
    - `regions_together`: whether the backend itself locks regions that are written at the same time
    """
    match method:
        case "save":
            together = regions_together and options.get("region") is not None
            return [Claim(arguments[1], shared=_REGION if together else "")]
        case "append" | "resize":
            path = arguments[1 if method == "append" else 0]
            return [Claim(path, shared=_REGION if regions_together else "")]
        case "save_batch":
            return [Claim(path) for path in arguments[1]]
        case "copy_from":
            return [Claim(target) for _, target in arguments[1]]
        case "create_symlink":
            return [Claim(arguments[1])]
        case "delete" | "ensure_directory":
            return [Claim(arguments[0])]
        case "delete_all":
            return [Claim(arguments[0], tree=True)]
        case "copy":
            source, destination = arguments
            return [Claim(source, tree=True, shared=_SOURCE), Claim(destination, tree=True)]
        case "move":
            return [Claim(path, tree=True) for path in arguments]
        case _:
            return []


class PathLocks:
    """Let calls that claim the same paths run one after another, in the order of their arrival.

    All claims of a call are granted at once, so that no two calls wait for each other. Paths are
    compared as they are written: two links to one file are two paths.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._claimed: list[list[Claim]] = []  # granted or waiting, the oldest first

    @contextmanager
    def claimed(self, claims: Sequence[Claim]) -> Iterator[None]:
        """Hold claims during a block, after waiting for earlier claims that conflict."""
        if not claims:
            yield
            return
        mine = [claim._replace(path=_normal(claim.path)) for claim in claims]
        with self._changed:
            self._claimed.append(mine)
            self._changed.wait_for(lambda: not self._has_to_wait(mine))
        try:
            yield
        finally:
            with self._changed:
                self._claimed = [claims for claims in self._claimed if claims is not mine]
                self._changed.notify_all()

    def _has_to_wait(self, mine: list[Claim]) -> bool:
        for earlier in self._claimed:
            if earlier is mine:
                return False
            if _conflict(earlier, mine):
                return True
        return False


def _conflict(one: list[Claim], other: list[Claim]) -> bool:
    if len(one) > 1 and len(other) > 1 and not any(claim.tree for claim in (*one, *other)):
        # Two batches, which may be long.
        paths = {claim.path for claim in one}
        other = [claim for claim in other if claim.path in paths]
    return any(claim.conflicts(theirs) for claim in one for theirs in other)


def _normal(path: str) -> str:
    return posixpath.normpath(path).replace("//", "/", 1)


def _lies_in(path: str, top: str) -> bool:
    return path.startswith(top.rstrip("/") + "/")
