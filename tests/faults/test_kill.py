"""Processes that are killed: what they leave is whole, hidden, and swept.

Contract line 14. In an ordinary run some of the steps are killed at, and some processes amid a
thousand saves; in a soak all of the steps, and many.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from watching import KINDS

SCRIPT = Path(__file__).with_name("kills.py")
STRIDES = {"disk": 5, "rooted disk": 12, "zarr": 30, "rooted zarr": 50}
KILLS, KILLS_OF_A_SOAK = 8, 400


def kills(done: Counter[str], command: str, kind: str, *arguments: object) -> None:
    """Kill in a process of its own, since this one may have threads and cannot fork."""
    given = [sys.executable, str(SCRIPT), command, kind, *map(str, arguments)]
    ended = subprocess.run(given, capture_output=True, text=True)
    assert ended.returncode == 0, f"{' '.join(given)}\n{ended.stderr}"
    counted = json.loads(ended.stdout)
    assert sum(counted.values()) > 0
    for what, count in counted.items():
        done[f"kills of {kind}: {what}"] += count


@pytest.mark.parametrize("kind", KINDS)
def test_killed_at_any_step_an_operation_leaves_the_old_or_the_new(
    kind: str, tmp_path: Path, seed: int, soaking: bool, done: Counter[str]
) -> None:
    kills(done, "steps", kind, tmp_path, 1 if soaking else STRIDES[kind], seed)


@pytest.mark.parametrize("kind", KINDS)
def test_killed_amid_a_thousand_saves_a_process_loses_nothing_it_was_told_is_saved(
    kind: str, tmp_path: Path, seed: int, soaking: bool, done: Counter[str]
) -> None:
    kills(done, "storm", kind, tmp_path, KILLS_OF_A_SOAK if soaking else KILLS, seed)
