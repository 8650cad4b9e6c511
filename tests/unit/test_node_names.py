"""What a node may be called, and what an error says of a name that fits none or several."""

from __future__ import annotations

import re

import pytest

from polystore_ray import NodeNotFoundError
from polystore_ray.config.nodes import Node, node_called

ONE = Node("aaaaaaaa1111", ("worker-1", "10.0.0.1"), {"zone": "North", "ray.io/node-id": "a"})
TWO = Node("aaaaaaaa2222", ("Worker-2", "10.0.0.2"), {"zone": "North", "disk": "ssd"})


@pytest.mark.parametrize(
    "name",
    ["aaaaaaaa2222", "aaaaaaaa2", "AAAAAAAA22", "worker-2", "WORKER-2", "10.0.0.2", "disk=SSD"],
)
def test_a_node_is_named_by_id_prefix_host_address_or_label(name: str) -> None:
    assert node_called(name, [ONE, TWO]) is TWO


@pytest.mark.parametrize("name", ["", "aaa", "worker", "10.0.0.3", "disk=", "zone", "=north", "="])
def test_a_name_that_fits_none_lists_the_nodes(name: str) -> None:
    with pytest.raises(NodeNotFoundError, match=re.escape(repr(name))) as found:
        node_called(name, [ONE, TWO])
    assert "aaaaaaaa1111 (worker-1, 10.0.0.1, zone=North)" in str(found.value)
    assert "aaaaaaaa2222 (Worker-2, 10.0.0.2, zone=North, disk=ssd)" in str(found.value)
    assert isinstance(found.value, ValueError)


@pytest.mark.parametrize("name", ["aaaaaaaa", "zone=north"])
def test_a_name_that_fits_several_lists_these(name: str) -> None:
    other = Node("bbbbbbbb3333", ("worker-3",))
    with pytest.raises(NodeNotFoundError, match="several") as found:
        node_called(name, [ONE, TWO, other])
    assert "aaaaaaaa1111" in str(found.value)
    assert "aaaaaaaa2222" in str(found.value)
    assert "bbbbbbbb" not in str(found.value)
