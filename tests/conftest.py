"""What all tests share: one Ray for the session."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"

MIB = 2**20


@pytest.fixture(scope="module")
def ray_cluster() -> None:
    """Connect to a Ray of this session's own; a module that needs another one may end it."""
    import ray

    if not ray.is_initialized():
        ray.init(
            address="local",
            num_cpus=2,
            object_store_memory=512 * MIB,
            include_dashboard=False,
            log_to_driver=False,
        )


@pytest.fixture(scope="session", autouse=True)
def _ray_ends_with_the_session() -> Iterator[None]:
    yield
    import sys

    if "ray" in sys.modules:
        sys.modules["ray"].shutdown()
