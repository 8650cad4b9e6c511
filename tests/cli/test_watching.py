"""``watch``: what happens below a path, line by line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from polystore import Event, FileManager
from polystore.filesystem.watching import Watch
from tests.cli.commands import run_locally, says_one_line


def test_watch_prints_each_change(fm: FileManager) -> None:
    fm.save(b"1" * 2000, "/watched/a", backend="memory")
    fm.registry["memory"].move("/watched/a", "/watched/b")
    fm.delete_all("/watched", backend="memory")
    done = run_locally("watch", "memory:/watched", "--since", 0, "--timeout", 0)
    assert (done.code, done.err) == (0, "")
    created, saved, moved, deleted = done.out.splitlines()
    assert created == "created   /watched  (directory)"
    assert saved.startswith("created   /watched/a  (file, 2.0 KiB")
    assert moved.startswith("moved     /watched/a -> /watched/b  (file")
    assert deleted == "deleted   /watched  (directory and all below it)"
    here = run_locally("watch", "--here", "--since", 0, "--timeout", 0)
    assert [line.split()[1] for line in here.out.splitlines()] == ["/watched", "/watched"]


def test_watch_prints_json_and_no_control_characters(fm: FileManager) -> None:
    fm.save(1, "/a\x1b[31m", backend="memory")
    done = run_locally("watch", "--json", "--since", 0, "--timeout", 0)
    [event] = map(json.loads, done.out.splitlines())
    assert (event["kind"], event["path"], event["number"]) == ("created", "/a\x1b[31m", 1)
    assert "\x1b" not in run_locally("watch", "--since", 0, "--timeout", 0).out


def test_watch_prints_what_happens_in_a_directory_of_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def step(self: Watch) -> list[Event] | None:
        (tmp_path / "a.json").write_text("1")
        monkeypatch.undo()
        return self.step()

    monkeypatch.setattr(Watch, "step", step)  # the watch has begun
    done = run_locally("watch", f"disk:{tmp_path}", "--timeout", 0)
    assert (done.code, done.err) == (0, "")
    assert done.out == f"created   {tmp_path}/a.json  (file, 1 B)\n"


def test_files_keep_no_events_to_go_on_from(tmp_path: Path) -> None:
    said = says_one_line(run_locally("watch", f"disk:{tmp_path}", "--since", 0))
    assert "takes no since" in said.replace("'", "")
