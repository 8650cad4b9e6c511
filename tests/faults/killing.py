"""Processes that are killed: forked from one that has imported all it needs and started nothing."""

from __future__ import annotations

import itertools
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from types import FrameType
from typing import Any

# The functions that change a file system; the last is Python's, since ctypes tells no profiler.
_STEPS = frozenset(
    {"chmod", "copy_file_range", "fchmod", "flush", "fsync", "ftruncate", "link", "mkdir", "open"}
    | {"remove", "rename", "replace", "rmdir", "sendfile", "symlink", "tofile", "truncate"}
    | {"unlink", "utime", "write", "writelines"}
    | {"_renameat2"}
)
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


def killed_at(step: int, function: Callable[..., object], *arguments: Any) -> bool:
    """Run a function in a process that kills itself at a step; False if it ended before.

    A step is a call that may change a file system, in whatever thread; it is not done any more.
    """
    return not _ended(_fork(_dying, step, function, *arguments))


def _dying(step: int, function: Callable[..., object], *arguments: Any) -> None:
    left = itertools.count(step, -1)

    def count(frame: FrameType, event: str, called: Any) -> None:
        if event == "c_call" and not isinstance(called.__self__, str | bytes | list | set):
            name = called.__name__
        elif event == "call":
            name = frame.f_code.co_name
        else:
            return
        if name in _STEPS and next(left) == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    threading.setprofile(count)
    sys.setprofile(count)
    function(*arguments)
