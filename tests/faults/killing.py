"""Processes that are killed: forked from one that has imported all it needs and started nothing."""

from __future__ import annotations

import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any

# The steps of Python that change a file system, or look at one.
_STEPS = frozenset(
    f"os.{name}"
    for name in (
        "chmod",
        "link",
        "listdir",
        "mkdir",
        "remove",
        "rename",
        "rmdir",
        "scandir",
        "symlink",
        "truncate",
        "utime",
    )
) | {"open"}
_RAN, _FAILED = 0, 70


class ChildFailedError(AssertionError):
    """What a child said on standard error is the reason."""


def _fork(function: Callable[..., object], *arguments: Any) -> int:
    child = os.fork()
    if child:
        return child
    try:
        function(*arguments)
    except BaseException:  # noqa: BLE001 - whatever it was, the parent is told by the status
        traceback.print_exc()
        os._exit(_FAILED)
    sys.stdout.flush()
    os._exit(_RAN)


def _ended(child: int) -> bool:
    """Wait for a child; tell whether it ran to its end, False if it was killed."""
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        if os.WTERMSIG(status) != signal.SIGKILL:
            raise ChildFailedError(f"it ended by signal {os.WTERMSIG(status)}")
        return False
    if os.WEXITSTATUS(status) != _RAN:
        raise ChildFailedError("its traceback is above")
    return True


def run(function: Callable[..., object], *arguments: Any) -> None:
    """Run a function in a process of its own."""
    assert _ended(_fork(function, *arguments))


def killed_after(seconds: float, function: Callable[..., object], *arguments: Any) -> bool:
    """Run a function in a process that is killed after a time; False if it ended before."""
    child = _fork(function, *arguments)
    time.sleep(seconds)
    os.kill(child, signal.SIGKILL)
    return not _ended(child)


def killed_at(step: int, top: str, function: Callable[..., object], *arguments: Any) -> bool:
    """Run a function in a process that kills itself at a step in a directory; False if it ended.

    Steps are what Python reports to audit hooks before it does them. Those that name only a file
    in an open directory count wherever they are.
    """
    return not _ended(_fork(_dying, step, top, function, *arguments))


def _dying(step: int, top: str, function: Callable[..., object], *arguments: Any) -> None:
    left = step

    def count(event: str, details: tuple[Any, ...]) -> None:
        nonlocal left
        if event not in _STEPS or not _concerns(top, details):
            return
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        left -= 1

    sys.addaudithook(count)
    function(*arguments)


def _concerns(top: str, details: tuple[Any, ...]) -> bool:
    place = details[0]
    if isinstance(place, bytes):
        place = os.fsdecode(place)
    if isinstance(place, str):
        return place.startswith((top, "/proc/self/fd/")) or not place.startswith("/")
    return isinstance(place, int)
