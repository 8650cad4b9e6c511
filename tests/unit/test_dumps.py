"""Dumps: everything comes back, of one moment; nothing damaged or half is taken for whole."""

from __future__ import annotations

import dataclasses
import datetime as dt
import hashlib
import json
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from s3_server import s3_server

from polystore.exceptions import (
    CorruptDataError,
    PathExistsError,
    PathNotFoundError,
    StorageFullError,
)
from polystore_ray import RayBackendRegistry
from polystore_ray.dumps import Manifest, dump, dumping, restore, restoring, verify
from polystore_ray.dumps.files import files_at
from polystore_ray.wire.messages import Loss


@pytest.fixture
def store(request: pytest.FixtureRequest) -> Iterator[Callable[..., RayBackendRegistry]]:
    made: list[RayBackendRegistry] = []

    def make(name: str, **options: Any) -> RayBackendRegistry:
        made.append(RayBackendRegistry(f"{name}-of-dumps", local=True, **options))
        return made[-1]

    yield make
    for registry in made:
        registry.shutdown()


class OfAUser:
    """A value that only its own code opens."""

    opened = 0

    def __init__(self, rows: list[int]) -> None:
        self.rows = rows

    def __setstate__(self, state: dict[str, Any]) -> None:
        OfAUser.opened += 1
        self.__dict__.update(state)


VALUES: dict[str, Any] = {
    "/plate/A01": np.arange(50_000).reshape(5, 10, 1000),
    "/plate/fortran": np.asfortranarray(np.arange(60_000.0).reshape(200, 300)),
    "/plate/dates": np.arange(20_000).astype("M8[s]"),
    "/plate/records": np.zeros(9_000, [("x", "f8"), ("n", "U3")]),
    "/plate/objects": np.array([{"a": 1}, None], object),
    "/small": "text",
    "/none": None,
    "/bytes": b"\x00" * 70_000,
    "/nested": {"a": [1, 2.5, (3,)], "b": dt.datetime(2020, 1, 2, tzinfo=dt.UTC)},
    "/nested-arrays": {"a": [np.arange(30_000), np.ones((3, 4), "c8")]},
    "/empty": np.zeros((0, 3)),
    "/odd \udc80\n/ü": 1,
}


def fill(registry: RayBackendRegistry) -> None:
    memory = registry["memory"]
    for path, value in VALUES.items():
        memory.save(value, path, parents=True)
    memory.save("again", "/small", overwrite=True)
    memory.save("fallen back", "/with-fallback", fallback=("disk", "/somewhere.txt"))
    memory.save(OfAUser([1] * 90_000), "/user")
    memory.save_batch(
        [np.full(1000, i) for i in range(300)], [f"/p/{i}" for i in range(300)], parents=True
    )
    memory.save_batch(
        [f"s{i}" for i in range(5000)], [f"/s/{i}" for i in range(5000)], parents=True
    )
    memory.delete("/p/7")
    memory.ensure_directory("/left/empty")
    memory.copy("/plate", "/copied")
    memory.copy("/small", "/small-copy")
    memory.create_symlink("/plate", "/to-plate")
    memory.create_symlink("/none", "/left/dangling")
    memory.delete("/none")


def content(registry: RayBackendRegistry) -> dict[str, Any]:
    """Return all that a store says about every path, but no values."""
    memory = registry["memory"]
    found: dict[str, Any] = {}
    waiting = ["/"]
    while waiting:
        path = waiting.pop()
        found[path] = memory.stat(path)
        if found[path]["type"] == "directory":
            waiting += [f"{path.rstrip('/')}/{name}" for name in memory.list_dir(path)]
        elif found[path]["type"] == "file":
            found[path]["why"] = memory.why(path)
    return found


def test_everything_comes_back_as_it_was(store: Any, tmp_path: Path) -> None:
    old, new = store("old"), store("new")
    fill(old)
    before = content(old)
    OfAUser.opened = 0
    manifest = dump(old, tmp_path / "dump")
    assert content(old) == before
    assert verify(tmp_path / "dump") == manifest
    assert (manifest.values, manifest.lost) == (old.status().files, 0)
    old.shutdown()
    assert restore(new, tmp_path / "dump") == manifest
    assert content(new) == before
    assert OfAUser.opened == 0
    memory = new["memory"]
    for path, value in VALUES.items():
        if path == "/small":
            value = "again"
        if path == "/none":
            assert not memory.exists(path)
            continue
        found = memory.load(path)
        assert type(found) is type(value)
        np.testing.assert_equal(found, value)
        if isinstance(value, np.ndarray):
            assert (found.dtype, found.flags.f_contiguous) == (
                value.dtype,
                value.flags.f_contiguous,
            )
            assert not found.flags.writeable
    assert memory.load("/user").rows == [1] * 90_000
    assert memory.load_batch([f"/s/{i}" for i in range(5000)]) == [f"s{i}" for i in range(5000)]
    assert [array[0] for array in memory.load_batch([f"/p/{i}" for i in (0, 8, 299)])] == [
        0,
        8,
        299,
    ]
    assert not memory.exists("/left/dangling")
    assert memory.stat("/left/dangling")["target"] == "/none"
    status = new.status()
    memory.delete_all("/copied")
    assert new.status().bytes == status.bytes  # the copies share the bytes, as before
    newest = max(facts.get("version", 0) for facts in before.values())
    memory.save(1, "/later")
    assert memory.stat("/later")["version"] > newest


