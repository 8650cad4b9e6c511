"""Fixtures of the tests on Ray: a cluster of several nodes, and a check for leaks."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import ray

from tests.cluster.leaks import Resources
from tests.cluster.nodes import Nodes


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    """Yield a cluster of three nodes, in place of the session's Ray."""
    ray.shutdown()
    nodes = Nodes()
    yield nodes
    ray.shutdown()
    nodes.cluster.shutdown()


@pytest.fixture(autouse=True)
def _leaves_nothing_behind() -> Iterator[None]:
    """Fail a test that leaves threads, open files, actors or objects behind."""
    before = Resources.now()
    yield
    assert before.leaked() == []
