"""Zarr trees in a store: what others see of them there, what is left behind, what goes wrong."""

from __future__ import annotations

import http.server
import json
import pickle
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import fsspec
import moto.settings
import numpy as np
import pytest
import zarr
from fsspec.implementations.memory import MemoryFileSystem
from s3_server import S3Server, s3_server
from zarr.codecs import GzipCodec

from polystore import (
    CorruptDataError,
    DirectoryNotEmptyError,
    FileLockTimeoutError,
    InvalidPathError,
    PathExistsError,
    PathIsDirectoryError,
    PathNotDirectoryError,
    PathNotFoundError,
    StorageError,
    StorageWriteError,
    UnsupportedFormatError,
    UnsupportedOperationError,
    ZarrBackend,
)
from polystore.zarr.object_store.client import RemoteObjects
from polystore.zarr.object_store.lock_objects import lock_object

IMAGE = np.arange(300 * 200, dtype=np.uint16).reshape(300, 200)
CHUNKS: dict[str, Any] = {"chunks": (100, 100)}


class Place:
    """A tree on S3, and a way to look at it and to change it that is not the one under test."""

    def __init__(self, server: S3Server) -> None:
        self.url = server.place()
        self.path = self.url.removeprefix("s3://")
        self.server = server
        self.files = server.files
        self.options = server.options
        self.store = self.backend()

    def backend(self) -> ZarrBackend:
        return ZarrBackend(self.url, storage_options=self.options)

    def keys(self, key: str = "") -> list[str]:
        return self.server.keys(f"{self.url}/{key}".rstrip("/"))

    def put(self, key: str, data: bytes) -> None:
        self.files.pipe_file(f"{self.path}/{key}", data)

    def get(self, key: str) -> bytes:
        return bytes(self.files.cat_file(f"{self.path}/{key}"))

    def group(self, **options: Any) -> zarr.Group:
        return zarr.open_group(self.url, storage_options=self.options, **options)


@pytest.fixture
def place() -> Place:
    return Place(s3_server())


# What others see


def test_a_tree_is_a_hierarchy_that_zarr_opens(place: Place) -> None:
    place.store.save(IMAGE, "plate/well/image", parents=True)
    place.store.ensure_directory("plate/empty/deep")
    group = place.group(mode="r")
    assert sorted(group["plate"].group_keys()) == ["empty", "well"]  # type: ignore[union-attr]
    assert np.array_equal(group["plate/well/image"], IMAGE)  # type: ignore[arg-type]


def test_chunks_shards_codecs_and_attributes_are_the_callers(place: Place) -> None:
    options: dict[str, Any] = {
        "chunks": (50, 50),
        "shards": (150, 100),
        "compressors": [GzipCodec(level=3)],
        "fill_value": 7,
    }
    place.store.save(IMAGE, "a", attributes={"unit": "um"}, **options)
    place.store.save(IMAGE + 1, "a", overwrite=True, **options)
    array = place.store.open("a")
    assert isinstance(array, zarr.Array)
    assert (array.chunks, array.shards, array.fill_value) == ((50, 50), (150, 100), 7)
    assert array.compressors == (GzipCodec(level=3),)
    assert dict(array.attrs) == {"unit": "um"}
    assert np.array_equal(place.store.load("a"), IMAGE + 1)
    part = (slice(40, 60), slice(199, 200))
    assert np.array_equal(place.store.load("a", region=part), (IMAGE + 1)[part])
    with pytest.raises(UnsupportedFormatError, match="'b'"):
        place.store.save(IMAGE, "b", chunks=(7,))
    assert place.keys("b") == []


def test_an_overwrite_leaves_the_chunks_of_the_new_array_alone(place: Place) -> None:
    place.store.save(IMAGE, "a", **CHUNKS)
    assert place.keys("a") == [*(f"c/{i}/{j}" for i in range(3) for j in range(2)), "zarr.json"]
    place.store.save(IMAGE[:150], "a", overwrite=True, **CHUNKS)
    assert place.keys("a") == ["0.0", "0.1", "1.0", "1.1", "zarr.json"]
    place.store.save(np.zeros_like(IMAGE), "a", overwrite=True, **CHUNKS)
    assert place.keys("a") == ["zarr.json"]
    assert not place.store.load("a").any()
    for number in (3.5, 4.5, 5.5):
        place.store.save(np.array(number), "a", overwrite=True)
        assert place.store.load("a") == number
    place.store.delete("a")
    assert place.keys() == ["zarr.json"]


