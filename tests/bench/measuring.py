"""What the benchmarks share: medians of things measured in turn, and the table of their ratios."""

from __future__ import annotations

import csv
import logging
import os
import platform
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import astuple, dataclass, fields
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Self

from goals import marked

# The second as in cluster/: of itself Ray gives back what was freed once a second.
os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_free_objects_period_milliseconds": "100"}

ROUNDS = 9
RESULTS = Path(__file__).parents[2] / "docs" / "performance"


def start_ray(object_store_memory: int) -> None:
    """Start a Ray of this process."""
    import ray

    ray.init(
        address="local",
        num_cpus=2,
        object_store_memory=object_store_memory,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
    )


@contextmanager
def folders() -> Iterator[tuple[str, str]]:
    """Yield a folder in shared memory and one on the disk; both are deleted at the end."""
    with (
        TemporaryDirectory(prefix="polystore-bench-", dir="/dev/shm") as shared,
        TemporaryDirectory(prefix="polystore-bench-") as disk,
    ):
        yield shared, disk


def medians(
    work: Mapping[str, Callable[[int], Any]], repeat: int = 1, rounds: int = ROUNDS
) -> dict[str, float]:
    """Return the median seconds of one call of each, measured in turn.

    Each is called with a number that no other call of it gets.
    """
    times: dict[str, list[float]] = {name: [] for name in work}
    for round_ in range(rounds):
        for name, call in work.items():
            start = time.perf_counter()
            for i in range(repeat):
                call(round_ * repeat + i)
            times[name].append((time.perf_counter() - start) / repeat)
    return {name: statistics.median(found) for name, found in times.items()}


class Peak:
    """The most that something takes while a block runs, looked at every so many seconds."""

    def __init__(self, taken: Callable[[], int], every: float) -> None:
        self.most = 0
        self._taken, self._every = taken, every
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._ended.wait(self._every):
            self.most = max(self.most, self._taken())


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table: what was done, and what it took, as a multiple of something else."""

    work: str
    took: str
    ratio: str
    beside: str
    reach: str


class Table:
    """The rows of one benchmark, shown as they come and written down at the end."""

    def __init__(self, name: str, rounds: int | str = ROUNDS) -> None:
        self.name = name
        self.rounds = rounds
        self.rows: list[Row] = []

    def add(self, work: str, took: float, beside: str, of: float, reach: str = "") -> None:
        """Add how long something took, in seconds, beside something else."""
        amount, ratio = _seconds(took), f"{took / of:.3g}"
        self._add(Row(work, amount, ratio, beside, marked(amount, ratio, reach)))

    def add_amount(self, work: str, amount: str, reach: str = "") -> None:
        """Add an amount that is compared with nothing."""
        self._add(Row(work, amount, "", "", marked(amount, "", reach)))

    def _add(self, row: Row) -> None:
        self.rows.append(row)
        line = f"{row.work:<52}{row.took:>14}{row.ratio:>10} x {row.beside:<28}{row.reach}"
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()

    def write(self) -> None:
        """Write the table, and the conditions under which it came about, beside the docs."""
        each = f"the median of {self.rounds}, measured in turn with what it is compared to"
        write_table(self.name, [field.name for field in fields(Row)], map(astuple, self.rows), each)


def write_table(
    name: str, header: Iterable[str], rows: Iterable[Iterable[object]], each: str
) -> None:
    """Write a table, and the conditions under which it was measured; `each` says how often."""
    RESULTS.mkdir(exist_ok=True)
    _write_csv(name, header, rows)
    _write_csv(f"{name}-conditions", ["what", "value"], _conditions(each))


def _write_csv(name: str, header: Iterable[str], rows: Iterable[Iterable[object]]) -> None:
    with (RESULTS / f"{name}.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([header, *rows])


def _conditions(each: str) -> list[tuple[str, str]]:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    load = os.getloadavg()[0]
    packages = ", ".join(f"{name} {version(name)}" for name in ("numpy", "ray", "zarr"))
    return [
        ("when", time.strftime("%Y-%m-%d")),
        ("processors", f"{os.cpu_count()}, {platform.machine()}"),
        ("memory", f"{memory:.0f} GiB"),
        ("Python", platform.python_version()),
        ("packages", packages),
        ("load at the end", f"{load:.1f}"),
        ("each figure", each),
    ]


def _seconds(seconds: float) -> str:
    if seconds < 1e-3:
        return f"{seconds * 1e6:.1f} us"
    return f"{seconds * 1e3:.1f} ms" if seconds < 1 else f"{seconds:.2f} s"
