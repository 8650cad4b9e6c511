"""Contract lines 36 to 38: the atomic helpers."""

from __future__ import annotations

import json
import multiprocessing
import os
import stat
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from polystore.atomic import atomic_update_json, atomic_write, atomic_write_json, file_lock
from polystore.exceptions import (
    CorruptDataError,
    FileLockError,
    FileLockTimeoutError,
    InvalidPathError,
    PathIsDirectoryError,
    PathNotDirectoryError,
    PathNotFoundError,
    StorageResolutionError,
    VFSTypeError,
)


def write(path: Any, text: str = "new", **options: Any) -> None:
    with atomic_write(path, **options) as file:
        file.write(text)


# atomic_write


def test_a_write_appears_whole_when_the_block_ends(tmp_path: Path) -> None:
    target = tmp_path / "new" / "a.txt"
    with atomic_write(target) as file:
        file.write("é\n")
        assert not target.exists()
        assert Path(file.name).parent == target.parent
    assert target.read_bytes() == "é\n".encode()
    assert os.listdir(target.parent) == ["a.txt"]


def test_bytes_are_written_as_they_are(tmp_path: Path) -> None:
    with atomic_write(tmp_path / "a", "wb") as file:
        file.write(b"\x00\r\n\xff")
    assert (tmp_path / "a").read_bytes() == b"\x00\r\n\xff"


