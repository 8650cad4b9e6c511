"""Several writers of one path in a store, readers beside them, and writers that are killed."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import pytest
from s3_server import s3_server

from polystore import (
    FileLockTimeoutError,
    PathExistsError,
    PathNotFoundError,
    StorageError,
    StorageResolutionError,
    ZarrBackend,
)
from polystore.filesystem.temporaries import temporary_name
from polystore.zarr.object_store.client import RemoteObjects
from polystore.zarr.object_store.lock_objects import lock_key, lock_object
from polystore.zarr.object_store.urls import Url

SHAPE = (40, 30)
CHUNKS: dict[str, Any] = {"chunks": (10, 10)}


@pytest.fixture
def place() -> str:
    return s3_server().place()


@pytest.fixture
def store(place: str) -> ZarrBackend:
    return ZarrBackend(place, storage_options=s3_server().options)


@pytest.fixture
def objects(place: str) -> RemoteObjects:
    return RemoteObjects(Url("s3://bucket", place.removeprefix("s3://bucket")), s3_server().options)


def image(number: int) -> np.ndarray[Any, Any]:
    return np.full(SHAPE, number, np.uint8)


@contextmanager
def processes(place: str, codes: list[str]) -> Iterator[subprocess.Popen[str]]:
    """Run codes that find a store, and ``image``, in processes of their own.

    One imports what they need and then is forked; it prints how each of them ended, or what it
    printed itself.
    """
    program = (
        "import os, signal, sys, numpy as np, polystore.zarr.object_store.tree\n"
        "from polystore import *\n"
        "from polystore.zarr.object_store.client import RemoteObjects\n"
        f"def image(number): return np.full({SHAPE!r}, number, np.uint8)\n"
        "def run(code):\n"
        f"    store = ZarrBackend({place!r}, storage_options={s3_server().options!r})\n"
        "    exec(code, globals() | {'store': store})\n"
        "    os._exit(0)\n"
        "children = []\n"
        f"for code in {codes!r}:\n"
        "    child = os.fork()\n"
        "    children.append(child) if child else run(code)\n"
        "ended = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]\n"
        "print('ended', *ended)\n"
    )
    running = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    try:
        yield running
    finally:
        running.kill()
        running.wait()


def ends(place: str, codes: list[str]) -> str:
    """Return how processes ended that ran these codes."""
    with processes(place, codes) as running:
        return running.communicate(timeout=60)[0]


def dead_process() -> str:
    """Return the number of a process that has ended."""
    return subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpid())"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()


def test_of_processes_that_save_one_path_one_wins(place: str, store: ZarrBackend) -> None:
    code = (
        "for name in ('a', 'b', 'c.json'):\n"
        "    value = {{'by': {0}}} if name == 'c.json' else image({0})\n"
        "    try: store.save(value, name)\n"
        "    except PathExistsError: continue\n"
        "    print(name, {0}, flush=True)\n"
        "for turn in range(3):\n"
        "    store.save(image({0} + turn), 'shared', overwrite=True, chunks=(20, 30))\n"
    )
    seen: set[int] = set()
    with processes(place, [code.format(number) for number in (10, 20, 30)]) as running:
        while running.poll() is None:
            try:
                loaded = store.load("shared")
            except PathNotFoundError:
                time.sleep(0.1)
                continue
            assert (loaded == loaded[0, 0]).all(), "a mixture"
            seen.add(int(loaded[0, 0]))
        *lines, ended = running.communicate()[0].splitlines()
    assert ended == "ended 0 0 0"
    assert len(seen) > 2
    won = dict(line.split() for line in lines)
    assert len(lines) == len(won) == 3
    assert (store.load("a") == int(won["a"])).all()
    assert (store.load("b") == int(won["b"])).all()
    assert store.load("c.json") == {"by": int(won["c.json"])}
    keys = s3_server().keys(place)
    assert not [key for key in keys if "polystore-tmp" in key]
    assert len([key for key in keys if key.startswith("shared/")]) == 3


KILLED = """
import zarr
zarr.config.set({'async.concurrency': 1})
put = RemoteObjects.put
async def killing(self, key, data):
    if len(killing.puts) == 5:
        os.kill(os.getpid(), signal.SIGKILL)
    killing.puts.append(key)
    await put(self, key, data)
