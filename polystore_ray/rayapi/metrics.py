"""What a store did, as metrics that Ray exports to Prometheus and shows in its dashboard."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import cache
from typing import Any

from ray.util.metrics import Counter, Histogram

__all__ = ["leased", "measured", "moved"]

_LABELS = ("store", "backend", "operation")
_SECONDS = [0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0]


class _Metrics:
    """The metrics of this process, made when something is counted first."""

    def __init__(self) -> None:
        self.errors = Counter(
            "polystore_errors", "Operations that raised", tag_keys=(*_LABELS, "error")
        )
        self.seconds = Histogram(
            "polystore_operation_seconds",
            "How many operations ended, well or not, and how long they took for their callers",
            boundaries=_SECONDS,
            tag_keys=_LABELS,
        )
        self.bytes = Counter(
            "polystore_bytes", "Bytes of values that were saved and loaded", tag_keys=_LABELS
        )
        self.leased = Counter(
            "polystore_leased_reads",
            "Reads of files in the memory: kept ones needed no call, asked ones did",
            tag_keys=("store", "how"),
        )


_metrics = cache(_Metrics)


@contextmanager
def measured(
    store: str, backend: str, operation: str, within: AbstractContextManager[None]
) -> Iterator[None]:
    """Run an operation `within` a context; count it, its error, and how long it takes."""
    metrics = _metrics()
    labels = _labels(store, backend, operation)
    start = time.perf_counter()
    try:
        with within:
            yield
    except Exception as error:
        metrics.errors.inc(1, {**labels, "error": type(error).__name__})
        raise
    finally:
        metrics.seconds.observe(time.perf_counter() - start, labels)


def moved(store: str, backend: str, operation: str, nbytes: int) -> None:
    """Count the bytes of values."""
    if nbytes:
        _metrics().bytes.inc(nbytes, _labels(store, backend, operation))


@cache
def _labels(store: str, backend: str, operation: str) -> dict[str, Any]:
    return {"store": store, "backend": backend, "operation": operation}


def leased(store: str, kept: int, asked: int) -> None:
    """Count reads that needed no call, and reads that did."""
    for how, count in (("kept", kept), ("asked", asked)):
        if count:
            _metrics().leased.inc(count, {"store": store, "how": how})