@pytest.mark.parametrize(
    "error", [KeyError("why"), OSError(28, "mine"), KeyboardInterrupt(), GeneratorExit()]
)
def test_any_exception_passes_unchanged_and_leaves_the_old_file_alone(
    tmp_path: Path, error: BaseException
) -> None:
    target = tmp_path / "a.txt"
    target.write_text("old")

    def fail_midway() -> None:
        with atomic_write(target, "wb") as file:
            file.write(b"new")
            raise error

    with pytest.raises(type(error)) as caught:
        fail_midway()
    assert caught.value is error
    assert target.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_what_cannot_be_encoded_leaves_the_old_file_alone(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("old")
    with pytest.raises(UnicodeEncodeError):
        write(tmp_path / "a.txt", "\ud800")
    assert (tmp_path / "a.txt").read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_it_is_synced_before_and_after_it_takes_the_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[str] = []
    fsync, replace = os.fsync, os.replace

    def synced(descriptor: int) -> None:
        is_directory = stat.S_ISDIR(os.fstat(descriptor).st_mode)
        steps.append("sync directory" if is_directory else "sync file")
        if not is_directory:
            assert os.fstat(descriptor).st_size == 3
        fsync(descriptor)

    def replaced(*names: Any, **directories: Any) -> None:
        steps.append("replace")
        replace(*names, **directories)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", replaced)
    write(tmp_path / "a")
    assert steps == ["sync file", "replace", "sync directory"]


def test_a_file_that_the_block_has_closed_is_published_too(tmp_path: Path) -> None:
    with atomic_write(tmp_path / "a") as file:
        file.write("whole")
        file.close()
    assert (tmp_path / "a").read_text() == "whole"


def test_mode_bits_stay_and_a_link_stays_a_link(tmp_path: Path) -> None:
    target, link = tmp_path / "d/a.txt", tmp_path / "link"
    target.parent.mkdir()
    target.write_text("old")
    target.chmod(0o604)
    link.symlink_to("d/a.txt")
    write(link)
    assert os.readlink(link) == "d/a.txt"
    assert target.read_text() == "new"
    assert target.stat().st_mode & 0o777 == 0o604


def test_a_new_file_honours_the_umask(tmp_path: Path) -> None:
    old = os.umask(0o037)
    try:
        write(tmp_path / "a")
    finally:
        os.umask(old)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o640


def test_a_dangling_link_stays_one_and_its_target_is_made(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "new/a")
    write(tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "new/a").read_text() == "new"


def test_a_circle_of_links_is_refused_and_stays(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    with pytest.raises(StorageResolutionError, match="circle"):
        write(tmp_path / "a")
    assert os.readlink(tmp_path / "a") == str(tmp_path / "b")


@pytest.mark.parametrize("mode", ["a", "r", "x", "w+", "wt", "bw", "", None])
def test_other_modes_are_refused_before_anything_is_made(tmp_path: Path, mode: Any) -> None:
    with pytest.raises(VFSTypeError, match="'w' or 'wb'") as caught:
        write(tmp_path / "new/a", mode=mode)
    assert caught.value.path == str(tmp_path / "new/a")
    assert os.listdir(tmp_path) == []


def test_what_the_file_system_refuses_is_said_of_the_path(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "f").write_text("old")
    refused: list[tuple[Path, type[Exception]]] = [
        (tmp_path / "none/a", PathNotFoundError),
        (tmp_path / "d", PathIsDirectoryError),
        (tmp_path / "f/a", PathNotDirectoryError),
    ]
    for path, error in refused:
        with pytest.raises(error) as caught:
            write(path, ensure_directory=False)
        assert str(caught.value).endswith(repr(str(path)))
    assert sorted(os.listdir(tmp_path)) == ["d", "f"]
    assert (tmp_path / "f").read_text() == "old"


# JSON


def test_json_is_written_whichever_way_round(tmp_path: Path) -> None:
    either: Callable[..., None] = atomic_write_json
    either({"a": 1}, tmp_path / "a.json")
    either(tmp_path / "b.json", {"b": 2})
    either({"c": 3}, str(tmp_path / "c.json"))
    either(str(tmp_path / "d.json"), [4])
    either("text", tmp_path / "e.json")
    found = {file.stem: json.loads(file.read_text()) for file in tmp_path.iterdir()}
    assert found == {"a": {"a": 1}, "b": {"b": 2}, "c": {"c": 3}, "d": [4], "e": "text"}


def test_json_is_indented_as_asked(tmp_path: Path) -> None:
    atomic_write_json({"a": [1]}, tmp_path / "a.json")
    assert (tmp_path / "a.json").read_text() == json.dumps({"a": [1]}, indent=2)
    atomic_write_json({"a": [1]}, tmp_path / "a.json", indent=None)
    assert (tmp_path / "a.json").read_text() == '{"a": [1]}'


def nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize("value", [{"a": [1, {2}]}, nested(100_000), b"bytes"])
def test_what_json_cannot_hold_leaves_the_old_file_alone(tmp_path: Path, value: Any) -> None:
    atomic_write_json({"a": 1}, tmp_path / "a.json")
    with pytest.raises(VFSTypeError, match=r"a\.json"):
        atomic_write_json(value, tmp_path / "a.json")
    assert json.loads((tmp_path / "a.json").read_text()) == {"a": 1}
    assert os.listdir(tmp_path) == ["a.json"]


def test_an_update_reads_calls_and_writes_and_keeps_the_default(tmp_path: Path) -> None:
    default: dict[str, list[int]] = {"seen": []}

    def see(value: dict[str, list[int]]) -> dict[str, list[int]]:
        value["seen"].append(len(value["seen"]))
        return value

    for _ in range(2):
        atomic_update_json(tmp_path / "a.json", see, default_data=default)
    assert json.loads((tmp_path / "a.json").read_text()) == {"seen": [0, 1]}
    assert default == {"seen": []}


def test_an_update_of_a_missing_file_is_given_none(tmp_path: Path) -> None:
    atomic_update_json(tmp_path / "new/a.json", lambda value: {"before": value})
    assert json.loads((tmp_path / "new/a.json").read_text()) == {"before": None}


@pytest.mark.parametrize("damage", [b"{half", b"", b"\xff\xfe", b"[" * 100_000])
def test_a_damaged_file_is_not_replaced(tmp_path: Path, damage: bytes) -> None:
    target = tmp_path / "a.json"
    target.write_bytes(damage)
    with pytest.raises(CorruptDataError, match=r"a\.json"):
        atomic_update_json(target, lambda value: value)
    assert target.read_bytes() == damage


def test_a_function_that_fails_changes_nothing_and_frees_the_lock(tmp_path: Path) -> None:
    atomic_write_json({"a": 1}, tmp_path / "a.json")

    def fail(value: Any) -> None:
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        atomic_update_json(tmp_path / "a.json", fail)
    atomic_update_json(tmp_path / "a.json", lambda value: {**value, "b": 2}, lock_timeout=0)
    assert json.loads((tmp_path / "a.json").read_text()) == {"a": 1, "b": 2}


def count_up(path: str, times: int) -> None:
    for _ in range(times):
        atomic_update_json(path, lambda value: value + 1, default_data=0)


def test_updates_of_processes_and_threads_lose_nothing(tmp_path: Path) -> None:
    path, link = str(tmp_path / "count.json"), str(tmp_path / "link.json")
    os.symlink(path, link)
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=count_up, args=(each, 15)) for each in (path, link)]
    threads = [threading.Thread(target=count_up, args=(each, 15)) for each in (path, link, path)]
    for start in (*(w.start for w in workers), *(t.start for t in threads)):
        start()
    for join in (*(w.join for w in workers), *(t.join for t in threads)):
        join()
    assert json.loads(Path(path).read_text()) == 75
    assert os.path.islink(link)


