"""How many workers one controller serves, and several: a simulation with the measured times.

Run as a program it writes ``docs/performance/scale.csv``. Workers read and save at random moments.
What needs a controller waits in its queue, first come first served. The time that a controller
takes for a call is the processor time of its process, measured with 16 clients at once.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

RESULTS = Path(__file__).parents[2] / "docs" / "performance"
UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1.0}
LIMIT = 0.05  # seconds in which 99 of 100 calls are to be answered

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Times:
    """Seconds that a controller is busy with one call."""

    read: float
    change: float
    tell: float
    """Per node that has to hear of a change."""
    renew: float
    """Per node and second."""

    @classmethod
    def measured(cls) -> Times:
        """Return what the benchmarks of this machine wrote down."""
        read, change = (
            _measured(f"a small {work} in the controller, processor time")
            for work in ("load", "save")
        )
        return cls(read=read, change=change, tell=read, renew=read)


def _measured(work: str) -> float:
    """Return the seconds that some work took in the last run of the benchmark."""
    with (RESULTS / "leases.csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            if row["work"] == work:
                number, unit = row["took"].split()
                return float(number) * UNITS[unit]
    raise KeyError(f"leases.csv has no row {work!r}: run `make bench`")


@dataclass(frozen=True)
class Load:
    """What one worker does in a second, and how much of it crosses partitions."""

    again: float = 5.0  # reads of what it or another worker of its node has read before
    first: float = 1.0  # reads of something new
    saves: float = 1.0  # of new paths
    overwrites: float = 0.0005  # of paths that all nodes keep
    across: float = 0.02  # of the changes


@dataclass(frozen=True)
class Cluster:
    """How many there are of what."""

    nodes: int
    workers: int = 64  # on a node
    partitions: int = 1
    leases: bool = True


@dataclass(frozen=True)
class Result:
    """What the busiest controller does."""

    calls: float  # a second
    busy: float  # part of its time; 1 and more is more than it can do
    median: float  # seconds from a call to its answer
    late: float  # of 99 in 100


def simulate(
    cluster: Cluster, load: Load, times: Times, seconds: float = 5.0, seed: int = 0
) -> Result:
    """Return what one of the controllers does, to which the paths are spread evenly."""
    rng = np.random.default_rng(seed)
    workers = cluster.nodes * cluster.workers / cluster.partitions
    changes = (load.saves + load.overwrites) * workers
    # Whoever changes two partitions at once has each prepare, then commit.
    across = load.across * changes * 2 if cluster.partitions > 1 else 0.0
    tell = times.tell * cluster.nodes if cluster.leases else 0.0
    kinds = [
        (load.first * workers, times.read),
        (0.0 if cluster.leases else load.again * workers, times.read),
        (load.saves * workers + across, times.change),
        (load.overwrites * workers, times.change + tell),
        (float(cluster.nodes) if cluster.leases else 0.0, times.renew),
    ]
    arrivals, services = _arrivals(kinds, seconds, rng)
    answered = _in_turn(arrivals, services)
    waits = answered - arrivals
    return Result(
        calls=len(arrivals) / seconds,
        busy=float(services.sum() / seconds),
        median=float(np.median(waits)),
        late=float(np.quantile(waits, 0.99)),
    )


def _arrivals(
    kinds: Iterable[tuple[float, float]], seconds: float, rng: np.random.Generator
) -> tuple[Floats, Floats]:
    """Return when calls arrive, and how long each takes, in the order of their arrival."""
    moments, services = [np.zeros(1)], [np.zeros(1)]
    for rate, service in kinds:
        count = int(rng.poisson(rate * seconds))
        moments.append(rng.uniform(0.0, seconds, count))
        services.append(np.full(count, service))
    arrivals, taken = np.concatenate(moments), np.concatenate(services)
    order = np.argsort(arrivals)
    return arrivals[order], taken[order]


def _in_turn(arrivals: Floats, services: Floats) -> Floats:
    """Return when each call is answered by one that serves them in turn."""
    done = np.cumsum(services)
    # Each begins when it arrives or the one before it is done, whichever is later.
    return done + np.maximum.accumulate(arrivals - (done - services))


def most_nodes(cluster: Cluster, load: Load, times: Times) -> int:
    """Return how many nodes there can be, so that 99 in 100 calls are answered in time."""
    least, most = 0, 1
    while _is_in_time(replace(cluster, nodes=most), load, times):
        least, most = most, 2 * most
    while most - least > max(1, least // 50):
        middle = (least + most) // 2
        if _is_in_time(replace(cluster, nodes=middle), load, times):
            least = middle
        else:
            most = middle
    return least


def _is_in_time(cluster: Cluster, load: Load, times: Times) -> bool:
    found = simulate(cluster, load, times)
    return found.busy < 1 and found.late < LIMIT


def main() -> None:
    times, load = Times.measured(), Load()
    rows: list[tuple[str, ...]] = []
    for partitions, leases in ((1, False), (1, True), (4, True), (16, True)):
        cluster = Cluster(1000, partitions=partitions, leases=leases)
        found = simulate(cluster, load, times)
        rows.append(
            (
                f"{partitions}",
                "with" if leases else "without",
                f"{found.calls:,.0f}",
                f"{found.busy:.2f}",
                f"{most_nodes(cluster, load, times):,}",
            )
        )
    header = ("controllers", "leases", "calls a second of each", "busy", "nodes at most")
    with (RESULTS / "scale.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([header, *rows])
    for row in (header, *rows):
        sys.stdout.write("".join(f"{cell:>24}" for cell in row) + "\n")


if __name__ == "__main__":
    main()