killing.puts = []
RemoteObjects.put = killing
store.save(image(2), 'PATH', overwrite=True, parents=True, chunks=(10, 10))
"""


def test_a_killed_save_leaves_the_old_value_and_stops_nobody(
    place: str, store: ZarrBackend
) -> None:
    store.save(image(1), "old/a", parents=True, **CHUNKS)
    store.save(image(1), "kept", **CHUNKS)
    paths = ("old/a", "new/a", "group/a", "left/a")
    killed = ends(place, [KILLED.replace("PATH", path) for path in paths])
    assert killed == "ended" + f" -{int(signal.SIGKILL)}" * 4 + "\n"
    left = s3_server().keys(place)
    for path in paths:
        assert f"{path[:-2]}/.polystore-tmp~a" in left
    assert len([key for key in left if key.startswith("old/a/")]) == 12 + 1 + 5
    assert len([key for key in left if key.startswith("new/a/")]) == 5
    assert (store.load("old/a") == 1).all()
    assert store.list_files("/", recursive=True) == ["/kept", "/old/a"]
    assert [store.list_dir(path[:-2]) for path in paths] == [["a"], [], [], []]
    assert not store.exists("new/a")
    assert not store.exists("new/a/c")

    # The next one to save, to make a directory there, or to delete it clears up, at once. A chunk
    # that was left would show through, where there are only fill values.
    begun = time.monotonic()
    store.save(np.zeros(SHAPE, np.uint8), "old/a", overwrite=True, **CHUNKS)
    store.save(np.zeros(SHAPE, np.uint8), "new/a", **CHUNKS)
    assert store.ensure_directory("group/a") == "/group/a"
    store.delete("left")
    assert time.monotonic() - begun < 10
    assert not store.load("old/a").any()
    assert not store.load("new/a").any()
    assert store.list_dir("group/a") == []
    assert [key for key in s3_server().keys(place) if not key.startswith("kept/")] == [
        "group/a/zarr.json",
        "group/zarr.json",
        "new/a/zarr.json",
        "new/zarr.json",
        "old/a/zarr.json",
        "old/zarr.json",
        "zarr.json",
    ]


def test_a_reader_is_never_given_chunks_of_two_arrays(
    place: str, store: ZarrBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While a load is at its first chunk, the array is replaced twice: names come round again."""
    store.save(image(1), "a", **CHUNKS)
    other = ZarrBackend(place, storage_options=s3_server().options)
    get = RemoteObjects.get
    replaced: list[int] = []

    async def slow(self: RemoteObjects, key: str, *limits: Any) -> bytes | None:
        if key == "a/c/1/1" and not replaced:
            replaced.append(2)
            # From a thread, since this one is the event loop's.
            thread = threading.Thread(target=replace)
            thread.start()
            while thread.is_alive():
                await wait_a_little()
        return await get(self, key, *limits)

    async def wait_a_little() -> None:
        import asyncio

        await asyncio.sleep(0.01)

    def replace() -> None:
        for number in (2, 3):
            other.save(image(number), "a", overwrite=True, **CHUNKS)

    monkeypatch.setattr(RemoteObjects, "get", slow)
    assert (store.load("a") == 3).all()
    assert replaced


def test_a_writer_waits_for_another_and_not_for_ever(
    store: ZarrBackend, objects: RemoteObjects
) -> None:
    store.save(image(1), "a")
    with lock_object(objects, "a"):
        waiting = threading.Thread(target=store.delete, args=("a",))
        waiting.start()
        with (
            pytest.raises(FileLockTimeoutError, match=lock_key("a")),
            lock_object(objects, "a", 0.2),
        ):
            pass
        store.save(image(2), "b")
        assert store.exists("a")
    waiting.join()
    assert not store.exists("a")


