"""What all processes of a cluster have counted, as Ray's agents export it for Prometheus."""

from __future__ import annotations

import re
import threading
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from http.client import HTTPException
from typing import Any
from urllib.request import ProxyHandler, build_opener

__all__ = ["Counters", "summed"]

_AGE = 5.0  # seconds; Ray's agents have new numbers every 10
_WITHIN = 2.0  # seconds, for the answer of a node
_AT_ONCE = 16  # nodes
_LINE = re.compile(r"ray_polystore_(\w+?)(?:_total)?\{(.*)\} (\S+)")
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')

# From the metric to its name on the page, and to the label by which it is summed.
_SHOWN = {
    "operation_seconds_count": ("operations", "operation"),
    "errors": ("errors", "error"),
    "leased_reads": ("reads", "how"),
}

Sums = dict[str, dict[str, float]]


class Counters:
    """The counters of a cluster, read from its nodes at most every few seconds."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lines: list[str] | None = None
        self._read = 0.0

    def of(self, store: str, nodes: Sequence[Mapping[str, Any]]) -> Sums | None:
        """Return the sums of a store; None if no node exports metrics.

        - `nodes`: the nodes as `ray.nodes` lists them
        """
        with self._lock:
            if time.monotonic() - self._read > _AGE:
                self._lines = _exported(nodes)
                self._read = time.monotonic()
            return None if self._lines is None else summed(self._lines, store)


def summed(lines: Iterable[str], store: str) -> Sums:
    """Return the counters of a store, summed over all processes.

    Examples
    --------
    >>> line = 'ray_polystore_errors_total{error="DataLostError",pid="7",store="s"} 2.0'
    >>> summed([line, line.replace("7", "8")], "s")["errors"]
    {'DataLostError': 4.0}
    """
    sums: dict[str, defaultdict[str, float]] = {
        name: defaultdict(float) for name, _ in _SHOWN.values()
    }
    for line in lines:
        match = _LINE.match(line)
        if match is None or match[1] not in _SHOWN:
            continue
        labels = dict(_LABEL.findall(match[2]))
        name, label = _SHOWN[match[1]]
        if labels.get("store") == store:
            sums[name][labels.get(label, "")] += float(match[3])
    return {name: dict(found) for name, found in sums.items()}


def _exported(nodes: Sequence[Mapping[str, Any]]) -> list[str] | None:
    addresses = [
        f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
        for node in nodes
        if node.get("MetricsExportPort")
    ]
    with ThreadPoolExecutor(_AT_ONCE) as threads:
        answers = [lines for lines in threads.map(_lines_at, addresses) if lines is not None]
    return [line for lines in answers for line in lines] if answers else None


def _lines_at(address: str) -> list[str] | None:
    """Return the lines of our metrics; None if the node exports none, as without ray[default]."""
    direct = build_opener(ProxyHandler({}))
    with suppress(OSError, HTTPException), direct.open(address, timeout=_WITHIN) as answer:
        return list(_ours(answer))
    return None


def _ours(answer: Iterable[bytes]) -> Iterator[str]:
    return (line.decode(errors="replace") for line in answer if line.startswith(b"ray_polystore_"))
