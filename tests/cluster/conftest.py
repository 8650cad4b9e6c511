"""Fixtures of the tests on Ray: a cluster of several nodes, and a check for leaks."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import ray

from tests.cluster.leaks import Resources
from tests.cluster.nodes import Nodes


@pytest.fixture(scope="session")
def three_nodes() -> Iterator[Nodes]:
    """Yield the cluster of all modules that need several nodes: it takes long to start."""
    ray.shutdown()
    nodes = Nodes()
    ray.shutdown()
    yield nodes
    nodes.cluster.shutdown()


@pytest.fixture(scope="module")
def nodes(three_nodes: Nodes) -> Iterator[Nodes]:
    """Connect to a cluster of three nodes as a new job, in place of the session's Ray."""
    ray.shutdown()
    three_nodes.connect()
    yield three_nodes
    three_nodes.remove_others()
    ray.shutdown()


@pytest.fixture(autouse=True)
def _leaves_nothing_behind() -> Iterator[None]:
    """Fail a test that leaves threads, open files, actors or objects behind."""
    before = Resources.now()
    yield
    assert before.leaked() == []
