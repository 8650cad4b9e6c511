"""Zarr trees and URLs: which tree a path lies in, and what goes from one into another."""

from __future__ import annotations

import subprocess
import sys
import uuid
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import zarr

from polystore import (
    BackendRegistry,
    FileManager,
    MissingDependencyError,
    PathExistsError,
    PathMismatchError,
    PathNotFoundError,
    UnsupportedOperationError,
    VFSTypeError,
    ZarrBackend,
)

IMAGE = np.arange(300 * 200, dtype=np.uint16).reshape(300, 200)


@pytest.fixture
def url() -> str:
    return f"memory://{uuid.uuid4().hex}"


def in_a_new_process(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


# Which tree


def test_a_url_and_a_path_of_the_system_lie_in_one_backend(url: str, tmp_path: Path) -> None:
    store = ZarrBackend()
    places = [f"{url}/a", str(tmp_path / "a"), f"{url}/d/b"]
    store.save_batch([IMAGE, IMAGE + 1, IMAGE + 2], places, parents=True)
    for seed, image in enumerate(store.load_batch(places)):
        assert np.array_equal(image, IMAGE + seed)
    assert store.list_dir(url) == ["a", "d"]
    assert store.list_dir(tmp_path) == ["a"]
    with pytest.raises(PathExistsError) as caught:
        store.save_batch([IMAGE, IMAGE], [str(tmp_path / "b"), f"{url}//d/../a"])
    assert caught.value.path == f"{url}//d/../a"
    assert not (tmp_path / "b").exists()


def test_results_show_urls_as_urls(url: str) -> None:
    store = ZarrBackend()
    assert store.ensure_directory(f"{url}//d/./e/") == f"{url}/d/e"
    store.save(IMAGE, f"{url}/d/e/a")
    assert store.list_files(url, recursive=True) == [f"{url}/d/e/a"]
    assert store.stat(f"{url}/d/e/a")["path"] == f"{url}/d/e/a"
    with pytest.raises(PathNotFoundError, match=f"{url}/none"):
        store.load(f"{url}/none")
    same = f"{url}/d/b".replace("memory://", "memory:///")
    with pytest.raises(PathExistsError):
        store.save_batch([IMAGE] * 2, [f"{url}/d/b", same])
    store.save(IMAGE, same)
    assert store.list_files(f"{url}/d") == [f"{url}/d/b"]


def test_a_root_and_urls_below_it_are_the_same_tree(url: str) -> None:
    ZarrBackend(f"{url}/x//y/").save(IMAGE, "d/a", parents=True)
    assert np.array_equal(ZarrBackend().load(f"{url}/x/y/d/a"), IMAGE)
    assert zarr.open_group(f"{url}/x/y", mode="r")["d/a"].shape == IMAGE.shape  # type: ignore[union-attr]


def test_a_path_object_that_was_a_url_is_refused_with_the_cure() -> None:
    for use in (ZarrBackend().load, ZarrBackend, ZarrBackend.portable_path):
        with pytest.raises(PathMismatchError, match="'s3://bucket/a b'"):
            use(Path("s3://bucket/a b"))


def test_a_url_is_no_path_below_a_root(url: str, tmp_path: Path) -> None:
    for store in (ZarrBackend(tmp_path), ZarrBackend(url)):
        for use in (store.load, store.exists, store.list_dir, store.ensure_directory):
            with pytest.raises(PathMismatchError, match="root"):
                use(f"{url}/a")
        assert store.list_dir("/") == []


def test_a_chained_url_can_be_a_root_only(tmp_path: Path) -> None:
    chained = f"zip://d::file://{tmp_path}/plates.zip"
    with zarr.storage.ZipStore(tmp_path / "plates.zip", mode="w") as archive:
        zarr.create_array(archive, name="d/a", data=IMAGE)
    store = ZarrBackend(chained)
    assert store.list_dir("/") == ["a"]
    assert np.array_equal(store.load("/a"), IMAGE)
    with pytest.raises(PathMismatchError, match="ZarrBackend"):
        ZarrBackend().load(chained)


def test_a_file_url_is_the_path_that_it_names(tmp_path: Path) -> None:
    ZarrBackend().save(IMAGE, f"file://{tmp_path}/root/a", parents=True)
    assert np.array_equal(ZarrBackend(f"file://{tmp_path}/root").load("/a"), IMAGE)
    assert (tmp_path / "root/a/zarr.json").is_file()


def test_a_scheme_that_nobody_knows_is_a_mismatch() -> None:
    for use in (ZarrBackend, ZarrBackend().load):
        with pytest.raises(PathMismatchError, match="nowhere://"):
            use("nowhere://bucket/a")


def test_a_missing_package_is_named_with_its_extra() -> None:
    with pytest.raises(MissingDependencyError, match="gcsfs"):
        ZarrBackend("gs://bucket")
    said = in_a_new_process(
        "import sys; sys.modules['s3fs'] = None\n"
        "from polystore import ZarrBackend\n"
        "try: ZarrBackend().exists('s3://bucket/a')\n"
        "except ImportError as error: print(error)"
    )
    assert "pip install '.[s3]'" in said


def test_local_trees_need_no_fsspec(tmp_path: Path) -> None:
    said = in_a_new_process(
        "import sys, importlib.util as util\n"
        "absent = {'fsspec', 'upath'}  # the second needs the first, and zarr uses either\n"
        "sys.modules.update(dict.fromkeys(absent)); find = util.find_spec\n"
        "util.find_spec = lambda name, *rest: None if name in absent else find(name, *rest)\n"
        "from polystore import ZarrBackend; import numpy as np\n"
        f"ZarrBackend({str(tmp_path)!r}).save(np.ones(3), '/a')\n"
        "try: ZarrBackend().exists('memory://a')\n"
        "except ImportError as error: print(error)"
    )
    assert "pip install '.[remote]'" in said
    assert ZarrBackend(tmp_path).load("a").tolist() == [1, 1, 1]


def test_storage_options_need_a_url(tmp_path: Path) -> None:
    with pytest.raises(VFSTypeError, match="directory"):
        ZarrBackend(tmp_path, storage_options={"key": "a"})


def test_a_path_means_the_same_in_every_process(url: str) -> None:
    assert ZarrBackend.portable_path(url) == url
    assert ZarrBackend.portable_path("a") == str(Path.cwd() / "a")


# From one tree into another


@pytest.fixture
def places(url: str, tmp_path: Path) -> dict[str, str]:
    return {"directory": str(tmp_path), "store": url, "other store": f"{url}other"}


@pytest.mark.parametrize(
    ("source", "target"),
    [("directory", "store"), ("store", "directory"), ("store", "other store")],
)
def test_a_tree_goes_into_another_store(places: dict[str, str], source: str, target: str) -> None:
    store, origin, place = ZarrBackend(), places[source], places[target]
    store.save(
        IMAGE,
        f"{origin}/d/e/a",
        parents=True,
        chunks=(50, 50),
        shards=(100, 200),
        fill_value=7,
        attributes={"unit": "um"},
    )
    store.save({"cells": 3}, f"{origin}/d/counts.json")
    store.ensure_directory(f"{origin}/d/empty")
    store.copy(f"{origin}/d", f"{place}/new")
    store.move(f"{origin}/d/e/a", f"{place}/moved")
    assert not store.exists(f"{origin}/d/e/a")
    assert store.list_dir(f"{place}/new") == ["counts.json", "e", "empty"]
    assert store.load(f"{place}/new/counts.json") == {"cells": 3}
    for copied in ("new/e/a", "moved"):
        array = store.open(f"{place}/{copied}")
        assert isinstance(array, zarr.Array)
        assert (array.chunks, array.shards, array.fill_value) == ((50, 50), (100, 200), 7)
        assert dict(array.attrs) == {"unit": "um"}
        assert np.array_equal(store.load(f"{place}/{copied}"), IMAGE)


@pytest.mark.parametrize("operation", ["copy", "move"])
def test_nothing_is_destroyed_on_the_way(
    places: dict[str, str], operation: str, tmp_path: Path
) -> None:
    store = ZarrBackend()
    transfer, url = getattr(store, operation), places["store"]
    store.save(IMAGE, tmp_path / "a")
    store.save(IMAGE + 1, f"{url}/there")
    for target, error in (
        (f"{url}/there", PathExistsError),
        (f"{url}/none/a", PathNotFoundError),
    ):
        with pytest.raises(error):
            transfer(tmp_path / "a", target)
    with pytest.raises(PathNotFoundError):
        transfer(tmp_path / "none", f"{url}/new")
    assert np.array_equal(store.load(f"{url}/there"), IMAGE + 1)
    assert np.array_equal(store.load(tmp_path / "a"), IMAGE)
    assert store.list_dir(url) == ["there"]


def test_links_stay_in_their_file_system(places: dict[str, str], tmp_path: Path) -> None:
    store, url = ZarrBackend(), places["store"]
    store.save(IMAGE, tmp_path / "d/e/a", parents=True)
    store.create_symlink(tmp_path / "d/e/a", tmp_path / "d/link")
    store.copy(tmp_path / "d", f"{url}/new")
    assert np.array_equal(store.load(f"{url}/new/link"), IMAGE)
    store.create_symlink(tmp_path / "d/e", tmp_path / "d/folder")
    for use in (
        partial(store.copy, tmp_path / "d", f"{url}/other"),
        partial(store.create_symlink, tmp_path / "d", f"{url}/link"),
        partial(store.create_symlink, f"{url}/new", f"{url}/link"),
    ):
        with pytest.raises(UnsupportedOperationError):
            use()
    assert store.list_dir(url) == ["new"]


def test_the_file_manager_takes_urls(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    fm = FileManager(BackendRegistry.isolated())
    fm.save(IMAGE, f"{url}/d/img10", backend="zarr")
    fm.save_batch([IMAGE] * 2, [f"{url}/d/img2", f"{url}/d/sub/x"], backend="zarr")
    assert fm.list_files(f"{url}/d", backend="zarr", recursive=True) == [
        f"{url}/d/img2",
        f"{url}/d/img10",
        f"{url}/d/sub/x",
    ]
    fm.copy(f"{url}/d/img2", f"{url}/new/img2", backend="zarr")
    with pytest.raises(PathExistsError):
        fm.copy(f"{url}/new", f"{url}top", backend="zarr")  # the top of a store always exists
    fm.move(f"{url}/new", "/moved", backend="zarr", to_backend="memory")
    assert np.array_equal(fm.load("/moved/img2", backend="memory"), IMAGE)
    assert not fm.exists(f"{url}/new", backend="zarr")
    assert list(tmp_path.iterdir()) == []
