"""`map`, `load_batch` and `copy` of the file manager: many values of which some fail."""

from __future__ import annotations

import os
import threading
import traceback
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from polystore import (
    BackendRegistry,
    BatchLengthError,
    CorruptDataError,
    DiskBackend,
    FileManager,
    PathNotFoundError,
    StorageError,
    StorageFullError,
    UnsupportedOperationError,
    VFSTypeError,
    ZarrBackend,
)
from polystore.transfer.many import Results
from polystore_ray import RayBackendRegistry


def double(image: Any) -> Any:
    return image * 2


def fails_on_zeros(image: Any) -> int:
    if not image.any():
        raise KeyError("only zeros")
    return int(image.sum())


@pytest.fixture(params=["in process", "local store"])
def fm(request: pytest.FixtureRequest, tmp_path: Path) -> FileManager:
    if request.param == "in process":
        registry: Any = BackendRegistry.isolated({"disk": {"root": tmp_path / "disk"}})
        registry["zarr"] = ZarrBackend(tmp_path / "zarr")
        return FileManager(registry)
    roots = {key: {"root": str(tmp_path / key)} for key in ("disk", "zarr")}
    return FileManager(RayBackendRegistry(tmp_path.name, local=True, backends=roots))


@pytest.fixture(autouse=True)
def roots(tmp_path: Path) -> None:
    for name in ("disk", "zarr"):
        (tmp_path / name).mkdir()


def fill(fm: FileManager, backend: str, *values: Any) -> list[str]:
    paths = [f"/in/{'abc'[number]}/img{number}.npy" for number in range(len(values))]
    fm.save_batch(values, paths, backend)
    return paths


ONE, ZERO = np.ones((2, 2)), np.zeros((2, 2))


@pytest.mark.parametrize("backend", ["memory", "disk", "zarr"])
def test_a_function_over_a_directory_saves_into_another_backend(
    fm: FileManager, backend: str
) -> None:
    fill(fm, backend, ONE, ZERO)
    counts: list[tuple[int, int]] = []
    done = fm.map(
        double,
        "in/" if backend == "memory" else "/in",  # two spellings of one directory
        backend,
        to="/out",
        to_backend="disk",
        progress=lambda done, total: counts.append((done, total)),
    )
    assert done == ["/out/a/img0.npy", "/out/b/img1.npy"]
    assert [fm.load(path, "disk").sum() for path in done] == [8, 0]
    assert counts == [(1, 2), (2, 2)]
    assert done.failures == []


@pytest.mark.parametrize("backend", ["memory", "disk", "zarr"])
def test_the_first_error_raises_with_its_path_and_a_short_traceback(
    fm: FileManager, backend: str
) -> None:
    paths = fill(fm, backend, ONE, ZERO)
    with pytest.raises(KeyError, match="only zeros") as caught:
        fm.map(fails_on_zeros, paths, backend)
    assert any("/in/b/img1.npy" in note for note in caught.value.__notes__)
    shown = "".join(traceback.format_exception(caught.value))
    assert 'raise KeyError("only zeros")' in shown
    assert "concurrent/futures" not in shown
    with pytest.raises(PathNotFoundError, match="none"):
        fm.map(double, [paths[0], "/none.npy"], backend)


@pytest.mark.parametrize("backend", ["memory", "disk", "zarr"])
def test_errors_are_skipped_or_returned_and_listed(fm: FileManager, backend: str) -> None:
    paths = [*fill(fm, backend, ONE, ZERO, ONE), "/none.npy"]
    skipped = fm.map(fails_on_zeros, paths, backend, errors="skip")
    assert skipped == [4, 4]
    assert [(row["path"], row["error"]) for row in skipped.failures] == [
        ("/in/b/img1.npy", "KeyError"),
        ("/none.npy", "PathNotFoundError"),
    ]
    fm.save(skipped.failures, "/failures.csv", "disk")
    assert fm.load("/failures.csv", "disk") == skipped.failures
    returned = fm.map(fails_on_zeros, paths, backend, errors="return")
    assert [type(each) for each in returned] == [int, KeyError, int, PathNotFoundError]


def test_threads_work_at_the_same_time(tmp_path: Path) -> None:
    fm = FileManager({"disk": DiskBackend(tmp_path)})
    paths = fill(fm, "disk", ONE, ONE, ONE)
    together = threading.Barrier(3, timeout=20)
    assert len(fm.map(lambda _: together.wait(), paths, "disk", workers=3)) == 3


def test_processes_need_backends_that_travel(tmp_path: Path) -> None:
    fm = FileManager(BackendRegistry.isolated())
    fm.registry["disk"] = DiskBackend(tmp_path / "disk")  # type: ignore[index]
    paths = fill(fm, "disk", ONE, ZERO)
    done = fm.map(
        lambda image: fails_on_zeros(image),
        paths,
        "disk",
        to=["/x.json", "/y.json"],
        errors="return",
        processes=True,
        workers=1,
    )
    assert done[0] == "/x.json"
    assert isinstance(done[1], KeyError)
    assert "only zeros" in done[1].__notes__[0]
    assert fm.load("/x.json", "disk") == 4
    fm.save(1, "/a", "memory")
    with pytest.raises(UnsupportedOperationError, match="belongs to its process"):
        fm.map(double, ["/a"], "memory", processes=True)


