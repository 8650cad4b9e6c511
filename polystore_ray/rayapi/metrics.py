"""What a store did, as metrics that Ray exports to Prometheus and shows in its dashboard."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import cache
from typing import Any

from ray.util.metrics import Counter, Gauge, Histogram

__all__ = ["counted", "leased", "measured", "moved"]

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

        contents = {
            "files": "Files in the memory",
            "held_bytes": "Bytes of the values in the memory; copies share their bytes",
            "lost": "Values that were lost with their node or volume",
            "too_few_replicas": "Objects on fewer nodes than requested",
        }
        self.contents = {
            name: Gauge(f"polystore_{name}", description, tag_keys=("store",))
            for name, description in contents.items()
        }


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


def counted(store: str, status: dict[str, Any]) -> None:
    """Report what the controller of a store counts; see `StoreStatus`."""
    for name, gauge in _metrics().contents.items():
        gauge.set(status["bytes" if name == "held_bytes" else name], {"store": store})


@cache
def _labels(store: str, backend: str, operation: str) -> dict[str, Any]:
    return {"store": store, "backend": backend, "operation": operation}


def leased(store: str, kept: int, asked: int) -> None:
    """Count reads that needed no call, and reads that did."""
    for how, count in (("kept", kept), ("asked", asked)):
        if count:
            _metrics().leased.inc(count, {"store": store, "how": how})
