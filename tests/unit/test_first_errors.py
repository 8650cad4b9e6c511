"""What a new user reads when one of the first calls goes wrong."""

from __future__ import annotations

import pickle
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from polystore import (
    BackendNotFoundError,
    BackendRegistry,
    DiskBackend,
    FileManager,
    InvalidPathError,
    PathMismatchError,
    PathNotFoundError,
    StorageBackend,
    StorageError,
    UnsupportedFormatError,
    UnsupportedOperationError,
    VFSTypeError,
    ZarrBackend,
    atomic_write_json,
)
from polystore_ray import RayBackendRegistry
from polystore_ray.wire.classes import class_to_bytes


@pytest.fixture(params=["in process", "local store"])
def fm(request: pytest.FixtureRequest, tmp_path: Path) -> FileManager:
    if request.param == "in process":
        registry: Any = BackendRegistry.isolated()
        registry["disk"], registry["zarr"] = DiskBackend(tmp_path), ZarrBackend(tmp_path)
        return FileManager(registry)
    roots = {key: {"root": str(tmp_path)} for key in ("disk", "zarr")}
    return FileManager(RayBackendRegistry(tmp_path.name, local=True, backends=roots))


def test_append_and_resize_say_which_backend_can(fm: FileManager) -> None:
    fm.save(np.ones(3), "/a.npy", "memory")
    with pytest.raises(UnsupportedOperationError, match="append; the zarr backend does"):
        fm.append([1], "/a.npy", "memory")
    with pytest.raises(UnsupportedOperationError, match="resize; the zarr backend does"):
        fm.resize("/a.npy", (2,), "memory")


@pytest.mark.parametrize(
    ("value", "kind", "suffix"),
    [
        ({"a": 1}, "not a dict", ".json"),
        ([1, 2], "not a list", ".json"),
        (np.array(["a"]), "not dtype <U1", ".npy"),
    ],
)
@pytest.mark.parametrize("place", ["/x", "memory://first-errors/x"])
def test_zarr_says_what_its_arrays_hold(value: Any, kind: str, suffix: str, place: str) -> None:
    zarr = ZarrBackend()
    with pytest.raises(UnsupportedFormatError, match=f"saved as zarr arrays, {kind}") as caught:
        zarr.save(value, place, parents=True)
    assert f"suffix such as {suffix}" in str(caught.value)


@pytest.mark.parametrize("registry", [BackendRegistry(), {"memory": 1, "disk": 2}])
def test_a_misspelt_backend_is_recognized(registry: Any) -> None:
    with pytest.raises(BackendNotFoundError, match=r"'memry' \(did you mean 'memory'\?\); the kno"):
        FileManager(registry).load("/a", "memry")


@pytest.mark.parametrize("backend", ["memory", "disk", "zarr"])
@pytest.mark.parametrize(
    ("wrong", "near"), [("/p/A1.npy", "A01.npy"), ("/plate", "plate1"), ("/p/nothing.csv", None)]
)
def test_a_misspelt_path_is_recognized(
    fm: FileManager, backend: str, wrong: str, near: str | None
) -> None:
    fm.save_batch([np.ones(2)] * 2, ["/p/A01.npy", "/plate1/a.npy"], backend)
    with pytest.raises(PathNotFoundError) as caught:
        fm.load(wrong, backend)
    text = str(caught.value)
    assert text.partition(" (did")[2].partition("?)")[0] == (f" you mean {near!r}" if near else "")
    assert f"{wrong}'" in text


@pytest.mark.parametrize("backend", ["memory", "disk", "zarr"])
def test_a_batch_lists_the_options_of_a_backend_that_is_called_directly(
    fm: FileManager, backend: str
) -> None:
    direct = fm.registry[backend]
    calls: list[tuple[str, Callable[[], Any]]] = [
        ("save_batch takes no overwrit=", lambda: direct.save_batch([1], ["/a.json"], overwrit=1)),
        ("load_batch takes no regoin=", lambda: direct.load_batch(["/a.json"], regoin=0)),
    ]
    for message, call in calls:
        with pytest.raises(VFSTypeError, match=rf"{message} \(did you mean .*its options are"):
            call()


def test_a_hosted_backend_lists_its_options_when_it_is_called_directly(tmp_path: Path) -> None:
    roots = {key: {"root": str(tmp_path)} for key in ("disk", "zarr")}
    registry = RayBackendRegistry(tmp_path.name, local=True, backends=roots)
    disk, zarr = registry["disk"], registry["zarr"]
    zarr.save(np.ones(2), "/z")
    calls: list[tuple[str, Callable[[], Any]]] = [
        ("DiskBackend.save takes no overwrit=", lambda: disk.save(1, "/a.json", overwrit=True)),
        ("DiskBackend.load takes no regoin=", lambda: disk.load("/a.json", regoin=0)),
        ("ZarrBackend.append takes no axes=", lambda: zarr.append([1], "/z", axes=0)),
        ("ZarrBackend.resize takes no fill=", lambda: zarr.resize("/z", (3,), fill=0)),
    ]
    for message, call in calls:
        with pytest.raises(VFSTypeError, match=message):
            call()
    assert not disk.exists("/a.json")


