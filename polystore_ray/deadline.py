"""The deadline of a call: one moment, which travels with the call through all its waits."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable
from typing import NoReturn, TypeVar

__all__ = ["Deadline", "let_go_of_values"]

_PAUSE = 0.1  # seconds

T = TypeVar("T")
E = TypeVar("E", bound=Exception)


def let_go_of_values(error: BaseException | None) -> None:
    """Let the functions that an error has left forget their variables; its traceback stays.

    An error and the functions in its traceback often refer to each other, and so do an error of
    Ray and the one that it brought. In a process that has nothing to do, Python looks for such
    cycles never, and what they refer to, such as an object in shared memory, would stay.
    """
    found: dict[int, BaseException] = {}
    left = [error]
    while left:
        one = left.pop()
        if one is not None and id(one) not in found:
            found[id(one)] = one
            left += [one.__cause__, one.__context__]
    for one in found.values():
        traceback.clear_frames(one.__traceback__)
        if one.__suppress_context__:
            one.__context__ = None  # which no traceback shows


class Deadline:
    """The moment by which a call must be answered.

    - `timeout`: seconds from now
    """

    __slots__ = ("_at", "timeout")

    def __init__(self, timeout: float) -> None:
        self.timeout = timeout
        self._at = time.monotonic() + timeout

    @property
    def left(self) -> float:
        """Seconds that are left, at least 0."""
        return max(0.0, self._at - time.monotonic())

    def retry(
        self,
        attempt: Callable[[], T],
        on: type[E] | tuple[type[E], ...],
        prepare: Callable[[E], Exception | None] | None = None,
        *,
        pause: float = _PAUSE,
        longest: float = 0.0,
    ) -> T:
        """Return the result of an attempt, which is repeated while it fails and there is time.

        - `on`: the errors after which another attempt may succeed
        - `prepare`: called with such an error before the next attempt. It raises if none can
          succeed, and may return the error to raise at the deadline, by default that of the last
          attempt
        - `pause`, `longest`: seconds before the second attempt; they are doubled for each further
          one up to `longest`
        """
        while True:
            try:
                return attempt()
            except on as error:
                late = (prepare(error) if prepare else None) or error
                if late is not error and late.__cause__ is None:
                    late.__cause__ = error
                self.pause_or_raise(late, pause)
                let_go_of_values(late)
                del late
            pause = max(pause, min(2 * pause, longest))

    def pause_or_raise(self, error: Exception, pause: float = _PAUSE) -> None:
        """Wait before the next attempt; raise the error of the last one if there is no time."""
        if self.left <= pause:
            raise error
        time.sleep(pause)

    def poll(self, look: Callable[[], T], is_final: Callable[[T], object]) -> T:
        """Return what `look` returns, once that is final or there is no time to look again."""
        while not is_final(found := look()) and self.left:
            time.sleep(min(_PAUSE, self.left))
        return found

    def __reduce__(self) -> NoReturn:
        raise TypeError("the clocks of two processes differ: send the seconds that are left")
