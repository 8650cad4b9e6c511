"""Sealed values: what `tests/conformance` does not see of them."""

from __future__ import annotations

import subprocess
import sys

CYCLE = """
import gc
import numpy as np
from polystore.serialization import seal

for value in (np.arange(1000), bytearray(1000), np.ma.arange(1000)):
    cycle = [seal(value)]
    cycle.append(cycle)
    del cycle
    gc.collect()
print("alive")
"""


def test_a_sealed_value_in_a_cycle_does_not_crash_the_garbage_collector() -> None:
    # As the traceback of a save that failed keeps one; Python 3.11 cannot clear memoryviews there.
    done = subprocess.run(
        [sys.executable, "-c", CYCLE], capture_output=True, text=True, check=False
    )
    assert done.stdout == "alive\n", done.stderr