def test_asking_creates_nothing(place: Place) -> None:
    def ask() -> None:
        store = place.backend()
        for path in ("/", "none", "none/below"):
            for question in (store.exists, store.is_file, store.is_dir, store.is_symlink):
                question(path)
            store.stat(path)
        assert store.is_dir("/")
        for failing in (
            partial(store.load, "none"),
            partial(store.open, "none", "r+"),
            partial(store.save, IMAGE, "none", region=0),
            partial(store.delete, "none"),
            partial(store.copy, "none", "b"),
        ):
            with pytest.raises(PathNotFoundError):
                failing()
        store.list_files("/", recursive=True)

    ask()
    assert place.keys() == []
    place.store.save(IMAGE, "a")
    before = place.keys()
    assert before == ["a/c/0/0", "a/zarr.json", "zarr.json"]
    ask()
    assert place.keys() == before


def test_a_bucket_is_made_no_group(place: Place) -> None:
    store = ZarrBackend(storage_options=place.options)
    store.save(IMAGE, f"{place.url}/a", parents=True)
    assert place.keys() == ["a/c/0/0", "a/zarr.json", "zarr.json"]
    assert not place.files.exists("bucket/zarr.json")
    assert store.is_dir("s3://bucket")
    with pytest.raises(InvalidPathError):
        store.delete_all("s3://bucket")


def test_open_is_lazy_and_of_a_directory_the_group(place: Place) -> None:
    place.store.save(IMAGE, "d/a", parents=True)
    place.store.save("text", "d/notes.txt")
    array = place.store.open("d/a", "r+")
    array[0] = 1  # type: ignore[index]
    assert (place.store.load("d/a", region=0) == 1).all()
    with pytest.raises(ValueError, match="read-only"):
        place.store.open("d/a")[0] = 2  # type: ignore[index]
    place.put("plain/x.json", b"{}")
    group = pickle.loads(pickle.dumps(place.store)).open("d")
    assert isinstance(group, zarr.Group)
    assert group["a"].shape == IMAGE.shape  # type: ignore[union-attr]
    for path in ("d/notes.txt", "plain"):
        with pytest.raises(UnsupportedFormatError):
            place.store.open(path)


def test_other_values_are_objects_beside_the_arrays(place: Place) -> None:
    place.store.save({"cells": 3}, "d/counts.json", parents=True)
    place.store.save(np.array(["a", "b"]), "d/names.npy")
    place.store.save(IMAGE, "d/image.npy")
    assert json.loads(place.get("d/counts.json")) == {"cells": 3}
    assert place.store.list_dir("d") == ["counts.json", "image.npy", "names.npy"]
    assert place.store.load("d/names.npy", region=1) == "b"
    assert place.store.stat("d/counts.json")["size"] == len(place.get("d/counts.json"))
    with pytest.raises(UnsupportedFormatError, match="suffix"):
        place.store.save("text", "d/text")
    place.put("d/broken.json", b"{")
    with pytest.raises(CorruptDataError, match=r"d/broken\.json"):
        place.store.load("d/broken.json")


def test_a_value_of_another_kind_takes_the_place(place: Place) -> None:
    words, numbers = np.array(["a", "b"]), np.arange(3)
    for value in (words, numbers, words, numbers):
        place.store.save(value, "a.npy", overwrite=True)
        assert np.array_equal(place.store.load("a.npy"), value)
    assert place.keys() == ["a.npy/c/0", "a.npy/zarr.json", "zarr.json"]
    place.store.save(words, "a.npy", overwrite=True)
    assert place.keys() == ["a.npy", "zarr.json"]
    assert place.store.list_files("/") == ["/a.npy"]
    place.store.delete("a.npy")
    assert place.keys() == ["zarr.json"]


