"""Saves of regions in the cluster memory: what the array keeps, and many writers at once."""

from __future__ import annotations

import itertools
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from polystore.testing.racing import race
from polystore_ray import RayBackendRegistry
from polystore_ray.errors import CallTimeoutError
from polystore_ray.memory import ClusterMemoryBackend

WRITERS, ROUNDS = 16, 50


def test_a_region_keeps_the_replicas_and_the_fallback_of_the_array(tmp_path: Path) -> None:
    memory = RayBackendRegistry("regions", local=True)["memory"]
    fallback = ("disk", f"{tmp_path}/a.npy")
    memory.save(np.zeros(100_000), "/a", replicas=3, fallback=fallback)
    memory.save(1.0, "/a", region=slice(0, 10))
    facts = memory.why("/a")
    assert (facts["wanted"], facts["fallback"]) == (3, fallback)
    memory.save(2.0, "/a", region=slice(0, 10), replicas=2)
    assert memory.why("/a")["wanted"] == 2


def test_writers_of_other_regions_all_land(tmp_path: Path) -> None:
    memory = RayBackendRegistry("landing", local=True)["memory"]
    memory.save(np.zeros((WRITERS, ROUNDS)), "/a")

    def write(row: int) -> None:
        for column in range(ROUNDS):
            memory.save(column + 1, "/a", region=(row, column))

    race([partial(write, row) for row in range(WRITERS)])
    assert (memory.load("/a") == np.arange(1, ROUNDS + 1)).all()


def test_a_region_that_others_are_always_ahead_of_ends_at_the_deadline(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    registry = RayBackendRegistry("behind", local=True)
    memory = registry["memory"]
    memory.save(np.zeros(4), "/a")
    monkeypatch.setattr(memory._connect(), "timeout", 1.0)
    save, numbers = ClusterMemoryBackend.save, itertools.count()

    def after_another(self: Any, data: object, path: str, **options: Any) -> None:
        if options.get("if_version") is not None:
            save(self, np.full(4, next(numbers)), path, overwrite=True)
        save(self, data, path, **options)

    monkeypatch.setattr(ClusterMemoryBackend, "save", after_another)
    start = time.monotonic()
    with pytest.raises(CallTimeoutError, match="other writers"):
        memory.save(1.0, "/a", region=0)
    assert time.monotonic() - start < 30
