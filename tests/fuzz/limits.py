"""Limits that damaged and hostile files are to stay within."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager

import pytest


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Fail the test, not only what runs in it, after so many seconds of the processor."""

    def fail(*_: object) -> None:
        pytest.fail(f"still at it after {seconds:g} s")

    signal.signal(signal.SIGPROF, fail)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
