"""Draw the tables of the benchmarks: how many times as fast as something else, or as slow."""

from __future__ import annotations

import csv

import matplotlib as mpl
from measuring import RESULTS

mpl.use("Agg")
from matplotlib import pyplot as plt

FASTER, SLOWER = "#2a7f62", "#b5533c"


def comparisons() -> list[tuple[str, float]]:
    """Return what is compared with something of another's, and how many times as fast it is."""
    rows: list[dict[str, str]] = []
    for name in ("core", "memory"):
        with (RESULTS / f"{name}.csv").open(encoding="utf-8", newline="") as file:
            rows.extend(csv.DictReader(file))
    return [
        (f"{row['work']}  /  {row['beside']}", 1 / float(row["ratio"]))
        for row in rows
        if row["ratio"] and not row["beside"].startswith(("noop", "the limit", "among"))
    ]


def main() -> None:
    rows = comparisons()[::-1]
    figure, axes = plt.subplots(figsize=(10, 0.32 * len(rows) + 1.2))
    names, times = [name for name, _ in rows], [times for _, times in rows]
    axes.barh(names, times, left=0, color=[FASTER if t >= 0.9 else SLOWER for t in times])
    axes.set_xscale("log")
    axes.axvline(1, color="black", linewidth=0.8)
    for place, value in enumerate(times):
        axes.text(value, place, f" {value:.3g}", va="center", fontsize=7)
    axes.set_xlim(right=max(times) * 3)
    axes.set_xlabel("times as fast (more is better)")
    axes.tick_params(axis="y", labelsize=7)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    figure.tight_layout()
    figure.savefig(RESULTS / "comparison.png", dpi=110)


if __name__ == "__main__":
    main()
