"""Which nodes hold the replicas of a value."""

from __future__ import annotations

import pytest

from polystore_ray.errors import TooFewNodesError
from polystore_ray.transport import replicas
from polystore_ray.transport.replicas import ReplicaNodes


def test_a_node_that_has_just_come_is_found_where_one_is_missing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    alive = ["here", "one"]
    monkeypatch.setattr(replicas, "nodes", lambda: [{"NodeID": node} for node in alive])
    chosen = ReplicaNodes("here", is_lenient=False)
    assert chosen.choose(2) == ["here", "one"]
    with pytest.raises(TooFewNodesError, match="the cluster has 2"):
        chosen.choose(3)
    alive.append("two")
    assert sorted(chosen.choose(3)) == ["here", "one", "two"]
    alive.append("three")
    assert len(chosen.choose(4)) == 4
