"""Trace which functions a save, a load, a hosted load and a failover pass: ``make architecture``.

A cluster is started whose processes all record their calls of polystore's functions. The functions
of each operation are written as one tree for each thread that took part, in the order of their
first calls. What runs all the time, such as renewals and watches, is left out.
"""

from __future__ import annotations

import functools
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType, FunctionType
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "docs" / "architecture"
RECORDS = "POLYSTORE_TRIPS"  # the environment variable that names the folder of the records
PAUSE = 1.5  # seconds before and after an operation, so that nothing else runs
ACTORS = ("Controller", "Host", "Volume")


def record() -> None:
    """Record the calls of polystore's functions in this process, in a file of its own."""
    from polystore_ray.actors import controller, host, volume

    source = os.environ["POLYSTORE_TRIPS_SOURCE"]
    folders = tuple(os.path.join(source, top) + os.sep for top in ("polystore", "polystore_ray"))
    file = open(os.path.join(os.environ[RECORDS], f"{os.getpid()}.calls"), "a", buffering=1)  # noqa: SIM115 - open until the process ends
    depths: dict[int, int] = {}

    def profile(frame: FrameType, event: str, _: Any) -> None:
        code = frame.f_code
        if event not in ("call", "return") or not code.co_filename.startswith(folders):
            return
        if code.co_name.startswith("<"):  # a lambda, or a comprehension
            return
        thread = threading.get_ident()
        depth = depths.get(thread, 0)
        depths[thread] = max(0, depth + (1 if event == "call" else -1))
        if event == "call":
            module = os.path.relpath(code.co_filename, source)
            file.write(f"{time.monotonic()}\t{thread}\t{depth}\t{module}\t{code.co_qualname}\n")

    threading.setprofile(profile)
    sys.setprofile(profile)
    # Ray itself starts the threads in which actors run methods, and no hook reaches them.
    for actor in (controller.ControllerActor, host.HostActor, volume.VolumeActor):
        made = actor.__ray_metadata__.modified_class
        for name, method in list(vars(made).items()):
            if isinstance(method, FunctionType):
                setattr(made, name, _profiled(method))


def _profiled(method: Any) -> Any:
    @functools.wraps(method)
    def call(*arguments: Any, **options: Any) -> Any:
        sys.setprofile(threading.getprofile())
        return method(*arguments, **options)

    return call


@dataclass
class Call:
    """A call of a function, and the different functions that it called."""

    process: str
    start: float
    module: str
    name: str
    calls: list[Call] = field(default_factory=list)

    def lines(self, depth: int = 1) -> Iterator[str]:
        """Yield the functions of this call as indented lines."""
        yield f"{'  ' * depth}{self.name}  [{self.module}]"
        for call in self.calls:
            yield from call.lines(depth + 1)

    def modules(self) -> Iterator[str]:
        """Yield the modules of all functions of this call."""
        yield self.module
        for call in self.calls:
            yield from call.modules()


def calls_between(folder: Path, start: float, end: float) -> list[Call]:
    """Return the outermost calls that began in an interval of time, by all processes."""
    found: list[Call] = []
    for file in folder.glob("*.calls"):
        stacks: dict[str, list[Call]] = {}
        text = file.read_text(encoding="utf-8")
        process = next((kind for kind in ACTORS if f"\t_{kind}." in text), "Client").lower()
        for line in text.splitlines():
            moment, thread, depth, module, name = line.split("\t")
            call = Call(process, float(moment), module, name)
            stack = stacks.setdefault(thread, [])
            del stack[int(depth) :]
            if len(stack) < int(depth):
                continue  # it began before the records
            if not stack and start <= call.start <= end:
                found.append(call)
            elif stack:
                known = {(c.module, c.name): c for c in stack[-1].calls}
                same = known.get((module, name))
                if same is None:
                    stack[-1].calls.append(call)
                else:
                    call = same
            stack.append(call)
    return sorted(found, key=lambda call: call.start)


def described(title: str, calls: list[Call]) -> str:
    """Return the functions of an operation as text."""
    seen: set[tuple[str, ...]] = set()
    lines: list[str] = []
    modules: set[str] = set()
    for call in calls:
        tree = tuple(call.lines())
        if tree in seen:
            continue
        seen.add(tree)
        lines += [f"{call.process}:", *tree]
        modules |= set(call.modules())
    return f"{title}: {len(modules)} files\n\n" + "\n".join(lines) + "\n"


def trips(folder: Path) -> Iterator[tuple[str, str, list[Call]]]:
    """Run each operation on a cluster of two nodes; yield its file, its title and its calls."""
    import numpy as np
    import ray
    from ray.cluster_utils import Cluster

    from polystore import FileManager
    from polystore_ray import RayBackendRegistry
    from polystore_ray.rayapi.placement import store_namespace
    from polystore_ray.testing.faults import Victims, kill, process_of

    image = np.arange(100_000)
    nodes: Any = {"num_cpus": 2, "object_store_memory": 150 * 2**20}
    cluster: Any = Cluster(
        initialize_head=True, head_node_args={**nodes, "include_dashboard": False}
    )
    cluster.add_node(**nodes)
    ray.init(
        cluster.address, log_to_driver=False, runtime_env={"worker_process_setup_hook": record}
    )
    record()
    registry = RayBackendRegistry("trips", timeout=60)
    fm = FileManager(registry)
    path = f"{folder}/image.npy"

    def traced(operation: Callable[[], object], fault: Callable[[], object] = int) -> list[Call]:
        time.sleep(PAUSE)
        fault()
        start = time.monotonic()
        operation()
        end = time.monotonic()
        time.sleep(PAUSE)
        return calls_between(folder, start, end)

    # Once before, so that hosts are started and modules are imported.
    fm.save(image, "/first", backend="memory")
    fm.load("/first", backend="memory")
    fm.save(image, f"{folder}/first.npy", backend="disk")
    fm.load(f"{folder}/first.npy", backend="disk")

    from polystore import BackendRegistry

    here = FileManager(BackendRegistry())
    here.save(image, f"{folder}/here.npy", backend="disk")
    here.load(f"{folder}/here.npy", backend="disk")
    yield (
        "save-disk",
        "A save to disk in one process",
        traced(lambda: here.save(image, path, "disk")),
    )
    yield "load-disk", "A load from disk in one process", traced(lambda: here.load(path, "disk"))
    yield "save", "A save to the cluster memory", traced(lambda: fm.save(image, "/a", "memory"))
    yield "load", "A load from the cluster memory", traced(lambda: fm.load("/a", "memory"))
    yield "hosted-load", "A load from a hosted disk", traced(lambda: fm.load(path, "disk"))

    controller = Victims(
        store_namespace("trips", ray.get_runtime_context().get_job_id())
    ).controller()
    process = process_of(controller)

    found = traced(lambda: fm.load("/a", "memory"), fault=lambda: kill(process))
    yield "failover", "A load after the controller was killed", found
    registry.shutdown()
    ray.shutdown()
    cluster.shutdown()


def main() -> None:
    """Write one file for each operation."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ |= {RECORDS: folder, "POLYSTORE_TRIPS_SOURCE": str(ROOT)}
        FOLDER.mkdir(exist_ok=True)
        for name, title, calls in trips(Path(folder)):
            text = described(title, calls)
            (FOLDER / f"{name}.txt").write_text(text, encoding="utf-8")
            sys.stdout.write(text.partition("\n")[0] + "\n")


if __name__ == "__main__":
    main()
