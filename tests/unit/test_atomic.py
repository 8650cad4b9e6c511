"""Contract lines 36 to 38: the atomic helpers."""

from __future__ import annotations

import json
import multiprocessing
import os
import threading
from pathlib import Path

import pytest

from polystore.atomic import atomic_update_json, atomic_write, atomic_write_json, file_lock
from polystore.exceptions import CorruptDataError, FileLockTimeoutError, VFSTypeError


def test_a_write_appears_whole_when_the_block_ends(tmp_path: Path) -> None:
    target = tmp_path / "new" / "a.txt"
    with atomic_write(target) as file:
        file.write("é")
        assert not target.exists()
    assert target.read_bytes() == "é".encode()


def test_an_exception_passes_and_leaves_the_old_file_alone(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    target.write_text("old")

    def fail_midway() -> None:
        with atomic_write(target, "wb") as file:
            file.write(b"new")
            raise KeyError("why")

    with pytest.raises(KeyError, match="why"):
        fail_midway()
    assert target.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_mode_bits_stay_and_a_link_stays_a_link(tmp_path: Path) -> None:
    target, link = tmp_path / "a.txt", tmp_path / "link"
    target.write_text("old")
    target.chmod(0o604)
    link.symlink_to(target)
    with atomic_write(link) as file:
        file.write("new")
    assert link.is_symlink()
    assert target.read_text() == "new"
    assert target.stat().st_mode & 0o777 == 0o604


def test_other_modes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(VFSTypeError, match="'a'"), atomic_write(tmp_path / "a", "a"):
        pass


def test_json_is_written_whichever_way_round(tmp_path: Path) -> None:
    atomic_write_json({"a": 1}, tmp_path / "a.json")
    atomic_write_json(tmp_path / "b.json", {"b": 2})  # type: ignore[arg-type]
    assert json.loads((tmp_path / "a.json").read_text()) == {"a": 1}
    assert json.loads((tmp_path / "b.json").read_text()) == {"b": 2}


def test_an_update_reads_calls_and_writes_and_keeps_the_default(tmp_path: Path) -> None:
    default: dict[str, list[int]] = {"seen": []}
    for i in range(2):

        def see(value: dict[str, list[int]], i: int = i) -> dict[str, list[int]]:
            return {"seen": [*value["seen"], i]}

        atomic_update_json(tmp_path / "a.json", see, default_data=default)
    assert json.loads((tmp_path / "a.json").read_text()) == {"seen": [0, 1]}
    assert default == {"seen": []}


def test_a_damaged_file_is_not_replaced(tmp_path: Path) -> None:
    target = tmp_path / "a.json"
    target.write_text("{half")
    with pytest.raises(CorruptDataError, match=r"a\.json"):
        atomic_update_json(target, lambda value: value)
    assert target.read_text() == "{half"


def count_up(path: str, times: int) -> None:
    for _ in range(times):
        atomic_update_json(path, lambda value: value + 1, default_data=0)


def test_updates_of_processes_and_threads_lose_nothing(tmp_path: Path) -> None:
    path = str(tmp_path / "count.json")
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=count_up, args=(path, 15)) for _ in range(2)]
    threads = [threading.Thread(target=count_up, args=(path, 15)) for _ in range(3)]
    for start in (*(w.start for w in workers), *(t.start for t in threads)):
        start()
    for join in (*(w.join for w in workers), *(t.join for t in threads)):
        join()
    assert json.loads(Path(path).read_text()) == 75


def test_a_lock_excludes_threads_and_says_when_it_was_not_free(tmp_path: Path) -> None:
    path = tmp_path / "a"
    refused: list[BaseException] = []

    def try_once() -> None:
        try:
            with file_lock(path, timeout=0):
                pass
        except FileLockTimeoutError as error:
            refused.append(error)

    with file_lock(path):
        thread = threading.Thread(target=try_once)
        thread.start()
        thread.join()
    assert [isinstance(error, TimeoutError) for error in refused] == [True]
    with pytest.raises(KeyError, match="mine"), file_lock(path, timeout=0):
        raise KeyError("mine")
