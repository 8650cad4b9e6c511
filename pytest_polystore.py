"""The pytest plugin: file managers on backends and stores that end with the test.

pytest loads this module in every project of an environment with polystore, before it measures
coverage and rewrites asserts. So the module is outside the packages, and imports them only when a
fixture is used.
"""

from __future__ import annotations

import os
import re
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from polystore import FileManager

CPUS = "polystore_ray_cpus"
OBJECT_STORE = "polystore_ray_object_store_mib"

# Show the values of failed asserts in the suites of the kit, as in tests.
if "polystore.testing" not in sys.modules:
    pytest.register_assert_rewrite("polystore.testing")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options for the Ray cluster that the fixtures start."""
    parser.addini(CPUS, "CPUs of the Ray cluster that polystore's fixtures start", default="2")
    parser.addini(
        OBJECT_STORE,
        "size in MiB of the object store of the Ray cluster that polystore's fixtures start",
        default="256",
    )


@pytest.fixture
def polystore_memory() -> Iterator[FileManager]:
    """File manager with a backend ``memory`` of the test's own."""
    from polystore import FileManager, MemoryBackend

    with MemoryBackend() as backend:
        yield FileManager({"memory": backend})


@pytest.fixture
def polystore_disk(tmp_path: Path) -> Iterator[FileManager]:
    """File manager with a backend ``disk`` whose root is `tmp_path`."""
    from polystore import DiskBackend, FileManager

    with DiskBackend(tmp_path) as backend:
        yield FileManager({"disk": backend})


@pytest.fixture
def polystore_zarr(tmp_path: Path) -> Iterator[FileManager]:
    """File manager with a backend ``zarr`` whose root is `tmp_path`."""
    from polystore import FileManager, ZarrBackend

    with ZarrBackend(tmp_path) as backend:
        yield FileManager({"zarr": backend})


@pytest.fixture
def polystore_local() -> Iterator[FileManager]:
    """File manager on a store in local mode, with every backend, that ends with the test."""
    from polystore import FileManager
    from polystore_ray import RayBackendRegistry

    registry = RayBackendRegistry(f"pytest-{uuid.uuid4().hex}", local=True)
    yield FileManager(registry)
    registry.shutdown()


@pytest.fixture
def polystore_ray(
    request: pytest.FixtureRequest, polystore_ray_cluster: None
) -> Iterator[FileManager]:
    """File manager on a store on Ray that has the name of the test and ends with the test."""
    from polystore import FileManager
    from polystore_ray import RayBackendRegistry

    name = re.sub(r"[^A-Za-z0-9_.-]", "-", request.node.name)[:100]
    registry = RayBackendRegistry(f"pytest-{name}", local=False)
    yield FileManager(registry)
    registry.shutdown()


@pytest.fixture(scope="module")
def polystore_ray_cluster(pytestconfig: pytest.Config, _polystore_started_rays: set[str]) -> None:
    """Start Ray for the session, unless the tests have started it already."""
    from polystore_ray.ray_extra import needs_ray

    with needs_ray("the fixture polystore_ray"):
        import ray

    if ray.is_initialized():
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    ray.init(
        address="local",
        num_cpus=int(pytestconfig.getini(CPUS)),
        object_store_memory=int(pytestconfig.getini(OBJECT_STORE)) * 2**20,
        include_dashboard=False,
        log_to_driver=False,
    )
    _polystore_started_rays.add(ray.get_runtime_context().gcs_address)


@pytest.fixture(scope="session")
def _polystore_started_rays() -> Iterator[set[str]]:
    started: set[str] = set()
    yield started
    if started:
        import ray

        if ray.is_initialized() and ray.get_runtime_context().gcs_address in started:
            ray.shutdown()
