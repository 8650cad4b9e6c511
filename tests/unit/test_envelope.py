"""Messages between processes, and local mode's promise to be no looser than a cluster."""

from __future__ import annotations

import pickle
import subprocess
import sys
import threading
from typing import Any

import cloudpickle
import numpy as np
import pytest

from polystore import FileManager, UnsupportedOperationError, VFSTypeError
from polystore.exceptions import InvalidPathError
from polystore.serialization import seal
from polystore_ray import RayBackendRegistry
from polystore_ray.wire.envelope import SMALL, Envelope, as_message, closed, open_message


@pytest.mark.parametrize(
    "value",
    [None, b"x" * 3 * SMALL, (1, 2), (np.zeros(SMALL),), np.arange(3), {"a": np.zeros(2 * SMALL)}],
    ids=["none", "large bytes", "tuple", "tuple of large", "array", "dict"],
)
def test_a_message_is_read_as_it_was_written(value: Any) -> None:
    message = pickle.loads(pickle.dumps(as_message(value), protocol=5))
    np.testing.assert_equal(open_message(message), value)


def test_an_envelope_opens_on_arrival_and_its_buffers_travel_apart() -> None:
    array = np.arange(SMALL)
    buffers: list[pickle.PickleBuffer] = []
    data = pickle.dumps(Envelope(seal(array)), protocol=5, buffer_callback=buffers.append)
    assert len(data) < 1000
    assert sum(memoryview(buffer).nbytes for buffer in buffers) >= array.nbytes
    arrived = pickle.loads(data, buffers=buffers)
    np.testing.assert_array_equal(arrived, array)
    assert np.shares_memory(arrived, array)
    assert not arrived.flags.writeable


def test_in_a_volume_an_envelope_stays_closed_and_no_code_of_users_runs() -> None:
    code = (
        "import pickle, sys\n"
        "from polystore_ray.wire.envelope import Envelope, keep_closed\n"
        "keep_closed()\n"
        "arrived = pickle.loads(bytes.fromhex(sys.argv[1]))\n"
        "assert type(arrived) is Envelope\n"
        "again = pickle.dumps(arrived, protocol=5)\n"
        "print(again.hex())\n"
    )
    value = {"array": np.arange(10), "loud": Loud()}
    data = pickle.dumps(Envelope(seal(value)), protocol=5)
    done = subprocess.run(
        [sys.executable, "-c", code, data.hex()], capture_output=True, text=True, check=True
    )
    assert "unpickled" not in done.stdout + done.stderr
    arrived = pickle.loads(bytes.fromhex(done.stdout))
    np.testing.assert_array_equal(arrived["array"], value["array"])


class Loud:
    def __reduce__(self) -> Any:
        return print, ("unpickled",)


@pytest.fixture
def registry() -> Any:
    registry = RayBackendRegistry("envelope", local=True)
    yield registry
    registry.shutdown()


def test_local_stores_of_one_name_are_one_and_of_two_are_two(registry: Any) -> None:
    registry["memory"].save(1, "/a")
    assert RayBackendRegistry("envelope", local=True)["memory"].load("/a") == 1
    assert not RayBackendRegistry("other", local=True)["memory"].exists("/a")
    registry.shutdown()
    assert not registry["memory"].exists("/a")


