"""What the benchmarks share: medians of things measured in turn, and a table of ratios."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

ROUNDS = 9


def medians(work: dict[str, Callable[[int], Any]], repeat: int = 1) -> dict[str, float]:
    """Return the median seconds of one call of each, measured in turn.

    Each is called with a number that no other call of it gets.
    """
    times: dict[str, list[float]] = {name: [] for name in work}
    for round_ in range(ROUNDS):
        for name, call in work.items():
            start = time.perf_counter()
            for i in range(repeat):
                call(round_ * repeat + i)
            times[name].append((time.perf_counter() - start) / repeat)
    return {name: statistics.median(found) for name, found in times.items()}


def row(name: str, seconds: float, unit: str, of: float, goal: str = "") -> None:
    """Print one line: what, how long, and how long beside something else."""
    ratio = f"{seconds / of:10.3f} x {unit}"
    sys.stdout.write(f"{name:<44}{seconds * 1e3:>12.3f} ms{ratio:<34}{goal}\n")
    sys.stdout.flush()
