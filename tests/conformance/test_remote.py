"""The contract, for zarr trees in stores that URLs name: links apart, which these have not."""

from __future__ import annotations

import uuid
from typing import Any, ClassVar

import pytest
from s3_server import s3_server

from polystore import ZarrBackend
from polystore.testing import (
    Batches,
    Concurrency,
    Described,
    Directories,
    Growing,
    Readable,
    Regions,
    Transfers,
    VirtualPaths,
    Writable,
)

UNROOTED = {"test_paths_may_be_path_objects": "a Path takes a slash away from ://"}


class All(Readable, Described, Writable, Directories, Batches, Regions, Transfers):
    """What a tree in a store can do."""


class TestRootedInMemory(All, Growing, VirtualPaths, Concurrency):
    @pytest.fixture
    def backend(self) -> ZarrBackend:
        return ZarrBackend(f"memory://{uuid.uuid4().hex}/tree")


class TestUnrootedInMemory(All, Growing):
    deviations: ClassVar[dict[str, str]] = UNROOTED

    @pytest.fixture
    def backend(self) -> ZarrBackend:
        return ZarrBackend()

    @pytest.fixture
    def root(self, backend: Any) -> str:
        return str(backend.ensure_directory(f"memory://{uuid.uuid4().hex}/tree"))


class TestRootedOnS3(All, Growing, VirtualPaths):
    @pytest.fixture
    def backend(self) -> ZarrBackend:
        server = s3_server()
        return ZarrBackend(server.place(), storage_options=server.options)
