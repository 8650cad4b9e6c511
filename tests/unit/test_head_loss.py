"""Each reason for which a store would not outlive Ray's head is named with its cure."""

from __future__ import annotations

from typing import Any

import pytest

from polystore_ray.rayapi.head_loss import lost_with_head

SAFE: dict[str, Any] = {
    "control_store": "redis",
    "head": "head",
    "follower": "other",
    "job": None,
    "replicas": 2,
}


@pytest.mark.parametrize("control_store", ["redis", "rocksdb"])
def test_a_store_that_outlives_the_head_has_no_reason(control_store: str) -> None:
    assert lost_with_head(**SAFE | {"control_store": control_store}) == ()


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"control_store": "memory"}, "RAY_REDIS_ADDRESS"),
        ({"control_store": None}, "does not say"),
        ({"job": "01000000"}, 'lifetime="detached"'),
        ({"follower": None}, "add a node"),
        ({"follower": "head"}, "add a node"),
        ({"replicas": 1}, "replicas=2"),
    ],
)
def test_what_is_missing_is_named(change: dict[str, Any], named: str) -> None:
    [reason] = lost_with_head(**SAFE | change)
    assert named in reason
