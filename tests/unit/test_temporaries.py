"""Contract line 14: temporaries are hidden, and swept once their process is gone."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from polystore import DiskBackend, InvalidPathError, ZarrBackend
from polystore.filesystem import temporaries
from polystore.filesystem.dir_fd import Handle
from polystore.filesystem.temporaries import is_left, sweep, temporary_name


@pytest.fixture(autouse=True)
def _nothing_was_swept_yet() -> Iterator[None]:
    temporaries._swept.clear()
    yield
    temporaries._swept.clear()


@pytest.fixture(params=[DiskBackend, ZarrBackend])
def backend(request: Any, tmp_path: Path) -> Any:
    return request.param(tmp_path)


def parts(name: str) -> list[str]:
    return os.path.basename(name).split("~")


def made_by(folder: Path, **changes: str) -> Path:
    """Return a temporary whose name differs in some of its parts from one of this process."""
    names = ("prefix", "host", "process", "started", "token")
    found = dict(zip(names, parts(temporary_name()), strict=True))
    return folder / "~".join((found | changes).values())


def of_a_dead_process(folder: Path) -> Path:
    code = "from polystore.filesystem.temporaries import temporary_name; print(temporary_name())"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    return folder / done.stdout.strip()


def swept(folder: Path, name: str = "here") -> None:
    with Handle.at(str(folder)) as held:
        sweep(held, name)


def test_a_name_is_never_the_same() -> None:
    one, other = temporary_name(), temporary_name()
    assert os.path.basename(one) == one != other
    assert len(one) < 150


def test_what_a_dead_process_left_is_hidden_and_goes_with_the_next_save(
    backend: Any, tmp_path: Path
) -> None:
    dead, mine = of_a_dead_process(tmp_path), tmp_path / temporary_name()
    tree = of_a_dead_process(tmp_path)
    (tree / "c/0").mkdir(parents=True)
    for file in (dead, mine, tree / "c/0/0"):
        file.write_bytes(b"half")
    assert backend.list_dir("/") == backend.list_files("/", recursive=True) == []
    backend.save(np.arange(2), "a.npy")
    left = {name for name in os.listdir(tmp_path) if name.startswith(temporaries.PREFIX)}
    assert left == {mine.name}


def test_a_directory_with_nothing_but_what_dead_processes_left_can_be_deleted(
    backend: Any, tmp_path: Path
) -> None:
    backend.ensure_directory("d")
    backend.save(np.arange(2), "d/a.npy")  # sweeps, so that the next sweep would be a minute away
    backend.delete("d/a.npy")
    of_a_dead_process(tmp_path / "d").write_bytes(b"half")
    backend.delete("d")
    assert backend.list_dir("/") == []


def test_a_temporary_of_another_process_that_has_the_id_now_is_left(tmp_path: Path) -> None:
    # As in a container, whose processes have the same few ids each time it is started.
    assert is_left(made_by(tmp_path, started="1").name, time.time)
    assert not is_left(made_by(tmp_path).name, time.time)


def test_a_process_that_is_dead_but_not_waited_for_is_dead(tmp_path: Path) -> None:
    code = (
        "from polystore.filesystem import temporaries\n"
        "print(temporaries.temporary_name(), flush=True)\n"
        "input()"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdin is not None
    assert child.stdout is not None
    name = child.stdout.readline().strip()
    assert not is_left(name, time.time)
    child.kill()
    deadline = time.monotonic() + 10
    while not is_left(name, time.time):  # a zombie from when the kernel has ended it
        assert time.monotonic() < deadline
        time.sleep(0.01)
    child.communicate()


@pytest.mark.parametrize("host", ["another-host", "0-another-boot.1", ""])
def test_a_temporary_of_another_machine_is_left_after_a_day(tmp_path: Path, host: str) -> None:
    foreign = made_by(tmp_path, host=host, process="1")
    foreign.write_bytes(b"half")
    swept(tmp_path)
    assert foreign.exists()
    day_ago = time.time() - 25 * 3600
    os.utime(foreign, (day_ago, day_ago))
    swept(tmp_path)
    assert foreign.exists()  # it looks once in a minute
    temporaries._swept.clear()
    swept(tmp_path)
    assert not foreign.exists()


@pytest.mark.parametrize(
    "name", [f"{temporaries.PREFIX}", f"{temporaries.PREFIX}-notes", f"{temporaries.PREFIX}~"]
)
def test_names_that_no_process_made_are_judged_by_their_age(tmp_path: Path, name: str) -> None:
    assert not is_left(name, time.time)
    assert is_left(name, lambda: time.time() - 25 * 3600)


@pytest.mark.parametrize(
    "process",
    ["9" * 30, "9" * 120, "9" * 7, "0", "1~0", "\u0661" * 12, "\u00b2", "-1", "1e9", "", "~~~"],
)
def test_a_hidden_file_of_any_name_is_in_the_way_of_no_save(
    backend: Any, tmp_path: Path, process: str
) -> None:
    hidden = f"{temporaries.PREFIX}~{temporaries._host()}~{process}"
    (tmp_path / hidden).write_bytes(b"not ours")
    backend.save(np.arange(2), "a.npy")
    backend.ensure_directory("d")
    backend.delete("d")
    assert backend.list_dir("/") == ["a.npy"]
    assert is_left(hidden, time.time) == (process in ("9" * 7, "1~0"))


@pytest.mark.parametrize(
    "path", [f"{temporaries.PREFIX}-notes.npy", f"{temporaries.PREFIX}~d/deep/a.npy"]
)
def test_nothing_can_be_stored_under_a_name_that_would_be_hidden(
    backend: Any, tmp_path: Path, path: str
) -> None:
    backend.save(np.arange(2), "a.npy")
    uses: tuple[Callable[[], Any], ...] = (
        lambda: backend.save(np.arange(2), path, parents=True),
        lambda: backend.save_batch([np.arange(2)], [path], parents=True),
        lambda: backend.ensure_directory(path),
    )
    for use in uses:
        with pytest.raises(InvalidPathError, match="temporaries"):
            use()
    name = path.partition("/")[0]
    uses = (
        lambda: backend.copy("a.npy", name),
        lambda: backend.move("a.npy", name),
        lambda: backend.create_symlink("a.npy", name),
    )
    for use in uses:
        with pytest.raises(InvalidPathError, match="temporaries"):
            use()
    assert [name for name in os.listdir(tmp_path) if name != "zarr.json"] == ["a.npy"]


def test_what_is_remembered_of_sweeps_is_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(temporaries, "_MOST_SWEPT", 3)
    for number in range(10):
        swept(tmp_path, f"name {number}")
    assert len(temporaries._swept) <= 3
