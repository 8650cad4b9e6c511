"""What the tests of the command line share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from polystore import FileManager
from polystore_ray import RayBackendRegistry


@pytest.fixture
def fm() -> Iterator[FileManager]:
    registry = RayBackendRegistry("cli", local=True)
    yield FileManager(registry)
    registry.shutdown()
