"""Draw the figures of the page on performance from the tables of the benchmarks."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
from goals import is_missed
from measuring import RESULTS

mpl.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.ticker import NullFormatter

OURS, OURS_TOO, MISSED = "#1b6e54", "#7fbfa7", "#b5533c"
OTHERS = ("#8a8f98", "#5b7fb5", "#b08a3e", "#7a5ba6", "#4aa3a2", "#3d4148")
WIDTH = 6.4  # inches; on a phone a figure is about half as wide
UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "min": 60.0}

plt.rcParams |= {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "legend.frameon": False,
    "legend.fontsize": 9,
}


def table(name: str) -> list[dict[str, str]]:
    with (RESULTS / f"{name}.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def row(name: str, work: str, beside: str = "") -> dict[str, str]:
    [found, *_] = [
        each for each in table(name) if each["work"] == work and beside in ("", each["beside"])
    ]
    return found


def seconds(took: str) -> float:
    number, unit = took.split()
    return float(number) * UNITS[unit]


def in_words(value: float) -> str:
    for unit, scale in (("s", 1.0), ("ms", 1e-3)):
        if value >= scale:
            return f"{value / scale:.3g} {unit}"
    return f"{value / 1e-6:.3g} \N{MICRO SIGN}s"


def of_other(found: dict[str, str]) -> float:
    """Return the seconds of what a row is compared with."""
    return seconds(found["took"]) / float(found["ratio"])


def bars(axes: Any, values: dict[str, float], texts: Sequence[str], colours: Sequence[str]) -> None:
    """Draw horizontal bars, the first one on top, each with its text."""
    axes.barh(list(values), list(values.values()), color=colours, height=0.7)
    axes.invert_yaxis()
    for place, (value, text) in enumerate(zip(values.values(), texts, strict=True)):
        axes.text(value, place, f" {text}", va="center", fontsize=9)
    axes.tick_params(axis="y", length=0)


def save(figure: Any, name: str) -> None:
    figure.savefig(RESULTS / f"{name}.png", dpi=180)
    plt.close(figure)


def reads() -> None:
    """How fast is a read, against what I use today?"""
    work = "load 256 MiB in another process"
    large = {
        "this store, read again": seconds(row("leases", "load of 256 MiB, again")["took"]),
        "this store, first read": seconds(row("memory", work)["took"]),
    }
    large |= {
        found["beside"]: of_other(found)
        for found in table("memory")
        if found["work"] == work and found["beside"] != "noop"
    }
    small = {
        "this store, read again": seconds(row("leases", "load of 1 KiB, again")["took"]),
        "this store, first read": seconds(row("leases", "first load of a path")["took"]),
        "Redis": of_other(row("leases", "load of 1 KiB, again", "Redis GET, loopback")),
        "an empty call of an actor": seconds(
            row("memory", "noop: an empty call of an actor")["took"]
        ),
    }
    figure, panels = plt.subplots(
        2, 1, figsize=(WIDTH, 4.6), height_ratios=[len(small), len(large)], layout="constrained"
    )
    for axes, title, values in zip(panels, ("1 KiB", "256 MiB"), (small, large), strict=True):
        ordered = dict(sorted(values.items(), key=lambda item: item[1]))
        colours = [OURS if name.startswith("this") else OTHERS[0] for name in ordered]
        bars(axes, ordered, [in_words(value) for value in ordered.values()], colours)
        axes.set_xscale("log")
        axes.set_xlim(1e-6, 10)
        axes.set_xticks([10.0**n for n in range(-6, 2)])
        axes.set_xticklabels(["1 \N{MICRO SIGN}s", "", "", "1 ms", "", "", "1 s", ""])
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_title(f"one read of {title}")
    save(figure, "reads")


def lines(name: str, x: str, labels: Sequence[str], axis: str, y: str, unit: float) -> None:
    """Draw one line for each way to read."""
    rows = table(name)
    ways = [column for column in rows[0] if column != x]
    figure, axes = plt.subplots(figsize=(WIDTH, 3.8), layout="constrained")
    others = iter(OTHERS)
    for way in ways:
        ours = way.startswith("this store")
        colour = (OURS_TOO if "first" in way else OURS) if ours else next(others)
        values = [float(each[way]) * unit for each in rows]
        axes.plot(labels, values, "o-", color=colour, lw=2.5 if ours else 1.5, ms=4, label=way)
    axes.set_yscale("log")
    axes.set_xlabel(axis)
    axes.set_ylabel(y)
    axes.grid(axis="y", color="#ddd", linewidth=0.6)
    axes.set_axisbelow(True)
    figure.legend(loc="outside upper center", ncols=2)
    save(figure, name)


def processes() -> None:
    """How do reads scale with processes?"""
    labels = [each["processes"] for each in table("processes")]
    axis = "processes that read 1 KiB at the same time"
    lines("processes", "processes", labels, axis, "reads per second, all together", 1.0)


def sizes() -> None:
    """How do reads scale with sizes?"""
    found = [int(each["bytes"]) for each in table("sizes")]
    labels = [f"{n >> 20} MiB" if n >= 2**20 else f"{n >> 10} KiB" for n in found]
    lines("sizes", "bytes", labels, "size of the value", "milliseconds for one read", 1e-3)


def nodes() -> None:
    """How does it scale with nodes?"""
    rows = table("scale")
    values, colours = {}, []
    for each in rows:
        one = each["controllers"] == "1"
        plural = "" if one else "s"
        name = f"{each['controllers']} controller{plural}, {each['leases']} leases"
        values[name if one else f"{name}\n(a design, not built)"] = float(
            each["nodes at most"].replace(",", "")
        )
        colours.append(OURS if one else "#c9d6d1")
    figure, axes = plt.subplots(figsize=(WIDTH, 2.6), layout="constrained")
    bars(axes, values, [each["nodes at most"] for each in rows], colours)
    axes.set_xlabel("nodes of 64 workers at most, simulated")
    axes.margins(x=0.1)
    save(figure, "nodes")


def replicas() -> None:
    """What do replicas cost?"""
    large = row("reliability", "save 64 MiB, replicas=2", "replicas=1")
    small = row("reliability", "save 5 bytes, replicas=2")
    changes = row("reliability", "of these, with replicas=2")
    slower = 1 / float(changes["took"])
    values = {
        "save 64 MiB": float(large["ratio"]),
        "save 5 bytes": float(small["ratio"]),
        "many changes at once": slower,
    }
    missed = [
        is_missed(large["took"], large["ratio"], large["reach"]),
        is_missed(small["took"], small["ratio"], small["reach"]),
        is_missed(changes["took"], "", changes["reach"]),
    ]
    texts = [
        f"{value:.2g} times as long" + ", target missed" * off
        for value, off in zip(values.values(), missed, strict=True)
    ]
    figure, axes = plt.subplots(figsize=(WIDTH, 2.0), layout="constrained")
    bars(axes, values, texts, [MISSED if off else OURS for off in missed])
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_xlim(0, 1.7 * max(values.values()))
    axes.set_xlabel("time with replicas=2, as a multiple of the time with replicas=1")
    save(figure, "replicas")


def plate() -> None:
    """Compare whole programs."""
    rows = table("plate")
    figure, panels = plt.subplots(
        1, 3, figsize=(WIDTH, 2.4), sharey=True, layout="constrained", width_ratios=[1, 1, 1]
    )
    colours = [OURS, *[OTHERS[0]] * (len(rows) - 1)]
    for axes, column in zip(panels, ("wall time", "peak memory", "lines of code"), strict=True):
        values = {each["between the steps"]: float(each[column].split()[0]) for each in rows}
        axes.barh(list(values), list(values.values()), color=colours, height=0.7)
        for place, each in enumerate(rows):
            axes.text(values[each["between the steps"]], place, f" {each[column]}", va="center")
        axes.set_title(column)
        axes.set_xticks([])
        axes.spines["bottom"].set_visible(False)
        axes.tick_params(axis="y", length=0)
        axes.margins(x=0.45)
    panels[0].invert_yaxis()
    save(figure, "plate")


def conditions() -> None:
    """Write one table of when and how each benchmark was run."""
    columns = ("when", "Python", "load at the end", "each figure")
    with (RESULTS / "conditions.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("table", *columns))
        for path in sorted(RESULTS.glob("*-conditions.csv")):
            name = path.stem.removesuffix("-conditions")
            found = {each["what"]: each["value"] for each in table(path.stem)}
            writer.writerow((name, *(found.get(column, "") for column in columns)))


def main() -> None:
    for draw in (reads, processes, sizes, nodes, replicas, plate):
        draw()
    conditions()


if __name__ == "__main__":
    main()
