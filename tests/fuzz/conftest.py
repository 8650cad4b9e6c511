"""No test here may take much memory."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from pathlib import Path

import pytest

GIB = 2**30


@pytest.fixture(autouse=True)
def _bounded_memory() -> Iterator[None]:
    """Let any attempt to take much more than a claim that is believed fail as a MemoryError."""
    now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (now + 6 * GIB, hard))
    yield
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
