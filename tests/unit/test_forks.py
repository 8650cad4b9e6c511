"""Children that are forked, and the locks and stores that they inherit."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

from polystore import BackendRegistry, FileManager, MemoryBackend, StorageBackend
from polystore.disk import DiskBackend
from polystore.exceptions import UnsupportedOperationError
from polystore_ray import RayBackendRegistry
from polystore_ray.wire import classes as shipping
from polystore_ray.zarr import ClusterStore

METHODS = ["fork", "spawn", "forkserver"]


def in_a_fork(call: Callable[[], Any]) -> str:
    """Return what a call returns or raises in a forked child; "" if it hangs."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        threading.Timer(20, os._exit, (1,)).start()
        try:
            answer = repr(call())
        except Exception as error:  # noqa: BLE001 - it is what is asked for
            answer = f"{type(error).__name__}: {error}"
        os.write(writing, answer.encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as answers:
        answer = answers.read()
    os.waitpid(child, 0)
    return answer


@contextmanager
def in_threads(work: Callable[[], Any]) -> Iterator[None]:
    """Do some work again and again in four threads."""
    done = threading.Event()

    def go_on() -> None:
        while not done.is_set():
            work()

    threads = [threading.Thread(target=go_on) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        done.set()
        for thread in threads:
            thread.join()


def test_a_child_forked_while_threads_save_has_the_memory_whole() -> None:
    memory = MemoryBackend()
    memory.save(np.zeros(3), "/a")

    def use() -> Any:
        memory.save(1, "/child")
        return memory.load("/child"), memory.load("/a").sum()

    until = time.monotonic() + 40  # a fork of a process with much memory takes seconds
    with in_threads(lambda: memory.save(np.zeros(1000), "/b", overwrite=True)):
        answers = {in_a_fork(use)}
        for _ in range(60):
            if time.monotonic() < until:
                answers.add(in_a_fork(use))
    assert answers == {"(1, np.float64(0.0))"}
    assert not memory.exists("/child")


def test_a_child_forked_while_a_backend_is_made_can_make_it_too() -> None:
    making, go_on = threading.Event(), threading.Event()

    class Slow(StorageBackend):
        _backend_type = "forked_slow"

        def __init__(self) -> None:
            if threading.current_thread() is maker:
                making.set()
                go_on.wait(30)

        def load(self, path: Any) -> Any: ...
        def save(self, data: Any, path: Any) -> None: ...
        def is_file(self, path: Any) -> bool:
            return True

        def is_dir(self, path: Any) -> bool:
            return False

        def list_dir(self, path: Any) -> list[str]:
            return []

    registry = BackendRegistry.isolated()
    maker = threading.Thread(target=lambda: registry["forked_slow"])
    maker.start()
    assert making.wait(10)
    answer = in_a_fork(lambda: registry["forked_slow"].exists("/a"))
    go_on.set()
    maker.join()
    assert answer == "True"


def test_a_child_forked_while_a_class_is_pickled_can_pickle_one_too() -> None:
    holding, go_on = threading.Event(), threading.Event()

    def pickle_for_long() -> None:
        with shipping._sending:
            holding.set()
            go_on.wait(30)

    sender = threading.Thread(target=pickle_for_long)
    sender.start()
    assert holding.wait(10)
    answer = in_a_fork(lambda: len(shipping.class_to_bytes(DiskBackend)) > 0)
    go_on.set()
    sender.join()
    assert answer == "True"


def test_a_forked_child_of_a_local_store_is_refused_and_not_given_a_copy() -> None:
    registry = RayBackendRegistry("forked", local=True)
    memory = registry["memory"]
    memory.save(1, "/a")
    unused = RayBackendRegistry("forked-unused", local=True)
    uses: list[Callable[[], Any]] = [
        lambda: memory.save(2, "/b"),
        lambda: memory.exists("/a"),
        lambda: registry["disk"].exists("/tmp"),
        lambda: registry.status(),
        lambda: list(registry),
        lambda: RayBackendRegistry("forked", local=True)["memory"].save(2, "/b"),
        lambda: unused["memory"].save(2, "/b"),
        lambda: pickle.loads(pickle.dumps(registry))["memory"].save(2, "/b"),
    ]
    for use in uses:
        assert "UnsupportedOperationError: a local registry" in in_a_fork(use)
    # A store of the child's own is no copy.
    own = in_a_fork(lambda: RayBackendRegistry("own", local=True)["memory"].exists("/a"))
    assert own == "False"
    registry.shutdown()


def first(array: Any) -> Any:
    return array[0]


@pytest.mark.parametrize("method", METHODS)
def test_a_pool_that_is_handed_a_local_store_raises_and_does_not_hang(method: str) -> None:
    import zarr

    registry = RayBackendRegistry("pooled", local=True)
    array = zarr.create_array(ClusterStore(f"/{method}", registry), data=np.arange(4))
    context = multiprocessing.get_context(method)
    with context.Pool(1) as pool, pytest.raises(UnsupportedOperationError, match="one process"):
        pool.apply_async(first, (array,)).get(60)
    with (
        ProcessPoolExecutor(1, mp_context=context) as processes,
        pytest.raises(UnsupportedOperationError, match="one process"),
    ):
        processes.submit(first, array).result(60)
    registry.shutdown()


def test_a_file_manager_pickles_where_its_backends_mean_the_same(tmp_path: Any) -> None:
    there = pickle.loads(pickle.dumps(FileManager({"disk": DiskBackend(tmp_path)})))
    there.save([1, 2], "/a.json", backend="disk")
    assert (tmp_path / "a.json").exists()
    for registry in ({"memory": MemoryBackend()}, BackendRegistry(), BackendRegistry.isolated()):
        with pytest.raises(UnsupportedOperationError, match="RayBackendRegistry"):
            pickle.dumps(FileManager(registry))
