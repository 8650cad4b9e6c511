"""Compare the cluster memory with plain Ray and what people write today: medians, as ratios."""

from __future__ import annotations

import multiprocessing
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import ray
from measuring import Table, medians, start_ray

from polystore_ray import RayBackendRegistry

MIB = 2**20
LARGE = 256 * MIB
CALLS = 50  # small calls in one round
BATCH = 10_000
CLIENTS = 16
SHARED = Path("/dev/shm/polystore-bench.npy")
REDIS = Path("/dev/shm/polystore-bench-redis.sock")
REDIS_PORT = 26379
TABLE = Table("memory")


class Noop:
    """The unit of latency: an actor that does nothing."""

    def call(self, message: bytes) -> None:
        return None


class DictActor:
    """What people write today: the arrays pass through an actor with a dict."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}

    def save(self, path: str, value: Any) -> None:
        self.values[path] = value

    def load(self, path: str) -> Any:
        return self.values[path]

    def save_all(self, paths: list[str], values: list[Any]) -> None:
        self.values.update(zip(paths, values, strict=True))

    def load_all(self, paths: list[str]) -> list[Any]:
        return [self.values[path] for path in paths]


def call(actor: Any, method: str, *arguments: Any) -> Any:
    return ray.get(getattr(actor, method).remote(*arguments))


class Client:
    """Another process of the node, which measures what it sees."""

    def __init__(self, key: bytes = b"") -> None:
        multiprocessing.current_process().authkey = key  # of the manager that it uses

    def measure(self, make: Callable[..., Any], repeat: int, *arguments: Any) -> dict[str, float]:
        return medians(make(*arguments), repeat)

    def loads(self, registry: RayBackendRegistry, noop: Any, ours: bool, count: int) -> None:
        memory = registry["memory"]
        for _ in range(count):
            if ours:
                memory.load("/small/value")
            else:
                call(noop, "call", b"x")

    def private_bytes_of(self, registry: RayBackendRegistry, path: str) -> int:
        before = _private_bytes()
        array = registry["memory"].load(path)
        total = int(array[::4096].sum())
        return _private_bytes() - before + 0 * total


def _private_bytes() -> int:
    lines = Path("/proc/self/smaps_rollup").read_text(encoding="ascii").splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_")) * 1024


def actor(cls: type, *arguments: Any) -> Any:
    made: Any = ray.remote(num_cpus=0)(cls)
    return made.remote(*arguments)


@contextmanager
def redis_server() -> Iterator[str | None]:
    """Give the socket of a Redis, where it is installed; it also has a port on this machine."""
    program = shutil.which("redis-server")
    if program is None:
        yield None
        return
    options = [
        "--port",
        str(REDIS_PORT),
        "--bind",
        "127.0.0.1",
        "--unixsocket",
        str(REDIS),
        "--save",
        "",
        "--appendonly",
        "no",
    ]
    server = subprocess.Popen([program, *options], stdout=subprocess.DEVNULL)
    try:
        while not REDIS.exists():
            time.sleep(0.05)
        yield str(REDIS)
    finally:
        server.terminate()
        server.wait()


def small_work(registry: RayBackendRegistry, noop: Any) -> dict[str, Callable[[int], Any]]:
    memory, value = registry["memory"], np.zeros(1024, np.uint8)
    return {
        "noop": lambda _: call(noop, "call", b"x"),
        "save": lambda i: memory.save(value, f"/small/{i}"),
        "load": lambda _: memory.load("/small/value"),
        "exists": lambda _: memory.exists("/small/value"),
        "stat": lambda _: memory.stat("/small/value"),
    }


def small(noop: Any) -> None:
    registry = RayBackendRegistry("small", read_leases=False)  # each load is a call
    registry["memory"].save(np.zeros(1024, np.uint8), "/small/value", parents=True)
    found = medians(small_work(registry, noop), CALLS)
    TABLE.add("noop: an empty call of an actor", found["noop"], "noop", found["noop"])
    for name in ("save", "load", "exists", "stat"):
        TABLE.add(f"{name} of one 1 KiB value", found[name], "noop", found["noop"], "<= 1.3")
    registry.shutdown()


def load_work(
    registry: RayBackendRegistry, noop: Any, plain: Any, ref: list[Any], shared: Any, redis: Any
) -> dict[str, Callable[[int], Any]]:
    memory = registry["memory"]
    memory.load("/large")[::4096].sum()
    work: dict[str, Callable[[int], Any]] = {
        "noop": lambda _: call(noop, "call", b"x"),
        "load": lambda _: memory.load("/large"),
        "ray.get": lambda _: ray.get(ref[0]),
        "dict actor": lambda _: call(plain, "load", "/large"),
        "dict actor with references": lambda _: ray.get(call(plain, "load", "/ref")[0]),
        "Manager().dict()": lambda _: shared["/large"],
        "np.load, mapped": lambda _: np.load(SHARED, mmap_mode="r"),
    }
    if redis is not None:
        import redis as client

        connection = client.Redis(unix_socket_path=redis)
        work["Redis"] = lambda _: _as_array(connection.get("/large"))
    return work


def _as_array(data: Any) -> Any:
    return np.frombuffer(data, np.uint8)


def large(registry: RayBackendRegistry, noop: Any, plain: Any, redis: str | None) -> None:
    image = np.random.default_rng(0).integers(0, 255, LARGE, dtype=np.uint8)
    memory = registry["memory"]
    memory.save(image, "/large")
    ref = ray.put(image)
    call(plain, "save", "/large", image)
    call(plain, "save", "/ref", [ref])
    np.save(SHARED, image)
    if redis is not None:
        import redis as client

        client.Redis(unix_socket_path=redis).set("/large", image.tobytes())
    with multiprocessing.get_context("spawn").Manager() as manager:
        shared = manager.dict({"/large": image})
        client = actor(Client, bytes(multiprocessing.current_process().authkey))
        found = call(client, "measure", load_work, 1, registry, noop, plain, [ref], shared, redis)
    SHARED.unlink()
    ours = found.pop("load")
    TABLE.add("load 256 MiB in another process", ours, "noop", found["noop"], "<= 2")
    reach = {"dict actor": "<= 0.05", "Manager().dict()": "<= 0.005"}
    for name, seconds in found.items():
        if name != "noop":
            TABLE.add("load 256 MiB in another process", ours, name, seconds, reach.get(name, ""))
    call(plain, "save", "/large", None)
    found = medians(
        {
            "noop": lambda _: call(noop, "call", b"x"),
            "ray.put": lambda _: ray.put(image),
            "save": lambda _: memory.save(image, "/large", overwrite=True),
            "dict actor": lambda _: call(plain, "save", "/large", image),
        }
    )
    most = 1.2 * found["ray.put"] + 2 * found["noop"]
    TABLE.add("save 256 MiB", found["save"], "ray.put", found["ray.put"])
    TABLE.add("save 256 MiB", found["save"], "1.2 ray.put + 2 noop", most, "<= 1")
    TABLE.add("save 256 MiB", found["save"], "dict actor", found["dict actor"])
    call(plain, "save", "/large", None)


def batches(registry: RayBackendRegistry, plain: Any) -> None:
    memory = registry["memory"]
    values = [np.full(1024, i % 256, np.uint8) for i in range(BATCH)]

    def paths(i: int) -> list[str]:
        return [f"/batch/{i}/{number}" for number in range(BATCH)]

    def one_by_one(i: int) -> None:
        for number in range(100):
            memory.save(values[number], f"/single/{i}/{number}", parents=True)

    def loads_one_by_one(i: int) -> None:
        for number in range(100):
            memory.load(f"/single/{i}/{number}")

    found = medians(
        {
            "dict actor": lambda i: call(plain, "save_all", paths(i), values),
            "save_batch": lambda i: memory.save_batch(values, paths(i), parents=True),
            "one by one": one_by_one,
        }
    )
    ours, theirs, single = found["save_batch"], found["dict actor"], found["one by one"] * 100
    TABLE.add("save 10,000 values of 1 KiB", ours, "dict actor, one call", theirs, "<= 0.5")
    TABLE.add("save 10,000 values of 1 KiB", ours, "one by one", single, "<= 0.02")
    found = medians(
        {
            "dict actor": lambda i: call(plain, "load_all", paths(i)),
            "load_batch": lambda i: memory.load_batch(paths(i)),
            "one by one": loads_one_by_one,
        }
    )
    ours, theirs, single = found["load_batch"], found["dict actor"], found["one by one"] * 100
    TABLE.add("load 10,000 values of 1 KiB", ours, "dict actor, one call", theirs, "<= 0.35")
    TABLE.add("load 10,000 values of 1 KiB", ours, "one by one", single, "<= 0.02")
    memory.delete_all("/batch")


def many_clients(noop: Any) -> None:
    clients = [actor(Client) for _ in range(CLIENTS)]

    def all_load(ours: bool, count: int = CALLS) -> None:
        ray.get([client.loads.remote(registry, noop, ours, count) for client in clients])

    registry = RayBackendRegistry("many-clients", read_leases=False)
    registry["memory"].save(np.zeros(1024, np.uint8), "/small/value", parents=True)
    all_load(ours=True, count=1)
    found = medians({"noop": lambda _: all_load(ours=False), "load": lambda _: all_load(ours=True)})
    each = {name: seconds / CLIENTS / CALLS for name, seconds in found.items()}
    TABLE.add("a small load, 16 processes at once", each["load"], "noop", each["noop"], "<= 1.2")


def readers(registry: RayBackendRegistry) -> None:
    memory = registry["memory"]
    memory.save(np.ones(1024 * MIB, np.uint8), "/huge")
    grown = [call(actor(Client), "private_bytes_of", registry, "/huge") for _ in range(4)]
    TABLE.add_amount("a reader of 1 GiB takes, itself", f"{max(grown) / MIB:.1f} MiB", "< 64 MiB")
    memory.delete("/huge")


def resident_bytes(connection: Any) -> int:
    """Return what the controller of a store takes."""

    def resident(_: Any) -> int:
        return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * 4096

    found: int = ray.get(connection.handles.controller.__ray_call__.remote(resident))
    return found


def many_entries(noop: Any) -> None:
    small, large = RayBackendRegistry("few"), RayBackendRegistry("many")
    value = np.zeros(80, np.uint8)  # of which a thousand are packed too
    small["memory"].save_batch([value] * 1000, [f"/d/{i}" for i in range(1000)], parents=True)
    for folder in range(100):
        paths = [f"/{folder}/{i}" for i in range(10_000)]
        large["memory"].save_batch([value] * 10_000, paths, parents=True)
    found = medians(
        {
            "noop": lambda _: call(noop, "call", b"x"),
            "few": lambda i: small["memory"].stat(f"/d/{i}"),
            "many": lambda i: large["memory"].stat(f"/{i % 100}/{i}"),
            "load, few": lambda i: small["memory"].load(f"/d/{i}"),
            "load, many": lambda i: large["memory"].load(f"/{i % 100}/{i}"),
        },
        CALLS,
    )
    TABLE.add("stat among 1,000,000 entries", found["many"], "among 1,000", found["few"], "about 1")
    TABLE.add(
        "load among 1,000,000 entries",
        found["load, many"],
        "among 1,000",
        found["load, few"],
        "about 1",
    )
    taken = resident_bytes(large._connect()) / 2**30
    TABLE.add_amount("a controller with 1,000,000 entries", f"{taken:.2f} GiB", "< 1.5 GiB")
    large["memory"].ensure_directory("/wide")
    for part in range(10):
        paths = [f"/wide/{part}-{i}" for i in range(10_000)]
        large["memory"].save_batch([value] * 10_000, paths)
    found = medians({"list_dir": lambda _: large["memory"].list_dir("/wide")})
    TABLE.add("list_dir of 100,000 names", found["list_dir"], "the limit of 60 ms", 0.06, "< 1")
    small.shutdown()
    large.shutdown()


def main() -> None:
    start_ray(16 * LARGE)
    registry = RayBackendRegistry("bench")
    noop, plain = actor(Noop), actor(DictActor)
    call(noop, "call", b"x")
    small(noop)
    with redis_server() as redis:
        large(registry, noop, plain, redis)
    batches(registry, plain)
    many_clients(noop)
    readers(registry)
    registry.shutdown()
    many_entries(noop)
    ray.shutdown()
    TABLE.write()


if __name__ == "__main__":
    main()
