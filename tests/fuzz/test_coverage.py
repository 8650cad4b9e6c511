"""What the fuzzer that follows coverage is pointed at: with examples, and where it is there, by it.

``make soak`` runs each for half an hour, in a process with a limit of memory.
"""

from __future__ import annotations

import importlib.util
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
import targets
from limits import within

FUZZER = Path(__file__).with_name("fuzzing.py")
SOAK, SHORT = 1800, 5  # seconds


@pytest.mark.parametrize("name", targets.NAMES)
def test_targets_take_damaged_examples(name: str, tmp_path: Path) -> None:
    target, seeds = targets.target(name, tmp_path)
    chance = random.Random(0)
    with within(60):
        for seed in seeds:
            target(seed)
            for _ in range(20):
                damaged = bytearray(seed[: chance.randrange(1, len(seed) + 1)])
                damaged[chance.randrange(len(damaged))] ^= 1 << chance.randrange(8)
                target(bytes(damaged))


# Where it is not installed there are only the examples above: it has no wheel for every Python.
if importlib.util.find_spec("atheris"):

    @pytest.mark.parametrize("name", targets.NAMES)
    @pytest.mark.timeout(SOAK + 300)
    def test_the_fuzzer_finds_nothing(name: str, tmp_path: Path, soaking: bool, seed: int) -> None:
        seconds = SOAK if soaking else SHORT
        done = subprocess.run(
            [sys.executable, FUZZER, name, f"-max_total_time={seconds}", f"-seed={seed}"],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-4000:]