def test_wrong_arguments_are_refused(fm: FileManager) -> None:
    paths = fill(fm, "memory", ONE)
    refused: list[tuple[type, dict[str, Any]]] = [
        (VFSTypeError, {"errors": "ignore"}),
        (VFSTypeError, {"workers": 0}),
        (VFSTypeError, {"overwrite": True}),
        (VFSTypeError, {"to": "/out", "overwrit": True}),
        (BatchLengthError, {"to": ["/x", "/y"]}),
    ]
    for error, options in refused:
        with pytest.raises(error):
            fm.map(double, paths, "memory", **options)
    with pytest.raises(VFSTypeError):
        fm.map(5, paths, "memory")  # type: ignore[arg-type]
    with pytest.raises(VFSTypeError, match="errors must be"):
        fm.load_batch(paths, "memory", errors="ignore")  # type: ignore[arg-type]


@pytest.mark.parametrize("backend", ["memory", "disk", "zarr"])
@pytest.mark.parametrize("bad", [0, 3, 7])
def test_a_batch_loads_what_it_can(fm: FileManager, tmp_path: Path, backend: str, bad: int) -> None:
    paths = [f"/{number}.json" for number in range(8)]
    fm.save_batch(list(range(8)), paths, backend)
    fm.delete(paths[bad], backend)
    counts: list[int] = []
    values = fm.load_batch(
        paths, backend, errors="skip", progress=lambda done, _: counts.append(done)
    )
    assert values == [number for number in range(8) if number != bad]
    assert isinstance(values, Results)
    assert [row["path"] for row in values.failures] == [paths[bad]]
    assert counts == list(range(1, 9))
    returned = fm.load_batch(paths, backend, errors="return", writable=True)
    assert isinstance(returned.pop(bad), PathNotFoundError)
    assert returned == values
    with pytest.raises(PathNotFoundError):
        fm.load_batch(paths, backend)


def test_a_damaged_file_is_one_of_the_failures(fm: FileManager, tmp_path: Path) -> None:
    fm.save_batch([1, 2], ["/a.json", "/b.json"], "disk")
    (tmp_path / "disk/a.json").write_bytes(b"{half")
    [error, value] = fm.load_batch(["/a.json", "/b.json"], "disk", errors="return")
    assert isinstance(error, CorruptDataError)
    assert value == 2


def test_a_store_that_does_not_answer_is_no_failure_of_a_path() -> None:
    class GoneError(StorageError, ConnectionError):
        pass

    class Unreachable(DiskBackend):
        def load(self, path: Any, **options: Any) -> Any:
            raise GoneError("no answer")

    with pytest.raises(GoneError):
        FileManager({"disk": Unreachable()}).load_batch(["/a", "/b"], "disk", errors="skip")


def test_a_process_that_dies_is_a_failure_of_its_path_alone(tmp_path: Path) -> None:
    fm = FileManager({"disk": DiskBackend(tmp_path)})
    paths = fill(fm, "disk", ONE, ZERO, ONE)

    def dies_on_zeros(image: Any) -> int:
        if not image.any():
            os._exit(3)
        return int(image.sum())

    done = fm.map(
        dies_on_zeros,
        paths,
        "disk",
        to=["/x.json", "/y.json", "/z.json"],  # which a call that is repeated would find
        errors="skip",
        processes=True,
        workers=2,
    )
    assert done == ["/x.json", "/z.json"]
    assert [row["path"] for row in done.failures] == [paths[1]]
    assert "process died" in done.failures[0]["message"]
    with pytest.raises(StorageError, match="process died") as caught:
        fm.map(dies_on_zeros, paths[1:], "disk", processes=True, workers=1)
    assert paths[1] in caught.value.__notes__[0]


def test_a_result_that_does_not_travel_is_a_failure_of_its_path(tmp_path: Path) -> None:
    local = FileManager(RayBackendRegistry(tmp_path.name, local=True))
    here = FileManager({"disk": DiskBackend(tmp_path)})
    for fm, backend, options in ((local, "memory", {}), (here, "disk", {"processes": True})):
        paths = fill(fm, backend, ONE, ZERO)
        done = fm.map(
            lambda image: threading.Lock() if image.any() else 7,
            paths,
            backend,
            errors="skip",
            workers=1,
            **options,  # type: ignore[arg-type]
        )
        assert done == [7]
        assert [row["path"] for row in done.failures] == paths[:1]
        assert "lock" in done.failures[0]["message"]