@pytest.mark.parametrize("left", ["by the dead", "by a save that could not clear up"])
def test_of_those_that_take_a_claim_over_one_holds_it(objects: RemoteObjects, left: str) -> None:
    token = temporary_name().split("~")
    token[2] = dead_process()
    holder = "~".join(token) if left == "by the dead" else "left~" + "~".join(token)
    objects.wait(objects.put(lock_key("a"), holder.encode()))
    holding: list[int] = []
    most: list[int] = []
    start = threading.Barrier(6)

    def hold(number: int) -> None:
        start.wait()
        with lock_object(objects, "a"):
            holding.append(number)
            most.append(len(holding))
            time.sleep(0.02)
            holding.remove(number)

    threads = [threading.Thread(target=hold, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1] * 6
    assert objects.wait(objects.below("")) == {}


def test_a_claim_of_another_machine_is_left_after_a_day(
    objects: RemoteObjects, monkeypatch: pytest.MonkeyPatch
) -> None:
    objects.wait(objects.put(lock_key("a"), b".polystore-tmp~another-host~1~abc"))
    with pytest.raises(FileLockTimeoutError), lock_object(objects, "a", 0.1):
        pass
    monkeypatch.setattr(RemoteObjects, "modified", lambda *_: time.time() - 25 * 3600)
    with lock_object(objects, "a", 0.1):
        pass
    assert objects.wait(objects.below("")) == {}


def test_a_directory_waits_with_its_end_for_those_that_save_in_it(
    place: str, store: ZarrBackend, objects: RemoteObjects
) -> None:
    store.ensure_directory("d")
    outcome: list[str] = []

    def delete() -> None:
        try:
            store.delete("d")
        except IsADirectoryError:
            outcome.append("not empty")

    with lock_object(objects, "d/a"):
        deleting = threading.Thread(target=delete)
        deleting.start()
        deleting.join(0.3)
        assert deleting.is_alive()
        objects.wait(objects.put("d/a/zarr.json", b'{"node_type": "array"}'))
    deleting.join()
    assert outcome == ["not empty"]


def test_two_that_copy_to_one_path_do_not_mix(store: ZarrBackend) -> None:
    for number in range(3):
        store.save(image(number), f"{number}", **CHUNKS)
    start = threading.Barrier(3)
    won: list[int] = []

    def copy(number: int) -> None:
        start.wait()
        try:
            store.copy(f"{number}", "copy")
        except PathExistsError:
            return
        won.append(number)

    threads = [threading.Thread(target=copy, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    [winner] = won
    assert (store.load("copy") == winner).all()


def test_savers_of_several_kinds_at_one_path_do_not_both_win(store: ZarrBackend) -> None:
    for turn in range(2):
        path = f"{turn}.npy"
        start = threading.Barrier(3)
        won: list[str] = []

        def attempt(kind: str, operation: Any, start: Any = start, won: Any = won) -> None:
            start.wait()
            try:
                operation()
            except PathExistsError:
                return
            won.append(kind)

        operations = {
            "array": lambda path=path: store.save(image(1), path),
            "file": lambda path=path: store.save(np.array(["a"]), path),
            "directory": lambda path=path: store.ensure_directory(path),
        }
        threads = [threading.Thread(target=attempt, args=pair) for pair in operations.items()]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        facts = store.stat(path)
        found = "directory" if facts["type"] == "directory" else "file"
        if found == "file" and "shape" in facts:
            found = "array"
        assert won == [found]
        assert store.list_files("/", f"{turn}*") == [f"/{path}"] * (found != "directory")


def test_whatever_many_do_at_once_no_array_is_a_mixture() -> None:
    place = f"memory://{uuid.uuid4().hex}"
    paths = ["a", "d", "d/b", "e"]
    end = time.monotonic() + 3
    wrong: list[Any] = []
    loaded: list[int] = []

    def work(seed: int) -> None:
        choose = random.Random(seed)
        store = ZarrBackend(place)
        while time.monotonic() < end or (len(loaded) <= 10 and time.monotonic() < end + 60):
            path, other = choose.choice(paths), choose.choice(paths)
            value = image(choose.randrange(1, 200))
            operations: list[Any] = [
                partial(store.save, value, path, parents=True, **CHUNKS),
                partial(store.save, value, path, overwrite=True, **CHUNKS),
                partial(store.ensure_directory, path),
                partial(store.delete, path),
                partial(store.delete_all, path),
                partial(store.copy, path, other),
                partial(store.move, path, other),
                partial(store.list_files, "/", recursive=True),
                partial(store.load, path),
                partial(store.load, path),
            ]
            try:
                found = choose.choice(operations)()
            except StorageResolutionError:
                continue
            except StorageError as error:
                wrong.append(error)
                continue
            if isinstance(found, np.ndarray):
                loaded.append(int(found[0, 0]))
                if not found.all() or (found != found[0, 0]).any():
                    wrong.append((path, found))

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert len(loaded) > 10