def test_a_local_registry_cannot_be_shared_and_says_so(registry: Any) -> None:
    fm = FileManager(registry)
    fm.save(1, "/a", backend="memory")
    assert pickle.loads(pickle.dumps(fm)).load("/a", backend="memory") == 1
    # Not as it is unpickled, where a pool would lose the error and hang.
    code = (
        "import pickle, sys\n"
        "fm = pickle.loads(bytes.fromhex(sys.argv[1]))\n"
        "print('arrived')\n"
        "fm.exists('/a', backend='memory')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, pickle.dumps(fm).hex()],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "arrived\n"
    assert UnsupportedOperationError.__name__ in done.stderr
    assert "cannot be shared" in done.stderr


def test_the_environment_chooses_local_mode(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POLYSTORE_RAY_LOCAL", "1")
    assert "local=True" in repr(RayBackendRegistry())
    monkeypatch.setenv("POLYSTORE_RAY_LOCAL", "0")
    assert "local=True" not in repr(RayBackendRegistry())


def test_what_does_not_pickle_fails_in_local_mode_too(registry: Any) -> None:
    with pytest.raises(VFSTypeError, match="pickle"):
        registry["memory"].save(threading.Lock(), "/a")
    with pytest.raises(VFSTypeError, match="pickle"):
        registry["disk"].save(threading.Lock(), "a.json")


@pytest.mark.parametrize("name", ["", "a/b", "a b", None])
def test_a_store_has_a_plain_name(name: Any) -> None:
    with pytest.raises(InvalidPathError, match="letters"):
        RayBackendRegistry(name)


@pytest.mark.parametrize("options", [{"lifetime": "forever"}, {"timeout": 0}])
def test_wrong_options_are_refused_at_once(options: Any) -> None:
    with pytest.raises(VFSTypeError):
        RayBackendRegistry(**options)


def test_the_registry_lists_keys_and_starts_nothing() -> None:
    code = (
        "from polystore_ray import RayBackendRegistry\n"
        "registry = RayBackendRegistry()\n"
        "assert list(registry) == ['memory', 'disk', 'zarr'] and 'disk' in registry\n"
        "registry['memory'], registry['disk']\n"
        "import ray\n"
        "print(ray.is_initialized())\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_proxies_are_made_once_and_travel(registry: Any) -> None:
    assert registry["disk"] is registry["Disk"]
    registry["memory"].save(1, "/a")
    assert cloudpickle.loads(cloudpickle.dumps(registry["memory"])).load("/a") == 1


def test_two_threads_that_keep_envelopes_closed_do_not_disturb_each_other() -> None:
    data = pickle.dumps(Envelope(seal([1])), protocol=5)
    begun, go_on = threading.Event(), threading.Event()

    def other() -> None:
        with closed():
            begun.set()
            go_on.wait(10)

    thread = threading.Thread(target=other)
    thread.start()
    begun.wait(10)
    assert pickle.loads(data) == [1]  # it is not this thread that keeps them closed
    with closed():
        go_on.set()
        thread.join()
        assert type(pickle.loads(data)) is Envelope
    assert pickle.loads(data) == [1]


@pytest.mark.parametrize(
    "options",
    [
        {"timeout": float("nan")},
        {"timeout": float("inf")},
        {"timeout": "5"},
        {"timeout": None},
        {"timeout": True},
        {"timeout": -1},
        {"lifetime": ["job"]},
        {"max_bytes": "1G"},
        {"max_bytes": 1.5},
        {"max_bytes": 0},
        {"pin_budget": "half"},
        {"pin_budget": float("nan")},
        {"replicas": "2"},
        {"replicas": 2.0},
        {"replicas": True},
        {"too_few_nodes": 1},
        {"host_calls": "many"},
        {"host_calls": float("nan")},
        {"read_cache": b"1"},
        {"read_cache": -1},
        {"backends": 5},
        {"backends": ["disk"]},
        {"backends": {"disk": 5}},
        {"backends": {"disk": ["root"]}},
        {"backends": {"disk": {1: "/data"}}},
        {"backends": {5: {}}},
    ],
    ids=str,
)
def test_a_wrong_option_is_refused_by_the_constructor(options: Any) -> None:
    with pytest.raises(VFSTypeError):
        RayBackendRegistry("options", local=True, **options)


def test_numbers_of_numpy_are_options_too() -> None:
    options: Any = {"timeout": np.float32(2), "max_bytes": np.int64(9), "replicas": np.uint8(1)}
    RayBackendRegistry("options", local=True, **options)


def test_each_registry_has_its_own_timeout() -> None:
    patient, hurried = (RayBackendRegistry("times", local=True, timeout=t) for t in (50, 2))
    transport = patient._connect()
    assert 49 < transport.deadline.left <= 50
    assert hurried._connect().deadline.left <= 2
    assert 40 < transport.deadline.left <= 50  # the other one's is not this one's
    assert patient._connect().deadline.timeout == 50