@pytest.mark.parametrize("function", [None, 3, "text"])
def test_what_updates_is_a_function(tmp_path: Path, function: Any) -> None:
    with pytest.raises(VFSTypeError, match="function"):
        atomic_update_json(tmp_path / "a.json", function)
    assert os.listdir(tmp_path) == []


# file_lock


@pytest.mark.parametrize("seconds", ["2", b"2", float("nan"), -1, None, [], True, 1j, 10**400])
@pytest.mark.parametrize("name", ["timeout", "poll_interval"])
def test_a_lock_waits_for_a_number_of_seconds(tmp_path: Path, name: str, seconds: Any) -> None:
    with pytest.raises(VFSTypeError, match=name), file_lock(tmp_path / "a", **{name: seconds}):
        pass
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("path", [3, None, b"a", "", "a\0b", "\ud800"])
@pytest.mark.parametrize("function", [file_lock, atomic_write])
def test_only_a_path_of_the_system_is_locked_or_written(function: Any, path: Any) -> None:
    with pytest.raises((VFSTypeError, InvalidPathError)), function(path):
        pass


def test_no_pause_is_longer_than_the_wait(tmp_path: Path) -> None:
    started = time.monotonic()
    with (
        file_lock(tmp_path / "a"),
        pytest.raises(FileLockTimeoutError),
        file_lock(tmp_path / "a", timeout=0.2, poll_interval=float("inf")),
    ):
        pass
    assert time.monotonic() - started < 30


def held_by_another_thread(path: Any, **options: Any) -> BaseException | None:
    """Try to take a lock in a thread of its own; return what it raised."""
    raised: list[BaseException] = []

    def attempt() -> None:
        try:
            with file_lock(path, **options):
                pass
        except FileLockError as error:
            raised.append(error)

    thread = threading.Thread(target=attempt)
    thread.start()
    thread.join()
    return raised[0] if raised else None


def test_a_lock_excludes_threads_and_says_when_it_was_not_free(tmp_path: Path) -> None:
    path = tmp_path / "a"
    with file_lock(path):
        error = held_by_another_thread(path, timeout=0)
        assert isinstance(error, FileLockTimeoutError)
        assert isinstance(error, TimeoutError)
        assert str(error) == f"the lock was not free within 0 s: {str(path)!r}"
        assert isinstance(
            held_by_another_thread(path, timeout=0.05, poll_interval=0.01), FileLockTimeoutError
        )
        assert held_by_another_thread(tmp_path / "other", timeout=0) is None
    assert held_by_another_thread(path, timeout=0) is None


def test_a_lock_is_not_taken_twice_by_one_thread(tmp_path: Path) -> None:
    with (
        file_lock(tmp_path / "a"),
        pytest.raises(FileLockTimeoutError),
        file_lock(tmp_path / "a", timeout=0),
    ):
        pass


def test_a_link_and_its_target_have_one_lock(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "a")
    with file_lock(tmp_path / "link"):
        assert held_by_another_thread(tmp_path / "a", timeout=0) is not None


def test_the_lock_file_is_never_unlinked_and_waiters_get_it(tmp_path: Path) -> None:
    path = tmp_path / "new/a"
    with file_lock(path):
        [name] = os.listdir(path.parent)
        inode = (path.parent / name).stat().st_ino
        waiter = threading.Thread(target=held_by_another_thread, args=(path,))
        waiter.start()
    waiter.join()
    assert name == "a.lock"
    assert (path.parent / name).stat().st_ino == inode


@pytest.mark.parametrize("error", [KeyError("mine"), OSError(5, "mine"), TimeoutError("mine")])
def test_an_exception_of_the_body_passes_unchanged_and_frees_the_lock(
    tmp_path: Path, error: Exception
) -> None:
    with pytest.raises(type(error)) as caught, file_lock(tmp_path / "a", timeout=0):
        raise error
    assert caught.value is error
    assert held_by_another_thread(tmp_path / "a", timeout=0) is None


def test_a_lock_file_that_cannot_be_made_says_so(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("")
    with pytest.raises(FileLockError, match="f/a") as caught, file_lock(tmp_path / "f/a"):
        pass
    assert isinstance(caught.value.__cause__, OSError)
