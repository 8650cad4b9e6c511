"""Claims as consumers use them: each path below a directory goes to one of them at a time."""

from __future__ import annotations

import os
import platform
from collections.abc import Generator
from contextlib import suppress
from typing import Any, Self

from polystore.arguments import seconds
from polystore.exceptions import VFSTypeError
from polystore.paths import P, as_text
from polystore_ray.client.lookup import Memory
from polystore_ray.client.waiting import Step, asked, run, until_in
from polystore_ray.deadline import Deadline
from polystore_ray.errors import ClaimLostError

__all__ = ["Claim", "claim"]


class Claim:
    """The right to work on one path until its lease runs out; obtained from ``memory.claim``.

    It belongs to its process. As a context manager, it deletes the path at the end, or gives it
    back after an error.

    Attributes
    ----------
    path : str
        The claimed path, through no links.
    """

    def __init__(self, memory: Memory, path: str, number: int, until: Deadline) -> None:
        self.path = path
        self._memory, self._number, self._until = memory, number, until
        self._has_ended = False

    def __repr__(self) -> str:
        return f"<claim of {self.path!r}, {self.left:.0f} s left>"

    @property
    def left(self) -> float:
        """Seconds until somebody else may get the path, at least 0."""
        return self._until.left

    def done(self, to: P | None = None) -> None:
        """Delete the path, or move it.

        Parameters
        ----------
        to : str or os.PathLike, optional
            Where to; missing directories are made.

        Raises
        ------
        ClaimLostError
            If the lease has run out and somebody else has claimed the path, or its value was
            replaced, moved or deleted. Nothing has happened.
        PathExistsError
            If `to` exists; the claim still holds.
        """
        destination = None if to is None else as_text(to, backend="memory")
        if destination is not None:
            self._change("ensure_directory", destination.rpartition("/")[0] or "/")
        self._change("done", self.path, self._number, destination)
        self._has_ended = True

    def renew(self, lease: float = 60.0) -> None:
        """Let the claim last for so many seconds from now.

        Raises
        ------
        ClaimLostError
            Same as for `done`.
        """
        until = Deadline(seconds(lease, "lease"))
        self._change("renew_claim", self.path, self._number, until.timeout)
        self._until = until

    def release(self) -> None:
        """Let others claim the path at once; errors are those of `done`."""
        self._change("release_claim", self.path, self._number)
        self._has_ended = True

    def _change(self, operation: str, path: str, *arguments: Any) -> None:
        transport = self._memory._connect()  # noqa: SLF001 - a part of the memory
        with transport.measured("memory", operation):
            transport.change(operation, path, *arguments, path=path)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if self._has_ended:
            return
        if kind is None:
            self.done()
        else:
            with suppress(ClaimLostError):  # the caller's error tells more
                self.release()

    def __reduce__(self) -> Any:
        raise VFSTypeError("a claim belongs to its process, and does not pickle; send its path")


def claim(
    self: Memory, pattern: P, *, by: str = "", lease: float = 60.0, wait: float = 0.0
) -> Claim | None:
    """Claim a value that nobody else works on: of those in a directory the one that came first.

    A queue of work is a directory: producers save into it, and each value goes to one consumer at a
    time. If that one ends without a word, another gets it when the lease has run out. Only
    consumers that claim are kept apart: anybody can load, replace and delete what is claimed.

    Parameters
    ----------
    pattern : str or os.PathLike
        A directory and a glob for the names in it, such as ``"/todo/*.tif"``.
    by : str, optional
        Who claims, for the errors that others get; by default the host name and the process id.
    lease : float, default 60
        Seconds after which another consumer may get the path, unless the claim is renewed. A new
        controller, after the loss of one, lets each claim last as long again.
    wait : float, default 0
        Seconds to wait for something to claim.

    Returns
    -------
    Claim or None
        None if there was nothing in time.

    Examples
    --------
    >>> from polystore_ray import RayBackendRegistry
    >>> memory = RayBackendRegistry("queue", local=True)["memory"]
    >>> memory.save_batch([1, 2], ["/todo/a", "/todo/b"], parents=True)
    >>> while claim := memory.claim("/todo/*"):
    ...     with claim:
    ...         print(claim.path, memory.load(claim.path))
    /todo/a 1
    /todo/b 2
    >>> memory.list_dir("/todo")
    []
    """
    directory, _, name = as_text(pattern, backend="memory").rpartition("/")
    arguments = (directory or "/", name or "*", by or f"{platform.node()}:{os.getpid()}")
    found: Claim | None = run(_claiming(self, arguments, seconds(lease, "lease"), wait))
    return found


def _claiming(
    self: Memory, arguments: tuple[str, str, str], lease: float, wait: float
) -> Generator[Step, Any, Claim | None]:
    until = until_in(wait)
    while True:
        transport = self._connect()
        held = Deadline(lease)  # from before the controller counts it
        with transport.measured("memory", "claim"):
            path, number, free_in, last = transport.change(
                "claim", *arguments, lease, path=arguments[0]
            )
        if number:
            return Claim(self, path, number, held)
        if not until.left:
            return None
        soon = Deadline(min(until.left, free_in))
        yield from asked(self, soon, "changes", path, False, last)
