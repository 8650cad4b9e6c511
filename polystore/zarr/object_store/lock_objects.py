"""Claims: one writer at a time of a path in a store that has no locks, only conditional puts."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from polystore.exceptions import FileLockTimeoutError, StorageError
from polystore.filesystem.temporaries import PREFIX, is_left, temporary_name
from polystore.zarr.object_store.client import RemoteObjects

__all__ = ["PATIENCE", "Claim", "claim_of", "claimed", "claimed_name"]

PATIENCE = 60.0
"""Seconds that a writer waits for another one."""

_FIRST_PAUSE, _LONGEST_PAUSE = 0.01, 0.5  # seconds

_log = logging.getLogger(__name__)

_LEFT = "left~"
_held: set[str] = set()  # by this process


@dataclass(slots=True)
class Claim:
    """A claim that is held.

    Attributes
    ----------
    inherited : bool
        Whether it was taken over, so that something may lie there that nobody may see.
    left : bool
        Whether it stays when the block ends, for the next writer to take over.
    """

    inherited: bool = False
    left: bool = False


def claim_of(key: str) -> str:
    """Return the key of the claim on a key: beside it, with a name that listings hide."""
    parent, slash, name = key.rpartition("/")
    return f"{parent}{slash}{PREFIX}~{name}"


def claimed_name(name: str) -> str:
    """Return the name that a claim of this name is on."""
    return name[len(PREFIX) + 1 :]


@contextmanager
def claimed(objects: RemoteObjects, key: str, patience: float = PATIENCE) -> Iterator[Claim]:
    """Hold the claim on a key for a block; that of a dead process is taken over.

    Parameters
    ----------
    objects : RemoteObjects
        The store.
    key : str
        What is claimed.
    patience : float, optional
        Seconds to wait for another writer.

    Raises
    ------
    FileLockTimeoutError
        If it did not end in time.
    """
    claim, token = claim_of(key), temporary_name()
    deadline, pause = time.monotonic() + patience, _FIRST_PAUSE
    _held.add(token)
    try:
        while (held := _take(objects, claim, token)) is None:
            if time.monotonic() + pause > deadline:
                raise FileLockTimeoutError(
                    f"another writer did not end within {patience:g} s; if there is none, delete "
                    f"the object {objects.url}/{claim}"
                )
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)
        try:
            yield held
        finally:
            _end(objects, claim, token, left=held.left)
    finally:
        _held.discard(token)


def _end(objects: RemoteObjects, claim: str, token: str, *, left: bool = False) -> None:
    try:
        if left:
            objects.wait(objects.put(claim, f"{_LEFT}{token}".encode()))
        else:
            objects.wait(objects.delete([claim]))
    except StorageError as error:
        # What was claimed is done; the next writer finds that nobody holds the claim any more.
        _log.warning("the claim %s/%s stays: %s", objects.url, claim, error)


def _take(objects: RemoteObjects, claim: str, token: str) -> Claim | None:
    if objects.wait(objects.create(claim, token.encode())):
        return Claim()
    holder = _holder(objects, claim)
    if holder == token:  # the answer to a first try was lost
        return Claim()
    if holder is None or not _is_left(objects, claim, holder):
        return None
    # Of those that found it left one may replace it: who holds the claim on this very holder.
    takeover = f"{claim}~{holder.rpartition('~')[2]}"
    if _take(objects, takeover, token) is None:
        return None
    try:
        if _holder(objects, claim) != holder:
            return None
        objects.wait(objects.put(claim, token.encode()))
        return Claim(inherited=True)
    finally:
        _end(objects, takeover, token)


def _holder(objects: RemoteObjects, claim: str) -> str | None:
    data = objects.wait(objects.get(claim))
    return None if data is None else data.decode(errors="replace")


def _is_left(objects: RemoteObjects, claim: str, holder: str) -> bool:
    """Tell whether the holder of a claim is gone, and cannot end it any more."""
    if holder.startswith(_LEFT):
        return True
    here = temporary_name().rpartition("~")[0]
    if holder.rpartition("~")[0] == here:
        return holder not in _held
    return is_left(holder, lambda: objects.modified(claim) or time.time())
