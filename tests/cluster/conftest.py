"""What the tests on several nodes share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import ray

from tests.cluster.nodes import Nodes


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    """Give a cluster of three nodes, in place of the session's Ray."""
    ray.shutdown()
    nodes = Nodes()
    yield nodes
    ray.shutdown()
    nodes.cluster.shutdown()
