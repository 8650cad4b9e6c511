"""Renames among others who rename, where paths can be exchanged and where they cannot."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from polystore import renames
from polystore.renames import ReplacedError, put, rename_new, replace_only


@pytest.fixture(params=["Linux", "another system"], autouse=True)
def system(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param != "Linux":
        monkeypatch.setattr(renames, "_libc_renameat2", lambda: None)
    return str(request.param)


# Elsewhere the check and the rename are two steps.
ON_LINUX = pytest.mark.parametrize("system", ["Linux"], indirect=True)


def written(path: Path, text: str) -> str:
    path.write_text(text)
    return str(path)


def anything(place: str) -> None:
    os.lstat(place)


def no_directory(place: str) -> None:
    os.lstat(place)
    if os.path.isdir(place):
        raise IsADirectoryError(place)


def once(monkeypatch: pytest.MonkeyPatch, before: Callable[[], object], name: str) -> None:
    """Let something else happen right before a function of the module is first called."""
    real = getattr(renames, name)
    called: list[object] = []

    def disturbed(*arguments: str) -> object:
        if not called:
            called.append(arguments)
            before()
        return real(*arguments)

    monkeypatch.setattr(renames, name, disturbed)


def test_a_new_name_is_given_and_a_taken_one_refused(tmp_path: Path) -> None:
    new, place = written(tmp_path / "new", "new"), str(tmp_path / "place")
    rename_new(new, place)
    assert Path(place).read_text() == "new"
    with pytest.raises(FileExistsError):
        rename_new(written(tmp_path / "newer", "newer"), place)
    assert Path(place).read_text() == "new"


def test_put_takes_a_free_name_and_replaces_what_may_go(tmp_path: Path) -> None:
    place = tmp_path / "place"
    assert put(written(tmp_path / "new", "new"), str(place), anything) is None
    replaced = put(written(tmp_path / "newer", "newer"), str(place), anything)
    assert place.read_text() == "newer"
    assert replaced is None or Path(replaced).read_text() == "new"


def test_put_replaces_a_tree_by_a_file_and_returns_where_it_is(tmp_path: Path) -> None:
    (tmp_path / "place").mkdir()
    written(tmp_path / "place/a", "old")
    replaced = put(written(tmp_path / "new", "new"), str(tmp_path / "place"), anything)
    assert replaced is not None
    assert (tmp_path / "place").read_text() == "new"
    assert Path(replaced, "a").read_text() == "old"


def test_put_refuses_what_may_not_go(tmp_path: Path) -> None:
    (tmp_path / "place").mkdir()
    new = written(tmp_path / "new", "new")
    with pytest.raises(IsADirectoryError):
        put(new, str(tmp_path / "place"), no_directory)
    assert (tmp_path / "place").is_dir()
    assert Path(new).read_text() == "new"


def test_put_takes_the_name_of_what_is_deleted_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "place"
    written(place, "old")
    once(monkeypatch, place.unlink, "exchange")
    replaced = put(written(tmp_path / "new", "new"), str(place), anything)
    assert (place.read_text(), replaced) == ("new", None)


@ON_LINUX
def test_put_gives_back_what_came_meanwhile_and_may_not_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "place"
    written(place, "old")

    def becomes_a_directory() -> None:
        place.unlink()
        place.mkdir()

    once(monkeypatch, becomes_a_directory, "exchange")
    with pytest.raises(IsADirectoryError):
        put(written(tmp_path / "new", "new"), str(place), no_directory)
    assert place.is_dir()


def test_put_ends_when_its_own_directory_is_gone(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        put(str(tmp_path / "gone/new"), str(tmp_path / "gone/place"), anything)


def test_only_the_known_file_is_replaced(tmp_path: Path) -> None:
    place = tmp_path / "place"
    known = os.lstat(written(place, "old"))
    replace_only(known, written(tmp_path / "new", "new"), str(place))
    assert place.read_text() == "new"
    assert os.listdir(tmp_path) == ["place"]
    with pytest.raises(ReplacedError):
        replace_only(known, written(tmp_path / "newer", "newer"), str(place))
    assert place.read_text() == "new"
    place.unlink()
    with pytest.raises(FileNotFoundError):
        replace_only(known, str(tmp_path / "newer"), str(place))
    assert not place.exists()


@ON_LINUX
@pytest.mark.parametrize("others", [1, 2, 3])
def test_the_newest_of_those_that_came_meanwhile_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, others: int
) -> None:
    place = tmp_path / "place"
    known = os.lstat(written(place, "old"))
    coming = iter(range(others))
    real = renames.exchange

    def exchange(one: str, other: str) -> bool:
        number = next(coming, None)
        if number is not None:
            os.replace(written(tmp_path / "another", f"another {number}"), place)
        return real(one, other)

    monkeypatch.setattr(renames, "exchange", exchange)
    with pytest.raises(ReplacedError):
        replace_only(known, written(tmp_path / "new", "new"), str(place))
    assert place.read_text() == f"another {others - 1}"
