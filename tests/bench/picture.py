"""Draw the tables of the benchmarks: how many times as fast as something else, or as slow."""

from __future__ import annotations

import csv

import matplotlib as mpl
from measuring import RESULTS

mpl.use("Agg")
from matplotlib import pyplot as plt

FASTER, SLOWER = "#2a7f62", "#b5533c"
NO_RIVALS = {"noop", "limit", "the limit of 60 ms", "among 1,000", "1,000", "dict and view"}
NO_RIVALS |= {"1.2 ray.put + 2 noop"}


def comparisons() -> list[tuple[str, float]]:
    """Return what is compared with something of another's, and how many times as fast it is."""
    rows: list[dict[str, str]] = []
    for name in ("core", "memory"):
        with (RESULTS / f"{name}.csv").open(encoding="utf-8", newline="") as file:
            rows.extend(csv.DictReader(file))
    return [
        (f"{row['work']}  /  {row['beside']}", 1 / float(row["ratio"]))
        for row in rows
        if row["ratio"] and row["beside"] not in NO_RIVALS
    ]


def main() -> None:
    rows = comparisons()[::-1]
    figure, axes = plt.subplots(figsize=(10, 0.32 * len(rows) + 1.2))
    names, times = [name for name, _ in rows], [times for _, times in rows]
    axes.set_xscale("log")
    colours = [FASTER if t >= 0.9 else SLOWER for t in times]
    axes.barh(names, [t - 1 for t in times], left=1, color=colours)
    axes.axvline(1, color="black", linewidth=0.8)
    for place, value in enumerate(times):
        side = "left" if value >= 1 else "right"
        axes.text(value, place, f" {value:.3g} ", va="center", ha=side, fontsize=7)
    axes.set_xlim(min(times) / 3, max(times) * 3)
    axes.set_ylim(-0.7, len(rows) - 0.3)
    axes.set_xlabel("times as fast (more is better)")
    axes.tick_params(axis="y", labelsize=7)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    figure.tight_layout()
    figure.savefig(RESULTS / "comparison.png", dpi=110)


if __name__ == "__main__":
    main()
