"""Contract line 12, in a race: whatever is exchanged for links meanwhile, nothing leaves a root.

Each public operation of the backends of files runs below a root, with somebody at work who may
write there. What lies outside is neither read, nor changed, nor added to.
"""

from __future__ import annotations

import itertools
import os
import shutil
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from swapping import swapping

from polystore import DiskBackend, StorageError, ZarrBackend

SECONDS, SECONDS_OF_A_SOAK = 3.0, 300.0
SECRET = np.full(50, 42, np.uint8)
OURS = np.ones(50, np.uint8)

Operation = Callable[[Any, int], Any]

# Of a backend and the number of the round; what is asked for or loaded is returned.
OPERATIONS: dict[str, Operation] = {
    "load": lambda backend, _: backend.load("d/a.npy"),
    "load of a region": lambda backend, _: backend.load("d/deep/a.npy", region=slice(9)),
    "load_batch": lambda backend, _: backend.load_batch(["d/a.npy", "d/deep/a.npy"]),
    "save": lambda backend, n: backend.save(OURS, f"d/new{n}.npy"),
    "save over another": lambda backend, _: backend.save(OURS, "t/a.npy", overwrite=True),
    "save of what lasts": lambda backend, n: backend.save(OURS, f"t/{n}.npy", durable=True),
    "save into a region": lambda backend, _: backend.save(1, "d/a.npy", region=slice(9)),
    "save with parents": lambda backend, n: backend.save(OURS, f"d/m{n}/x.npy", parents=True),
    "save_batch": lambda backend, n: backend.save_batch([OURS], [f"t/b{n}.npy"]),
    "ensure_directory": lambda backend, n: backend.ensure_directory(f"d/e{n}/f"),
    "ensure_directory of one": lambda backend, n: backend.ensure_directory(f"t/e{n}"),
    "copy": lambda backend, n: backend.copy("d/deep", f"t/c{n}"),
    "copy of a value": lambda backend, n: backend.copy("d/a.npy", f"t/v{n}.npy"),
    "move": lambda backend, n: backend.move(f"t/c{n}", f"d/w{n}"),
    "delete": lambda backend, n: backend.delete(f"d/new{n}.npy"),
    "delete of a directory": lambda backend, n: backend.delete(f"t/e{n}"),
    "delete_all": lambda backend, n: backend.delete_all(f"d/w{n}"),
    "create_symlink": lambda backend, n: backend.create_symlink("d/a.npy", f"t/l{n}.npy"),
    "exists": lambda backend, _: backend.exists("d/deep"),
    "is_file": lambda backend, _: backend.is_file("d/deep/a.npy"),
    "is_dir": lambda backend, _: backend.is_dir("d/deep"),
    "is_symlink": lambda backend, _: backend.is_symlink("d"),
    "stat": lambda backend, _: backend.stat("d/a.npy").get("shape"),
    "content_identity": lambda backend, _: backend.content_identity("d/a.npy"),
    "list_dir": lambda backend, _: backend.list_dir("d"),
    "list_files": lambda backend, _: backend.list_files("/", recursive=True),
    "walk": lambda backend, _: backend.walk("/"),
    "watch": lambda backend, _: [event.path for event in backend.watch("d", timeout=0)],
}
OF_ARRAYS: dict[str, Operation] = {
    "load of an array": lambda backend, _: backend.load("d/array"),
    "save into an array": lambda backend, _: backend.save(1, "d/array", region=...),
    "append": lambda backend, _: backend.append(OURS[:1], "d/array"),
    "resize": lambda backend, n: backend.resize("d/array", (10 + 40 * (n % 2),)),
    "open": lambda backend, _: backend.open("d/array")[:],
    "open for changes": lambda backend, _: backend.open("d/array", "r+").__setitem__(3, 1),
    "open of a group": lambda backend, _: list(backend.open("d").array_keys()),
    "copy of an array": lambda backend, n: backend.copy("d/array", f"t/array{n}"),
}
# They touch no file, or are made of the others.
OF_NO_FILE = {
    "portable_options",
    "portable_path",
    "check_batch",
    *("check_convertible", "file_format"),  # as `load` and `stat`
    "close",
}


@pytest.fixture(params=[DiskBackend, ZarrBackend])
def cls(request: Any) -> Any:
    return request.param


def everything(top: Path) -> dict[str, tuple[int, int, bytes | None]]:
    found = {}
    for path in (top, *top.rglob("*")):
        status = path.lstat()
        data = path.read_bytes() if path.is_file() else None
        found[str(path)] = status.st_mode, status.st_mtime_ns, data
    return found


def is_secret(found: Any) -> bool:
    """Return whether a part of what lies outside is in what an operation returned."""
    if isinstance(found, np.ndarray):
        return bool((found == SECRET[0]).any())
    if isinstance(found, list | tuple):
        return any(map(is_secret, found))
    return isinstance(found, str) and "precious" in found


def test_every_public_operation_of_a_backend_is_in_the_race(cls: Any) -> None:
    public = {name for name in dir(cls) if not name.startswith(("_", "a")) or name == "append"}
    public = {name for name in public if callable(getattr(cls, name))}
    raced = {name.partition(" ")[0] for name in (*OPERATIONS, *OF_ARRAYS)}
    assert {name for name in public - raced - OF_NO_FILE if not name.endswith("_async")} == set()


def test_nothing_outside_a_root_is_read_or_changed(
    cls: Any, tmp_path: Path, soaking: bool, done: Counter[str]
) -> None:
    root, outside, others = tmp_path / "root", tmp_path / "outside", tmp_path / "others"
    free = cls()
    free.save_batch(
        [SECRET] * 3,
        [outside / name for name in ("a.npy", "deep/a.npy", "precious.npy")],
        parents=True,
    )
    ZarrBackend().save(SECRET, outside / "array", chunks=(1,))
    free.save(SECRET, others / "new/precious.npy", parents=True)
    backend = cls(root)
    operations = OPERATIONS | (OF_ARRAYS if cls is ZarrBackend else {})
    before = everything(outside), everything(others)
    counts: Counter[str] = Counter()

    def start_again() -> None:
        """Make the tree anew, which has grown."""
        for path in root.iterdir():
            if path.name != "zarr.json":
                path.unlink() if path.is_symlink() or path.is_file() else shutil.rmtree(path)
        for name in ("d/a.npy", "d/deep/a.npy", "t/a.npy"):
            backend.save(OURS, name, parents=True)
        ZarrBackend().save(OURS, root / "d/array", chunks=(1,))

    end = time.monotonic() + (SECONDS_OF_A_SOAK if soaking else SECONDS)
    number = itertools.count()
    while time.monotonic() < end or not counts["well"] or not counts["refused"]:
        start_again()
        with swapping(root, outside, chunks=outside / "array/c", others=others):
            for _ in range(20):
                n = next(number)
                for name, operation in operations.items():
                    try:
                        found = operation(backend, n)
                    except (StorageError, OSError, KeyError):
                        counts["refused"] += 1
                        continue
                    counts["well"] += 1
                    assert not is_secret(found), name
        assert (everything(outside), everything(others)) == before
    done.update({f"operations below a root, {cls.__name__}": counts.total()})
    done.update({f"of these refused, {cls.__name__}": counts["refused"]})
    assert os.listdir(others) != []