@pytest.mark.parametrize("errors", ["skip", "return"])
def test_a_copy_of_a_tree_goes_on_where_a_file_fails(
    fm: FileManager, tmp_path: Path, errors: Any
) -> None:
    values = [number if number != 3 else {number} for number in range(8)]
    paths = [f"/in/{number % 2}/{number}.json" for number in range(8)]
    fm.save_batch(values, paths, "memory")
    counts: list[int] = []
    done = fm.copy(
        "/in",
        "/out",
        "memory",
        to_backend="disk",
        errors=errors,
        progress=lambda done, _: counts.append(done),
    )
    assert done is not None
    copies = [path for path in done if isinstance(path, str)]
    assert sorted(copies) == sorted(f"/out/{n % 2}/{n}.json" for n in range(8) if n != 3)
    assert [fm.load(path, "disk") for path in copies] == [int(path[7]) for path in copies]
    assert [(row["path"], row["error"]) for row in done.failures] == [
        ("/in/1/3.json", "UnsupportedFormatError")
    ]
    assert len(done) == (8 if errors == "return" else 7)
    assert counts == list(range(1, 9))


def test_a_copy_tells_which_entries_of_a_tree_no_other_backend_can_hold(
    fm: FileManager, tmp_path: Path
) -> None:
    fm.save_batch([ONE, ONE], ["/in/d/a.npy", "/in/b.npy"], "disk")
    fm.create_symlink("/in/d", "/in/to-d", "disk")
    (tmp_path / "disk/in/dangling.npy").symlink_to("nowhere")
    os.mkfifo(tmp_path / "disk/in/pipe.npy")
    done = fm.copy("/in", "/out", "disk", to_backend="memory", errors="skip")
    assert done == ["/out/b.npy", "/out/d/a.npy"]
    assert {row["path"] for row in done.failures} == {
        "/in/to-d",
        "/in/dangling.npy",
        "/in/pipe.npy",
    }
    assert fm.list_dir("/out", "memory") == ["b.npy", "d"]


def test_a_copy_of_a_list_goes_on_where_a_path_fails(fm: FileManager) -> None:
    fm.save_batch([1, 2], ["/a.json", "/b.json"], "memory")
    fm.save(0, "/there.json", "disk")
    news = ["/new/a.json", "/new/none.json", "/there.json"]
    olds = ["/a.json", "/none.json", "/b.json"]
    expected = [("/none.json", "PathNotFoundError"), ("/b.json", "PathExistsError")]
    done = fm.copy(olds, news, "memory", to_backend="disk", errors="skip")
    assert done == ["/new/a.json"]
    assert [(row["path"], row["error"]) for row in done.failures] == expected
    assert fm.load("/there.json", "disk") == 0
    fm.save(0, "/there.json", "memory")
    within = fm.copy(olds, news, "memory", errors="skip")
    assert within == done
    assert [(row["path"], row["error"]) for row in within.failures] == expected
    assert fm.copy("/new", "/other", "memory", errors="skip") == ["/other"]
    assert fm.copy("/a.json", "/x.json", "memory") is None
    for to_backend in (None, "disk"):
        with pytest.raises(PathNotFoundError):
            fm.copy("/none", "/y", "memory", to_backend=to_backend, errors="skip")
    with pytest.raises(VFSTypeError, match="errors must be"):
        fm.copy("/a.json", "/z.json", "memory", errors="ignore")  # type: ignore[arg-type]


def test_a_copy_that_goes_on_loses_no_metadata_silently(fm: FileManager) -> None:
    fm.save(ONE, "/in/a", "zarr")
    fm.save(ONE, "/in/b", "zarr", attributes={"scale": 2})
    done = fm.copy("/in", "/out", "zarr", to_backend="memory", errors="skip")
    assert done == ["/out/a"]
    assert ["lossy=True" in row["message"] for row in done.failures] == [True]
    lossy = fm.copy("/in", "/all", "zarr", to_backend="memory", errors="skip", lossy=True)
    assert lossy == ["/all/a", "/all/b"]


def test_a_copy_ends_where_the_store_is_full(tmp_path: Path) -> None:
    registry = RayBackendRegistry(tmp_path.name, local=True, max_bytes=1_000_000)
    fm = FileManager({"full": registry["memory"], "disk": DiskBackend(tmp_path)})
    fm.save_batch([np.zeros(100_000), np.zeros(100_000)], ["/in/a.npy", "/in/b.npy"], "disk")
    with pytest.raises(StorageFullError):
        fm.copy("/in", "/out", "disk", to_backend="full", errors="skip")


def test_what_a_backend_of_others_wrote_is_copied_once(tmp_path: Path) -> None:
    saved: list[str] = []

    class Fails(DiskBackend):
        def save(self, data: Any, path: Any, **options: Any) -> None:
            if data == 5:
                raise RuntimeError("no fives")
            saved.append(str(path))
            super().save(data, path, **options)

    (tmp_path / "in").mkdir()
    (tmp_path / "out").mkdir()
    fm = FileManager({"disk": DiskBackend(tmp_path / "in"), "fails": Fails(tmp_path / "out")})
    fm.save_batch(list(range(8)), [f"/in/{number}.json" for number in range(8)], "disk")
    done = fm.copy("/in", "/out", "disk", to_backend="fails", errors="return")
    assert done is not None
    assert isinstance(done.pop(5), StorageError)
    assert saved == done == [f"/out/{number}.json" for number in range(8) if number != 5]
