"""The pytest plugin: file managers on backends and stores that end with the test.

pytest loads it in every project of an environment that has polystore, before coverage is measured
and asserts are rewritten. So it lies beside the packages, not in them, and imports nothing of
them until a fixture is used.
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

# The suites of the kit explain what failed, as tests do.
if "polystore.testing" not in sys.modules:
    pytest.register_assert_rewrite("polystore.testing")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare what the Ray of the tests has."""
    parser.addini(CPUS, "CPUs of the Ray that polystore's fixtures start (default 2)", default="2")
    parser.addini(
        OBJECT_STORE,
        "MiB of the object store of the Ray that polystore's fixtures start (default 256)",
        default="256",
    )


@pytest.fixture
def polystore_memory() -> Iterator[FileManager]:
    """File manager whose backend ``memory`` is the test's own."""
    from polystore import FileManager, MemoryBackend

    with MemoryBackend() as backend:
        yield FileManager({"memory": backend})


@pytest.fixture
def polystore_disk(tmp_path: Path) -> Iterator[FileManager]:
    """File manager whose backend ``disk`` is rooted in `tmp_path`."""
    from polystore import DiskBackend, FileManager

    with DiskBackend(tmp_path) as backend:
        yield FileManager({"disk": backend})


@pytest.fixture
def polystore_zarr(tmp_path: Path) -> Iterator[FileManager]:
    """File manager whose backend ``zarr`` is rooted in `tmp_path`."""
    from polystore import FileManager, ZarrBackend

    with ZarrBackend(tmp_path) as backend:
        yield FileManager({"zarr": backend})


@pytest.fixture
def polystore_local() -> Iterator[FileManager]:
    """File manager on a store in local mode, which ends with the test: every backend, no Ray."""
    from polystore import FileManager
    from polystore_ray import RayBackendRegistry

    registry = RayBackendRegistry(f"pytest-{uuid.uuid4().hex}", local=True)
    yield FileManager(registry)
    registry.shutdown()


@pytest.fixture
def polystore_ray(
    request: pytest.FixtureRequest, polystore_ray_cluster: None
) -> Iterator[FileManager]:
    """File manager on a store of a real Ray, which has the test's name and ends with it."""
    from polystore import FileManager
    from polystore_ray import RayBackendRegistry

    name = re.sub(r"[^A-Za-z0-9_.-]", "-", request.node.name)[:100]
    registry = RayBackendRegistry(f"pytest-{name}", local=False)
    yield FileManager(registry)
    registry.shutdown()


@pytest.fixture(scope="module")
def polystore_ray_cluster(pytestconfig: pytest.Config, _polystore_started_rays: set[str]) -> None:
    """Ray is running: one for the session, unless the tests have started another."""
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