def test_a_path_that_a_shell_would_expand_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for registry in (BackendRegistry(), RayBackendRegistry(tmp_path.name, local=True)):
        fm = FileManager(registry)
        for backend in ("disk", "zarr"):
            with pytest.raises(InvalidPathError, match=r"expanduser.*'~/a\.npy' \(backend"):
                fm.save(np.ones(2), "~/a.npy", backend)
            with pytest.raises(InvalidPathError, match="expanduser"):
                fm.exists("~", backend)
        with pytest.raises(PathMismatchError, match="zarr backend takes URLs"):
            fm.save(1, "s3://bucket/a.json", "disk")
        with pytest.raises(PathMismatchError, match="zarr backend takes URLs"):
            fm.load("https://example.org/a.json", "disk")
    with pytest.raises(InvalidPathError, match="expanduser"):
        DiskBackend("~/data")
    with pytest.raises(InvalidPathError, match="expanduser"):
        atomic_write_json({}, "~/a.json")
    assert list(tmp_path.iterdir()) == []
    disk = DiskBackend()
    disk.save_batch([1, 2], ["./~/a.json", "~a.json"], parents=True)  # nobody expands these
    assert disk.list_files(".", recursive=True) == ["./~a.json", "./~/a.json"]
    assert DiskBackend(tmp_path).load("~/a.json") == 1


@pytest.mark.parametrize(
    ("value", "path", "cure"),
    [
        ({"n": np.uint64(3)}, "/a.json", r"uint64 of NumPy; save its \.tolist\(\)"),
        ([np.ones(2)], "/a.json", r"ndarray of NumPy; save its \.tolist\(\)"),
        ({"wells": {1}}, "/a.json", "not a set"),
        (pd.DataFrame({"n": [1]}), "/a.json", r"to_dict\('records'\)"),
        (pd.DataFrame({"n": [1]}), "/a.csv", r"to_csv\(index=False\)"),
        (np.ones(2), "/a", "the path has no suffix, which names the format"),
        (np.ones(2), "/a.xlsx", "no format has the suffix of this file, which"),
    ],
)
def test_a_file_says_how_to_save_what_it_cannot_hold(
    fm: FileManager, value: Any, path: str, cure: str
) -> None:
    with pytest.raises(UnsupportedFormatError, match=cure):
        fm.save(value, path, "disk")
    with pytest.raises(UnsupportedFormatError, match=cure) as caught:
        fm.save_batch([value], [path], "disk")
    # There is nothing to tell about one path; Python 3.14 says where in the value it is.
    notes = getattr(caught.value, "__notes__", [])
    assert [note for note in notes if not note.startswith("when serializing")] == []


class Locked:
    def __init__(self) -> None:
        self.lock = threading.Lock()


def test_a_value_with_a_lock_says_what_to_do(fm: FileManager) -> None:
    with pytest.raises(VFSTypeError, match=r"Locked.*_thread\.lock.*__getstate__.*'/a'"):
        fm.save(Locked(), "/a", "memory")


def test_a_backend_class_with_a_lock_says_what_to_do(caplog: pytest.LogCaptureFixture) -> None:
    class Guarded(StorageBackend):
        _backend_type = "guarded"
        guard = threading.Lock()

        def load(self, path: Any) -> Any:
            return 1

        def save(self, data: Any, path: Any) -> None:
            pass

        def is_file(self, path: Any) -> bool:
            return True

        is_dir = is_file

        def list_dir(self, path: Any) -> list[str]:
            return []

    with pytest.raises(
        VFSTypeError, match=r"Guarded.*lock.*__init__.*\(backend guarded\)"
    ) as caught:
        class_to_bytes(Guarded)
    assert isinstance(caught.value, StorageError)
    for _ in range(3):  # a registry may be sent with each of many tasks
        pickle.dumps(RayBackendRegistry("guarded"))
    assert caplog.text.count("Guarded cannot travel") == 1


@pytest.mark.parametrize("backend", ["memory", "disk", "zarr"])
def test_a_traceback_ends_where_the_user_called(
    fm: FileManager, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def shown() -> list[str]:
        with pytest.raises(PathNotFoundError) as caught:
            fm.load("/none.npy", backend)
        lines = "".join(traceback.format_exception(caught.value)).splitlines()
        return [line for line in lines if line.startswith("  File")]

    first = shown()
    assert [("test_first_errors" in line, "manager.py" in line) for line in first] == [
        (True, False),
        (False, True),
    ]
    monkeypatch.setenv("POLYSTORE_FULL_TRACEBACK", "1")
    assert len(shown()) > 2


def test_the_frames_of_a_custom_backend_stay() -> None:
    class Fails(DiskBackend):
        def load(self, path: Any, **options: Any) -> Any:
            return self.deeper(path)

        def deeper(self, path: Any) -> Any:
            raise PathNotFoundError("mine")

    with pytest.raises(PathNotFoundError) as caught:
        FileManager({"disk": Fails()}).load("/a.npy", "disk")
    names = [frame.name for frame in traceback.extract_tb(caught.value.__traceback__)]
    assert names[-2:] == ["load", "deeper"]
