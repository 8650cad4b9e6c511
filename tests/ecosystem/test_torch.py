"""``.pt`` files, where torch is installed: it is no part of the development environment."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from polystore import DiskBackend, UnsupportedFormatError
from polystore.exceptions import StorageWriteError

torch: Any = pytest.importorskip("torch", reason="the extra torch is not installed")


@pytest.fixture
def disk(tmp_path: Path) -> DiskBackend:
    return DiskBackend(tmp_path)


def test_tensors_come_back(disk: DiskBackend) -> None:
    disk.save({"w": torch.arange(3), "epoch": 1, "names": ["a"]}, "a.pt")
    loaded = disk.load("a.pt")
    assert (loaded["w"].tolist(), loaded["epoch"], loaded["names"]) == ([0, 1, 2], 1, ["a"])


@pytest.mark.parametrize("kind", ["module", "array", "masked array"])
def test_what_would_never_be_loaded_is_refused(disk: DiskBackend, kind: str) -> None:
    value = {
        "module": torch.nn.Linear(2, 2),
        "array": {"w": np.ones(3)},
        "masked array": np.ma.masked_array([1]),
    }[kind]
    with pytest.raises(UnsupportedFormatError, match="state_dict"):
        disk.save(value, "a.pt")
    assert not disk.exists("a.pt")


def test_tensors_of_a_device_that_is_not_here_come_to_the_cpu(
    disk: DiskBackend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registered = torch.serialization._package_registry
    monkeypatch.setattr(torch.serialization, "_package_registry", list(registered))
    torch.serialization.register_package(1, lambda _: "cuda:9", lambda *_: None)
    torch.save({"w": torch.arange(3)}, tmp_path / "a.pt")
    assert disk.load("a.pt")["w"].device.type == "cpu"


def test_a_full_disk_is_not_an_unsupported_format(disk: DiskBackend) -> None:
    import resource

    disk.save(torch.zeros(3), "a.pt")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(StorageWriteError):
            disk.save(torch.rand(10**6), "a.pt", overwrite=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert disk.load("a.pt").tolist() == [0, 0, 0]