def test_in_a_store_with_true_directories_it_does_not() -> None:
    store = ZarrBackend("memory://kinds")
    words, numbers = np.array(["a", "b"]), np.arange(3)
    for old, new in ((words, numbers), (numbers, words)):
        store.save(old, "a.npy")
        with pytest.raises(UnsupportedOperationError, match="delete that first"):
            store.save(new, "a.npy", overwrite=True)
        assert np.array_equal(store.load("a.npy"), old)
        assert store.list_dir("/") == ["a.npy"]
        store.delete("a.npy")


def test_names_of_zarr_and_of_claims_cannot_be_taken(place: Place) -> None:
    place.store.save(IMAGE, "d/a", parents=True)
    for use in (
        lambda: place.store.save({}, "d/zarr.json", overwrite=True),
        lambda: place.store.ensure_directory("d/zarr.json/below"),
        lambda: place.store.copy("d/a", "d/.zarray"),
        lambda: place.store.save({}, "d/.polystore-tmp.json"),
    ):
        with pytest.raises(InvalidPathError):
            use()
    assert not place.store.exists("d/zarr.json")
    assert place.store.list_dir("d") == ["a"]


def test_a_name_is_no_glob(place: Place) -> None:
    place.store.save(IMAGE, "ab", **CHUNKS)
    place.store.save(IMAGE, "d/ab", parents=True, **CHUNKS)
    for name in ("a*", "[a]b"):
        place.store.save(IMAGE, name, **CHUNKS)
        # Chunks of fill values are deleted, and so is the array.
        place.store.save(np.zeros_like(IMAGE), name, overwrite=True, **CHUNKS)
        place.store.save(0, name, region=...)
        place.store.delete(name)
    place.store.delete_all("d")
    assert place.store.list_dir("/") == ["ab"]
    assert np.array_equal(place.store.load("ab"), IMAGE)


def test_an_array_has_nothing_below_it(place: Place) -> None:
    place.store.save(IMAGE, "a", **CHUNKS)
    for path in ("a/c", "a/c/0/0", "a/c/0"):
        assert not place.store.exists(path)
        with pytest.raises(PathNotDirectoryError):
            place.store.save(IMAGE, path, parents=True)
        with pytest.raises(PathNotFoundError):
            place.store.delete_all(path)
    assert np.array_equal(place.store.load("a"), IMAGE)


