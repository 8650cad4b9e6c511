"""The deadline of a call: one moment, which travels with the call through all its waits."""

from __future__ import annotations

import time
from typing import NoReturn

__all__ = ["Deadline"]

_PAUSE = 0.1  # seconds


class Deadline:
    """The moment by which a call must be answered.

    Parameters
    ----------
    timeout : float
        Seconds from now.
    """

    __slots__ = ("_at", "timeout")

    def __init__(self, timeout: float) -> None:
        self.timeout = timeout
        self._at = time.monotonic() + timeout

    @property
    def left(self) -> float:
        """Seconds that are left, at least 0."""
        return max(0.0, self._at - time.monotonic())

    def pause_or_raise(self, error: Exception, pause: float = _PAUSE) -> None:
        """Wait a moment before the next attempt; raise the error of the last one if it is late."""
        if self.left <= pause:
            raise error
        time.sleep(pause)

    def pause(self) -> None:
        """Wait a moment, not beyond the deadline."""
        time.sleep(min(_PAUSE, self.left))

    def __reduce__(self) -> NoReturn:
        raise TypeError("the clocks of two processes differ: send the seconds that are left")
