"""The targets of the benchmarks, and whether a figure misses its own."""

from __future__ import annotations

import re

__all__ = ["is_missed", "marked"]

_UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "MiB": 2.0**20, "GiB": 2.0**30}
_TARGET = re.compile(r"(<=|<|>)\s*([\d.]+)\s*(us|ms|s|MiB|GiB)?\b")
_AMOUNT = re.compile(r"([\d.]+)\s*(us|ms|s|MiB|GiB)?\b")
_MARK = " (missed)"


def is_missed(took: str, ratio: str, target: str) -> bool:
    """Return whether a figure misses its target.

    A target with a unit is about what something took, another one about the ratio, if there is one.
    Targets in words are not judged.
    """
    wanted = _TARGET.match(target)
    amount = _AMOUNT.match(took)
    if wanted is None or amount is None:
        return False
    sign, limit, unit = wanted.groups()
    found = float(amount[1]) * _UNITS.get(amount[2] or "", 1.0)
    if unit is None:
        found = float(ratio or amount[1])
    bound = float(limit) * _UNITS.get(unit or "", 1.0)
    return not {"<=": found <= bound, "<": found < bound, ">": found > bound}[sign]


def marked(took: str, ratio: str, target: str) -> str:
    """Return the target, with a mark if the figure misses it."""
    plain = target.removesuffix(_MARK)
    return plain + _MARK if is_missed(took, ratio, plain) else plain
