"""Renames among others who rename, where paths can be exchanged and where they cannot."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from polystore.filesystem import temporaries as renames
from polystore.filesystem.dir_fd import Handle, Location
from polystore.filesystem.temporaries import (
    ReplacedError,
    rename_new,
    replace_checked,
    replace_only,
)


@pytest.fixture(params=["Linux", "another system"], autouse=True)
def system(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param != "Linux":
        monkeypatch.setattr(renames, "_libc_renameat2", lambda: None)
    return str(request.param)


# Elsewhere the check and the rename are two steps.
ON_LINUX = pytest.mark.parametrize("system", ["Linux"], indirect=True)


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Handle]:
    with Handle.at(str(tmp_path)) as folder:
        yield folder


def written(place: Location, text: str) -> Location:
    Path(place.directory.path, place.name).write_text(text)
    return place


def anything(place: Location) -> None:
    place.status()


def no_directory(place: Location) -> None:
    place.status()
    if place.is_directory():
        raise IsADirectoryError(place.name)


def once(monkeypatch: pytest.MonkeyPatch, before: Callable[[], object], name: str) -> None:
    """Let something else happen right before a function of the module is first called."""
    real = getattr(renames, name)
    called: list[object] = []

    def disturbed(*arguments: Location) -> object:
        if not called:
            called.append(arguments)
            before()
        return real(*arguments)

    monkeypatch.setattr(renames, name, disturbed)


def test_a_new_name_is_given_and_a_taken_one_refused(tmp_path: Path, folder: Handle) -> None:
    new, place = written(folder.location("new"), "new"), folder.location("place")
    rename_new(new, place)
    assert (tmp_path / "place").read_text() == "new"
    with pytest.raises(FileExistsError):
        rename_new(written(folder.location("newer"), "newer"), place)
    assert (tmp_path / "place").read_text() == "new"


def test_replace_checked_takes_a_free_name_and_replaces_what_may_go(
    tmp_path: Path, folder: Handle
) -> None:
    place = tmp_path / "place"
    assert (
        replace_checked(written(folder.location("new"), "new"), folder.location("place"), anything)
        is None
    )
    replaced = replace_checked(
        written(folder.location("newer"), "newer"), folder.location("place"), anything
    )
    assert place.read_text() == "newer"
    assert replaced is None or (tmp_path / replaced.name).read_text() == "new"


def test_replace_checked_replaces_a_tree_by_a_file_and_returns_where_it_is(
    tmp_path: Path, folder: Handle
) -> None:
    (tmp_path / "place").mkdir()
    (tmp_path / "place/a").write_text("old")
    replaced = replace_checked(
        written(folder.location("new"), "new"), folder.location("place"), anything
    )
    assert replaced is not None
    assert (tmp_path / "place").read_text() == "new"
    assert (tmp_path / replaced.name / "a").read_text() == "old"


def test_replace_checked_refuses_what_may_not_go(tmp_path: Path, folder: Handle) -> None:
    (tmp_path / "place").mkdir()
    new = written(folder.location("new"), "new")
    with pytest.raises(IsADirectoryError):
        replace_checked(new, folder.location("place"), no_directory)
    assert (tmp_path / "place").is_dir()
    assert (tmp_path / new.name).read_text() == "new"


def test_replace_checked_takes_the_name_of_what_is_deleted_meanwhile(
    tmp_path: Path, folder: Handle, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "place"
    written(folder.location("place"), "old")
    once(monkeypatch, place.unlink, "exchange")
    replaced = replace_checked(
        written(folder.location("new"), "new"), folder.location("place"), anything
    )
    assert (place.read_text(), replaced) == ("new", None)


@ON_LINUX
def test_replace_checked_gives_back_what_came_meanwhile_and_may_not_go(
    tmp_path: Path, folder: Handle, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "place"
    written(folder.location("place"), "old")

    def becomes_a_directory() -> None:
        place.unlink()
        place.mkdir()

    once(monkeypatch, becomes_a_directory, "exchange")
    with pytest.raises(IsADirectoryError):
        replace_checked(
            written(folder.location("new"), "new"), folder.location("place"), no_directory
        )
    assert place.is_dir()


def test_replace_checked_ends_when_its_own_directory_is_gone(
    tmp_path: Path, folder: Handle
) -> None:
    (tmp_path / "gone").mkdir()
    with Handle.at(str(tmp_path / "gone")) as gone:
        (tmp_path / "gone").rmdir()
        with pytest.raises(FileNotFoundError):
            replace_checked(gone.location("new"), gone.location("place"), anything)


def test_only_the_known_file_is_replaced(tmp_path: Path, folder: Handle) -> None:
    place = tmp_path / "place"
    known = written(folder.location("place"), "old").status()
    replace_only(known, written(folder.location("new"), "new"), folder.location("place"))
    assert place.read_text() == "new"
    assert os.listdir(tmp_path) == ["place"]
    with pytest.raises(ReplacedError):
        replace_only(known, written(folder.location("newer"), "newer"), folder.location("place"))
    assert place.read_text() == "new"
    place.unlink()
    with pytest.raises(FileNotFoundError):
        replace_only(known, folder.location("newer"), folder.location("place"))
    assert not place.exists()


@ON_LINUX
@pytest.mark.parametrize("others", [1, 2, 3])
def test_the_newest_of_those_that_came_meanwhile_stays(
    tmp_path: Path, folder: Handle, monkeypatch: pytest.MonkeyPatch, others: int
) -> None:
    place = tmp_path / "place"
    known = written(folder.location("place"), "old").status()
    coming = iter(range(others))
    real = renames.exchange

    def exchange(one: Location, other: Location) -> bool:
        number = next(coming, None)
        if number is not None:
            written(folder.location("another"), f"another {number}").rename(other)
        return real(one, other)

    monkeypatch.setattr(renames, "exchange", exchange)
    with pytest.raises(ReplacedError):
        replace_only(known, written(folder.location("new"), "new"), folder.location("place"))
    assert place.read_text() == f"another {others - 1}"
