"""The page of a store on Ray: what it tells of the cluster, served by the driver or by an actor."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest
import ray

from polystore import FileManager
from polystore_ray import RayBackendRegistry

pytestmark = pytest.mark.usefixtures("ray_cluster")


@pytest.fixture
def registry() -> Iterator[RayBackendRegistry]:
    registry = RayBackendRegistry("page")
    yield registry
    registry.shutdown()


def asked(url: str, what: str) -> Any:
    with urllib.request.urlopen(f"{url}api/{what}", timeout=60) as answer:
        return json.load(answer)


class Served:
    def __init__(self, registry: RayBackendRegistry) -> None:
        self.page = registry.ui(host=ray.util.get_node_ip_address())

    def url(self) -> str:
        return str(self.page.url)


def test_the_page_tells_of_the_cluster_and_opens_no_value(registry: RayBackendRegistry) -> None:
    fm = FileManager(registry)
    assert "not in use yet" in registry._repr_html_()
    fm.save(np.arange(300_000).reshape(500, 600), "/plate/a", backend="memory")
    fm.save(print, "/plate/code", backend="memory")
    here = ray.get_runtime_context().get_node_id()
    with registry.ui() as page:
        found = asked(page.url, "overview")
        assert (found["status"]["files"], found["head"]) == (2, here)
        assert found["status"]["nodes"][0]["capacity"] > 0
        value = asked(page.url, f"value?place={quote(json.dumps(['memory', '/plate/a']))}")
        assert (value["facts"]["nodes"], value["facts"]["shape"]) == ([here], [500, 600])
        picture = asked(page.url, f"picture?place={quote(json.dumps(['memory', '/plate/a']))}")
        assert picture["between"] == [0, 299_999]
        code = asked(page.url, f"value?place={quote(json.dumps(['memory', '/plate/code']))}")
        assert "not plain data" in code["shown"]["note"]
        place = quote(json.dumps(["memory", "/plate"]))
        assert asked(page.url, f"list?place={place}&start=0&count=9")["total"] == 2
    assert "<bdi>/plate" not in registry._repr_html_()
    assert "<bdi>plate/</bdi>" in fm._repr_html_()
    actor: Any = ray.remote(num_cpus=0)(Served).remote(registry)
    assert asked(ray.get(actor.url.remote()), "overview")["status"]["store"] == "page"
    ray.kill(actor)