def test_a_dump_is_of_one_moment_while_others_write(store: Any, tmp_path: Path) -> None:
    """A writer keeps two paths equal in each batch; every dump sees them equal."""
    registry = store("busy")
    memory = registry["memory"]
    memory.save_batch([0, np.zeros(20_000)], ["/a", "/b"])
    stop = threading.Event()

    def write() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            memory.save_batch([number, np.full(20_000, number)], ["/a", "/b"], overwrite=True)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for round_ in range(5):
            dump(registry, tmp_path / f"{round_}")
    finally:
        stop.set()
        writer.join()
    assert memory.list_dir("/") == ["a", "b"]
    for round_ in range(5):
        other = store(f"other-{round_}")
        restore(other, tmp_path / f"{round_}")
        number, array = other["memory"].load_batch(["/a", "/b"])
        assert (array == number).all()


def test_an_interrupted_dump_is_no_dump(
    store: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = store("cut-short")
    fill(registry)
    whole = dumping.write_objects

    def interrupted(*arguments: Any) -> Any:
        whole(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(dumping, "write_objects", interrupted)
    with pytest.raises(KeyboardInterrupt):
        dump(registry, tmp_path / "dump")
    assert "INCOMPLETE" in {path.name for path in (tmp_path / "dump").iterdir()}
    for use in (verify, lambda where: restore(store("never"), where)):
        with pytest.raises(PathNotFoundError, match="was interrupted"):
            use(tmp_path / "dump")
    assert not any(".polystore" in name for name in registry["memory"].list_dir("/"))
    monkeypatch.undo()
    with pytest.raises(PathExistsError, match="not empty"):
        dump(registry, tmp_path / "dump")
    with pytest.raises(PathNotFoundError, match="there is no dump"):
        verify(tmp_path / "nothing")


@pytest.fixture
def dumped(store: Any, tmp_path: Path) -> Path:
    registry = store("dumped")
    registry["memory"].save(np.arange(50_000), "/a")
    registry["memory"].save("small", "/b")
    registry["memory"].create_symlink("/a", "/link")
    dump(registry, tmp_path / "dump")
    return tmp_path / "dump"


def test_damage_of_any_file_is_found_and_nothing_is_restored(store: Any, dumped: Path) -> None:
    registry = store("spared")
    files = sorted(path.name for path in dumped.iterdir())
    assert files == [
        "00000.entries.jsonl",
        "00001.entries.jsonl",
        "00001.objects",
        "manifest.json",
        "tree.jsonl",
    ]
    for name in files:
        for damage in ("flipped", "cut", "gone"):
            copy = dumped.with_name(f"{name}-{damage}")
            shutil.copytree(dumped, copy)
            data = bytearray((copy / name).read_bytes())
            data[len(data) // 2] ^= 1
            (copy / name).write_bytes(data if damage == "flipped" else data[: len(data) // 2])
            if damage == "gone":
                (copy / name).unlink()
            for use in (verify, lambda where: restore(registry, where)):
                with pytest.raises((CorruptDataError, PathNotFoundError)) as caught:
                    use(copy)
                assert str(copy) in str(caught.value)
            assert registry["memory"].list_dir("/") == []
    restore(registry, dumped)
    with pytest.raises(PathExistsError, match="needs an empty store"):
        restore(registry, dumped)


def test_a_restore_that_fails_leaves_nothing(
    store: Any, dumped: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tight = store("tight", max_bytes=1000)
    with pytest.raises(StorageFullError):
        restore(tight, dumped)
    assert tight["memory"].list_dir("/") == []
    assert tight.status().files == 0

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(restoring, "_graft", interrupted)
    registry = store("interrupted")
    with pytest.raises(KeyboardInterrupt):
        restore(registry, dumped)
    assert registry["memory"].list_dir("/") == []


@pytest.mark.parametrize(
    "row",
    [
        {"path": "/../x"},
        {"path": "a"},
        {"path": "/"},
        {"path": "/a/../../b"},
        {"path": 1},
        {"size": -1},
        {"size": None},
        {"shape": "ab"},
        {"shape": [-1]},
        {"dtype": 5},
        {"version": "x"},
        {"modified": []},
        {"modified": 10**400},
        {"replicas": -3},
        {"replicas": "2"},
        {"fallback": 3},
        {"value": "no base64"},
        {"value": 3},
        {"object": "unknown", "number": -1},
    ],
    ids=str,
)
def test_a_forged_row_is_damage(store: Any, dumped: Path, row: dict[str, Any]) -> None:
    entries = dumped / "00000.entries.jsonl"
    forged = json.loads(entries.read_text()) | row
    if "object" in row:
        del forged["value"]
    entries.write_text(json.dumps(forged) + "\n")
    certify(dumped)
    registry = store("forged")
    with pytest.raises(CorruptDataError, match=r"00000\.entries"):
        restore(registry, dumped)
    assert registry["memory"].list_dir("/") == []


def certify(directory: Path) -> None:
    """Give a changed dump a manifest with right checksums."""
    files = files_at(directory)
    manifest = Manifest.read(files)
    now = tuple(files.describe(file.name) for file in manifest.files)
    dataclasses.replace(manifest, files=now).write(files)


@pytest.mark.parametrize(
    "change",
    [
        {"values": "1"},
        {"moment": None},
        {"options": []},
        {"files": []},
        {"store": 3},
        {"lost_objects": 5},
        {"files": [{"name": "../tree.jsonl", "size": 1, "sha256": ""}]},
        {"more": 1},
    ],
    ids=str,
)
def test_a_forged_manifest_is_damage(dumped: Path, change: dict[str, Any]) -> None:
    path = dumped / "manifest.json"
    facts = json.loads(path.read_text()) | change
    del facts["sha256"]
    checksum = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
    path.write_text(json.dumps(facts | {"sha256": checksum}))
    with pytest.raises(CorruptDataError, match=r"manifest\.json"):
        verify(dumped)


def test_what_is_lost_is_counted_and_left_out(store: Any, tmp_path: Path) -> None:
    registry = store("with-losses")
    memory = registry["memory"]
    memory.save(np.arange(50_000), "/gone")
    memory.copy("/gone", "/gone-too")
    pack = [f"/pack/{i}" for i in range(100)]
    memory.save_batch([np.zeros(1000) for _ in pack], pack, parents=True)
    for number in range(5):
        memory.save(f"small {number}", f"/pack/kept/{number}", parents=True)
    transport = registry._connect()
    lost = [pin.id for pin in transport.ask("read", ["/gone", *pack]).pins]
    transport._controller.note("volume_lost", "local")
    transport._controller.note("lost", lost, Loss("n", "host", 1.0, "why"))
    seen: list[tuple[int, int]] = []
    manifest = dump(registry, tmp_path / "dump", progress=lambda *now: seen.append(now))
    assert (manifest.values, manifest.lost) == (5, 102)
    assert seen[-1] == (107, 107)
    other = store("without-losses")
    restore(other, tmp_path / "dump", progress=lambda *now: seen.append(now))
    assert seen[-1] == (107, 107)
    kept = [f"/pack/kept/{number}" for number in range(5)]
    assert other["memory"].list_files("/", recursive=True) == kept
    assert other["memory"].load_batch(kept) == [f"small {number}" for number in range(5)]


def test_what_is_lost_during_the_dump_is_left_out(
    store: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = store("losing")
    memory = registry["memory"]
    memory.save(np.arange(50_000), "/gone")
    memory.copy("/gone", "/gone-too")
    memory.save(np.arange(60_000), "/kept")
    transport = registry._connect()
    [gone] = transport.ask("read", ["/gone"]).pins
    whole = dumping.write_objects

    def after_a_loss(*arguments: Any) -> Any:
        transport._controller.state.copies.objects[gone.id].copies.clear()
        transport._controller.note("lost", [gone.id], Loss("n", "host", 1.0, "why"))
        return whole(*arguments)

    monkeypatch.setattr(dumping, "write_objects", after_a_loss)
    manifest = dump(registry, tmp_path / "dump")
    assert (manifest.values, manifest.lost) == (1, 2)
    other = store("not-losing")
    restore(other, tmp_path / "dump")
    assert other["memory"].list_dir("/") == ["kept"]
    assert other["memory"].load("/kept").sum() == np.arange(60_000).sum()


def test_what_is_evicted_during_the_dump_is_left_out(
    store: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = store("evicting-meanwhile", max_bytes=4_000_000, eviction="lru")
    memory = registry["memory"]
    paths = [f"/{number}" for number in range(4)]
    memory.save_batch(list(range(4)), paths, evictable=True)
    arrays = [np.full(80_000, number, np.uint8) for number in range(4)]
    memory.save_batch(arrays, [f"/p{n}" for n in range(4)], evictable=True, bundled=100_000)
    memory.pin("/p3")
    memory.save(np.zeros(200_000, np.uint8), "/whole", evictable=True)
    memory.copy("/p1", "/same")
    whole = dumping.write_objects

    def after_an_eviction(*arguments: Any) -> Any:
        memory.save(np.zeros(3_900_000, np.uint8), "/large", overwrite=True)
        return whole(*arguments)

    monkeypatch.setattr(dumping, "write_objects", after_an_eviction)
    manifest = dump(registry, tmp_path / "dump")
    assert (manifest.values, manifest.lost) == (5, 5)
    assert verify(tmp_path / "dump") == manifest
    other = store("not-evicting")
    restore(other, tmp_path / "dump")
    assert other["memory"].list_files("/") == [*paths, "/p3"]
    assert [*other["memory"].load_batch(paths), other["memory"].load("/p3")[0]] == [0, 1, 2, 3, 3]


def test_parts_are_split_and_put_together(
    store: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dumping, "_PART_BYTES", 1)
    monkeypatch.setattr(dumping, "_PAGE", 7)
    monkeypatch.setattr(restoring, "_PAGE", 3)
    registry = store("in-parts")
    fill(registry)
    before = content(registry)
    manifest = dump(registry, tmp_path / "dump")
    assert len(manifest.parts()) > 5
    other = store("of-parts")
    restore(other, tmp_path / "dump")
    assert content(other) == before


def test_a_dump_lies_at_a_url_too(store: Any) -> None:
    registry = store("to-a-url")
    registry["memory"].save(np.arange(50_000), "/a")
    registry["memory"].save("b", "/b")
    manifest = dump(registry, "memory://bucket/dumps/one")
    assert verify("memory://bucket/dumps/one") == manifest
    other = store("from-a-url")
    restore(other, "memory://bucket/dumps/one")
    assert other["memory"].load("/a").sum() == np.arange(50_000).sum()
    with pytest.raises(PathExistsError):
        dump(registry, "memory://bucket/dumps/one")


def test_a_dump_lies_in_an_object_store_too(store: Any) -> None:
    registry, server = store("to-s3"), s3_server()
    registry["memory"].save(np.arange(50_000), "/a")
    registry["memory"].save("b", "/b")
    where = server.place()
    options: dict[str, Any] = {"storage_options": server.options}
    with pytest.raises(PathNotFoundError, match="there is no dump"):
        verify(where, **options)
    manifest = dump(registry, where, **options)
    assert server.keys(where) == sorted([file.name for file in manifest.files] + ["manifest.json"])
    other = store("from-s3")
    restore(other, where, **options)
    assert other["memory"].load("/a").sum() == np.arange(50_000).sum()
    server.files.pipe_file(f"{where}/tree.jsonl", b"damage")
    with pytest.raises(CorruptDataError, match=f"{where}/tree.jsonl"):
        verify(where, **options)


def test_dumps_of_the_first_format_are_read_by_every_later_version(store: Any) -> None:
    where = Path(__file__).with_name("dump_of_format_1")
    manifest = verify(where)
    assert (manifest.store, manifest.values, manifest.options) == ("kept", 15, {"replicas": 2})
    registry = store("of-another-version")
    restore(registry, where)
    memory = registry["memory"]
    assert memory.list_dir("/") == ["copied", "empty", "link", "pack", "plate", "small"]
    image = memory.load("/copied/A01")
    assert (image.shape, image.dtype, int(image[9, 9])) == ((100, 100), np.dtype("i2"), 7)
    assert memory.load("/plate/zeros").nbytes == 70_000
    assert [array[0] for array in memory.load_batch([f"/pack/{i}" for i in range(10)])] == list(
        range(10)
    )
    assert memory.load("/link") == "text"
    assert memory.why("/small")["fallback"] == ("disk", "/data/small.txt")
    assert memory.why("/plate/A01")["version"] == 1


def test_a_dump_of_a_later_format_is_refused(store: Any, dumped: Path) -> None:
    text = (dumped / "manifest.json").read_text()
    (dumped / "manifest.json").write_text(text.replace('"version": 1', '"version": 2', 1))
    with pytest.raises(CorruptDataError, match="this version of polystore can read"):
        verify(dumped)
