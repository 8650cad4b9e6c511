"""What all tests share: one Ray for the session."""

from __future__ import annotations

import os
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"

# One test of the fuzzer takes a decoder, and one of the model a backend.
_ALWAYS: dict[str, Any] = {
    "deadline": None,
    "suppress_health_check": list(HealthCheck),
    "print_blob": True,
}
settings.register_profile("test", max_examples=60, stateful_step_count=30, **_ALWAYS)
settings.register_profile("soak", max_examples=20_000, stateful_step_count=60, **_ALWAYS)
settings.load_profile("test")


@pytest.fixture(scope="module")
def ray_cluster(polystore_ray_cluster: None) -> None:
    """Connect to a Ray of this session's own; a module that needs another one may end it."""