def test_a_copy_is_made_in_the_store(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place.store.save(IMAGE, "d/a", parents=True, attributes={"unit": "um"}, **CHUNKS)
    place.store.save({"cells": 3}, "d/counts.json")
    monkeypatch.setattr(RemoteObjects, "put", None)  # nothing of it goes through this process
    written: list[str] = []
    create = RemoteObjects.create

    async def counted(self: RemoteObjects, key: str, data: bytes) -> bool:
        written.append(key)
        return await create(self, key, data)

    monkeypatch.setattr(RemoteObjects, "create", counted)
    place.store.copy("d", "new")
    assert np.array_equal(place.store.load("new/a"), IMAGE)
    assert dict(place.store.open("new/a").attrs) == {"unit": "um"}
    assert place.store.list_dir("new") == ["a", "counts.json"]
    assert not [key for key in written if "/c/" in key or key.endswith("counts.json")][1:]


def test_a_copy_is_told_from_what_was_there_before(place: Place) -> None:
    """Or a reader of an array that is deleted, and copied to its path again, would not notice."""
    place.store.save(IMAGE, "a", **CHUNKS)
    seen = set()
    for _ in range(2):
        place.store.copy("a", "b")
        seen.add(place.get("b/zarr.json"))
        place.store.delete("b")
    seen.add(place.get("a/zarr.json"))
    assert len(seen) == 3
    assert len({json.dumps(json.loads(metadata)) for metadata in seen}) == 1


def test_what_lies_below_an_array_by_mischance_stays_whole(place: Place) -> None:
    """Somebody saved below a directory whose place an array was taking."""
    place.store.save(IMAGE, "x/below", parents=True, **CHUNKS)
    place.store.save(IMAGE, "d", **CHUNKS)
    place.files.copy(f"{place.path}/x/below", f"{place.path}/d/below", recursive=True)
    place.store.copy("d", "copied")
    assert np.array_equal(place.store.load("copied"), IMAGE)
    assert not place.files.exists(f"{place.path}/copied/below")
    place.store.save(IMAGE + 1, "d", overwrite=True, **CHUNKS)
    assert np.array_equal(place.store.load("d"), IMAGE + 1)
    place.store.delete("d")
    assert place.store.is_dir("d")
    assert np.array_equal(place.store.load("d/below"), IMAGE)


# What others wrote


def test_arrays_of_format_2_and_implied_groups_are_read(place: Place) -> None:
    old = place.group(mode="w", path="deep/old", zarr_format=2)
    array = old.create_array("a", shape=IMAGE.shape, dtype=IMAGE.dtype, chunks=(100, 100))
    array[...] = IMAGE
    array.attrs["unit"] = "um"
    place.files.rm_file(f"{place.path}/deep/.zgroup")  # as if nobody had marked it
    store = place.backend()
    assert store.is_dir("deep")
    assert store.list_files("/", recursive=True) == ["/deep/old/a"]
    assert np.array_equal(store.load("deep/old/a"), IMAGE)
    assert np.array_equal(store.load("deep/old/a", region=(slice(5, 9),)), IMAGE[5:9])
    facts = store.stat("deep/old/a")
    assert (facts["type"], facts["shape"], facts["dtype"]) == ("file", IMAGE.shape, "uint16")
    with pytest.raises(PathIsDirectoryError):
        store.load("deep")
    with pytest.raises(DirectoryNotEmptyError):
        store.delete("deep")
    store.copy("deep", "copied")
    assert zarr.open_group(f"{place.url}/copied/old", mode="r", storage_options=place.options)[
        "a"
    ].attrs.asdict() == {"unit": "um"}
    store.save(IMAGE + 1, "deep/old/a", overwrite=True, **CHUNKS)
    assert np.array_equal(store.load("deep/old/a"), IMAGE + 1)
    assert dict(store.open("deep/old/a").attrs) == {"unit": "um"}
    # The new chunks have names that the old ones had not, and these are gone.
    chunks = [f"{row}/{column}" for row in range(3) for column in range(2)]
    assert place.keys("deep/old/a") == [".zarray", ".zattrs", *chunks]


def test_an_implied_group_is_no_free_path(place: Place) -> None:
    """Not even for who holds the claim on it, whose own claim it is that lies there."""
    place.put("deep/0/notes.json", b"[1]")
    group = place.group(mode="w", path="wide/c")
    group.create_array("0", shape=IMAGE.shape, dtype=IMAGE.dtype)[...] = IMAGE
    place.files.rm_file(f"{place.path}/wide/zarr.json")
    before = place.keys()
    for path in ("deep", "deep/0", "wide"):
        with pytest.raises(PathExistsError):
            place.store.save(IMAGE, path)
        with pytest.raises(PathIsDirectoryError):
            place.store.save(IMAGE, path, overwrite=True)
        assert place.store.ensure_directory(path) == f"/{path}"
    assert place.keys() == before
    place.put(".polystore-tmp~deep", b"left~.polystore-tmp~host~1~abc")
    assert place.store.list_dir("/") == ["deep", "wide"]
    assert place.store.load("deep/0/notes.json") == [1]
    with pytest.raises(PathExistsError):
        place.store.save(IMAGE, "deep")
    assert place.keys() == before


def test_chunks_of_no_array_go_with_their_directory(place: Place) -> None:
    for key in ("d/c/0/0", "d/c/0/1", "e/x/0.0", "e/x/1.0", "f/0"):
        place.put(key, b"chunk")
    assert place.store.list_files("/", recursive=True) == []
    for path in ("d", "e"):
        place.store.delete_all(path)
    place.store.delete("f")
    assert place.keys() == []


def test_a_folder_marked_by_a_console_is_a_directory(place: Place) -> None:
    # Through fsspec no key can end with a slash.
    client = place.files.call_s3
    client("put_object", Bucket="bucket", Key=f"{place.path.removeprefix('bucket/')}/folder/")
    assert place.store.is_dir("folder")
    assert place.store.list_dir("folder") == []
    assert place.store.list_dir("/") == ["folder"]
    with pytest.raises(StorageWriteError, match="another tool"):
        place.store.delete("folder")
    place.store.save(IMAGE, "folder/a")
    assert place.store.list_dir("folder") == ["a"]


class QuietFiles(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments: Any) -> None:
        """Say nothing of each request."""


@pytest.fixture
def web(tmp_path: Path) -> Iterator[str]:
    handler = partial(QuietFiles, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_a_web_server_is_read_and_cannot_be_written(web: str, tmp_path: Path) -> None:
    versions: tuple[Any, Any] = (2, 3)
    for version in versions:
        group = zarr.open_group(tmp_path / f"v{version}", mode="w", zarr_format=version)
        group.create_array("a", shape=IMAGE.shape, dtype=IMAGE.dtype)[...] = IMAGE
        (tmp_path / f"v{version}/c.json").write_text("[1]")
        store = ZarrBackend()
        assert np.array_equal(store.load(f"{web}/v{version}/a"), IMAGE)
        assert store.load(f"{web}/v{version}/c.json") == [1]
        assert isinstance(store.open(f"{web}/v{version}"), zarr.Group)
        assert not store.exists(f"{web}/v{version}/none")
        with pytest.raises((UnsupportedOperationError, StorageWriteError)):
            store.save(IMAGE, f"{web}/v{version}/b")


class Careless(MemoryFileSystem):  # type: ignore[misc]
    """A file system that takes no notice of conditions."""

    protocol = "careless"
    store: ClassVar[dict[str, Any]] = {}
    pseudo_dirs: ClassVar[list[str]] = [""]

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return str(super()._strip_protocol(path.replace("careless://", "memory://")))

    def pipe_file(self, path: str, value: bytes, **_options: Any) -> None:
        super().pipe_file(path, value)


def test_without_conditional_puts_writers_one_after_another_are_safe() -> None:
    fsspec.register_implementation("careless", Careless, clobber=True)
    store = ZarrBackend("careless://a/b")
    store.save(IMAGE, "d/a", parents=True, **CHUNKS)
    store.ensure_directory("d")
    for refused in (partial(store.save, IMAGE, "d/a"), partial(store.copy, "d", "d/a")):
        with pytest.raises(PathExistsError):
            refused()
    store.save(IMAGE + 1, "d/a", overwrite=True, **CHUNKS)
    assert np.array_equal(store.load("d/a"), IMAGE + 1)
    objects = store._trees._root._objects  # type: ignore[union-attr]
    with (
        lock_object(objects, "d/a"),
        pytest.raises(FileLockTimeoutError),
        lock_object(objects, "d/a", 0.1),
    ):
        pass
    assert sorted(Careless.store) == [
        *(f"/a/b/d/a/{i}.{j}" for i in range(3) for j in range(2)),
        "/a/b/d/a/zarr.json",
        "/a/b/d/zarr.json",
        "/a/b/zarr.json",
    ]


# What goes wrong


def test_a_damaged_array_is_corrupt_and_named(place: Place) -> None:
    place.store.save(IMAGE, "a")
    place.put("a/c/0/0", place.get("a/c/0/0")[:-9])
    with pytest.raises(CorruptDataError, match="'a'"):
        place.store.load("a")
    place.put("a/zarr.json", b'{"node_type": "array", "zarr_format": 3}')
    with pytest.raises(CorruptDataError, match="'a'"):
        place.store.load("a")
    assert place.store.stat("a")["type"] == "file"
    place.store.save(IMAGE, "a", overwrite=True)
    assert np.array_equal(place.store.load("a"), IMAGE)


def test_a_missing_bucket_is_named_and_not_made(place: Place) -> None:
    for store, path in (
        (ZarrBackend("s3://no-such-bucket/x", storage_options=place.options), "a"),
        (ZarrBackend(storage_options=place.options), "s3://no-such-bucket/a"),
    ):
        assert not store.exists(path)
        for use in (
            partial(store.load, path),
            partial(store.save, IMAGE, path, parents=True),
            partial(store.save, {}, f"{path}.json"),
            partial(store.ensure_directory, f"{path}/d"),
            partial(store.list_dir, path),
        ):
            with pytest.raises(PathNotFoundError, match=r"no-such-bucket.* does not exist"):
                use()
    assert not place.files.exists("no-such-bucket")


@pytest.fixture
def strict(place: Place, monkeypatch: pytest.MonkeyPatch) -> Place:
    """Give a place whose server now asks who one is, and knows nobody."""
    place.store.save(IMAGE, "a")
    monkeypatch.setattr(moto.settings, "INITIAL_NO_AUTH_ACTION_COUNT", 0)
    return place


def check_refused(store: ZarrBackend, url: str) -> None:
    """Assert that reading and writing fail with the URL and a cause, and not as "not found"."""
    for use in (
        partial(store.load, "a"),
        partial(store.exists, "a"),
        partial(store.list_dir, "/"),
        partial(store.stat, "a"),
    ):
        with pytest.raises(StorageError, match=url) as caught:
            use()
        assert not isinstance(caught.value, FileNotFoundError | StorageWriteError)
        assert caught.value.__cause__ is not None
        assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
    with pytest.raises(StorageError, match=url) as caught:
        store.save(IMAGE, "b")
    assert not isinstance(caught.value, FileNotFoundError)


def test_wrong_credentials_are_no_missing_path(strict: Place) -> None:
    check_refused(strict.backend(), strict.url)


def test_a_store_that_refuses_writes_only_says_so(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.store.save(IMAGE, "a")
    files = place.store._trees._root._objects._fs  # type: ignore[union-attr]

    async def refused(*arguments: Any, **options: Any) -> None:
        raise PermissionError("Access Denied")

    for operation in ("_pipe_file", "_cp_file", "_rm_file"):
        monkeypatch.setattr(files, operation, refused)
    for use in (
        partial(place.store.save, IMAGE, "b"),
        partial(place.store.save, IMAGE, "a", overwrite=True),
        partial(place.store.save, 0, "a", region=0),
        partial(place.store.delete, "a"),
        partial(place.store.ensure_directory, "d"),
        partial(place.store.copy, "a", "b"),
    ):
        with pytest.raises(StorageWriteError, match=f"{place.url}.*Access Denied"):
            use()
    assert np.array_equal(place.store.load("a"), IMAGE)


def test_a_server_that_is_gone_is_no_missing_path() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{free.getsockname()[1]}"
    options: dict[str, Any] = {
        **s3_server().options,
        "client_kwargs": {"endpoint_url": address, "region_name": "eu-west-1"},
        "config_kwargs": {"retries": {"max_attempts": 0}},
    }
    check_refused(ZarrBackend("s3://bucket/x", storage_options=options), "s3://bucket/x")


def test_a_save_that_fails_leaves_the_old_value_and_no_chunk(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.store.save(IMAGE, "a", **CHUNKS)
    before = place.keys()
    put = RemoteObjects.put

    async def failing(self: RemoteObjects, key: str, data: bytes) -> None:
        if key.endswith(("/2/0", "2.0")):
            raise StorageWriteError("the store is full")
        await put(self, key, data)

    monkeypatch.setattr(RemoteObjects, "put", failing)
    for path, overwrite in (("a", True), ("b", False)):
        with pytest.raises(StorageWriteError, match=f"full: '{path}'"):
            place.store.save(IMAGE + 1, path, overwrite=overwrite, **CHUNKS)
    assert place.keys() == before
    assert np.array_equal(place.store.load("a"), IMAGE)
    assert place.store.list_dir("/") == ["a"]


def test_what_cannot_be_taken_back_is_taken_over_by_the_next_save(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    put = RemoteObjects.put

    async def failing(self: RemoteObjects, key: str, data: bytes) -> None:
        if key.endswith("/2/0"):
            raise StorageWriteError("the store is full")
        await put(self, key, data)

    async def stuck(self: RemoteObjects, keys: Any) -> None:
        raise StorageWriteError("nothing can be deleted")

    with monkeypatch.context() as patched:
        patched.setattr(RemoteObjects, "put", failing)
        patched.setattr(RemoteObjects, "delete", stuck)
        with pytest.raises(StorageWriteError, match="full"):
            place.store.save(IMAGE, "a", **CHUNKS)
    assert place.get("a/c/0/0")
    assert not place.store.exists("a")
    assert place.store.list_dir("/") == []
    place.store.save(IMAGE[:100], "a", **CHUNKS)
    assert place.keys() == ["a/c/0/0", "a/c/0/1", "a/zarr.json", "zarr.json"]


def test_what_a_save_left_is_hidden_by_no_file(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A save that was cut off left chunks, and then a file is saved at the path."""
    token = b"left~.polystore-tmp~host~1~abc"
    for path, exists in (("new.npy", False), ("old.npy", True)):
        if exists:
            place.store.save(np.array(["a"]), path)
        place.put(f".polystore-tmp~{path}", token)
        place.put(f"{path}/c/0/0", b"chunk")
        assert place.store.exists(path) == exists
        place.store.save(np.array(["b"]), path, overwrite=True)
        assert place.store.load(path).tolist() == ["b"]
    assert place.store.list_files("/") == ["/new.npy", "/old.npy"]
    assert place.keys() == ["new.npy", "old.npy"]


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("arrives", [False, True])
def test_a_publication_whose_answer_is_lost_is_looked_for(
    place: Place, monkeypatch: pytest.MonkeyPatch, overwrite: bool, arrives: bool
) -> None:
    if overwrite:
        place.store.save(IMAGE, "a", **CHUNKS)
    put, create = RemoteObjects.put, RemoteObjects.create

    def losing(operation: Any) -> Any:
        async def lost(self: RemoteObjects, key: str, data: bytes) -> Any:
            if key != "a/zarr.json":
                return await operation(self, key, data)
            if arrives:
                await operation(self, key, data)
            raise StorageWriteError("the connection was lost")

        return lost

    with monkeypatch.context() as patched:
        patched.setattr(RemoteObjects, "put", losing(put))
        patched.setattr(RemoteObjects, "create", losing(create))
        if arrives:
            place.store.save(IMAGE + 1, "a", overwrite=overwrite, **CHUNKS)
        else:
            with pytest.raises(StorageWriteError, match="lost"):
                place.store.save(IMAGE + 1, "a", overwrite=overwrite, **CHUNKS)
    if arrives or overwrite:
        assert np.array_equal(place.store.load("a"), IMAGE + 1 if arrives else IMAGE)
        assert len(place.keys("a")) == 7
    else:
        assert place.keys() == ["zarr.json"]


def test_a_batch_that_fails_names_what_was_written(place: Place) -> None:
    seen: list[tuple[int, int]] = []
    values: list[Any] = [IMAGE] * 4
    place.store.save_batch(values, list("abcd"), progress=lambda *at: seen.append(at))
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]
    values[2] = threading.Lock()
    with pytest.raises(UnsupportedFormatError) as caught:
        place.store.save_batch(values, list("efgh"))
    assert set(caught.value.written) == set(place.store.list_dir("/")) - set("abcd")
    assert "paths were written" in caught.value.__notes__[0]
    with pytest.raises(PathExistsError):
        place.store.save_batch([IMAGE] * 2, ["z", "a"])
    assert not place.store.exists("z")


def test_a_process_that_was_forked_opens_connections_of_its_own(place: Place) -> None:
    place.store.save(np.arange(3), "a")
    code = (
        "import os, warnings; warnings.simplefilter('ignore')\n"
        "from polystore import ZarrBackend\n"
        f"store = ZarrBackend({place.url!r}, storage_options={place.options!r})\n"
        "assert store.exists('a')\n"
        "child = os.fork()\n"
        "if not child:\n"
        "    os._exit(not store.stat('a')['exists'])\n"
        "assert os.waitpid(child, 0)[1] == 0 and store.exists('a')\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
